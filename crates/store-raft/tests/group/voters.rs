use std::collections::BTreeSet;

use surus_store::Kv;
use surus_store_raft::{Member, RaftClient, Role};

use crate::harness::{DEADLINE, Group, free_addr, options, start, until, value, write};
use crate::processes::{Process, Writer, between, client, leader_of, number, plan, works};

/// Addresses of those that vote, and of those that do and are there.
fn voting(members: &[Member]) -> (BTreeSet<String>, BTreeSet<String>) {
    let voters = members.iter().filter(|m| m.role != Role::Learner);
    let there = voters.clone().filter(|m| m.reachable).map(|m| m.addr.clone()).collect();
    (voters.map(|m| m.addr.clone()).collect(), there)
}

async fn five_vote(kv: &RaftClient, members: usize, without: &[String]) {
    until("five members vote, and all of them are there", || async {
        kv.members(DEADLINE).await.is_ok_and(|m| {
            let (voters, there) = voting(&m);
            m.len() == members && there.len() == 5 && voters.len() == 5 && without.iter().all(|d| !voters.contains(d))
        })
    })
    .await;
}

/// Seven nodes, killed one after the other: learners take the place of the first two, the five that are
/// left bear two more. Who comes back is a spare again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_nodes_bear_four_deaths_with_time_between() {
    let (addrs, mut nodes) = plan(7);
    nodes.iter_mut().for_each(|n| n.start_impatient(&addrs));
    let kv = client(&addrs).await;
    works(&kv).await;
    five_vote(&kv, 7, &[]).await;
    let (voters, _) = voting(&kv.members(DEADLINE).await.unwrap());
    // A learner reads and writes as everybody does.
    let learner = addrs.iter().find(|a| !voters.contains(*a)).unwrap();
    let at_learner = client(std::slice::from_ref(learner)).await;
    write(&*at_learner, "/learner", "writes").await;
    assert_eq!(value(&*at_learner, "/learner").await.as_deref(), Some("writes"));

    let writer = Writer::start(client(&addrs).await, "/n".into());
    let mut dead: Vec<String> = Vec::new();
    async fn kill_a_voter(kv: &RaftClient, nodes: &mut [Process], dead: &mut Vec<String>, leader_too: bool) {
        let mut victim = None;
        until("there is a voter to kill", || async { leader_of(kv).await.is_some() }).await;
        let leader = leader_of(kv).await;
        for member in kv.members(DEADLINE).await.unwrap() {
            let alive = !dead.contains(&member.addr);
            if alive && member.role != Role::Learner && (Some(&member.addr) == leader.as_ref()) == leader_too {
                victim = Some(member.addr);
            }
        }
        let victim = victim.unwrap();
        nodes.iter_mut().find(|n| n.addr == victim).unwrap().kill();
        dead.push(victim);
    }
    for leader_too in [true, false] {
        writer.goes_on().await;
        kill_a_voter(&kv, &mut nodes, &mut dead, leader_too).await;
        writer.goes_on().await;
        five_vote(&kv, 7, &dead).await;
    }
    for leader_too in [false, true] {
        writer.goes_on().await;
        kill_a_voter(&kv, &mut nodes, &mut dead, leader_too).await;
    }
    writer.goes_on().await;
    // The first two come back and find their votes given away; they take those of the last two.
    for node in nodes.iter_mut().filter(|n| dead[..2].contains(&n.addr)) {
        node.start_impatient(&addrs);
    }
    five_vote(&kv, 7, &dead[2..]).await;
    dead.drain(..2);
    kill_a_voter(&kv, &mut nodes, &mut dead, true).await;
    writer.goes_on().await;
    let written = writer.finish().await;
    between(number(&kv, "/n").await, written);
}

/// A witness is there to vote, also where it comes last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_that_comes_late_gets_a_vote() {
    let mut group = Group::plan(5);
    for i in 0..5 {
        group.start(i).await;
    }
    group.whole().await;
    let (addr, dir) = (free_addr(), tempfile::tempdir().unwrap());
    let mut witness = options(&addr, &group.addrs, dir.path());
    witness.witness = true;
    let witness = start(witness).await;
    until("the witness votes, and four others", || async {
        witness.members(DEADLINE).await.is_ok_and(|m| {
            let (voters, _) = voting(&m);
            m.len() == 6 && voters.len() == 5 && voters.contains(&addr)
        })
    })
    .await;
    write(&witness, "/a", "1").await;
    assert_eq!(value(&**group.node(0), "/a").await.as_deref(), Some("1"));
    let follower = witness.members(DEADLINE).await.unwrap().into_iter().find(|m| m.role == Role::Learner).unwrap();
    let at = group.addrs.iter().position(|a| *a == follower.addr).unwrap();
    assert!(group.node(at).health().summary.contains("5 voters"));
}

/// A herd: all twenty configured with each other, started at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_nodes_are_one_group_of_five_voters() {
    let mut group = Group::plan(20);
    for i in 0..20 {
        group.start(i).await;
    }
    until("twenty members, five of them vote", || async {
        group.node(19).members(DEADLINE).await.is_ok_and(|m| {
            let (voters, there) = voting(&m);
            m.len() == 20 && voters.len() == 5 && there.len() == 5
        })
    })
    .await;
    // Written at any, read at all, with the leader of the group gone in between.
    write(&**group.node(7), "/a", "1").await;
    let leader = group.leader().await;
    group.stop(leader).await;
    write(&**group.node((leader + 11) % 20), "/b", "2").await;
    for node in group.running() {
        assert_eq!(value(&**node, "/a").await.as_deref(), Some("1"));
        assert_eq!(value(&**node, "/b").await.as_deref(), Some("2"));
    }
}
