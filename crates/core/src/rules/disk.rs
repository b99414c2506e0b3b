//! The disk of the log is nearly full. PostgreSQL ends when it cannot write its log, and comes back only when there is room.

use std::time::Duration;

use super::{Ctx, Rule, Work};
use crate::candidate;
use crate::cluster::FailoverRequest;
use crate::ids::MemberName;
use crate::order::Order;
use crate::report::Section;
use crate::slots::Room;

/// How long answers are not asked for again, and how long no other switchover is asked for.
const ASK_AGAIN: Duration = Duration::from_secs(10);
const SWITCH_AGAIN: Duration = Duration::from_secs(60);

pub const RULES: &[Rule] = &[
    Rule {
        id: 780,
        section: Section::Primary,
        name: "the disk of the log is nearly full, others not asked yet",
        when: |c| scarce(c).is_some() && !asked(c) && due(c, c.memory.disk_asked, ASK_AGAIN),
        then: |w| {
            w.goal("asking the other members who can take over because the disk of the log is nearly full");
            w.memory.disk_asked = Some(w.facts.now);
            let ask = w.view.map(|v| candidate::to_ask(v, &w.facts.me)).unwrap_or_default();
            if !ask.is_empty() {
                w.order(Order::Probe { members: ask });
            }
            w.again_in(Duration::from_millis(500));
        },
        why: "The lead goes only to a member that is known to be able to take it, and to have more room.",
    },
    Rule {
        id: 782,
        section: Section::Primary,
        name: "the disk of the log is nearly full, and a member with more room can take over",
        when: |c| scarce(c).is_some() && due(c, c.memory.disk_request, SWITCH_AGAIN) && roomier(c).is_some(),
        then: |w| {
            let Some(view) = w.view else { return };
            let Some(to) = with_room(w.facts, view) else { return };
            let free = w.facts.room.map_or(0, |room| room.free >> 20);
            w.goal(format!("asking {to} to take over: the disk of the log has {free} MB free, and {to} has more"));
            w.candidates = candidate::weigh(w.facts, view, None);
            w.memory.disk_request = Some(w.facts.now);
            let request = FailoverRequest { leader: Some(w.facts.me.clone()), candidate: Some(to), scheduled_at: None };
            w.order(Order::RequestSwitchover { version: view.failover_version, request });
            w.again_in(Duration::from_secs(1));
        },
        why: "A planned switchover loses nothing and takes a moment; a primary whose disk is full ends, and does not start.",
    },
];

/// What stands on the page of a leader that goes on.
pub(super) fn remark(w: &Work) -> Option<String> {
    let room = w.facts.room.filter(|room| below(*room, w.facts.settings.disk_guard.switchover))?;
    let megabytes = room.free >> 20;
    let reasons: Vec<String> = w
        .view
        .map(|v| candidate::weigh(w.facts, v, None))
        .unwrap_or_default()
        .into_iter()
        .map(|m| {
            let why = if m.fit { "has no more room, or does not say".into() } else { m.why };
            format!("{}: {why}", m.name)
        })
        .collect();
    let nobody = if reasons.is_empty() { "there is no other member".to_owned() } else { reasons.join("; ") };
    Some(format!(
        "room on the disk of the log, or a member with more of it to take over: {megabytes} MB are free ({nobody})"
    ))
}

fn below(room: Room, reserve: crate::settings::Reserve) -> bool {
    room.free < reserve.bytes(room.total)
}

/// I serve, and nothing else is asked for.
fn scarce(c: &Ctx) -> Option<Room> {
    let guard = c.facts.settings.disk_guard;
    let serves = c.i_lead() && c.facts.postgres.observed().is_some_and(|o| !o.in_recovery);
    let quiet = !c.paused && !c.lease_ends() && c.view.is_some_and(|v| v.failover.is_none());
    c.facts.room.filter(|room| serves && quiet && c.facts.store.broken.is_none() && below(*room, guard.switchover))
}

fn due(c: &Ctx, last: Option<crate::BootTime>, apart: Duration) -> bool {
    last.is_none_or(|at| c.facts.now.since(at) >= apart)
}

fn asked(c: &Ctx) -> bool {
    let Some(view) = c.view else { return true };
    candidate::all_asked(&c.facts.peers, &candidate::to_ask(view, &c.facts.me), c.facts.now - candidate::FRESH)
}

fn roomier(c: &Ctx) -> Option<MemberName> {
    with_room(c.facts, c.view?)
}

/// The fittest member that would not be told to warn, and has twice what is left here: so the lead does not come back for
/// the same reason.
fn with_room(facts: &crate::facts::Facts, view: &crate::cluster::ClusterView) -> Option<MemberName> {
    let mine = facts.room?;
    let enough = |name: &MemberName| {
        let room = facts.peers.get(name).and_then(|p| p.answer.as_ref().ok()).and_then(|a| a.room);
        room.is_some_and(|room| !below(room, facts.settings.disk_guard.warn) && room.free / 2 > mine.free)
    };
    if !candidate::can_take_over(facts, view) {
        return None;
    }
    candidate::weigh(facts, view, None).into_iter().find(|m| m.fit && enough(&m.name)).map(|m| m.name)
}
