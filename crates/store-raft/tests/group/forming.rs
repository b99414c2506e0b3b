use std::collections::BTreeSet;
use std::time::Duration;

use surus_store::{Kv, StoreError};

use crate::harness::{DEADLINE, Group, start, until, value, write};

/// All nodes share one group: what is written at one is read at every other, and they agree who belongs.
async fn is_one_group(group: &Group) {
    group.whole().await;
    write(&**group.node(0), "/mark", "one").await;
    let mut memberships = BTreeSet::new();
    for node in group.running() {
        assert_eq!(value(&**node, "/mark").await.as_deref(), Some("one"));
        let members = node.members(DEADLINE).await.unwrap();
        memberships.insert(members.iter().map(|m| (m.id, m.addr.clone())).collect::<BTreeSet<_>>());
    }
    assert_eq!(memberships.len(), 1, "{memberships:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_any_order_at_once() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut group = Group::plan(3);
        for i in order {
            group.start(i).await;
        }
        is_one_group(&group).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_any_order_one_long_after_the_other() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut group = Group::plan(3);
        for i in &order[..2] {
            group.start(*i).await;
        }
        // Two of three know each other well, and still wait for the third.
        let missing = group.addrs[order[2]].clone();
        for i in &order[..2] {
            until("the node says whom it waits for", || async { group.node(*i).health().summary.contains(&missing) })
                .await;
            let refused = group.node(*i).read("/", Duration::from_millis(300)).await;
            assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains(&missing)), "{refused:?}");
        }
        group.start(order[2]).await;
        is_one_group(&group).await;
    }
}

#[tokio::test]
async fn a_single_node_forms_at_once() {
    let group = Group::formed(1).await;
    write(&**group.node(0), "/a", "1").await;
    assert_eq!(value(&**group.node(0), "/a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_restart_of_all_keeps_everything() {
    let mut group = Group::formed(3).await;
    write(&**group.node(1), "/a", "1").await;
    let before = group.node(0).members(DEADLINE).await.unwrap().iter().map(|m| m.id).collect::<BTreeSet<_>>();
    for i in 0..3 {
        group.stop(i).await;
    }
    for i in 0..3 {
        group.start(i).await;
    }
    is_one_group(&group).await;
    assert_eq!(value(&**group.node(2), "/a").await.as_deref(), Some("1"));
    let after = group.node(0).members(DEADLINE).await.unwrap().iter().map(|m| m.id).collect::<BTreeSet<_>>();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_takes_its_old_place() {
    let mut group = Group::formed(3).await;
    write(&**group.node(0), "/a", "1").await;
    // The founder, who would form a group if it did not find one.
    let founder = (0..3).min_by_key(|i| group.addrs[*i].clone()).unwrap();
    for lost in [founder, (founder + 1) % 3] {
        let before: BTreeSet<u64> = group.node(lost).members(DEADLINE).await.unwrap().iter().map(|m| m.id).collect();
        group.stop(lost).await;
        group.dirs[lost] = std::sync::Arc::new(tempfile::tempdir().unwrap());
        group.start(lost).await;
        until("the new node votes in place of the old", || async {
            let Ok(members) = group.node(lost).members(DEADLINE).await else { return false };
            let after: BTreeSet<u64> = members.iter().map(|m| m.id).collect();
            after.len() == 3 && after.difference(&before).count() == 1
        })
        .await;
        is_one_group(&group).await;
        assert_eq!(value(&**group.node(lost), "/a").await.as_deref(), Some("1"));
    }
}

/// The case that forbids forming by a majority of empty nodes (`form.rs`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_nodes_do_not_form_while_one_is_away_that_may_know_more() {
    let mut group = Group::formed(3).await;
    write(&**group.node(0), "/a", "1").await;
    for i in 0..3 {
        group.stop(i).await;
    }
    for i in [0, 1] {
        group.dirs[i] = std::sync::Arc::new(tempfile::tempdir().unwrap());
        group.start(i).await;
    }
    let missing = group.addrs[2].clone();
    until("the empty nodes wait for the third", || async {
        group.node(0).health().summary.contains(&missing) && group.node(1).health().summary.contains(&missing)
    })
    .await;
    group.start(2).await;
    until("the empty nodes ask the old one to let them in", || async {
        [0, 1].iter().all(|i| group.node(*i).health().summary.contains("no Raft leader"))
    })
    .await;
}

#[tokio::test]
async fn different_ideas_of_the_initial_nodes_are_pointed_out() {
    let group = Group::plan(2);
    let mut first = group.options(0);
    first.partner_addrs.push("127.0.0.1:1".into());
    let (first, second) = (start(first).await, start(group.options(1)).await);
    until("both say that their configurations differ", || async {
        second.health().summary.contains("must name the same addresses") && !first.health().summary.contains("voters")
    })
    .await;
}
