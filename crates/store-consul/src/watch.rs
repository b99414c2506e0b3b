//! A watch on a prefix: a reading that Consul answers when something below it has changed, or its time is up.
//!
//! Each answer is the whole prefix at one revision. What lies between two answers is not seen, deletions only by what is
//! missing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use surus_store::{KeyValue, Revision, Snapshot, WatchEvent};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::kv::{self, listing};
use crate::store::Inner;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Also how long an agent that froze can go unnoticed while no session is renewed.
const WAIT: Duration = Duration::from_secs(30);
/// Consul adds up to a sixteenth, so that its clients do not come all at once.
const JITTER: u32 = 16;
const MARGIN: Duration = Duration::from_secs(2);
/// What a renewal has met is told by the watch within this time, or the server that is to tell it does not.
const LATE: Duration = Duration::from_secs(1);
/// An answer that says nothing new and comes at once is not asked for again at once.
const IDLE_PAUSE: Duration = Duration::from_millis(200);

enum End {
    /// Nobody listens any more.
    Dropped,
    /// All has to be read again, but nothing is wrong.
    Again,
    Broken(String),
}

impl From<mpsc::error::SendError<WatchEvent>> for End {
    fn from(_: mpsc::error::SendError<WatchEvent>) -> End {
        End::Dropped
    }
}

pub(crate) async fn run(inner: Arc<Inner>, prefix: String, events: mpsc::Sender<WatchEvent>) {
    let mut pause = FIRST_PAUSE;
    let mut known = None;
    loop {
        let mut began = false;
        let session = session(&inner, &prefix, &events, &mut known, &mut began);
        let end = tokio::select! {
            end = session => end,
            () = events.closed() => return,
        };
        if began {
            pause = FIRST_PAUSE;
        }
        match end {
            End::Dropped => return,
            End::Again => {}
            End::Broken(reason) => {
                if events.send(WatchEvent::Broken(reason)).await.is_err() {
                    return;
                }
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = events.closed() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn session(
    inner: &Inner,
    prefix: &str,
    events: &mpsc::Sender<WatchEvent>,
    known: &mut Option<Known>,
    began: &mut bool,
) -> End {
    match follow(inner, prefix, events, known, began).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn follow(
    inner: &Inner,
    prefix: &str,
    events: &mpsc::Sender<WatchEvent>,
    known: &mut Option<Known>,
    began: &mut bool,
) -> Result<std::convert::Infallible, End> {
    let broken = |e: &dyn std::fmt::Display| End::Broken(e.to_string());
    let (mut first, endpoint) =
        inner.read_from(prefix, Instant::now() + OPEN_DEADLINE).await.map_err(|e| broken(&e))?;
    let mut failures = endpoint.failures();
    let mut watched = inner.watched.subscribe();
    let at = |text: &str| End::Broken(format!("watch at {}: {text}", endpoint.url));
    *began = true;
    let mut index = first.revision;
    if let Some(before) = known.as_ref().filter(|before| before.is_still(&first)) {
        first.revision = first.revision.max(before.revision);
    }
    let known = known.insert(Known::new(&first));
    events.send(WatchEvent::Restarted(first)).await?;
    loop {
        let live = inner.pool.live();
        let wait = WAIT.as_secs();
        let ask = listing(prefix, &format!("&index={index}&wait={wait}s{}", live.consistency.query()));
        let asked = Instant::now();
        let limit = WAIT + WAIT / JITTER + MARGIN;
        let answer = tokio::select! {
            answer = timeout(limit, endpoint.ask(&ask, &live)) => answer,
            _ = failures.changed() => return Err(at("the agent failed other requests")),
            // The request waits at a server that led and is frozen or cut off now, and renewals go to the next.
            () = behind(&mut watched, prefix, known.revision) => return Err(End::Again),
        };
        let answer = match answer {
            Ok(answer) => answer.and_then(|answer| kv::snapshot(&answer, &ask.right)),
            Err(_) => return Err(at(&format!("no answer within {limit:.0?} to a request that waits {wait} s"))),
        };
        let snapshot = answer.map_err(|fault| at(fault.text()))?;
        index = snapshot.revision;
        if snapshot.keys.is_empty() && !known.keys.is_empty() {
            inner.may_read(prefix, Instant::now() + OPEN_DEADLINE).await.map_err(|e| broken(&e))?;
        }
        let Some(changes) = known.step(snapshot) else { return Err(End::Again) };
        let idle = changes.is_empty() && asked.elapsed() < WAIT / 2;
        for change in changes {
            events.send(change).await?;
        }
        events.send(WatchEvent::Progress(known.revision)).await?;
        if idle {
            sleep(IDLE_PAUSE).await;
        }
    }
}

/// Until a renewal has met a later change below the prefix and the watch had the time to tell it.
async fn behind(watched: &mut watch::Receiver<Option<(String, Revision)>>, prefix: &str, revision: Revision) {
    let later = |w: &Option<(String, Revision)>| w.as_ref().is_some_and(|(p, met)| p == prefix && *met > revision);
    if watched.wait_for(later).await.is_err() {
        std::future::pending::<()>().await;
    }
    sleep(LATE).await;
}

/// The last state that was delivered: the version of each key.
struct Known {
    revision: Revision,
    keys: BTreeMap<String, Revision>,
}

impl Known {
    fn new(snapshot: &Snapshot) -> Known {
        let keys = snapshot.keys.iter().map(|kv| (kv.key.clone(), kv.version)).collect();
        Known { revision: snapshot.revision, keys }
    }

    /// The same keys at the same versions.
    fn is_still(&self, snapshot: &Snapshot) -> bool {
        let same = |kv: &KeyValue| self.keys.get(&kv.key) == Some(&kv.version);
        self.keys.len() == snapshot.keys.len() && snapshot.keys.iter().all(same)
    }

    /// What leads from here to there, and this is there then.
    ///
    /// A state may be told with an earlier revision. Consul remembers deletions for a quarter of an hour, and when it
    /// forgets one that was the last change, the last but one is the last: nothing has happened. If it is another state,
    /// Consul was restored or this server is behind: `None`, all is to be read again.
    fn step(&mut self, to: Snapshot) -> Option<Vec<WatchEvent>> {
        if to.revision < self.revision {
            return self.is_still(&to).then(Vec::new);
        }
        let next = Known::new(&to);
        let gone = self.keys.keys().filter(|key| !next.keys.contains_key(*key));
        let mut changes: Vec<WatchEvent> =
            gone.map(|key| WatchEvent::Deleted { key: key.clone(), revision: to.revision }).collect();
        let changed = |kv: &KeyValue| self.keys.get(&kv.key) != Some(&kv.version);
        changes.extend(to.keys.into_iter().filter(changed).map(WatchEvent::Put));
        *self = next;
        Some(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(revision: u64, keys: &[(&str, u64)]) -> Snapshot {
        let key = |(key, version): &(&str, u64)| KeyValue {
            key: (*key).to_owned(),
            value: b"v".to_vec(),
            version: *version,
            lease: None,
        };
        Snapshot { revision, keys: keys.iter().map(key).collect() }
    }

    #[test]
    fn a_step_is_what_differs() {
        let mut known = Known::new(&state(5, &[("a", 3), ("b", 4), ("c", 5)]));
        let to = state(9, &[("a", 3), ("c", 8), ("d", 9)]);
        let told: Vec<String> = known
            .step(to)
            .unwrap()
            .iter()
            .map(|event| match event {
                WatchEvent::Put(kv) => format!("{} at {}", kv.key, kv.version),
                WatchEvent::Deleted { key, revision } => format!("{key} gone at {revision}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, ["b gone at 9", "c at 8", "d at 9"]);
        assert_eq!(known.step(state(9, &[("a", 3), ("c", 8), ("d", 9)])), Some(vec![]));
        assert_eq!(known.revision, 9);
    }

    #[test]
    fn an_earlier_revision_of_the_same_state_is_no_step_back() {
        let mut known = Known::new(&state(9, &[("a", 3), ("b", 4)]));
        assert_eq!(known.step(state(4, &[("a", 3), ("b", 4)])), Some(vec![]), "a deletion at 9 was forgotten");
        assert_eq!(known.revision, 9);
        assert!(known.step(state(12, &[("a", 3), ("b", 12)])).is_some_and(|changes| changes.len() == 1));
        for other in [&[("a", 3)][..], &[("a", 2), ("b", 12)], &[("a", 3), ("b", 12), ("c", 1)]] {
            assert_eq!(known.step(state(11, other)), None, "{other:?}");
            assert_eq!(known.revision, 12);
        }
    }
}
