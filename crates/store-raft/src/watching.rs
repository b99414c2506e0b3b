//! Watches, fed by what this node applies.

use std::sync::Arc;
use std::time::Duration;

use surus_store::{Watch, WatchEvent};
use tokio::sync::{broadcast, mpsc, watch};

use crate::machine::Event;
use crate::node::{Leader, Node};
use crate::state::Change;

const QUEUE: usize = 256;
const START: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// Nobody listens any more.
struct Gone;

type Sender = mpsc::Sender<WatchEvent>;

pub fn channel() -> (Sender, Watch) {
    let (tx, events) = mpsc::channel(QUEUE);
    (tx, Watch { events })
}

impl Node {
    pub async fn watch(self: Arc<Node>, prefix: String, tx: Sender) {
        let closed = tx.clone();
        tokio::select! {
            _ = self.watch_until_gone(&prefix, &tx) => {}
            () = closed.closed() => {}
        }
    }

    async fn watch_until_gone(&self, prefix: &str, tx: &Sender) -> Result<(), Gone> {
        let mut said = false;
        loop {
            // Not older than anything acknowledged before the watch was asked for.
            if let Err(e) = self.catch_up(START).await {
                if !said {
                    send(tx, WatchEvent::Broken(e.to_string())).await?;
                    said = true;
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let (snapshot, events) = self.machine.subscribe(prefix);
            send(tx, WatchEvent::Restarted(snapshot)).await?;
            said = match self.follow(prefix, events, tx).await? {
                Some(why) => {
                    send(tx, WatchEvent::Broken(why)).await?;
                    true
                }
                None => false,
            };
        }
    }

    /// Until the stream has to start over; with the reason if what is known grows stale till then.
    async fn follow(
        &self,
        prefix: &str,
        mut events: broadcast::Receiver<Arc<Event>>,
        tx: &Sender,
    ) -> Result<Option<String>, Gone> {
        let mut contact = self.contact.subscribe();
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                lost = lost(&mut contact) => {
                    // The reason this node would give for refusing a request.
                    let why = match self.leader() {
                        Leader::Unknown(why) => why,
                        _ => "contact with the group was lost".to_owned(),
                    };
                    return if lost { Ok(Some(why)) } else { Err(Gone) };
                }
            };
            match event.as_deref() {
                Ok(Event::Changes(changes)) => deliver(prefix, changes, tx).await?,
                // Missed something, or the state was replaced as a whole.
                Ok(Event::Replaced) | Err(broadcast::error::RecvError::Lagged(_)) => return Ok(None),
                Err(broadcast::error::RecvError::Closed) => return Err(Gone),
            }
        }
    }
}

/// False if the node is gone altogether.
async fn lost(contact: &mut watch::Receiver<bool>) -> bool {
    contact.wait_for(|ok| !ok).await.is_ok()
}

async fn deliver(prefix: &str, changes: &[Change], tx: &Sender) -> Result<(), Gone> {
    for (at, change) in changes.iter().enumerate() {
        if change.key.starts_with(prefix) {
            let event = match &change.item {
                Some(item) => WatchEvent::Put(item.to_kv(&change.key)),
                None => WatchEvent::Deleted { key: change.key.clone(), revision: change.revision },
            };
            send(tx, event).await?;
        }
        if changes.get(at + 1).is_none_or(|next| next.revision != change.revision) {
            send(tx, WatchEvent::Progress(change.revision)).await?;
        }
    }
    Ok(())
}

async fn send(tx: &Sender, event: WatchEvent) -> Result<(), Gone> {
    tx.send(event).await.map_err(|_| Gone)
}
