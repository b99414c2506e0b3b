//! One line for each thing that happened.

use serde::Serialize;
use surus_core::MemberName;
use surus_core::order::Order;

use super::Told;
use crate::digest::{Entry, Event};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub at: i64,
    /// Absent: it concerns the cluster.
    pub member: Option<MemberName>,
    pub what: String,
    /// Of the decision that this is, or that was made on it.
    pub rule: Option<u16>,
}

/// Who leads, once, whoever saw it first.
pub fn cluster(told: &Told) -> Vec<Line> {
    let mut lines = Vec::new();
    let line = |at, what| Line { at, member: None, what, rule: None };
    for (version, seen) in &told.terms {
        let what = if told.goes_on(*version) {
            format!("{} has taken its lead anew (first seen by {})", seen.leader, seen.by)
        } else if seen.before {
            format!("{} leads (seen by {})", seen.leader, seen.by)
        } else {
            format!("{} has taken the lead (first seen by {})", seen.leader, seen.by)
        };
        lines.push(line(seen.at, what));
    }
    for seen in told.ends.values() {
        lines.push(line(
            seen.at,
            format!("the lead of {} has ended, nobody leads (first seen by {})", seen.leader, seen.by),
        ));
    }
    let mut requests = std::collections::BTreeMap::new();
    for (member, events) in &told.events {
        let mut known = None;
        for (at, entry) in super::entries(events) {
            if let (Some(version), Some(request)) = (entry.seen.request_version, &entry.seen.request)
                && known.replace(version) != Some(version)
            {
                let first = requests.entry(version).or_insert((at, *member, request));
                if at < first.0 {
                    *first = (at, *member, request);
                }
            }
        }
    }
    for (at, by, request) in requests.into_values() {
        let from = request.leader.as_ref().map(|l| format!(" from {l}")).unwrap_or_default();
        let to = request.candidate.as_ref().map(|c| format!(" to {c}")).unwrap_or_default();
        let when = request.scheduled_at.as_ref().map(|t| format!(" at {t}")).unwrap_or_default();
        lines.push(line(at, format!("{}{from}{to}{when} is asked for (first seen by {by})", request.action())));
    }
    lines
}

/// What happened to one member.
pub fn of(member: &MemberName, events: &[(i64, &Event)]) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut last: Option<&Entry> = None;
    let mut last_at = None;
    let mut begun: Option<(String, u64)> = None;
    let mut exited = true;
    for (at, event) in events {
        let mut say = |what: String, rule| lines.push(Line { at: *at, member: Some(member.clone()), what, rule });
        match event {
            Event::Started(header) => {
                let program = format!("Surus {}, pid {}", header.version, header.pid);
                match last_at.filter(|_| !exited) {
                    Some(before) => say(
                        format!(
                            "the agent starts ({program}); the one before ended without a word, {} after its last",
                            seconds(at - before)
                        ),
                        None,
                    ),
                    None => say(format!("the agent starts ({program})"), None),
                }
                last = None;
                begun = None;
                exited = false;
            }
            Event::Decided(entry) => {
                changes(last, entry, &mut |what| say(what, Some(entry.rule)));
                if let Some(done) = &entry.seen.finished {
                    let took = begun.take().filter(|(task, _)| *task == done.task);
                    let took = took.map(|(_, from)| format!(" after {}", seconds(signed(done.at) - signed(from))));
                    say(format!("{}: {}{}", done.task, done.how, took.unwrap_or_default()), Some(entry.rule));
                }
                decision(last, entry, &mut say);
                for order in &entry.orders {
                    match order {
                        Order::Begin { task, .. } => {
                            say(format!("begins: {}", task.name()), Some(entry.rule));
                            begun = Some((task.name(), entry.now));
                        }
                        Order::Cancel { why, .. } => say(format!("gives up what it is doing: {why}"), Some(entry.rule)),
                        Order::TakeLead => say("reaches for the lead".to_owned(), Some(entry.rule)),
                        Order::ReleaseLead => say("gives the lead away".to_owned(), Some(entry.rule)),
                        Order::Exit(Ok(())) => say("the agent ends".to_owned(), Some(entry.rule)),
                        Order::Exit(Err(why)) => say(format!("the agent ends: {why}"), Some(entry.rule)),
                        _ => {}
                    }
                }
                exited = entry.orders.iter().any(|o| matches!(o, Order::Exit(_)));
                last = Some(entry);
            }
            Event::Same { .. } => {}
            Event::Lost { lost, why, .. } => say(format!("{lost} decisions are not recorded: {why}"), None),
        }
        last_at = Some(*at);
    }
    lines
}

/// The decision, when it is another than before.
fn decision(last: Option<&Entry>, entry: &Entry, say: &mut impl FnMut(String, Option<u16>)) {
    let goal = |e: &Entry| crate::encode::uncounted(&e.goal);
    if last.is_some_and(|l| l.rule == entry.rule && goal(l) == goal(entry)) || entry.goal.is_empty() {
        return;
    }
    say(entry.goal.clone(), Some(entry.rule));
    for c in &entry.candidates {
        say(format!("weighed {}: {}, {}", c.name, if c.fit { "fit" } else { "not fit" }, c.why), Some(entry.rule));
    }
}

fn changes(last: Option<&Entry>, entry: &Entry, say: &mut impl FnMut(String)) {
    let Some(last) = last else { return };
    let (old, new) = (&last.seen, &entry.seen);
    if old.store_trouble.is_some() != new.store_trouble.is_some() {
        match &new.store_trouble {
            Some(why) => say(format!("the store cannot be reached: {why}")),
            None => say("the store is reached again".to_owned()),
        }
    }
    if old.process != new.process {
        say(match new.process.as_str() {
            "stopped" if old.task.is_none() && new.task.is_none() => "PostgreSQL has ended".to_owned(),
            "stopped" => "PostgreSQL is stopped".to_owned(),
            "accepting" => "PostgreSQL accepts connections".to_owned(),
            _ => "PostgreSQL runs and accepts no connections".to_owned(),
        });
    } else if old.answers != new.answers && new.process == "accepting" {
        say(if new.answers { "PostgreSQL answers again" } else { "PostgreSQL does not answer" }.to_owned());
    }
    match (old.in_recovery, new.in_recovery) {
        (Some(true) | None, Some(false)) => {
            let timeline = new.timeline.map(|t| format!(", timeline {t}")).unwrap_or_default();
            say(format!("PostgreSQL is a primary{timeline}"));
        }
        (Some(false), Some(true)) => say("PostgreSQL is a standby".to_owned()),
        _ => {}
    }
    if old.streams_from != new.streams_from {
        match (&new.streams_from, new.process.as_str()) {
            (Some(from), _) => say(format!("streams from {from}")),
            (None, "accepting") if new.in_recovery == Some(true) => say("does not stream any more".to_owned()),
            _ => {}
        }
    }
    if old.holds_lead != new.holds_lead {
        say(if new.holds_lead { "holds the lead" } else { "does not hold the lead any more" }.to_owned());
    }
    if old.paused != new.paused {
        say(if new.paused { "knows that the cluster is paused" } else { "knows that the pause is over" }.to_owned());
    }
    if !old.shutdown && new.shutdown {
        say("the agent was told to end".to_owned());
    }
    if !old.orphans && new.orphans {
        say("server processes of a dead postmaster still run".to_owned());
    }
    if old.data_dir != new.data_dir {
        match (old.data_dir.as_str(), new.data_dir.as_str()) {
            ("standby" | "primary", "standby" | "primary") => {}
            (_, "standby" | "primary") => say("there is a data directory".to_owned()),
            (_, "empty") => say("the data directory is empty".to_owned()),
            (_, other) => say(format!("the data directory: {other}")),
        }
    }
}

pub fn seconds(ms: i64) -> String {
    format!("{}{}.{:03} s", if ms < 0 { "-" } else { "" }, ms.abs() / 1000, ms.abs() % 1000)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}
