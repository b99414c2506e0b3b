use std::sync::Arc;
use std::time::Duration;

use surus_store::{Kv, StoreError};
use surus_store_raft::{RaftClient, Role};

use crate::harness::{DEADLINE, Group, PATIENCE, free_addr, options, start, until, value, write};

async fn client(group: &Group) -> RaftClient {
    RaftClient::connect(&group.addrs, Some("herd".into()), None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_node_joins_by_itself_and_leaves_by_command() {
    let mut group = Group::formed(3).await;
    let (addr, dir) = (free_addr(), tempfile::tempdir().unwrap());
    let fourth = start(options(&addr, &group.addrs, dir.path())).await;
    let client = client(&group).await;
    // Four voters would bear no more failures than three.
    until("the fourth node follows", || async {
        client.members(DEADLINE).await.is_ok_and(|m| m.iter().any(|m| m.addr == addr && m.role == Role::Learner))
    })
    .await;
    write(&fourth, "/a", "4").await;
    let members = client.members(DEADLINE).await.unwrap();
    assert!(members.iter().all(|m| m.reachable && m.last_contact.is_some() && m.log_index.is_some()), "{members:?}");

    client.remove_member(&addr, PATIENCE).await.unwrap();
    assert_eq!(client.members(DEADLINE).await.unwrap().len(), 3);
    until("the removed node knows it", || async { fourth.health().summary.contains("removed") }).await;
    let refused = fourth.read("/", Duration::from_millis(300)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");

    client.add_member(&addr, PATIENCE).await.unwrap();
    assert_eq!(value(&fourth, "/a").await.as_deref(), Some("4"));
    until("the node is in again", || async { !fourth.health().summary.contains("removed") }).await;

    // The Raft leader itself.
    let leader = group.leader().await;
    let leaving = group.addrs[leader].clone();
    client.remove_member(&leaving, PATIENCE).await.unwrap();
    group.stop(leader).await;
    until("the others have a leader, and the fourth node has the vote that became free", || async {
        client.members(DEADLINE).await.is_ok_and(|m| {
            let all = m.len() == 3 && m.iter().all(|m| m.role != Role::Learner);
            all && m.iter().any(|m| m.role == Role::Leader)
        })
    })
    .await;
    write(&client, "/a", "5").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_vote_follows() {
    let group = Group::formed(1).await;
    let (addr, dir) = (free_addr(), tempfile::tempdir().unwrap());
    let mut learner = options(&addr, &group.addrs, dir.path());
    learner.voter = false;
    let learner = start(learner).await;
    write(&**group.node(0), "/a", "1").await;
    assert_eq!(value(&learner, "/a").await.as_deref(), Some("1"));
    let members = learner.members(DEADLINE).await.unwrap();
    assert_eq!(members.iter().find(|m| m.addr == addr).unwrap().role, Role::Learner);
    learner.shutdown().await;
    write(&**group.node(0), "/a", "2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_cannot_be_right_are_refused() {
    let mut group = Group::formed(3).await;
    let client = client(&group).await;
    let unknown = free_addr();
    let refused = |r: Result<(), StoreError>| match r {
        Err(StoreError::Refused(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(refused(client.remove_member(&unknown, DEADLINE).await).contains("the members are"));
    assert!(refused(client.add_member(&unknown, DEADLINE).await).contains("does not answer"));
    assert!(refused(client.add_member("nonsense", DEADLINE).await).contains("host:port"));

    let lone = Group::formed(1).await;
    let other = RaftClient::connect(&lone.addrs, Some("herd".into()), None).await.unwrap();
    assert!(refused(other.remove_member(&lone.addrs[0], DEADLINE).await).contains("last voter"));
    assert!(refused(client.add_member(&lone.addrs[0], DEADLINE).await).contains("another store group"));

    // With one of three down, taking away a second leaves one of two.
    let leader = group.leader().await;
    let (down, stays) = ((leader + 1) % 3, group.addrs[(leader + 2) % 3].clone());
    group.stop(down).await;
    let gone = group.addrs[down].clone();
    until("the leader misses the node", || async {
        client.members(DEADLINE).await.is_ok_and(|m| m.iter().any(|m| m.addr == gone && !m.reachable))
    })
    .await;
    assert!(refused(client.remove_member(&stays, DEADLINE).await).contains("too few"));
    client.remove_member(&gone, PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_may_move_to_another_address() {
    let mut group = Group::formed(3).await;
    let mover = (group.leader().await + 1) % 3;
    group.stop(mover).await;
    group.addrs[mover] = free_addr();
    group.start(mover).await;
    let addr = group.addrs[mover].clone();
    let asked = group.node((mover + 1) % 3).clone();
    until("the members know the new address", || async {
        asked.members(DEADLINE).await.is_ok_and(|m| m.len() == 3 && m.iter().any(|m| m.addr == addr && m.reachable))
    })
    .await;
    write(&**group.node(mover), "/a", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_the_place_of_a_living_member() {
    let group = Group::formed(3).await;
    let before = group.node(0).members(DEADLINE).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    // Claims the address of node 0, but listens elsewhere.
    let mut imposter = options(&group.addrs[0], &group.addrs, dir.path());
    imposter.bind_addr = free_addr();
    let imposter = Arc::new(start(imposter).await);
    until("it is refused", || async { imposter.health().summary.contains("another node answers") }).await;
    let after = group.node(0).members(DEADLINE).await.unwrap();
    let ids = |m: &[surus_store_raft::Member]| m.iter().map(|m| m.id).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ids(&before), ids(&after));
}
