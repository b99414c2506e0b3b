use std::time::Duration;

use surus_conduct::lease::margin;
use surus_core::store::Beside;
use surus_store::layout::Layout;
use surus_store::{Kv, MemoryStore};

use super::*;

const TTL: Duration = Duration::from_secs(20);

fn timing(ttl: Duration, loop_wait: Duration) -> Timing {
    Timing { ttl, loop_wait, retry_timeout: Duration::from_secs(1) }
}

/// Renewals only when something asks for one.
fn idle() -> Timing {
    timing(TTL, Duration::from_secs(3600))
}

struct Rig {
    memory: MemoryStore,
    store: Arc<ClusterStore>,
    keeper: LeaseKeeper,
}

fn cluster(memory: &MemoryStore, name: &str) -> Arc<ClusterStore> {
    Arc::new(ClusterStore::new(Arc::new(memory.clone()), Layout::new("service", "demo", None), name.into()))
}

/// The store's leases end when the test says so, the keeper counts real time.
async fn rig(timing: Timing) -> Rig {
    let memory = MemoryStore::manual();
    let store = cluster(&memory, "a");
    let keeper = LeaseKeeper::start(store.clone(), timing);
    let rig = Rig { memory, store, keeper };
    rig.until("a session", |s| s.session).await;
    rig
}

impl Rig {
    async fn until(&self, what: &str, reached: impl FnMut(&LeaseState) -> bool) -> LeaseState {
        let mut state = self.keeper.subscribe();
        let waited = tokio::time::timeout(Duration::from_secs(10), state.wait_for(reached)).await;
        waited.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
    }

    async fn leader(&self) -> Option<(String, Option<u64>)> {
        let view = self.store.read(Duration::from_secs(5)).await.unwrap();
        view.leader.map(|l| (l.name.to_string(), l.lease))
    }

    /// Everything asked for before has been done.
    async fn settled(&self) {
        self.keeper.release(None).await.unwrap();
    }
}

#[tokio::test]
async fn the_lead_is_good_from_before_the_request_for_less_than_the_ttl() {
    let before = boot_now();
    let rig = rig(idle()).await;
    assert!(rig.keeper.take(Beside::default()).await.unwrap());
    let until = rig.keeper.lead_until().unwrap();
    assert!(until <= boot_now() + (TTL - margin(TTL)), "{until}");
    assert!(until >= before + (TTL - margin(TTL)), "{until}");
    assert_eq!(rig.leader().await.unwrap().0, "a");
}

#[tokio::test]
async fn only_one_gets_it() {
    let rig = rig(idle()).await;
    let other = cluster(&rig.memory.client(), "b");
    other.open_session(TTL, TTL).await.unwrap();
    other.take_lead(TTL).await.unwrap();
    assert!(!rig.keeper.take(Beside::default()).await.unwrap());
    assert_eq!(rig.keeper.lead_until(), None);
}

#[tokio::test]
async fn a_lead_ends_with_the_session_the_store_ended() {
    let rig = rig(timing(TTL, Duration::from_millis(50))).await;
    assert!(rig.keeper.take(Beside::default()).await.unwrap());
    rig.memory.advance(TTL * 2);
    let state = rig.until("another session", |s| s.session_number > 1).await;
    assert_eq!(state.lead, None);
}

#[tokio::test]
async fn a_session_that_somebody_else_found_dead_takes_the_lead_along() {
    let rig = rig(idle()).await;
    assert!(rig.keeper.take(Beside::default()).await.unwrap());
    rig.memory.advance(TTL * 2);
    // The writer of the other keys is told first, and the store forgets the lease.
    assert_eq!(rig.store.write_member("{}".into(), TTL).await, Err(StoreError::LeaseGone));
    assert_eq!(rig.store.lease(), None);
    rig.keeper.set_timing(Timing { loop_wait: Duration::from_secs(1800), ..idle() });
    let state = rig.until("another session", |s| s.session_number > 1).await;
    assert_eq!(state.lead, None, "a new session prolongs nothing that hung on the old one");
    assert_eq!(rig.leader().await, None);
}

#[tokio::test]
async fn lost_answers_are_looked_up() {
    let rig = rig(idle()).await;
    for lost in [1, 2] {
        rig.memory.faults().lose_answers(lost);
        assert!(rig.keeper.take(Beside::default()).await.unwrap(), "{lost}");
        assert!(rig.keeper.lead_until().is_some());
        rig.memory.faults().heal();
        rig.settled().await;
        assert_eq!(rig.leader().await, None);
    }
    rig.memory.faults().lose_requests(2);
    assert!(!rig.keeper.take(Beside::default()).await.unwrap());
    assert_eq!(rig.leader().await, None);
}

#[tokio::test]
async fn nobody_acts_on_a_lead_that_was_to_be_released() {
    let rig = rig(idle()).await;
    assert!(rig.keeper.take(Beside::default()).await.unwrap());
    rig.memory.faults().cut();
    assert!(rig.keeper.release(None).await.is_err());
    assert_eq!(rig.keeper.lead_until(), None);
    rig.memory.faults().heal();
    rig.keeper.release(Some(r#"{"optime":7}"#.into())).await.unwrap();
    let view = rig.store.read(TTL).await.unwrap();
    assert_eq!((view.leader, view.status.optime.0), (None, 7));
}

#[tokio::test]
async fn a_reading_older_than_the_lead_says_nothing_about_it() {
    let rig = rig(idle()).await;
    assert!(rig.keeper.take(Beside::default()).await.unwrap());
    let version = rig.keeper.state().lead.unwrap().version;
    rig.keeper.lost(version - 1, false);
    assert!(rig.keeper.take(Beside::default()).await.unwrap(), "confirms it");
    let version = rig.keeper.state().lead.unwrap().version;
    rig.keeper.lost(version, false);
    rig.until("lost", |s| s.lead.is_none()).await;
}

#[tokio::test]
async fn a_new_ttl_moves_the_lead_to_a_new_lease() {
    let rig = rig(idle()).await;
    assert!(rig.keeper.take(Beside::default()).await.unwrap());
    let (before, old) = (rig.keeper.state(), rig.store.lease());
    rig.keeper.set_timing(Timing { ttl: TTL * 3, ..idle() });
    // The renewal that follows the taking makes it longer as well, by a little.
    let longer = before.lead.unwrap().until + TTL;
    let state = rig.until("a longer lead", |s| s.lead.is_some_and(|l| l.until > longer)).await;
    assert_eq!(state.session_number, before.session_number + 1, "the other keys have to follow");
    assert_ne!(rig.store.lease(), old);
    rig.memory.advance(TTL * 2);
    assert_eq!(rig.leader().await, Some(("a".into(), rig.store.lease())), "the old lease took nothing along");
    // Down again: the longer one counts until the shorter lasts as long, since a fence may wait for it.
    rig.keeper.set_timing(idle());
    let longer = state.lead;
    let state = rig.until("a lease with the shorter ttl", |s| s.session_number == before.session_number + 2).await;
    assert_eq!(state.lead, longer);
    assert_ne!(rig.leader().await.unwrap().1, rig.store.lease(), "it still hangs on the other");
}

#[tokio::test]
async fn a_lead_that_cannot_be_moved_is_not_prolonged() {
    let rig = rig(timing(TTL, Duration::from_millis(50))).await;
    assert!(rig.keeper.take(Beside::default()).await.unwrap());
    // Somebody else has the key by the time it is to be moved.
    let key = rig.store.layout().key("leader");
    let put = surus_store::Op::Put { key, value: b"b".to_vec(), lease: None };
    let other = rig.memory.client();
    other.txn(surus_store::Txn { compare: vec![], then: vec![put] }, TTL).await.unwrap();
    rig.keeper.set_timing(Timing { ttl: TTL * 3, ..idle() });
    let state = rig.until("the end of the lead", |s| s.lead.is_none()).await;
    assert!(state.session);
}

#[tokio::test]
async fn a_lease_is_renewed_by_its_own_ttl_until_it_can_be_exchanged() {
    let rig = rig(idle()).await;
    assert!(rig.keeper.take(Beside::default()).await.unwrap());
    rig.memory.faults().cut();
    rig.keeper.set_timing(Timing { ttl: TTL * 3, ..idle() });
    rig.until("a failure", |s| s.failing.is_some()).await;
    assert!(rig.keeper.lead_until().unwrap() <= boot_now() + TTL);
    rig.memory.faults().heal();
    rig.until("the new lease", |s| s.lead.is_some_and(|l| l.until > boot_now() + TTL)).await;
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_taken() {
    let rig = rig(idle()).await;
    rig.memory.faults().slow(Duration::from_millis(300));
    // Busy with a renewal meanwhile.
    let (renewals, requests) = (rig.keeper.state().renewals, rig.memory.requests());
    rig.keeper.set_timing(Timing { loop_wait: Duration::from_secs(1800), ..idle() });
    while rig.memory.requests() == requests {
        tokio::task::yield_now().await;
    }
    let given_up = tokio::time::timeout(Duration::from_millis(20), rig.keeper.take(Beside::default())).await;
    assert!(given_up.is_err());
    rig.until("the renewal", |s| s.renewals > renewals).await;
    rig.memory.faults().heal();
    let before = rig.store.read(TTL).await.unwrap().revision;
    rig.settled().await;
    assert_eq!(rig.store.read(TTL).await.unwrap().revision, before, "nothing was written");
    assert_eq!(rig.keeper.lead_until(), None);
}
