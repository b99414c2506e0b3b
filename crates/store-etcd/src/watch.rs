//! A watch on a prefix that starts over by itself.
//!
//! Snapshot first, then a stream from the revision after it: nothing can be lost in between. When
//! the stream breaks, everything is read again, so a compacted history is no special case.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse};
use surus_store::WatchEvent;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::fault::Fault;
use crate::store::{Inner, key_value};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A stream that ended sooner was none: a server that fails some requests would have everything read again and again.
const LASTING: Duration = Duration::from_secs(3);
/// Between streams that do not last. Longer, and a member would learn late of a lead that is free.
const BETWEEN: Duration = Duration::from_secs(1);
/// For the reading and for the opening of the stream, each.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// A change within a prefix may be as large as etcd's own limit for one transaction allows.
pub(crate) const LARGEST_MESSAGE: usize = 64 << 20;

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
        let (since, mut began) = (Instant::now(), false);
        let session = session(&inner, &prefix, &events, &mut began);
        let end = tokio::select! {
            end = session => end,
            () = events.closed() => return,
        };
        let Err(End::Broken(reason)) = end else { return };
        if events.send(WatchEvent::Broken(reason)).await.is_err() {
            return;
        }
        if began && since.elapsed() > LASTING {
            pause = FIRST_PAUSE;
        } else if began {
            pause = pause.min(BETWEEN);
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = events.closed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn session(inner: &Inner, prefix: &str, events: &mpsc::Sender<WatchEvent>, began: &mut bool) -> Result<(), End> {
    let broken = |text: &dyn std::fmt::Display| End::Broken(text.to_string());
    let (snapshot, endpoint) = inner.read_from(prefix, OPEN_DEADLINE).await.map_err(|e| broken(&e))?;
    let mut failures = endpoint.failures();
    let at = |text: &str| End::Broken(format!("watch at {}: {text}", endpoint.url));
    let late = |_| at("no answer in time");
    let open = async {
        let (client, _) = endpoint.client().await.map_err(|f| at(f.text()))?;
        let from = i64::try_from(snapshot.revision + 1).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let mut watcher = client.watch_client().max_decoding_message_size(LARGEST_MESSAGE);
        let mut stream = watcher.watch(prefix, Some(options)).await.map_err(|e| at(Fault::of(&e).text()))?;
        let created = stream.message().await.map_err(|e| at(Fault::of(&e).text()))?;
        created.filter(|c| c.created() && !c.canceled()).ok_or_else(|| at("refused"))?;
        Ok::<_, End>(stream)
    };
    let mut stream = timeout(OPEN_DEADLINE, open).await.map_err(late)??;
    *began = true;
    events.send(WatchEvent::Restarted(snapshot)).await?;
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            _ = failures.changed() => return Err(at("the endpoint failed other requests")),
        };
        match message.map_err(|e| at(Fault::of(&e).text()))? {
            Some(response) if response.canceled() => {
                let reason = response.cancel_reason();
                return Err(at(if reason.is_empty() { "ended by etcd" } else { reason }));
            }
            Some(response) => deliver(&response, events).await?,
            None => return Err(at("ended by etcd")),
        }
    }
}

/// The changes in order, with a `Progress` after the last one of each revision.
async fn deliver(response: &WatchResponse, events: &mpsc::Sender<WatchEvent>) -> Result<(), End> {
    let mut complete = None;
    for event in response.events() {
        let Some(kv) = event.kv() else { continue };
        let Some(kv) = key_value(kv) else { continue };
        if let Some(revision) = complete.filter(|r| *r != kv.version) {
            events.send(WatchEvent::Progress(revision)).await?;
        }
        complete = Some(kv.version);
        events
            .send(match event.event_type() {
                EventType::Put => WatchEvent::Put(kv),
                EventType::Delete => WatchEvent::Deleted { key: kv.key, revision: kv.version },
            })
            .await?;
    }
    // Without events this is a notification of progress, and the header tells how far.
    let header = || response.header().and_then(|h| u64::try_from(h.revision()).ok());
    if let Some(revision) = complete.or_else(|| header().filter(|_| !response.created())) {
        events.send(WatchEvent::Progress(revision)).await?;
    }
    Ok(())
}
