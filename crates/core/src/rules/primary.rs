//! I hold the lead and PostgreSQL accepts connections (`spec/ha.md §7, §10.2`).

use std::time::Duration;

use super::stopped::asked_to_hand_over;
use super::{Ctx, Rule, Work};
use crate::candidate;
use crate::cluster::{FailoverRequest, Versioned};
use crate::failsafe::{self, Clearance};
use crate::ids::MemberName;
use crate::order::{Demote, Order, Task};
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 700,
        section: Section::Primary,
        name: "the promotion failed",
        when: |c| c.i_lead() && c.memory.promotion_failed.is_some(),
        then: |w| {
            let why = w.memory.promotion_failed.clone().unwrap_or_default();
            w.goal(format!("giving the lead away because the promotion failed: {why}"));
            let ttl = w.facts.settings.timing.ttl;
            w.abstain(ttl);
            w.order(Order::ReleaseLead);
        },
        why: "A leader that cannot be promoted keeps everybody else from it.",
    },
    Rule {
        id: 704,
        section: Section::Pause,
        name: "paused, PostgreSQL is no primary, and an earlier run of this agent led",
        when: |c| leads_as_paused_standby(c) && c.facts.promotion_pending(),
        then: |w| {
            w.goal("keeping the leader lock: an earlier run of this agent may have ordered a promotion");
            w.wait_for("the promotion that an earlier run of this agent may have ordered");
            w.again_in(Duration::from_millis(500));
        },
        why: "A server that may still become a primary must not do so after the lead was given away.",
    },
    Rule {
        id: 705,
        section: Section::Pause,
        name: "paused and PostgreSQL is no primary",
        when: |c| leads_as_paused_standby(c),
        then: |w| {
            w.goal("removed leader lock because postgres is not running as primary");
            w.order(Order::ReleaseLead);
        },
        why: "While paused the lead goes to whoever runs as the primary; nobody is promoted unasked.",
    },
    Rule {
        id: 708,
        section: Section::Primary,
        name: "PostgreSQL does not answer",
        when: |c| c.i_lead() && c.facts.postgres.observed().is_none() && !asked_to_hand_over(c),
        then: |w| {
            w.goal("Error communicating with PostgreSQL. Will try again later");
            w.wait_for("PostgreSQL to answer");
            w.again_in(Duration::from_secs(1));
        },
        why: "A busy server is not a dead one.",
    },
    Rule {
        id: 710,
        section: Section::Primary,
        name: "the watchdog that is required cannot be used",
        when: |c| c.i_lead() && !c.leads_standbys() && !c.paused && c.facts.no_watchdog().is_some(),
        then: |w| {
            let why = w.facts.no_watchdog().unwrap_or_default();
            if w.facts.postgres.is_primary() || w.facts.promotion_pending() {
                w.goal(format!("demoting self because {why}"));
                w.begin(Task::Demote(Demote::Release));
            } else {
                w.goal(format!("not promoting self because {why}"));
                w.order(Order::ReleaseLead);
            }
            w.wait_for("the watchdog to work");
        },
        why: "Nothing would end this machine should all of it stand still, and its operator asked for that.",
    },
    Rule {
        id: 712,
        section: Section::Primary,
        name: "I hold the lead as a standby and its lease is about to end",
        when: |c| is_to_be_promoted(c) && c.lease_ends(),
        then: |w| {
            w.goal("not promoting because the leader lock is about to end");
            w.wait_for("the lease to be renewed, or to end");
            w.again_in(Duration::from_millis(200));
        },
        why: "A promotion takes longer than the lease lasts.",
    },
    Rule {
        id: 713,
        section: Section::Primary,
        name: "I hold the lead as a standby, and another member may go on as the primary without the store",
        when: |c| is_to_be_promoted(c) && !c.cleared(),
        then: wait_for_clearance,
        why: "Whoever vouches for another vouches until its time is up, whoever holds the lead meanwhile.",
    },
    Rule {
        id: 715,
        section: Section::Primary,
        name: "I hold the lead as a standby",
        when: is_to_be_promoted,
        then: |w| {
            w.goal("promoted self to leader because I had the session lock");
            w.begin(Task::Promote);
        },
        why: "The lease is mine, so no other server can become the primary meanwhile.",
    },
    Rule {
        id: 718,
        section: Section::Primary,
        name: "a request that was refused already",
        when: |c| c.i_lead() && request(c).is_some() && c.memory.refused.is_some(),
        then: |w| {
            let version = w.view.and_then(|v| v.failover.as_ref()).map(|f| f.version).unwrap_or_default();
            w.goal("clearing a request that was refused");
            w.order(Order::ClearFailover { version });
            w.wait_for("the store to show that the request is cleared");
            w.again_in(Duration::from_millis(500));
        },
        why: "The reading may be older than the answer: weighed again, a request that was given up would start over.",
    },
    Rule {
        id: 720,
        section: Section::Primary,
        name: "a handover was given up",
        when: |c| c.i_lead() && request(c).is_some() && c.memory.given_up.is_some(),
        then: |w| {
            let why = w.memory.given_up.take().unwrap_or_default();
            refuse(w, &format!("given up, the primary goes on: {why}"));
        },
        why: "A switchover that takes longer than it may costs more than it brings.",
    },
    Rule {
        id: 722,
        section: Section::Primary,
        name: "a request that cannot be meant for now",
        when: |c| {
            c.i_lead() && request(c).is_some() && nonsense(c.facts, c.view.and_then(|v| v.failover.as_ref())).is_some()
        },
        then: |w| {
            let why = nonsense(w.facts, w.view.and_then(|v| v.failover.as_ref())).unwrap_or_default();
            refuse(w, &why);
        },
        why: "It would stay in the store and surprise somebody later.",
    },
    Rule {
        id: 725,
        section: Section::Primary,
        name: "a switchover scheduled for later",
        when: |c| c.i_lead() && request(c).is_some() && wait_ms(c).is_some(),
        then: |w| {
            let ms = w.facts.failover_due.as_ref().and_then(|d| d.as_ref().ok()).map_or(0, |due| due - w.facts.unix_ms);
            let at =
                w.view.and_then(|v| v.failover.as_ref()).and_then(|f| f.value.scheduled_at.clone()).unwrap_or_default();
            w.goal(format!("Awaiting switchover at {at} (in {} seconds)", ms / 1000));
            w.wait_for(format!("the time of the scheduled switchover, {at}"));
            if let Some(ms) = u64::try_from(ms).ok().filter(|ms| *ms > 0) {
                w.again_in(Duration::from_millis(ms));
            }
            w.steady = true;
        },
        why: "It was scheduled.",
    },
    Rule {
        id: 730,
        section: Section::Primary,
        name: "a request, candidates not asked yet",
        when: |c| c.i_lead() && request(c).is_some() && !asked(c),
        then: |w| {
            let Some((view, request)) = w.view.and_then(|v| v.failover.as_ref().map(|f| (v, f))) else { return };
            let current = |at| w.facts.now.since(at) < candidate::FRESH;
            if w.memory.asked_for.is_none_or(|(version, at)| version != request.version || !current(at)) {
                w.memory.asked_for = Some((request.version, w.facts.now));
            }
            let mut ask = candidate::to_ask(view, &w.facts.me);
            if let Some(candidate) = &request.value.candidate {
                ask.retain(|n| n == candidate);
            }
            w.goal(format!("{}: asking the candidates", request.value.action()));
            w.order(Order::Probe { members: ask });
            w.again_in(Duration::from_millis(500));
        },
        why: "The lead goes only to a member that is known to be able to take it.",
    },
    Rule {
        id: 733,
        section: Section::Primary,
        name: "a request and a candidate that is still catching up",
        when: |c| c.i_lead() && request(c).is_some() && !weighed(c).iter().any(|m| m.fit) && catching_up(c),
        then: |w| {
            let Some((view, request)) = w.view.and_then(|v| v.failover.as_ref().map(|f| (v, f))) else { return };
            w.candidates = candidate::weigh(w.facts, view, Some(&request.value));
            let names = w.candidates.iter().map(|c| c.name.clone()).collect();
            w.goal(format!("{}: asking the candidates again, one is still catching up", request.value.action()));
            w.order(Order::Probe { members: names });
            w.again_in(Duration::from_millis(250));
        },
        why: "Right after a change of leader a standby is behind for a moment, and fit in the next.",
    },
    Rule {
        id: 735,
        section: Section::Primary,
        name: "a request and no candidate is fit",
        when: |c| c.i_lead() && request(c).is_some() && !weighed(c).iter().any(|m| m.fit),
        then: |w| {
            let Some((view, request)) = w.view.and_then(|v| v.failover.as_ref().map(|f| (v, f))) else { return };
            w.candidates = candidate::weigh(w.facts, view, Some(&request.value));
            let reasons: Vec<_> = w.candidates.iter().map(|c| format!("{}: {}", c.name, c.why)).collect();
            let reasons = if reasons.is_empty() { "there is no other such member".into() } else { reasons.join("; ") };
            refuse(w, &format!("no healthy members found, switchover is not possible ({reasons})"));
        },
        why: "Better no switchover than no primary.",
    },
    Rule {
        id: 738,
        section: Section::StandbyCluster,
        name: "a request and a fit candidate in a standby cluster",
        when: |c| c.leads_standbys() && c.facts.postgres.is_standby() && request(c).is_some(),
        then: |w| {
            let Some(to) = chosen(w) else { return };
            w.goal(format!("{}: giving the lead of the standby cluster to {to}", action(w)));
            let moment = w.facts.settings.timing.ttl / 2;
            w.abstain(moment);
            w.order(Order::ReleaseLead);
        },
        why: "The leader of a standby cluster has nothing that its successor does not get from the remote node: nothing needs \
              to be stopped.",
    },
    Rule {
        id: 739,
        section: Section::Primary,
        name: "a request and a fit candidate while the leader is still starting up",
        when: |c| asked_to_hand_over(c) && c.facts.postgres.is_primary(),
        then: |w| {
            let Some(to) = chosen(w) else { return };
            w.goal(format!(
                "{}: stopping PostgreSQL, which is still starting up, and leaving the lead to {to}. What was not sent before \
                 the crash is missing there; it is written down when this member comes back (surus loss list)",
                action(w)
            ));
            w.begin(Task::Demote(Demote::Release));
        },
        why: "It was asked for. Recovery cannot be hurried, and is not finished for somebody who does not wait for it.",
    },
    Rule {
        id: 740,
        section: Section::Primary,
        name: "a request and a fit candidate",
        when: |c| c.i_lead() && request(c).is_some(),
        then: |w| {
            let Some(to) = chosen(w) else { return };
            let answer = w.facts.peers.get(&to).and_then(|p| p.answer.as_ref().ok());
            let slots = answer.and_then(|a| candidate::unready(&a.unready_slots));
            let slots = slots.map(|told| format!(" ({told})")).unwrap_or_default();
            w.goal(format!("{}: demoting myself, handing over to {to}{slots}", action(w)));
            let upstream = w.view.and_then(|v| v.members.get(&to)).and_then(crate::cluster::Member::upstream);
            w.begin(Task::Demote(Demote::Handover { to, upstream }));
        },
        why: "It was asked for, and the candidate can take over.",
    },
    Rule {
        id: 788,
        section: Section::StandbyCluster,
        name: "I lead a standby cluster",
        when: |c| c.leads_standbys() && c.facts.postgres.is_standby(),
        then: super::standby_cluster::follows,
        why: "All is well.",
    },
    Rule {
        id: 790,
        section: Section::Primary,
        name: "I lead",
        when: |c| c.i_lead(),
        then: |w| {
            let pause = if w.facts.settings.pause { "PAUSE: " } else { "" };
            w.goal(format!("{pause}no action. I am ({}), the leader with the lock", w.facts.me));
            w.steady = true;
            if let Some(remark) = super::disk::remark(w) {
                w.wait_for(remark);
            }
        },
        why: "All is well.",
    },
];

/// The fittest candidate. All members learn its name, also where the request left it open.
fn chosen(w: &mut Work) -> Option<MemberName> {
    let (view, request) = w.view.and_then(|v| v.failover.as_ref().map(|f| (v, f)))?;
    w.candidates = candidate::weigh(w.facts, view, Some(&request.value));
    let to = w.candidates.iter().find(|c| c.fit)?.name.clone();
    w.memory.named = None;
    if request.value.candidate.is_none() {
        let named = FailoverRequest { candidate: Some(to.clone()), ..request.value.clone() };
        w.memory.named = Some(named.clone());
        w.order(Order::NameCandidate { version: request.version, request: named });
    }
    Some(to)
}

fn action(w: &Work) -> &'static str {
    w.view.and_then(|v| v.failover.as_ref()).map_or("switchover", |f| f.value.action())
}

/// The lead is mine and I must not run as a primary yet.
pub(super) fn wait_for_clearance(w: &mut Work) {
    let Some(view) = w.view.filter(|_| w.facts.store.broken.is_none()) else {
        w.goal("not becoming the primary: whether another goes on without the store cannot be looked up");
        w.wait_for("the store");
        return w.again_in(Duration::from_millis(200));
    };
    let since = *w.memory.uncleared_since.get_or_insert(w.facts.now);
    let clearance = failsafe::clearance(w.facts, &w.memory, view);
    // Another may be better placed to get it.
    if w.facts.now.since(since) >= failsafe::CONSENT * 2 && clearance != Clearance::Clear {
        w.goal("giving the leader lock up: too few members consent that I lead");
        w.abstain(failsafe::CONSENT);
        return w.order(Order::ReleaseLead);
    }
    match clearance {
        Clearance::Clear => {
            w.goal("not becoming the primary before the store has shown me the lead");
            w.wait_for("a reading of the store that is newer than my taking the lead");
            w.again_in(Duration::from_millis(100));
        }
        Clearance::Ask { whom, why } => super::race::ask_consent(w, whom, &why),
        Clearance::Wait { why } => {
            w.goal(format!("not becoming the primary yet: {why}"));
            w.wait_for(why);
            w.again_in(Duration::from_millis(500));
        }
    }
}

fn is_to_be_promoted(c: &Ctx) -> bool {
    c.i_lead() && !c.leads_standbys() && c.facts.postgres.is_standby()
}

fn leads_as_paused_standby(c: &Ctx) -> bool {
    c.i_lead()
        && !c.leads_standbys()
        && c.paused
        && c.facts.postgres.is_standby()
        && c.facts.postgres.observed().is_some()
        && !c.memory.called
        && request(c).is_none_or(|r| r.value.candidate.as_ref() != Some(&c.facts.me))
}

fn request<'a>(c: &Ctx<'a>) -> Option<&'a Versioned<FailoverRequest>> {
    c.view?.failover.as_ref()
}

fn refuse(w: &mut Work, why: &str) {
    if let Some(request) = w.view.and_then(|v| v.failover.as_ref()) {
        w.goal(format!("{}: {why}", request.value.action()));
        w.memory.refused = Some(request.version);
        w.order(Order::ClearFailover { version: request.version });
    }
}

/// Why the lead's holder must not carry a request out at all.
fn nonsense(facts: &crate::facts::Facts, request: Option<&Versioned<FailoverRequest>>) -> Option<String> {
    let request = &request?.value;
    if let Some(leader) = &request.leader
        && *leader != facts.me
    {
        return Some(format!("leader name does not match: {leader} != {}", facts.me));
    }
    if request.candidate.as_ref() == Some(&facts.me) {
        return Some("I am already the leader, there is nothing to do".into());
    }
    if facts.settings.pause && request.candidate.is_none() {
        return Some("is possible only to a specific candidate in a paused state".into());
    }
    match facts.failover_due.as_ref()? {
        Err(text) => Some(format!("the schedule \"{text}\" can not be understood, cleaning it up")),
        Ok(due) => {
            let late = facts.unix_ms - due;
            let stale =
                i64::try_from(facts.settings.timing.loop_wait.as_millis() * 3 / 2).unwrap_or(i64::MAX).max(5_000);
            (late > stale).then(|| "Found a stale switchover value, cleaning up".into())
        }
    }
}

/// A request that is to be carried out now, or refused.
pub(super) fn is_due(c: &Ctx) -> bool {
    request(c).is_some() && wait_ms(c).is_none()
}

/// A scheduled request that is not due; while paused none ever is.
fn wait_ms(c: &Ctx) -> Option<i64> {
    let due = *c.facts.failover_due.as_ref()?.as_ref().ok()?;
    (due > c.facts.unix_ms || c.paused).then_some(due - c.facts.unix_ms)
}

fn asked(c: &Ctx) -> bool {
    let (Some(view), Some(request)) = (c.view, request(c)) else { return false };
    let Some((_, since)) = c.memory.asked_for.filter(|(version, _)| *version == request.version) else { return false };
    if c.facts.now.since(since) >= candidate::FRESH {
        return false;
    }
    let mut ask = candidate::to_ask(view, &c.facts.me);
    if let Some(candidate) = &request.value.candidate {
        ask.retain(|n| n == candidate);
    }
    candidate::all_asked(&c.facts.peers, &ask, since)
}

/// How long a candidate that answers may take to become fit.
const CATCH_UP: Duration = Duration::from_secs(2);

fn catching_up(c: &Ctx) -> bool {
    let young = c.memory.asked_for.is_some_and(|(_, since)| c.facts.now.since(since) < CATCH_UP);
    let named = request(c).and_then(|r| r.value.candidate.as_ref());
    young
        && c.facts.peers.iter().any(|(name, peer)| {
            named.is_none_or(|n| n == name)
                && peer.answer.as_ref().is_ok_and(|a| a.in_recovery && !a.tags.nofailover() && !a.watchdog_failed)
        })
}

fn weighed(c: &Ctx) -> Vec<crate::report::Candidate> {
    match (c.view, request(c)) {
        (Some(view), Some(request)) => candidate::weigh(c.facts, view, Some(&request.value)),
        _ => vec![],
    }
}
