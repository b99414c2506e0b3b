use std::time::{Duration, Instant};

use surus_store::{Kv, StoreError, WatchEvent};

use crate::harness::{DEADLINE, Group, PATIENCE, put, until, value};
use crate::processes::client;

const TTL: Duration = Duration::from_secs(5);
/// Far below what starting the time again would cost (a whole TTL), above what a busy machine needs.
const LATE: Duration = Duration::from_secs(3);
/// Whoever lacks time to be heard is replaced: one election may be under way when a lease is due.
const ELECTION: Duration = Duration::from_millis(2500);

async fn deleted(watch: &mut surus_store::Watch, key: &str) {
    let wait = async {
        let mut present = false;
        while let Some(event) = watch.events.recv().await {
            match event {
                WatchEvent::Deleted { key: gone, .. } if gone == key => return,
                WatchEvent::Restarted(snapshot) => {
                    let now = snapshot.keys.iter().any(|k| k.key == key);
                    // The stream may start over in the election, and miss the very moment.
                    if present && !now {
                        return;
                    }
                    present = now;
                }
                _ => {}
            }
        }
        panic!("the watch ended");
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the key goes away");
}

/// The node that is Raft leader and holds the lease dies: the time of the lease goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_does_not_start_again_with_a_new_leader() {
    let mut group = Group::formed(3).await;
    let leader = group.leader().await;
    let holder = group.node(leader).clone();
    let lease = holder.grant(TTL, DEADLINE).await.unwrap();
    holder.txn(put("/leader", "n1", Some(lease)), DEADLINE).await.unwrap();
    let survivor = group.node(group.follower_of(leader)).clone();
    let mut watch = survivor.watch("/");
    until("the survivor sees the key", || async { value(&*survivor, "/leader").await.is_some() }).await;

    let sent = Instant::now();
    holder.renew(lease, DEADLINE).await.unwrap();
    let answered = Instant::now();
    drop(holder);
    group.stop(leader).await;
    deleted(&mut watch, "/leader").await;
    let lived = (sent.elapsed(), answered.elapsed());
    eprintln!("the lease of {TTL:?} ended {:?} after its last renewal was answered", lived.1);
    assert!(lived.0 >= TTL, "ended {:?} after the renewal was sent", lived.0);
    assert!(lived.1 < TTL + LATE, "ended {:?} after the renewal was answered", lived.1);
    assert_eq!(survivor.renew(lease, DEADLINE).await, Err(StoreError::LeaseGone));
}

/// As the other agents do. A node that was restarted knows of the time that passed while it was down only from the next
/// command it hears of; of a silent group it would lead on with the time of its last one.
async fn keep_renewing(group: &Group) -> tokio::task::JoinHandle<()> {
    let kv = client(&group.addrs).await;
    let other = kv.grant(TTL, DEADLINE).await.unwrap();
    tokio::spawn(async move {
        loop {
            let _ = kv.renew(other, DEADLINE).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
}

/// Several leaders in a row, each for less than the TTL: none of them may lose the time before it,
/// and none may count more than has passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_goes_on_through_several_leaders() {
    let ttl = Duration::from_secs(12);
    let mut group = Group::formed(3).await;
    let lease = group.node(0).grant(ttl, DEADLINE).await.unwrap();
    group.node(0).txn(put("/leader", "n1", Some(lease)), DEADLINE).await.unwrap();
    let sent = Instant::now();
    group.node(1).renew(lease, DEADLINE).await.unwrap();
    let answered = Instant::now();
    let others = keep_renewing(&group).await;
    for _ in 0..2 {
        let leader = group.leader().await;
        group.stop(leader).await;
        let successor = group.follower_of(leader);
        until("there is a successor", || async {
            group.leader_now().is_some() && group.node(successor).read("/", DEADLINE).await.is_ok()
        })
        .await;
        group.start(leader).await;
        group.whole().await;
    }
    let busy = answered.elapsed();
    let kv = group.node(0).clone();
    until("the key is gone", || async { value(&*kv, "/leader").await.is_none() }).await;
    let lived = (sent.elapsed(), answered.elapsed());
    others.abort();
    eprintln!(
        "the lease of {ttl:?} ended {:?} after its last renewal was answered, {busy:?} of it with elections",
        lived.1
    );
    assert!(lived.0 >= ttl, "ended {:?} after the renewal was sent", lived.0);
    assert!(lived.1 < ttl.max(busy) + LATE + ELECTION, "ended {:?} after the renewal was answered", lived.1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_outlives_the_leader_if_it_is_renewed() {
    let mut group = Group::formed(3).await;
    let leader = group.leader().await;
    let kv = group.node(group.follower_of(leader)).clone();
    let lease = kv.grant(TTL, DEADLINE).await.unwrap();
    kv.txn(put("/leader", "n1", Some(lease)), DEADLINE).await.unwrap();
    let began = Instant::now();
    group.stop(leader).await;
    while began.elapsed() < TTL + LATE {
        kv.renew(lease, TTL).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(value(&*kv, "/leader").await.as_deref(), Some("n1"));
}

/// Nothing is known to have passed while nobody was there to measure: the lease ends late, not early.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_all_does_not_end_a_lease_early() {
    let mut group = Group::formed(3).await;
    let lease = group.node(0).grant(TTL, DEADLINE).await.unwrap();
    group.node(0).txn(put("/leader", "n1", Some(lease)), DEADLINE).await.unwrap();
    let sent = Instant::now();
    group.node(0).renew(lease, DEADLINE).await.unwrap();
    for i in 0..3 {
        group.stop(i).await;
    }
    for i in 0..3 {
        group.start(i).await;
    }
    let kv = group.node(1).clone();
    until("the key is gone", || async { value(&*kv, "/leader").await.is_none() }).await;
    assert!(sent.elapsed() >= TTL, "ended after {:?}", sent.elapsed());
}
