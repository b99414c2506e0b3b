//! The in-memory store: it passes the suite on both clocks, and its faults do what they say.

use std::sync::Arc;
use std::time::Duration;

use surus_core::BootTime;
use surus_store::conformance::{self, Harness};
use surus_store::{
    Compare, Follower, Fut, Kv, Layout, MemoryStore, Op, StoreError, Txn, TxnOutcome, Watch, WatchEvent,
};

const DEADLINE: Duration = Duration::from_secs(5);

struct Manual(MemoryStore);

impl Harness for Manual {
    fn client(&self) -> Fut<'_, Arc<dyn Kv>> {
        Box::pin(async { Arc::new(self.0.client()) as Arc<dyn Kv> })
    }
    fn prefix(&self) -> String {
        "/conformance/".into()
    }
    fn now(&self) -> BootTime {
        self.0.now()
    }
    fn pass(&self, time: Duration) -> Fut<'_, ()> {
        Box::pin(async move { self.0.advance(time) })
    }
}

struct Auto(MemoryStore);

impl Harness for Auto {
    fn client(&self) -> Fut<'_, Arc<dyn Kv>> {
        Box::pin(async { Arc::new(self.0.client()) as Arc<dyn Kv> })
    }
    fn prefix(&self) -> String {
        "/conformance/".into()
    }
    fn ttl(&self) -> Duration {
        Duration::from_millis(300)
    }
}

#[tokio::test]
async fn conformance_on_the_manual_clock() {
    conformance::run(&Manual(MemoryStore::manual())).await;
}

#[tokio::test]
async fn conformance_on_the_boot_time_clock() {
    conformance::run(&Auto(MemoryStore::auto())).await;
}

fn put(key: &str, value: &str) -> Txn {
    Txn { compare: vec![], then: vec![Op::Put { key: key.into(), value: value.into(), lease: None }] }
}

async fn next(watch: &mut Watch) -> WatchEvent {
    let event = tokio::time::timeout(Duration::from_secs(10), watch.events.recv()).await;
    event.ok().flatten().unwrap_or_else(|| panic!("the watch said nothing"))
}

#[tokio::test]
async fn a_client_that_is_cut_off_fails_alone_and_starts_over_when_healed() {
    let a = MemoryStore::manual();
    let other = a.client();
    let mut watch = a.watch("/");
    assert!(matches!(next(&mut watch).await, WatchEvent::Restarted(_)));
    a.faults().cut();
    assert!(matches!(a.read("/", DEADLINE).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(a.txn(put("/x", "1"), DEADLINE).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(next(&mut watch).await, WatchEvent::Broken(_)));
    other.txn(put("/x", "2"), DEADLINE).await.unwrap();
    a.faults().heal();
    let WatchEvent::Restarted(snapshot) = next(&mut watch).await else { panic!("no fresh start") };
    assert_eq!((snapshot.keys.len(), snapshot.keys[0].value.as_slice()), (1, b"2".as_slice()));
}

#[tokio::test]
async fn a_lost_answer_was_applied_and_a_lost_request_was_not() {
    let kv = MemoryStore::manual();
    kv.faults().lose_answers(1);
    assert!(matches!(kv.txn(put("/x", "1"), DEADLINE).await, Err(StoreError::OutcomeUnknown(_))));
    assert_eq!(kv.read("/", DEADLINE).await.unwrap().keys.len(), 1);
    kv.faults().lose_requests(1);
    assert!(matches!(kv.txn(put("/y", "1"), DEADLINE).await, Err(StoreError::OutcomeUnknown(_))));
    assert_eq!(kv.read("/", DEADLINE).await.unwrap().keys.len(), 1);
    assert!(matches!(kv.txn(put("/y", "1"), DEADLINE).await, Ok(TxnOutcome::Applied(_))));
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_has_no_answer_when_its_deadline_comes() {
    let kv = MemoryStore::manual();
    kv.faults().slow(Duration::from_secs(60));
    assert!(matches!(kv.read("/", DEADLINE).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(kv.txn(put("/x", "1"), DEADLINE).await, Err(StoreError::OutcomeUnknown(_))));
    assert!(matches!(kv.txn(put("/x", "1"), Duration::from_secs(61)).await, Ok(TxnOutcome::Applied(_))));
}

#[tokio::test]
async fn a_stalled_watch_is_stale_without_saying_so() {
    let kv = MemoryStore::manual();
    let follower = Follower::over(kv.watch("/service/demo/"), Layout::new("service", "demo", None));
    follower.subscribe().wait_for(|f| f.is_current()).await.unwrap();
    kv.faults().stall_watches();
    let TxnOutcome::Applied(revision) = kv.txn(put("/service/demo/leader", "a"), DEADLINE).await.unwrap() else {
        panic!("not applied")
    };
    assert!(!follower.wait_revision(revision, Duration::from_millis(50)).await);
    assert!(follower.current().is_current());
    kv.faults().heal();
    assert!(follower.wait_revision(revision, DEADLINE).await);
    kv.faults().break_watches();
    follower.subscribe().wait_for(|f| f.broken_since.is_some()).await.unwrap();
    assert!(kv.read("/", DEADLINE).await.is_ok(), "calls go on working");
}

#[tokio::test]
async fn two_operations_on_one_key_are_refused() {
    let kv = MemoryStore::manual();
    let mut twice = put("/x", "1");
    twice.then.push(Op::Delete { key: "/x".into() });
    let mut both = put("/d/x", "1");
    both.then.push(Op::DeletePrefix { prefix: "/d/".into() });
    both.compare.push(Compare::Absent { key: "/d/x".into() });
    for txn in [twice, both] {
        assert!(matches!(kv.txn(txn, DEADLINE).await, Err(StoreError::Refused(_))));
    }
    assert_eq!(kv.read("/", DEADLINE).await.unwrap().keys, []);
}
