//! Somebody else leads and PostgreSQL accepts connections (`spec/ha.md §11, §12`).

use std::time::Duration;

use super::stopped::{Repair, checked_lately, repair_for, rewindable};
use super::{Ctx, Leads, Rule, Work};
use crate::follow;
use crate::memory::Divergence;
use crate::order::{Demote, Order, Task};
use crate::report::Section;
use crate::step::rewind_again;

/// How long copying slots is left alone after it was tried: each time the standby restarts.
const COPY_AGAIN: Duration = Duration::from_secs(60);

/// How often two timelines of one number are compared again.
const COMPARE_AGAIN: Duration = Duration::from_secs(5);

/// How long the same upstream is not ordered again.
const FOLLOW_AGAIN: Duration = Duration::from_secs(10);

pub const RULES: &[Rule] = &[
    Rule {
        id: 800,
        section: Section::Replica,
        name: "a primary here and somebody else leads",
        when: |c| c.other_leads() && !c.paused && c.facts.postgres.is_primary(),
        then: |w| {
            w.goal("demoting self because I do not have the lock and I was a leader");
            w.begin(Task::Demote(Demote::Deposed));
        },
        why: "Two primaries would each acknowledge commits that the other lacks.",
    },
    Rule {
        id: 805,
        section: Section::Pause,
        name: "paused, a primary here and somebody else leads",
        when: |c| c.other_leads() && c.facts.postgres.is_primary(),
        then: |w| {
            w.goal("PAUSE: continue to run as primary without lock");
            w.wait_for("the cluster to be resumed");
        },
        why: "Paused means hands off.",
    },
    Rule {
        id: 808,
        section: Section::Replica,
        name: "PostgreSQL does not answer",
        when: |c| c.facts.postgres.observed().is_none(),
        then: |w| {
            w.goal("Error communicating with PostgreSQL. Will try again later");
            w.wait_for("PostgreSQL to answer");
            w.again_in(Duration::from_secs(1));
        },
        why: "A busy server is not a dead one.",
    },
    Rule {
        id: 810,
        section: Section::Replica,
        name: "following somebody else than I should",
        when: |c| c.other_leads() && misdirected(c),
        then: |w| {
            let upstream = w.upstream();
            match &upstream {
                Some(u) => w.goal(format!("changing primary_conninfo to follow {}", u.name)),
                None => w.goal("changing primary_conninfo to follow nobody"),
            }
            w.begin(Task::Follow { upstream });
        },
        why: "The leader changed, or the settings did.",
    },
    Rule {
        id: 820,
        section: Section::Replica,
        name: "my history forked from the leader's and can be mended",
        when: |c| {
            forked(c)
                && !c.paused
                && !c.backing_off()
                && c.authority().is_some()
                && repair_for(c.facts, c.memory).is_some()
        },
        then: repair,
        why: "Records that the new primary does not have must go before this server can follow it.",
    },
    Rule {
        id: 822,
        section: Section::Replica,
        name: "my timeline and the leader's have one number, not compared lately",
        when: |c| c.other_leads() && to_compare_again(c),
        then: compare_again,
        why: "Once the other has another number, what forked can be told and mended.",
    },
    Rule {
        id: 825,
        section: Section::Replica,
        name: "my history forked from the leader's",
        when: |c| c.other_leads() && forked(c),
        then: cannot_repair,
        why: "What this server has and the leader lacks is not thrown away unasked.",
    },
    Rule {
        id: 830,
        section: Section::Replica,
        name: "not streaming from a leader that serves",
        when: |c| c.other_leads() && to_compare(c),
        then: |w| {
            if let Some(from) = w.authority() {
                w.goal(format!("not streaming, comparing history with {}", from.name));
                w.begin(Task::CheckDivergence { from });
            }
        },
        why: "A server whose log forked cannot stream; one whose log did not only needs a moment.",
    },
    Rule {
        id: 840,
        section: Section::Replica,
        name: "permanent logical slots of the leader are missing here",
        when: |c| {
            c.other_leads()
                && !c.paused
                && !c.facts.missing_slots.is_empty()
                && c.facts.postgres.observed().is_some_and(|o| o.is_streaming())
                && c.authority().is_some()
                && c.memory.slots_copied.is_none_or(|at| c.facts.now.since(at) >= COPY_AGAIN)
        },
        then: |w| {
            if let Some(from) = w.authority() {
                let slots = w.facts.missing_slots.clone();
                let names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
                w.goal(format!("copying logical slots from {}: {}", from.name, names.join(", ")));
                w.begin(Task::CopySlots { from, slots });
            }
        },
        why: "A subscriber that finds its slot on the new primary goes on where it was; a standby cannot create one.",
    },
    Rule {
        id: 890,
        section: Section::Replica,
        name: "I follow",
        when: |c| c.other_leads(),
        then: |w| {
            let leader = match &w.leads {
                Leads::Other(name) => name.clone(),
                _ => w.facts.me.clone(),
            };
            let pause = if w.facts.settings.pause { "PAUSE: " } else { "" };
            let kind = if w.facts.settings.standby_cluster { "standby leader" } else { "leader" };
            w.goal(format!("{pause}no action. I am ({}), a secondary, and following a {kind} ({leader})", w.facts.me));
            w.steady = true;
            mind_source(w);
            if w.memory.not_streaming_since.is_some() && !w.facts.tags.nostream() {
                w.steady = false;
                w.wait_for(format!("streaming from {leader} to begin"));
                w.again_in(Duration::from_millis(500));
                look_again(w);
            }
        },
        why: "All is well.",
    },
];

pub(super) fn forked(c: &Ctx) -> bool {
    let divergence = &c.memory.divergence;
    matches!(divergence, Divergence::Found { .. } | Divergence::RewindFailed { .. } | Divergence::SameNumber { .. })
}

/// A switchover there, and one of the two timelines has another number.
pub(super) fn to_compare_again(c: &Ctx) -> bool {
    !c.paused
        && c.memory.divergence.same_number()
        && c.authority().is_some()
        && repair_for(c.facts, c.memory).is_none()
        && c.memory.divergence_checked.is_none_or(|at| c.facts.now.since(at) >= COMPARE_AGAIN)
}

pub(super) fn compare_again(w: &mut Work) {
    if let Some(from) = w.authority() {
        w.goal(format!("comparing history with {} again", from.name));
        w.begin(Task::CheckDivergence { from });
    }
}

/// A stream that does not come may be one that cannot.
pub(super) fn to_compare(c: &Ctx) -> bool {
    !c.paused
        && c.memory.divergence == Divergence::Unchecked
        && c.memory.not_streaming_since.is_some_and(|t| c.facts.now.since(t) >= Duration::from_millis(800))
        && c.authority().is_some()
        && !checked_lately(c)
        && c.upstream().is_some()
}

pub(super) fn misdirected(c: &Ctx) -> bool {
    let Some(observed) = c.facts.postgres.observed() else { return false };
    let upstream = c.upstream();
    // Settings become visible a moment after a reload. Should they never look as expected, following
    // must not become a loop that resets the comparison of histories again and again.
    let just_done =
        c.memory.followed.as_ref().is_some_and(|(to, at)| *to == upstream && c.facts.now.since(*at) < FOLLOW_AGAIN);
    let slot = follow::slot(upstream.as_ref(), &c.facts.me, &c.facts.settings);
    // Without an address of the leader, going on as before beats following nobody.
    let same_number = c.memory.divergence.same_number();
    let unknown = upstream.is_none() && !c.facts.tags.nostream() && !c.leads_standbys() && !same_number;
    !unknown && !just_done && !follow::follows(observed, upstream.as_ref(), slot.as_deref())
}

/// Rewind if that is possible, else clone again if that is allowed.
pub(super) fn repair(w: &mut Work) {
    let Some(from) = w.authority() else { return };
    let source = w.view.and_then(|v| v.members.get(&from.name)).filter(|_| !from.remote);
    match repair_for(w.facts, &w.memory) {
        Some(Repair::Rewind) if source.is_some_and(|m| m.checkpoint_after_promote == Some(false)) => {
            w.goal(format!("Waiting for checkpoint on {} before rewind", from.name));
            w.wait_for(format!("the first checkpoint of {} after its promotion", from.name));
            w.again_in(Duration::from_millis(300));
        }
        Some(Repair::Rewind) => {
            w.goal(format!("running pg_rewind from {}", from.name));
            w.begin(Task::Rewind { from });
        }
        Some(Repair::Reinitialize) => {
            w.goal("reinitializing due to diverged timelines");
            w.begin(Task::Reinitialize { from });
        }
        None => {}
    }
}

pub(super) fn cannot_repair(w: &mut Work) {
    let (what, against) = match w.memory.divergence.clone() {
        Divergence::Found { what, against } => (what, against),
        Divergence::RewindFailed { why, against } => (format!("pg_rewind failed: {why}"), against),
        Divergence::SameNumber { what, against } => {
            w.goal(format!(
                "following nobody because {what}, which PostgreSQL cannot tell apart; switch the cluster of {against} over, \
                 so that its timeline gets another number, or run `surus reinit` for {} to give up what only this server has",
                w.facts.me
            ));
            w.wait_for(format!("another timeline of {against}, or an operator to reinitialize this member"));
            w.again_in(Duration::from_secs(5));
            return;
        }
        _ => return,
    };
    let (me, settings) = (&w.facts.me, &w.facts.settings);
    let failed = matches!(w.memory.divergence, Divergence::RewindFailed { .. });
    // As PostgreSQL and its tools say it, in whatever place it happened.
    let full = failed && what.to_lowercase().contains("no space left on device");
    let anew = format!("run `surus reinit` for {me}");
    let (why, wait) = if repair_for(w.facts, &w.memory).is_some() {
        let paused = settings.pause;
        let when = if paused { "it is mended after the pause" } else { "it is mended in a moment" };
        (when.to_owned(), if paused { "the end of the pause" } else { "the next attempt to mend it" })
    } else if full {
        let s = rewind_again(&w.memory).as_secs();
        let why = format!("the disk is full: make room there; it is tried again {s} s after the last attempt");
        (why, "room on the disk, and then the next attempt to mend it")
    } else if failed && settings.use_pg_rewind {
        let s = rewind_again(&w.memory).as_secs();
        let why = format!("it is tried again {s} s after the last attempt; remove the cause, or {anew}");
        (why, "the next attempt to mend it")
    } else if settings.use_pg_rewind && !rewindable(w.facts) {
        let why = format!("pg_rewind cannot mend it without data checksums or wal_log_hints; {anew}");
        (why, "an operator to reinitialize this member")
    } else {
        let why = format!("the settings do not allow mending it; allow use_pg_rewind or {anew}");
        (why, "an operator to reinitialize this member, or settings that allow mending it")
    };
    w.goal(format!(
        "my history forked from that of {against} ({what}) and {why}. Until then it does not run for the lead"
    ));
    w.wait_for(wait);
    w.again_in(Duration::from_secs(5));
}

/// A verdict of "not diverged" is looked at again if streaming still does not begin.
pub(super) fn look_again(w: &mut Work) {
    if w.memory.divergence_checked.is_none_or(|at| w.facts.now.since(at) >= Duration::from_secs(10)) {
        w.memory.divergence = Divergence::Unchecked;
    }
}

/// How often the member that I am to replicate from is asked, while it does not serve.
const ASK_SOURCE: Duration = Duration::from_secs(2);

/// A member that others are to replicate from may go without a word, and its key stays for a ttl. Once it neither sends
/// nor answers, the leader is followed in its place, until it answers again.
fn mind_source(w: &mut Work) {
    let source = w.view.and_then(|v| follow::source(v, &w.facts.me, &w.facts.tags)).map(|m| m.name.clone());
    let source = source.filter(|name| w.leads != Leads::Other(name.clone()));
    if source.is_none() || source != w.memory.away {
        w.memory.away = None;
    }
    let Some(source) = source else { return };
    let silent = w.memory.not_streaming_since;
    let away = w.memory.away.is_some();
    if !away && silent.is_none() {
        return;
    }
    let asked = w.facts.peers.get(&source);
    match asked.filter(|p| away || silent.is_some_and(|since| p.asked >= since)) {
        Some(peer) if away && peer.answer.is_ok() => {
            w.memory.away = None;
            w.steady = false;
            w.goal(format!("{source} answers again and is replicated from"));
            w.again_in(Duration::from_millis(10));
            return;
        }
        Some(peer) if !away && peer.answer.is_err() => {
            w.steady = false;
            w.goal(format!("{source} neither sends nor answers, the leader is followed in its place"));
            w.memory.away = Some(source);
            w.again_in(Duration::from_millis(10));
            return;
        }
        _ => {}
    }
    if away {
        w.wait_for(format!("{source} to serve again, which this member is to replicate from"));
    }
    w.again_in(ASK_SOURCE);
    if asked.is_none_or(|p| w.facts.now.since(p.asked) >= ASK_SOURCE) {
        w.order(Order::Probe { members: vec![source] });
    }
}
