//! The current view of a cluster, kept up to date by a watch.
//!
//! Only whole revisions become visible: a transaction over several keys is never seen half applied.
//! Once the stream broke, the last view stays readable but marked, until the adapter starts over
//! with a snapshot: anything in between may have been missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use surus_core::BootTime;
use surus_core::cluster::ClusterView;
pub use surus_core::store::Followed;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::boot_now;
use crate::cluster::ClusterStore;
use crate::kv::{KeyValue, Revision, Snapshot, Watch, WatchEvent};
use crate::layout::Layout;

/// Follows one cluster until dropped.
#[derive(Debug)]
pub struct Follower {
    state: watch::Receiver<Arc<Followed>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Must be called inside a tokio runtime.
    pub fn start(store: &ClusterStore) -> Follower {
        Follower::over(store.watch(), store.layout().clone())
    }

    pub fn over(watch: Watch, layout: Layout) -> Follower {
        let (tx, state) = watch::channel(Arc::new(Followed {
            broken_since: Some(boot_now()),
            reason: Some("no answer from the store yet".into()),
            ..Followed::default()
        }));
        let task = tokio::spawn(follow(watch, layout, tx));
        Follower { state, task }
    }

    /// Always the newest state; changes can be awaited on it.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Followed>> {
        self.state.clone()
    }

    pub fn current(&self) -> Arc<Followed> {
        self.state.borrow().clone()
    }

    /// Waits until a write that was applied at `revision` below the cluster's prefix is part of the
    /// view. `false` when the stream did not get there in time.
    pub async fn wait_revision(&self, revision: Revision, timeout: Duration) -> bool {
        let mut state = self.state.clone();
        let reached = state.wait_for(|followed| followed.is_current() && followed.revision() >= revision);
        matches!(tokio::time::timeout(timeout, reached).await, Ok(Ok(_)))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The keys as of `revision`; changes of a newer, not yet complete revision are already applied in
/// `keys` but not published before `Progress`.
struct Replica {
    layout: Layout,
    keys: BTreeMap<String, KeyValue>,
    /// False before the first snapshot and while broken: changes have no base then.
    based: bool,
}

impl Replica {
    fn view(&self, revision: Revision) -> Arc<ClusterView> {
        let snapshot = Snapshot { revision, keys: self.keys.values().cloned().collect() };
        Arc::new(self.layout.view(&snapshot))
    }

    /// The state to publish after `event`, if it changed.
    fn apply(&mut self, last: &Followed, event: WatchEvent, now: BootTime) -> Option<Followed> {
        match event {
            WatchEvent::Restarted(snapshot) => {
                let revision = snapshot.revision;
                self.keys = snapshot.keys.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
                self.based = true;
                if revision < last.revision() {
                    tracing::warn!(
                        "the store went back from revision {} to {revision}: it was restored or replaced",
                        last.revision()
                    );
                }
                Some(Followed { view: Some(self.view(revision)), confirmed_at: now, broken_since: None, reason: None })
            }
            WatchEvent::Put(kv) if self.based => {
                self.keys.insert(kv.key.clone(), kv);
                None
            }
            WatchEvent::Deleted { key, .. } if self.based => {
                self.keys.remove(&key);
                None
            }
            WatchEvent::Progress(revision) if self.based => {
                Some(Followed { view: Some(self.view(revision)), confirmed_at: now, ..last.clone() })
            }
            WatchEvent::Put(_) | WatchEvent::Deleted { .. } | WatchEvent::Progress(_) => None,
            WatchEvent::Broken(reason) => {
                self.based = false;
                let broken_since = last.broken_since.or(Some(now));
                Some(Followed { broken_since, reason: Some(reason), ..last.clone() })
            }
        }
    }
}

async fn follow(mut watch: Watch, layout: Layout, tx: watch::Sender<Arc<Followed>>) {
    let mut replica = Replica { layout, keys: BTreeMap::new(), based: false };
    loop {
        let event = watch.events.recv().await;
        let ended = event.is_none();
        let event = event.unwrap_or_else(|| WatchEvent::Broken("the watch ended".into()));
        let last = tx.borrow().clone();
        if let Some(next) = replica.apply(&last, event, boot_now()) {
            tx.send_replace(Arc::new(next));
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn kv(key: &str, value: &str, version: u64) -> KeyValue {
        KeyValue { key: format!("/service/demo/{key}"), value: value.into(), version, lease: None }
    }

    fn snapshot(revision: u64, keys: Vec<KeyValue>) -> WatchEvent {
        WatchEvent::Restarted(Snapshot { revision, keys })
    }

    struct Rig {
        tx: mpsc::Sender<WatchEvent>,
        follower: Follower,
    }

    fn rig() -> Rig {
        let (tx, events) = mpsc::channel(16);
        Rig { tx, follower: Follower::over(Watch { events }, Layout::new("service", "demo", None)) }
    }

    impl Rig {
        async fn send(&self, event: WatchEvent) {
            self.tx.send(event).await.unwrap();
        }

        async fn until(&self, what: &str, condition: impl FnMut(&Arc<Followed>) -> bool) -> Arc<Followed> {
            let mut state = self.follower.subscribe();
            let reached = tokio::time::timeout(Duration::from_secs(10), state.wait_for(condition)).await;
            reached.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
        }
    }

    #[tokio::test]
    async fn only_whole_revisions_become_visible() {
        let rig = rig();
        assert!(!rig.follower.current().is_current());
        rig.send(snapshot(5, vec![kv("leader", "a", 3)])).await;
        let seen = rig.until("first snapshot", |f| f.is_current()).await;
        assert_eq!(seen.view.as_ref().unwrap().leader_name(), Some(&"a".into()));
        rig.send(WatchEvent::Deleted { key: "/service/demo/leader".into(), revision: 6 }).await;
        rig.send(WatchEvent::Put(kv("status", r#"{"optime":9}"#, 6))).await;
        assert!(!rig.follower.wait_revision(6, Duration::from_millis(20)).await, "revision 6 is not complete yet");
        assert_eq!(rig.follower.current().view.as_ref().unwrap().leader_name(), Some(&"a".into()));
        rig.send(WatchEvent::Progress(6)).await;
        assert!(rig.follower.wait_revision(6, Duration::from_secs(10)).await);
        let view = rig.follower.current().view.clone().unwrap();
        assert_eq!((view.leader_name(), view.status.optime.0, view.revision), (None, 9, 6));
    }

    #[tokio::test]
    async fn broken_keeps_the_view_until_the_stream_starts_over() {
        let rig = rig();
        rig.send(snapshot(5, vec![kv("leader", "a", 3)])).await;
        let whole = rig.until("first snapshot", |f| f.is_current()).await;
        rig.send(WatchEvent::Broken("cut".into())).await;
        let broken = rig.until("broken", |f| f.broken_since.is_some()).await;
        assert_eq!((&broken.view, broken.confirmed_at), (&whole.view, whole.confirmed_at));
        assert_eq!(broken.reason.as_deref(), Some("cut"));
        assert_eq!(broken.known_at(boot_now()), whole.confirmed_at);
        // Changes without a base must not make it healthy again.
        rig.send(WatchEvent::Put(kv("leader", "b", 7))).await;
        rig.send(WatchEvent::Progress(7)).await;
        rig.send(WatchEvent::Broken("still cut".into())).await;
        let later = rig.until("second reason", |f| f.reason.as_deref() == Some("still cut")).await;
        assert_eq!((later.broken_since, &later.view), (broken.broken_since, &whole.view));
        rig.send(snapshot(9, vec![])).await;
        let again = rig.until("restarted", |f| f.is_current()).await;
        assert_eq!(again.view.as_ref().unwrap().leader_name(), None);
        assert_eq!(again.reason, None);
    }

    #[tokio::test]
    async fn a_watch_that_ends_counts_as_broken() {
        let Rig { tx, follower } = rig();
        tx.send(snapshot(1, vec![])).await.unwrap();
        drop(tx);
        let mut state = follower.subscribe();
        state.wait_for(|f| f.view.is_some() && f.broken_since.is_some()).await.unwrap();
    }
}
