//! A watch on a prefix that starts over by itself.
//!
//! The server says that something changed, not what it is now; so the prefix is read again and compared with what was
//! known. What changed several times in between comes as one change.

use std::collections::BTreeMap;
use std::time::Duration;

use std::sync::Arc;
use surus_store::{KeyValue, Snapshot, WatchEvent};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::store::{Inner, Via};
use crate::tree::{Tree, collect, directory};
use crate::wire::{Code, Request};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// For a reading, and for the opening of the watch, each.
const DEADLINE: Duration = Duration::from_secs(5);

enum End {
    /// Nobody listens any more.
    Dropped,
    Broken(String),
}

impl From<mpsc::error::SendError<WatchEvent>> for End {
    fn from(_: mpsc::error::SendError<WatchEvent>) -> End {
        End::Dropped
    }
}

pub(crate) async fn run(inner: Arc<Inner>, prefix: String, events: mpsc::Sender<WatchEvent>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut began = false;
        let end = tokio::select! {
            end = follow(&inner, &prefix, &events, &mut began) => end,
            () = events.closed() => return,
        };
        let Err(End::Broken(reason)) = end else { return };
        if events.send(WatchEvent::Broken(reason)).await.is_err() {
            return;
        }
        if began {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = events.closed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow(inner: &Inner, prefix: &str, events: &mpsc::Sender<WatchEvent>, began: &mut bool) -> Result<(), End> {
    let broken = |text: String| End::Broken(text);
    let root = inner.ensemble.znode(directory(prefix));
    let end = Instant::now() + DEADLINE;
    let link = inner.link(&Via::Data, end).await.map_err(|lost| broken(lost.without_effect().to_string()))?;
    let at = |text: &str| End::Broken(format!("watch at {}: {text}", link.host()));
    let mut failures = link.failures();
    let mut changes = link.connection.changes_below(&root);
    let answer =
        link.ask_patiently(Request::watch_below(&root), end).await.map_err(|lost| broken(lost.text().into()))?;
    match answer.code {
        Code(0) => {}
        Code::UNIMPLEMENTED => return Err(at("it is older than ZooKeeper 3.6, which is needed: upgrade the ensemble")),
        code => return Err(at(&code.to_string())),
    }
    // The watch first, then the reading: nothing can be lost in between. Another server may be behind the last reading.
    link.barrier(end).await.map_err(|lost| at(lost.text()))?;
    let read = async |changes: &mut tokio::sync::watch::Receiver<u64>| {
        changes.mark_unchanged();
        let tree = collect(&link, prefix, Instant::now() + DEADLINE).await;
        tree.map_err(|unread| broken(surus_store::StoreError::from(unread).to_string()))
    };
    let tree = read(&mut changes).await?;
    *began = true;
    let mut known = tree.keys(prefix);
    let mut revision = tree.revision;
    events.send(WatchEvent::Restarted(Snapshot { revision, keys: known.values().cloned().collect() })).await?;
    loop {
        tokio::select! {
            changed = changes.changed() => changed.map_err(|_| at(&link.connection.why_ended()))?,
            _ = failures.changed() => return Err(at("the server failed other requests")),
        }
        let tree = read(&mut changes).await?;
        if tree.revision < revision {
            return Err(at("the ensemble went back in time"));
        }
        if tree.revision > revision {
            revision = tree.revision;
            known = deliver(&tree, tree.keys(prefix), &known, events).await?;
        }
    }
}

/// What is different, and then the revision as of which all of it is so.
async fn deliver(
    tree: &Tree,
    now: BTreeMap<String, KeyValue>,
    known: &BTreeMap<String, KeyValue>,
    events: &mpsc::Sender<WatchEvent>,
) -> Result<BTreeMap<String, KeyValue>, End> {
    for key in known.keys().filter(|key| !now.contains_key(*key)) {
        events.send(WatchEvent::Deleted { key: key.clone(), revision: tree.revision }).await?;
    }
    for (key, kv) in &now {
        if known.get(key) != Some(kv) {
            events.send(WatchEvent::Put(kv.clone())).await?;
        }
    }
    events.send(WatchEvent::Progress(tree.revision)).await?;
    Ok(now)
}
