//! Every rule by at least one example: the facts in words, the rule that fires, and what it orders.

mod follow;
mod lead;
mod operator;
mod stopped;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_core::order::{Demote, Task};

use crate::scenario::*;

const MB: u64 = 1 << 20;

type Row = (u16, Scenario, &'static [&'static str]);

fn handover() -> Task {
    Task::Demote(Demote::Handover { to: "b".into(), upstream: Some(upstream("b")) })
}

/// As the leader, with so many megabytes of 100000 free, and `b` with as many.
fn disk(mine: u64, theirs: u64) -> Scenario {
    let room = |free: u64| Some(surus_core::slots::Room { free: free * MB, total: 100_000 * MB });
    Scenario::leader().with_standby("b", 1000).with(|s| {
        s.facts.room = room(mine);
        if let Some(Ok(answer)) = s.facts.peers.get_mut(&"b".into()).map(|p| p.answer.as_mut()) {
            answer.room = room(theirs);
        }
    })
}

fn history(timeline: u32) -> surus_core::cluster::History {
    let entry = |n: u32| surus_core::cluster::HistoryEntry {
        timeline: surus_core::Timeline(n),
        switch_lsn: surus_core::Lsn(900),
        reason: String::new(),
        timestamp: None,
        new_leader: None,
    };
    surus_core::cluster::History((1..timeline).map(entry).collect())
}

pub fn all() -> Vec<Row> {
    [
        operator::shutdown_and_operator(),
        operator::tasks_and_store(),
        operator::hung_server(),
        stopped::startup(),
        stopped::stopped_server(),
        stopped::nearly_full(),
        lead::race(),
        lead::primary(),
        follow::standby_cluster(),
        follow::replica(),
        lead::without_the_store(),
    ]
    .concat()
}

#[test]
fn every_example_meets_its_rule_and_orders() {
    let mut wrong = vec![];
    for (i, (rule, scenario, orders)) in all().iter().enumerate() {
        let step = scenario.step();
        if step.report.rule != *rule || briefs(&step) != *orders {
            let got = (step.report.rule, briefs(&step), &step.report.goal);
            wrong.push(format!("example {i} of rule {rule} {orders:?}: got {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_an_example() {
    let shown: BTreeSet<u16> = all().iter().map(|(rule, ..)| *rule).collect();
    let without: Vec<_> =
        surus_core::rules::table().filter(|r| !shown.contains(&r.id)).map(|r| (r.id, r.name)).collect();
    assert!(without.is_empty(), "rules that no example reaches: {without:?}");
}

#[test]
fn numbers_are_unique_and_every_rule_says_why() {
    let mut names: BTreeMap<u16, &str> = BTreeMap::new();
    for rule in surus_core::rules::table() {
        assert!(names.insert(rule.id, rule.name).is_none(), "two rules have the number {}", rule.id);
        assert!(rule.id > 0 && !rule.name.is_empty() && rule.why.ends_with('.'), "rule {}", rule.id);
    }
}

#[test]
fn an_answer_to_an_operator_does_not_hold_the_cluster_up() {
    for (rule, scenario, _) in all() {
        let step = scenario.step();
        if step.reply.is_some() && !step.orders.iter().any(|o| matches!(o, surus_core::order::Order::Begin { .. })) {
            assert!(step.again_in <= Duration::from_millis(10), "rule {rule} waits {:?}", step.again_in);
        }
    }
}
