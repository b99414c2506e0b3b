//! How the lead went from one member to another, in phases.

use serde::Serialize;
use surus_core::MemberName;
use surus_core::order::{Order, Task};
use surus_core::report::Section;

use super::{Seen, Told};
use crate::digest::{Entry, Event};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `switchover`, `manual failover`, `failover`, `shutdown of the leader`, `return of the leader`, `first leader`.
    pub kind: &'static str,
    pub from: Option<MemberName>,
    pub to: MemberName,
    /// In order of time.
    pub phases: Vec<Phase>,
    /// From the end of one lead to the beginning of the next.
    pub leaderless_ms: Option<i64>,
    /// From the first phase to the first write that the new primary could accept.
    pub took_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Phase {
    pub at: i64,
    pub name: &'static str,
    pub member: Option<MemberName>,
    pub what: String,
}

pub fn all(told: &Told) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut last: Option<(u64, &Seen)> = None;
    for (version, term) in &told.terms {
        let mut later = told.terms.range(version + 1..).filter(|(v, _)| !told.goes_on(**v));
        let until = later.next().map_or(i64::MAX, |(_, next)| next.at);
        // A term that was there when the accounts begin has no beginning to tell of.
        if !term.before && !told.goes_on(*version) {
            changes.push(change(told, last, (*version, term), until));
        }
        last = Some((*version, term));
    }
    changes
}

fn change(told: &Told, old: Option<(u64, &Seen)>, (version, new): (u64, &Seen), until: i64) -> Change {
    let from = old.map(|(_, term)| term.leader);
    let since = old.map_or(i64::MIN, |(_, term)| term.at);
    let mut phases = Vec::new();
    let mut phase = |at: i64, name, member: Option<&MemberName>, what: String| {
        phases.push(Phase { at, name, member: member.cloned(), what });
    };

    let request = first_request(told, old.map_or(0, |(v, _)| v), version, new.at);
    let told_to_end = from.and_then(|from| first(told, from, since, new.at, |e| e.seen.shutdown));
    let kind = match (&request, &told_to_end, from) {
        (Some((_, _, action)), ..) => *action,
        (None, Some(_), _) => "shutdown of the leader",
        (None, None, Some(from)) if from == new.leader => "return of the leader",
        (None, None, Some(_)) => "failover",
        (None, None, None) => "first leader",
    };
    let end = old.and_then(|(v, _)| told.ends.get(&v)).filter(|end| end.at <= new.at);
    if let Some((at, by, action)) = request {
        phase(at, "trigger", Some(by), format!("sees that a {action} is asked for"));
    } else if let (Some(at), Some(from)) = (told_to_end, from) {
        phase(at, "trigger", Some(from), "is told to end".to_owned());
    } else if let Some(from) = from {
        let before = end.map_or(new.at, |e| e.at);
        if let Some((at, what)) = trouble(told, from, since, before) {
            phase(at, "trigger", Some(from), what);
        }
    }
    if let Some(from) = from {
        let stop = first(told, from, since, until, |e| {
            e.orders.iter().any(|o| matches!(o, Order::Begin { task: Task::Demote(_) | Task::Shutdown { .. }, .. }))
        });
        if let Some(at) = stop.filter(|at| *at <= new.at) {
            phase(at, "stop", Some(from), "begins to stop PostgreSQL".to_owned());
            if let Some(at) = first(told, from, at, until, |e| e.seen.process == "stopped") {
                phase(at, "stopped", Some(from), "PostgreSQL is stopped".to_owned());
            }
        }
    }
    if let Some(end) = end {
        phase(end.at, "lead ends", Some(end.by), format!("sees that the lead of {} has ended", end.leader));
        let racers = told.events.keys().filter_map(|member| {
            let at = first(told, member, end.at, new.at + 1, |e| e.section == Section::Race)?;
            Some((at, *member))
        });
        if let Some((at, member)) = racers.min() {
            phase(at, "race", Some(member), "is the first in the race for the lead".to_owned());
        }
    }
    // Its own order comes before anybody can see the outcome.
    let from_then = end.map_or(since, |e| e.at);
    let reached = last_of(told, new.leader, from_then, new.at, |e| e.orders.contains(&Order::TakeLead));
    if let Some(at) = reached {
        phase(at, "reach", Some(new.leader), "reaches for the lead".to_owned());
    }
    let start = reached.unwrap_or(new.at);
    // It knows before the store tells everybody.
    let held = first(told, new.leader, start, until, |e| e.seen.holds_lead).filter(|at| *at <= new.at);
    let taken = held.unwrap_or(new.at);
    match held {
        Some(at) => phase(at, "lead taken", Some(new.leader), "has the lead".to_owned()),
        None => phase(new.at, "lead taken", Some(new.by), format!("sees that {} has taken the lead", new.leader)),
    }
    let promoting = first(told, new.leader, start, until, |e| {
        e.orders
            .iter()
            .any(|o| matches!(o, Order::Begin { task: Task::Promote | Task::StartPrimary | Task::Bootstrap, .. }))
    });
    if let Some(at) = promoting {
        phase(at, "promote", Some(new.leader), "begins to promote PostgreSQL".to_owned());
    }
    let writes = first(told, new.leader, start, until, |e| e.seen.leads_and_writes());
    if let Some(at) = writes {
        let timeline =
            told.entries_of(new.leader).into_iter().find(|(t, _)| *t == at).and_then(|(_, e)| e.seen.timeline);
        let timeline = timeline.map(|t| format!(" on timeline {t}")).unwrap_or_default();
        phase(at, "writes", Some(new.leader), format!("accepts writes{timeline}"));
    }
    for member in told.others(new.leader) {
        let follows = |e: &Entry| e.seen.streams_from.as_deref() == Some(new.leader.as_str());
        if let Some(at) = first(told, member, start, until, follows) {
            phase(at, "follows", Some(member), format!("streams from {}", new.leader));
        }
    }
    phases.sort_by_key(|p| p.at);
    let begin = phases.first().map(|p| p.at);
    Change {
        kind,
        from: from.cloned(),
        to: new.leader.clone(),
        leaderless_ms: end.map(|end| taken - end.at),
        took_ms: writes.zip(begin).map(|(writes, begin)| writes - begin),
        phases,
    }
}

/// The first time from `since` on and before `until` that a decision of this member was like that.
fn first(told: &Told, member: &MemberName, since: i64, until: i64, like: impl Fn(&Entry) -> bool) -> Option<i64> {
    told.entries_of(member).into_iter().find(|(at, e)| *at >= since && *at < until && like(e)).map(|(at, _)| at)
}

fn last_of(told: &Told, member: &MemberName, since: i64, until: i64, like: impl Fn(&Entry) -> bool) -> Option<i64> {
    told.entries_of(member).into_iter().rfind(|(at, e)| *at >= since && *at <= until && like(e)).map(|(at, _)| at)
}

/// A request that stood in the store between two terms, and who saw it first.
fn first_request<'a>(told: &Told<'a>, old: u64, new: u64, until: i64) -> Option<(i64, &'a MemberName, &'static str)> {
    let of = |(member, events): (&&'a MemberName, &Vec<(i64, &'a Event)>)| {
        super::entries(events).into_iter().find_map(|(at, e)| {
            let request = e.seen.request.as_ref()?;
            let between = e.seen.request_version.is_some_and(|v| v > old && v < new) && at <= until;
            between.then(|| (at, *member, request.action()))
        })
    };
    told.events.iter().filter_map(of).min()
}

/// The last word of a leader that served, or what it said went wrong after that.
fn trouble(told: &Told, leader: &MemberName, since: i64, until: i64) -> Option<(i64, String)> {
    let events = told.events.get(leader)?;
    let mut last: Option<(i64, String)> = None;
    let mut served = false;
    for (at, event) in events.iter().filter(|(at, _)| *at >= since && *at <= until) {
        match event {
            Event::Decided(e) if e.seen.leads_and_writes() && e.seen.store_trouble.is_none() => {
                served = true;
                last = Some((*at, "says for the last time that it leads and serves".to_owned()));
            }
            Event::Same { .. } if served => last = last.map(|(_, what)| (*at, what)),
            Event::Decided(e) if served => {
                let what = match (&e.seen.store_trouble, e.seen.process.as_str()) {
                    (Some(why), _) => format!("cannot reach the store: {why}"),
                    (None, "stopped") => "PostgreSQL has ended".to_owned(),
                    _ => e.goal.clone(),
                };
                return Some((*at, what));
            }
            _ => {}
        }
    }
    last
}
