//! Writes the keys that only say how things are: this member's key, and the leader's `status`.
//!
//! They are written from a task of their own, so that a slow store never delays a decision. Only the
//! newest text counts; what changed only in a WAL position is written once per `loop_wait`, else
//! members would wake each other for ever.

use std::sync::Arc;
use std::time::Duration;

pub use surus_conduct::publish::Desired;
use surus_conduct::publish::{Next, Written};
use surus_core::store::Failing;
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use tokio::sync::watch;
use tracing::{debug, info, warn};

pub fn start(store: Arc<ClusterStore>, desired: watch::Receiver<Desired>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(Writer { store, written: Written::default() }.run(desired))
}

struct Writer {
    store: Arc<ClusterStore>,
    written: Written,
}

impl Writer {
    async fn run(mut self, mut desired: watch::Receiver<Desired>) {
        let (mut failing, mut since) = (Failing::default(), None);
        loop {
            let want = desired.borrow_and_update().clone();
            let again = self.bring_up_to_date(&want).await;
            match again {
                Ok(pause) => {
                    failing.over();
                    if let Some(since) = since.take() {
                        let long = boot_now().since(since).as_secs_f64();
                        info!("my keys in the store are up to date again after {long:.1} s");
                    }
                    let timer = tokio::time::sleep(pause.unwrap_or(Duration::from_secs(3600)));
                    tokio::select! {
                        changed = desired.changed() => if changed.is_err() { return },
                        () = timer => {}
                    }
                }
                Err(e) => {
                    // The lease keeper says so and opens another session.
                    if e != surus_store::StoreError::LeaseGone && failing.is_news(&e) {
                        warn!("my keys in the store could not be written: {e}");
                        since = since.or_else(|| Some(boot_now()));
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if desired.has_changed().is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// `Some`: a change that can wait is due after that time.
    async fn bring_up_to_date(&mut self, want: &Desired) -> Result<Option<Duration>, surus_store::StoreError> {
        let limit = Duration::from_secs(2);
        let now = boot_now();
        loop {
            match (self.written.next(want, now), &want.member, &want.status) {
                (Next::Member, Some(member), _) => {
                    self.store.write_member(member.to_text(), limit).await?;
                    debug!("member key written");
                    self.written.member(want, now);
                }
                (Next::Status, _, Some(status)) => {
                    self.store.write_as_leader("status", status.clone(), limit).await?;
                    self.written.status(want, now);
                }
                (Next::Wait(due), ..) => return Ok(due),
                _ => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use surus_core::Lsn;
    use surus_core::cluster::{Member, MemberRole};
    use surus_store::layout::Layout;
    use surus_store::{Kv, MemoryStore};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn at(position: u64) -> Member {
        let api_url = Some("http://a/patroni".into());
        Member { xlog_location: Some(Lsn(position)), api_url, ..Member::unknown("a".into()) }
    }

    struct Rig {
        memory: MemoryStore,
        writer: Writer,
        want: Desired,
    }

    impl Rig {
        async fn new() -> Rig {
            let memory = MemoryStore::auto();
            let store = ClusterStore::new(Arc::new(memory.clone()), Layout::new("service", "demo", None), "a".into());
            store.open_session(Duration::from_secs(60), LIMIT).await.unwrap();
            let writer = Writer { store: Arc::new(store), written: Written::default() };
            let loop_wait = Duration::from_secs(3600);
            let want = Desired { member: Some(at(1)), session_number: 1, loop_wait, ..Desired::default() };
            Rig { memory, writer, want }
        }

        /// What one round writes, counted in revisions, and whether something is left for later.
        async fn round(&mut self) -> (u64, bool) {
            let before = self.revision().await;
            let later = self.writer.bring_up_to_date(&self.want).await.unwrap();
            (self.revision().await - before, later.is_some())
        }

        async fn revision(&self) -> u64 {
            self.memory.read("", LIMIT).await.unwrap().revision
        }
    }

    #[tokio::test]
    async fn changes_at_once_and_positions_later() {
        let mut rig = Rig::new().await;
        assert_eq!(rig.round().await, (1, false));
        assert_eq!(rig.round().await, (0, false));
        rig.want.member = Some(at(2));
        assert_eq!(rig.round().await, (0, true), "a position alone can wait");
        rig.want.member = Some(Member { role: MemberRole::Primary, ..at(2) });
        assert_eq!(rig.round().await, (1, false));
        rig.want.session_number = 2;
        assert_eq!(rig.round().await, (1, false), "the key hung on the old session");
        rig.want.missing_at = Some(9);
        assert_eq!(rig.round().await, (0, true));
        rig.want.loop_wait = Duration::ZERO;
        assert_eq!(rig.round().await, (1, false), "somebody removed it");
        assert_eq!(rig.round().await, (0, false), "once for each reading that lacks it");
    }

    #[tokio::test]
    async fn the_status_only_with_the_lead() {
        let mut rig = Rig::new().await;
        rig.round().await;
        rig.want.status = Some(r#"{"optime":1}"#.into());
        assert_eq!(rig.round().await.0, 0, "refused by the store: the lead is not mine");
        rig.want.status = None;
        rig.round().await;
        rig.writer.store.take_lead(LIMIT).await.unwrap();
        rig.want.status = Some(r#"{"optime":1}"#.into());
        assert_eq!(rig.round().await, (1, false));
        rig.want.status = Some(r#"{"optime":2}"#.into());
        assert_eq!(rig.round().await, (0, true));
    }
}
