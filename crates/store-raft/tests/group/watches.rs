use std::time::Duration;

use surus_store::{Kv, StoreError, Watch, WatchEvent};
use surus_store_raft::RaftClient;

use crate::harness::{Group, PATIENCE, put, value, write};

async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(PATIENCE, watch.events.recv()).await.expect("an event in time").expect("the watch goes on")
}

async fn next_that(watch: &mut Watch, wanted: impl Fn(&WatchEvent) -> bool) -> WatchEvent {
    loop {
        let event = next(watch).await;
        if wanted(&event) {
            return event;
        }
    }
}

fn broken(event: &WatchEvent) -> bool {
    matches!(event, WatchEvent::Broken(_))
}

fn restarted_with(event: &WatchEvent, key: &str, text: &str) -> bool {
    matches!(event, WatchEvent::Restarted(s) if s.keys.iter().any(|k| k.key == key && k.value == text.as_bytes()))
}

/// A node that is cut off says so, refuses with certainty, and starts over when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_group_says_so() {
    let mut group = Group::formed(3).await;
    write(&**group.node(0), "/a", "1").await;
    let mut watch = group.node(0).watch("/");
    assert!(restarted_with(&next(&mut watch).await, "/a", "1"));
    let [one, two] = [1, 2];
    group.stop(one).await;
    group.stop(two).await;
    next_that(&mut watch, broken).await;
    let refused = group.node(0).txn(put("/a", "2", None), Duration::from_millis(500)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    let refused = group.node(0).read("/", Duration::from_millis(500)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    group.start(one).await;
    next_that(&mut watch, |e| restarted_with(e, "/a", "1")).await;
}

/// The others' writes while a node was away, more than the log keeps: it comes back by a snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_catches_up_by_a_snapshot() {
    let mut group = Group::formed(3).await;
    let away = group.follower_of(group.leader().await);
    let here = (away + 1) % 3;
    group.stop(away).await;
    let kv = group.node(here).clone();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let kv = kv.clone();
        writers.spawn(async move {
            for n in 0..400 {
                write(&*kv, &format!("/k{writer}"), &n.to_string()).await;
            }
        });
    }
    writers.join_all().await;
    group.start(away).await;
    let mut watch = group.node(away).watch("/k7");
    next_that(&mut watch, |e| restarted_with(e, "/k7", "399")).await;
    write(&*kv, "/k7", "done").await;
    next_that(&mut watch, |e| matches!(e, WatchEvent::Put(k) if k.value == b"done")).await;
    // And again after a restart, from its own disk.
    group.stop(away).await;
    group.start(away).await;
    assert_eq!(value(&**group.node(away), "/k7").await.as_deref(), Some("done"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_nobody_reads_starts_over() {
    let group = Group::formed(1).await;
    let kv = group.node(0).clone();
    let mut watch = kv.watch("/");
    next_that(&mut watch, |e| matches!(e, WatchEvent::Restarted(_))).await;
    for n in 0..1500 {
        write(&*kv, "/n", &n.to_string()).await;
    }
    next_that(&mut watch, |e| restarted_with(e, "/n", "1499")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_follows_from_node_to_node() {
    let mut group = Group::formed(3).await;
    let client = RaftClient::connect(&group.addrs, Some("herd".into()), None).await.unwrap();
    write(&client, "/a", "1").await;
    let mut watch = client.watch("/");
    assert!(restarted_with(&next(&mut watch).await, "/a", "1"));
    group.stop(0).await;
    next_that(&mut watch, broken).await;
    next_that(&mut watch, |e| restarted_with(e, "/a", "1")).await;
    write(&client, "/a", "2").await;
    next_that(&mut watch, |e| matches!(e, WatchEvent::Put(k) if k.value == b"2")).await;
}
