use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::memory::MemoryStore;

const DEADLINE: Duration = Duration::from_secs(5);
const TTL: Duration = Duration::from_secs(30);

fn member(kv: &MemoryStore, name: &str) -> ClusterStore {
    ClusterStore::new(Arc::new(kv.clone()), Layout::new("service", "demo", None), name.into())
}

async fn with_session(kv: &MemoryStore, name: &str) -> ClusterStore {
    let store = member(kv, name);
    store.open_session(TTL, DEADLINE).await.unwrap();
    store
}

async fn leader(store: &ClusterStore) -> Option<(String, Option<LeaseId>)> {
    store.read(DEADLINE).await.unwrap().leader.map(|l| (l.name.0, l.lease))
}

#[tokio::test]
async fn a_lost_answer_does_not_lose_the_lead() {
    let kv = MemoryStore::manual();
    let a = with_session(&kv, "a").await;
    kv.faults().lose_answers(1);
    assert!(matches!(a.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
    assert_eq!(leader(&a).await, Some(("a".into(), a.lease())));
    a.release_lead(None, DEADLINE).await.unwrap();
    kv.faults().lose_requests(1);
    assert!(matches!(a.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
    // Twice in a row is more than one deadline bears: the caller is told and reads back.
    kv.faults().lose_answers(2);
    assert!(matches!(a.take_lead(DEADLINE).await, Err(StoreError::OutcomeUnknown(_))));
    assert_eq!(leader(&a).await, Some(("a".into(), a.lease())));
}

#[tokio::test]
async fn a_lead_is_retaken_only_while_the_key_carries_my_name() {
    let kv = MemoryStore::manual();
    let (a, b) = (with_session(&kv, "a").await, with_session(&kv, "b").await);
    assert_eq!(a.retake_lead(DEADLINE).await, Ok(TakeLead::Lost), "nobody has it, and somebody may have had");
    a.take_lead(DEADLINE).await.unwrap();
    let again = with_session(&kv, "a").await;
    assert!(matches!(again.retake_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
    assert_eq!(leader(&a).await, Some(("a".into(), again.lease())));
    again.release_lead(None, DEADLINE).await.unwrap();
    b.take_lead(DEADLINE).await.unwrap();
    assert_eq!(again.retake_lead(DEADLINE).await, Ok(TakeLead::Lost));
}

/// Loses the answer of the first write and is unreachable afterwards.
struct CutAfterLostAnswer(MemoryStore);

impl Kv for CutAfterLostAnswer {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> crate::Fut<'a, StoreResult<Snapshot>> {
        self.0.read(prefix, deadline)
    }
    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> crate::Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(async move {
            self.0.faults().lose_answers(1);
            let result = self.0.txn(txn, deadline).await;
            self.0.faults().cut();
            result
        })
    }
    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> crate::Fut<'a, StoreResult<LeaseId>> {
        self.0.grant(ttl, deadline)
    }
    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> crate::Fut<'a, StoreResult<()>> {
        self.0.renew(lease, deadline)
    }
    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> crate::Fut<'a, StoreResult<()>> {
        self.0.revoke(lease, deadline)
    }
    fn watch(&self, prefix: &str) -> Watch {
        self.0.watch(prefix)
    }
    fn health(&self) -> crate::Health {
        self.0.health()
    }
}

#[tokio::test]
async fn an_unknown_outcome_stays_unknown_when_the_repetition_cannot_be_sent() {
    let kv = Arc::new(CutAfterLostAnswer(MemoryStore::manual()));
    let a = ClusterStore::new(kv, Layout::new("service", "demo", None), "a".into());
    a.open_session(TTL, DEADLINE).await.unwrap();
    assert!(matches!(a.take_lead(DEADLINE).await, Err(StoreError::OutcomeUnknown(_))));
}

#[tokio::test]
async fn a_lost_answer_never_takes_the_lead_from_another() {
    let kv = MemoryStore::manual();
    let (a, mine) = (with_session(&kv, "a").await, kv.client());
    let b = with_session(&mine, "b").await;
    a.take_lead(DEADLINE).await.unwrap();
    mine.faults().lose_answers(1);
    assert_eq!(b.take_lead(DEADLINE).await, Ok(TakeLead::Lost));
    assert_eq!(leader(&b).await, Some(("a".into(), a.lease())));
}

#[tokio::test]
async fn a_lead_left_by_an_earlier_session_is_bound_to_the_new_one() {
    let kv = MemoryStore::manual();
    let before = with_session(&kv, "a").await;
    before.take_lead(DEADLINE).await.unwrap();
    kv.advance(TTL / 2);
    let after = with_session(&kv, "a").await;
    assert!(matches!(after.take_lead(DEADLINE).await, Ok(TakeLead::Taken(_))));
    assert_eq!(leader(&after).await, Some(("a".into(), after.lease())));
    kv.advance(TTL / 2);
    assert_eq!(before.renew_session(DEADLINE).await, Err(StoreError::LeaseGone));
    assert_eq!(leader(&after).await, Some(("a".into(), after.lease())), "the old lease took the key along");
}

#[tokio::test]
async fn a_session_that_ended_is_noticed_by_whatever_call_comes_first() {
    let kv = MemoryStore::manual();
    for call in 0..3 {
        let a = with_session(&kv, "a").await;
        kv.advance(TTL);
        let gone = match call {
            0 => a.renew_session(DEADLINE).await,
            1 => a.write_member("{}".into(), DEADLINE).await,
            _ => a.take_lead(DEADLINE).await.map(|_| ()),
        };
        assert_eq!((gone, a.lease()), (Err(StoreError::LeaseGone), None), "call {call}");
    }
    let a = member(&kv, "a");
    assert_eq!(a.take_lead(DEADLINE).await, Err(StoreError::LeaseGone), "no session was ever opened");
}

#[tokio::test]
async fn a_late_answer_about_the_old_session_does_not_end_the_new_one() {
    let kv = MemoryStore::manual();
    let a = with_session(&kv, "a").await;
    let old = a.lease().unwrap();
    let new = a.open_session(TTL, DEADLINE).await.unwrap();
    let _ = a.noting_its_end::<()>(old, Err(StoreError::LeaseGone));
    assert_eq!(a.lease(), Some(new));
}

#[tokio::test]
async fn the_deadline_covers_all_steps_together() {
    let kv = MemoryStore::manual();
    let a = with_session(&kv, "a").await;
    kv.faults().slow(Duration::from_secs(3600));
    let began = Instant::now();
    let taken = a.take_lead(Duration::from_millis(200)).await;
    assert!(matches!(taken, Err(StoreError::OutcomeUnknown(_))));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_former_leader_cannot_write_what_only_the_leader_may() {
    let kv = MemoryStore::manual();
    let (a, b) = (with_session(&kv, "a").await, with_session(&kv, "b").await);
    a.take_lead(DEADLINE).await.unwrap();
    let TxnOutcome::Applied(version) = a.compare_and_put_as_leader("sync", None, "x".into(), DEADLINE).await.unwrap()
    else {
        panic!("the leader was refused")
    };
    a.release_lead(Some("1".into()), DEADLINE).await.unwrap();
    b.take_lead(DEADLINE).await.unwrap();
    let late = [
        a.compare_and_put_as_leader("sync", Some(version), "y".into(), DEADLINE).await,
        a.compare_and_delete_as_leader("sync", version, DEADLINE).await,
        a.write_as_leader("status", "2".into(), DEADLINE).await,
        a.release_lead(Some("2".into()), DEADLINE).await,
    ];
    assert_eq!(late, [const { Ok(TxnOutcome::Conflict) }; 4]);
    assert_eq!(a.read(DEADLINE).await.unwrap().status.optime.0, 1);
    assert!(matches!(b.compare_and_delete_as_leader("sync", version, DEADLINE).await, Ok(TxnOutcome::Applied(_))));
}

#[tokio::test]
async fn a_cluster_is_founded_once_and_only_under_a_living_claim() {
    let kv = MemoryStore::manual();
    let (a, b) = (with_session(&kv, "a").await, with_session(&kv, "b").await);
    let id = surus_core::SystemId::parse("7277694203142172922").unwrap();
    let TxnOutcome::Applied(lost) = a.claim_cluster(DEADLINE).await.unwrap() else { panic!("nobody claimed it") };
    assert_eq!(b.claim_cluster(DEADLINE).await, Ok(TxnOutcome::Conflict));
    // The one that claimed it dies half-way: the claim goes with its session.
    kv.revoke(a.lease().unwrap(), DEADLINE).await.unwrap();
    let TxnOutcome::Applied(claim) = b.claim_cluster(DEADLINE).await.unwrap() else { panic!("still claimed") };
    a.open_session(TTL, DEADLINE).await.unwrap();
    assert_eq!(a.found_cluster(lost, &id, "{}".into(), DEADLINE).await, Ok(TxnOutcome::Conflict));
    assert_eq!(a.abandon_claim(lost, DEADLINE).await, Ok(TxnOutcome::Conflict));
    assert!(matches!(b.found_cluster(claim, &id, "{}".into(), DEADLINE).await, Ok(TxnOutcome::Applied(_))));
    b.close_session(DEADLINE).await.unwrap();
    let view = a.read(DEADLINE).await.unwrap();
    assert_eq!((view.initialize, view.leader), (surus_core::cluster::Initialize::Done(id), None));
    assert!(view.config.is_some(), "only the leader key hangs on the session");
}

#[tokio::test]
async fn whom_members_may_vouch_for_is_the_leaders_to_say() {
    let kv = MemoryStore::manual();
    let (a, b) = (with_session(&kv, "a").await, with_session(&kv, "b").await);
    a.take_lead(DEADLINE).await.unwrap();
    let says = |leader: &str, of| Vouching { leader: leader.into(), of };
    let text = |leader: &str, of| says(leader, of).to_text();
    let list = || Some(r#"{"a":"http://a"}"#.to_owned());
    let foreign = b.write_vouching(list(), text("b", Of::Majority), None, DEADLINE).await;
    assert_eq!(foreign, Ok(TxnOutcome::Conflict), "it does not lead");
    let written = a.write_vouching(list(), text("a", Of::Majority), None, DEADLINE).await.unwrap();
    let TxnOutcome::Applied(version) = written else { panic!("the leader was refused") };
    let late = a.write_vouching(None, text("a", Of::All), None, DEADLINE).await;
    assert_eq!(late, Ok(TxnOutcome::Conflict), "something was written since");
    let view = a.read(DEADLINE).await.unwrap();
    assert_eq!(view.vouching.map(|v| (v.value, v.version)), Some((says("a", Of::Majority), version)));
    assert_eq!(view.failsafe.map(|f| f.len()), Some(1), "in one transaction");

    // Given up, with and without saying that nobody goes on.
    a.release_lead(None, DEADLINE).await.unwrap();
    assert_eq!(a.read(DEADLINE).await.unwrap().vouching_version, Some(version));
    let stale = Beside { vouching: Some(None), ..Beside::default() };
    assert_eq!(b.take_lead_beside(stale, DEADLINE).await, Ok(TakeLead::Lost), "it rests on another reading");
    let fresh = Beside { vouching: Some(Some(version)), ..Beside::default() };
    assert!(matches!(b.take_lead_beside(fresh, DEADLINE).await, Ok(TakeLead::Taken(_))));
    b.release_lead_beside(Some("7".into()), true, DEADLINE).await.unwrap();
    let view = a.read(DEADLINE).await.unwrap();
    assert_eq!((view.leader, view.vouching.map(|v| v.value)), (None, Some(says("b", Of::None))));

    // On the word of an operator, while nobody leads.
    a.take_lead(DEADLINE).await.unwrap();
    let before = a.read(DEADLINE).await.unwrap().vouching_version;
    a.write_vouching(None, text("a", Of::Majority), before, DEADLINE).await.unwrap();
    let vouching = a.read(DEADLINE).await.unwrap().vouching;
    let past = |vouching| b.put_failover_past(None, vouching, "{}".into(), DEADLINE);
    assert_eq!(past(vouching.as_ref()).await, Ok(TxnOutcome::Conflict), "somebody leads");
    a.release_lead(None, DEADLINE).await.unwrap();
    assert!(matches!(past(vouching.as_ref()).await, Ok(TxnOutcome::Applied(_))));
    assert_eq!(a.read(DEADLINE).await.unwrap().vouching.map(|v| v.value), Some(says("a", Of::None)));
    assert_eq!(past(vouching.as_ref()).await, Ok(TxnOutcome::Conflict), "it was changed meanwhile");
}
