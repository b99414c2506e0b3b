//! Histories with one thing wrong in each, which the checks must find, and sound ones, in which they must find nothing.

use std::time::Duration;

use super::{Ack, Allowed, Content, History, MONEY, Server, Violation, check};

const ASYNC: Allowed = Allowed { synchronous: false, bytes: 1000, unpublished: Duration::from_millis(500) };
const SYNC: Allowed = Allowed { synchronous: true, ..ASYNC };

fn server(node: usize, timeline: u32) -> Server {
    Server { node, timeline, started: 0 }
}

/// One commit every 100 ms and 100 bytes: ten by the first primary from 0 s on, ten by the second from 3 s on.
fn failover() -> (History, Content) {
    let mut history = History::default();
    for (server, begin) in [(server(0, 1), 0), (server(1, 2), 3000)] {
        for n in 0..10 {
            let sent = Duration::from_millis(begin + n * 100);
            let ack = Ack {
                key: server.node as u32,
                n,
                sent,
                received: sent + Duration::from_millis(2),
                server: server.clone(),
                lsn: 10_000 * u64::from(server.timeline) + n * 100,
            };
            history.acknowledged.push(ack);
        }
    }
    history.totals.push((Duration::from_secs(1), 2, MONEY));
    let content =
        Content { server: server(1, 2), appends: history.acknowledged.iter().map(|ack| (ack.key, ack.n)).collect() };
    (history, content)
}

fn violations(history: &History, content: &Content, allowed: &Allowed) -> Vec<Violation> {
    check(history, Some(content), allowed).violations
}

fn lose(content: &mut Content, key: u32, from: u64) {
    content.appends.retain(|(k, n)| *k != key || *n < from);
}

#[test]
fn a_clean_failover_is_clean() {
    let (history, content) = failover();
    for allowed in [ASYNC, SYNC] {
        let verdict = check(&history, Some(&content), &allowed);
        assert_eq!(verdict.violations, []);
        assert_eq!((verdict.failovers(), verdict.lost(), verdict.acknowledged), (1, 0, 20));
    }
}

#[test]
fn an_acknowledgement_by_the_old_primary_after_the_first_of_the_new_one() {
    let (mut history, content) = failover();
    history.acknowledged[9].received = Duration::from_millis(3102);
    let found = check(&history, Some(&content), &ASYNC);
    let wanted =
        Violation::TwoWriters { old: server(0, 1), new: server(1, 2), commits: 1, late: Duration::from_millis(100) };
    assert_eq!(found.violations, [wanted]);
    assert_eq!(found.overlapping(), 1);
}

/// A machine that wakes may acknowledge what was under way when it was stopped, and nothing else.
#[test]
fn what_was_under_way_when_the_machine_was_stopped() {
    let (mut history, content) = failover();
    let ack = &mut history.acknowledged[9];
    ack.received = Duration::from_millis(3102);
    let sent = ack.sent;
    history.suspended = vec![(sent + Duration::from_millis(1), 0)];
    let found = check(&history, Some(&content), &ASYNC);
    assert_eq!((found.violations, found.slept), (vec![], 1));
    for (at, node) in [(sent - Duration::from_millis(1), 0), (sent + Duration::from_millis(1), 1)] {
        history.suspended = vec![(at, node)];
        let found = check(&history, Some(&content), &ASYNC);
        assert_eq!((found.overlapping(), found.slept), (1, 0), "it was begun afterwards, or elsewhere");
    }
}

#[test]
fn two_that_were_promoted_apart() {
    let (mut history, content) = failover();
    history.acknowledged.iter_mut().filter(|ack| ack.server.node == 1).for_each(|ack| ack.server.timeline = 1);
    let shared = Violation::SharedTimeline { timeline: 1, nodes: [0, 1].into() };
    assert_eq!(violations(&history, &content, &ASYNC), [shared]);
}

#[test]
fn the_same_server_started_again_is_another_reign_and_no_failover() {
    let (mut history, content) = failover();
    for ack in history.acknowledged.iter_mut().filter(|ack| ack.server.node == 1) {
        ack.server = Server { started: 7, ..server(0, 1) };
    }
    let verdict = check(&history, Some(&content), &ASYNC);
    assert_eq!((verdict.failovers(), verdict.reigns.len()), (0, 2));
    assert_eq!(verdict.violations, []);
}

#[test]
fn losses_by_setting() {
    let lost = |why| Violation::Lost { server: server(0, 1), commits: 3, why };
    let (mut history, mut content) = failover();
    lose(&mut content, 0, 7);
    let verdict = check(&history, Some(&content), &ASYNC);
    assert_eq!(verdict.violations, [], "the last 500 ms are nobody's to know");
    assert_eq!((verdict.lost(), verdict.reigns[0].lost_bytes), (3, 200));
    assert_eq!(violations(&history, &content, &SYNC), [lost("replication was synchronous")]);
    history.switchovers.push((Duration::from_secs(2), 0));
    assert_eq!(violations(&history, &content, &ASYNC), [lost("it was handed over as planned")]);
}

#[test]
fn losses_further_back_than_the_lag_that_is_allowed() {
    let (history, mut content) = failover();
    lose(&mut content, 0, 2);
    let strict = Allowed { bytes: 100, ..ASYNC };
    let why = "it was further back than maximum_lag_on_failover allows";
    let wanted = [Violation::Lost { server: server(0, 1), commits: 8, why }];
    assert_eq!(violations(&history, &content, &strict), wanted);
    assert_eq!(violations(&history, &content, &ASYNC), []);
}

#[test]
fn losses_of_the_primary_that_still_leads() {
    let (history, mut content) = failover();
    lose(&mut content, 1, 9);
    let wanted = [Violation::Lost { server: server(1, 2), commits: 1, why: "nobody took over from it" }];
    assert_eq!(violations(&history, &content, &ASYNC), wanted);
}

#[test]
fn losses_of_a_server_that_came_back_from_a_crash() {
    let (mut history, mut content) = failover();
    for ack in history.acknowledged.iter_mut().filter(|ack| ack.server.node == 1) {
        ack.server = Server { started: 7, ..server(0, 1) };
    }
    content.server = Server { started: 7, ..server(0, 1) };
    lose(&mut content, 0, 9);
    let wanted = [Violation::Lost { server: server(0, 1), commits: 1, why: "nobody took over from it" }];
    assert_eq!(violations(&history, &content, &ASYNC), wanted);
}

#[test]
fn losses_to_a_primary_that_nobody_wrote_to() {
    let (history, mut content) = failover();
    lose(&mut content, 1, 9);
    content.server = server(2, 3);
    assert_eq!(violations(&history, &content, &ASYNC), []);
}

#[test]
fn a_hole() {
    let (history, mut content) = failover();
    content.appends.retain(|append| *append != (0, 8));
    let wanted = [Violation::Hole { server: server(0, 1), missing: (0, 8), there: (0, 9) }];
    assert_eq!(violations(&history, &content, &ASYNC), wanted);
}

#[test]
fn what_nobody_sent_what_is_there_twice_and_what_is_out_of_order() {
    let (mut history, content) = failover();
    let with = |append: (u32, u64)| {
        let mut content = content.clone();
        content.appends.push(append);
        content
    };
    assert_eq!(violations(&history, &with((1, 10)), &ASYNC), [Violation::Invented { key: 1, n: 10 }]);
    assert_eq!(violations(&history, &with((1, 3)), &ASYNC), [Violation::Twice { key: 1, n: 3 }]);
    history.unanswered = [(1, 10)].into();
    assert_eq!(violations(&history, &with((1, 10)), &ASYNC), [], "sent, and nobody knew");
    let mut swapped = content.clone();
    swapped.appends.swap(3, 4);
    assert_eq!(violations(&history, &swapped, &ASYNC), [Violation::OutOfOrder { key: 0, n: 3, after: 4 }]);
}

#[test]
fn money_that_came_from_nowhere() {
    let (mut history, content) = failover();
    history.totals.push((Duration::from_secs(2), 2, MONEY + 5));
    assert_eq!(violations(&history, &content, &ASYNC), [Violation::Money { node: 2, total: MONEY + 5 }]);
}
