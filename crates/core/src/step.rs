//! One step: facts in, orders and their explanation out.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::candidate;
use crate::cluster::{ClusterView, Initialize};
use crate::facts::{Facts, FinishedTask, TaskDone};
use crate::failsafe::{self, Clearance};
use crate::forked;
use crate::ids::MemberName;
use crate::memory::{Divergence, Memory};
use crate::order::{Demote, Order, Request, Task};
use crate::report::Report;
use crate::rules::{self, Ctx, Work};

/// How long a failed rewind is left alone: most often something is busy for a moment, and each attempt restarts the server.
pub(crate) fn rewind_again(memory: &Memory) -> Duration {
    Duration::from_secs(60.min(5 << memory.rewinds_failed.saturating_sub(1).min(4)))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub memory: Memory,
    pub orders: Vec<Order>,
    pub report: Report,
    /// Answer to the operator's request, if this step had one to give.
    pub reply: Option<Result<String, String>>,
    /// The longest time to the next step.
    pub again_in: Duration,
}

pub fn step(memory: &Memory, facts: &Facts) -> Step {
    let mut memory = memory.clone();
    if let Some(finished) = &facts.finished {
        remember_end(&mut memory, finished, facts);
    }
    if let Some(view) = facts.store.view.as_deref().filter(|_| facts.store.broken.is_none()) {
        remember_view(&mut memory, view, facts);
    }
    remember_streaming(&mut memory, facts);
    // Before a failed rewind is forgotten so that it is tried again.
    forked::remember(&mut memory, facts);
    remember_state(&mut memory, facts);

    remember_clearance(&mut memory, facts);
    let ctx = Ctx::new(facts, &memory);
    let rule = rules::table().find(|r| (r.when)(&ctx));
    let leads = ctx.leads;
    let mut work = Work {
        facts,
        view: facts.store.view.as_deref(),
        leads,
        memory,
        orders: vec![],
        goal: String::new(),
        candidates: vec![],
        waiting_for: vec![],
        steady: false,
        reply: None,
        again_in: facts.settings.timing.loop_wait,
    };
    let (id, section, name, why) = match rule {
        Some(rule) => {
            (rule.then)(&mut work);
            (rule.id, rule.section, rule.name, rule.why)
        }
        // The last rule of each section for a running server catches what is left; a test walks all
        // combinations to show that nothing comes here.
        None => {
            work.goal("no rule applies; doing nothing");
            (0, crate::report::Section::Task, "no rule applies", "Not knowing what to do, a member waits.")
        }
    };
    housekeeping(&mut work);
    crate::synchronous::drive(&mut work);
    let Work { memory, orders, goal, candidates, waiting_for, steady, reply, again_in, .. } = work;
    let report =
        Report { rule: id, section, name: name.to_owned(), goal, why: why.to_owned(), candidates, waiting_for, steady };
    Step { memory, orders, report, reply, again_in }
}

/// Keys the holder of the lead keeps right, whatever else it does.
fn housekeeping(work: &mut Work) {
    let lingers = work.memory.released
        && work.facts.lead.is_none()
        && work.facts.store.broken.is_none()
        && work.view.is_some_and(|v| v.leader_name() == Some(&work.facts.me));
    if lingers && !work.orders.iter().any(|o| matches!(o, Order::ReleaseLead | Order::TakeLead | Order::RetakeLead)) {
        // Either the reading is old, or the store missed the release and my session keeps the key alive, so
        // that nobody leads and nobody may.
        work.order(Order::ReleaseLead);
        work.again_in(Duration::from_millis(500));
    }
    if work.leads == rules::Leads::Me && work.facts.stalls.suspicious() {
        // Most stalls end at once; one that does not is to be seen to last as soon as it has.
        work.again_in(Duration::from_secs(1));
    }
    let (Some(view), true) = (work.view, work.leads == rules::Leads::Me) else { return };
    if work.facts.store.broken.is_some() || work.facts.shutdown {
        return;
    }
    if let crate::postgres::DataDir::Present { control, .. } = &work.facts.postgres.data_dir
        && !matches!(view.initialize, Initialize::Done(_))
    {
        work.orders.push(Order::WriteSystemId { id: control.system_id.clone() });
    }
    if view.config.is_none() {
        let version = view.garbage.iter().any(|g| g.key == "config").then_some(0);
        work.orders.push(Order::WriteConfig { version });
    }
    if let Some(o) = work.facts.postgres.observed()
        && !o.in_recovery
        && o.timeline.is_some()
        && view.history_timeline() != o.timeline
        && !(view.history.is_none() && o.timeline == Some(crate::Timeline(1)))
        && !work.facts.settings.standby_cluster
    {
        work.orders.push(Order::WriteHistory);
    }
}

fn remember_view(memory: &mut Memory, view: &ClusterView, facts: &Facts) {
    match view.leader_name() {
        Some(leader) => {
            if *memory.known_members != view.members {
                memory.known_members = Arc::new(view.members.clone());
            }
            let foreign = *leader != facts.me && view.leader_member().is_some_and(crate::cluster::Member::is_foreign);
            memory.foreign_led_over = foreign.then_some(view.vouching_version.unwrap_or(0));
            memory.leaderless_since = None;
            memory.race_round = None;
            memory.called &= *leader == facts.me;
            // The lead I gave away has found its taker.
            if *leader != facts.me {
                memory.abstain_until = None;
            }
            if memory.last_leader.as_ref() != Some(leader) {
                memory.last_leader = Some(leader.clone());
                memory.divergence = Divergence::Unchecked;
                memory.divergence_checked = None;
            }
        }
        None => {
            memory.leaderless_since.get_or_insert(facts.now);
            // Answers age also when nothing comes of them, be it that taking the lead fails or that a
            // question got lost.
            if memory.race_round.is_none_or(|at| facts.now.since(at) >= candidate::FRESH) {
                memory.race_round = Some(facts.now);
            }
        }
    }
    if view.leader_name() != Some(&facts.me) {
        memory.released = false;
    }
    if facts.lead.is_some() {
        memory.lost_store = false;
        memory.released = false;
    }
    if view.failover.is_none() {
        memory.asked_for = None;
        memory.given_up = None;
    }
    match &view.failover {
        Some(f) if Some(f.version) == memory.refused || Some(&f.value) == memory.named.as_ref() => {}
        _ => memory.refused = None,
    }
}

fn remember_state(memory: &mut Memory, facts: &Facts) {
    if facts.store.view.is_none() || facts.store.broken.is_some() {
        memory.unreadable_since.get_or_insert(facts.now);
        memory.leaderless_since = None;
    } else {
        memory.unreadable_since = None;
    }
    if facts.postgres.is_primary() && facts.lead.is_none() && !facts.settings.pause && facts.task.is_none() {
        memory.unled_since.get_or_insert(facts.now);
    } else {
        memory.unled_since = None;
    }
    let restarts = facts.task.as_ref().is_some_and(|t| t.task == Task::Restart);
    if !facts.shutdown && facts.request != Some(Request::Restart) && !restarts {
        memory.leaving_since = None;
    }
    // Only time in which the best candidate could have come forward counts.
    if facts.settings.pause && memory.leaderless_since.is_some() {
        memory.leaderless_since = Some(facts.now);
    }
    // A promotion that failed because the lead was lost says nothing about the next one.
    if facts.lead.is_none() {
        memory.promotion_failed = None;
    }
    if facts.postgres.running() {
        memory.handed_over = false;
        if !facts.shutdown {
            memory.asked_at = None;
        }
        memory.called &= !facts.postgres.is_primary();
    }
    // Where nothing else can mend the fork, a rewind that failed, perhaps for want of a connection, is
    // tried again from the comparison on.
    if matches!(memory.divergence, Divergence::RewindFailed { .. })
        && rules::repair_for(facts, memory).is_none()
        && memory.divergence_checked.is_none_or(|at| facts.now.since(at) >= rewind_again(memory))
    {
        memory.divergence = Divergence::Unchecked;
    }
}

/// Under this lead, once and for all: I hold it, and those who consent, or nobody else's being named, leave no room for a
/// primary without the store.
fn remember_clearance(memory: &mut Memory, facts: &Facts) {
    let leaderless = |v: &&ClusterView| facts.store.broken.is_none() && v.leader.is_none();
    let view = facts.store.view.as_deref().filter(leaderless);
    match view.map(|v| failsafe::clearance(facts, memory, v)) {
        // Where nobody has to consent, nobody goes on.
        Some(Clearance::Clear) if facts.failsafe.given.as_ref().is_some_and(|p| p.to == facts.me) => {
            memory.clear_since.get_or_insert(facts.now);
        }
        _ => memory.clear_since = None,
    }
    let Some(lead) = facts.lead else {
        (memory.cleared, memory.uncleared_since) = (None, None);
        return;
    };
    if memory.cleared != Some(lead.version) {
        // Only the holder of the lead writes the list, so a reading from then on has the one that counts.
        let from = facts.failsafe.list_from.map_or(lead.version, |from| from.min(lead.version));
        let view = facts.store.view.as_deref().filter(|v| facts.store.broken.is_none() && v.revision >= from);
        let clear = view.is_some_and(|v| failsafe::clearance(facts, memory, v) == Clearance::Clear);
        memory.cleared = (clear || facts.postgres.is_primary()).then_some(lead.version);
    }
    if memory.cleared.is_some() {
        memory.uncleared_since = None;
    }
}

fn remember_streaming(memory: &mut Memory, facts: &Facts) {
    let position = facts.postgres.observed().filter(|o| o.in_recovery).map(|o| o.position());
    match (position, memory.received) {
        (Some(now), Some((before, _))) if now <= before => {}
        (position, _) => memory.received = position.map(|p| (p, facts.now)),
    }
    match facts.postgres.observed().filter(|o| o.in_recovery) {
        Some(o) if o.is_streaming() => {
            memory.not_streaming_since = None;
            memory.start_failures = 0;
            if let Some(leader) = facts.store.view.as_deref().and_then(ClusterView::leader_member)
                && let Some(against) = compared_with(facts)
                && (facts.settings.standby_cluster && leader.name == facts.me
                    || leader.timeline.is_some() && o.timeline == leader.timeline)
                && !memory.divergence.same_number()
            {
                memory.divergence = Divergence::None { against };
            }
        }
        Some(_) => {
            memory.not_streaming_since.get_or_insert(facts.now);
        }
        None => memory.not_streaming_since = None,
    }
}

/// Whose history decides here.
fn compared_with(facts: &Facts) -> Option<MemberName> {
    if facts.settings.standby_cluster {
        return facts.settings.remote.as_ref().map(|remote| remote.name.clone());
    }
    facts.store.view.as_deref().and_then(|v| v.leader_name().cloned())
}

/// What the end of a task means for later steps. The end of an older task means nothing any more.
fn remember_end(memory: &mut Memory, finished: &FinishedTask, facts: &Facts) {
    if finished.epoch != memory.epoch {
        return;
    }
    let ttl = facts.settings.timing.ttl;
    let against = compared_with(facts);
    match (&finished.task, &finished.outcome) {
        (Task::Bootstrap, Ok(TaskDone::LostRace)) => {}
        (
            Task::Clone { .. }
            | Task::CloneWithoutLeader
            | Task::Reinitialize { .. }
            | Task::StartPrimary
            | Task::StartStandby { .. }
            | Task::Bootstrap
            | Task::Restart,
            outcome,
        ) => match outcome {
            Ok(_) => {
                memory.start_failures = 0;
                memory.last_failure = None;
                memory.not_streaming_since = None;
                if let Task::StartStandby { upstream } = &finished.task {
                    memory.followed = Some((upstream.clone(), finished.at));
                }
                if matches!(finished.task, Task::Clone { .. } | Task::CloneWithoutLeader | Task::Reinitialize { .. }) {
                    memory.divergence = Divergence::Unchecked;
                    memory.divergence_checked = None;
                    memory.forked = None;
                    memory.rewinds_failed = 0;
                }
            }
            Err(_) => {
                memory.start_failures += 1;
                memory.last_failure = Some(finished.at);
            }
        },
        (Task::Promote, Ok(_)) => {
            memory.promotion_failed = None;
            memory.called = false;
            memory.divergence = Divergence::Unchecked;
            memory.lost_store = false;
        }
        (Task::Promote, Err(why)) => {
            memory.promotion_failed = Some(why.clone());
            memory.called = false;
        }
        (Task::Demote(Demote::Handover { .. }), Ok(TaskDone::GivenUp(why)) | Err(why)) => {
            memory.given_up = Some(why.clone())
        }
        (Task::Demote(Demote::Handover { .. }), Ok(_)) => {
            memory.abstain_until = Some(finished.at + ttl / 2);
            memory.released = true;
            memory.handed_over = true;
        }
        (Task::Demote(Demote::LeaseEnding { .. }), _) => memory.lost_store = true,
        (Task::Demote(Demote::Release), outcome) => {
            memory.abstain_until = Some(finished.at + ttl);
            memory.released = outcome.is_ok();
        }
        (Task::Follow { upstream }, outcome) => {
            memory.followed = Some((upstream.clone(), finished.at));
            if outcome.is_ok() {
                // Only another comparison changes what must not be followed.
                if !memory.divergence.same_number() {
                    memory.divergence = Divergence::Unchecked;
                    memory.divergence_checked = None;
                }
                memory.not_streaming_since = Some(finished.at);
            }
        }
        (Task::CheckDivergence { from }, outcome) => {
            memory.divergence_checked = Some(finished.at);
            match outcome {
                Ok(TaskDone::NotDiverged) => {
                    memory.rewinds_failed = 0;
                    memory.divergence = Divergence::None { against: from.name.clone() };
                }
                Ok(TaskDone::Diverged(what)) => {
                    memory.divergence = Divergence::Found { against: from.name.clone(), what: what.clone() };
                }
                Ok(TaskDone::SameNumber(what)) => {
                    memory.divergence = Divergence::SameNumber { against: from.name.clone(), what: what.clone() };
                }
                _ => {}
            }
        }
        (Task::Rewind { from }, outcome) => {
            match outcome {
                Ok(TaskDone::Undecided(_)) => {}
                Ok(_) => memory.rewinds_failed = 0,
                Err(_) => memory.rewinds_failed += 1,
            }
            memory.divergence = match outcome {
                // Nothing was changed: the source is no primary any more, or does not answer.
                Ok(TaskDone::Undecided(_)) => Divergence::Unchecked,
                Ok(_) => Divergence::None { against: from.name.clone() },
                Err(why) => Divergence::RewindFailed { against: from.name.clone(), why: why.clone() },
            };
            if matches!(outcome, Err(_) | Ok(TaskDone::Undecided(_))) {
                memory.last_failure = Some(finished.at);
                memory.start_failures += 1;
                memory.divergence_checked = Some(finished.at);
            }
        }
        (Task::CopySlots { .. }, outcome) => {
            memory.slots_copied = Some(finished.at);
            if outcome.is_ok() {
                memory.not_streaming_since = Some(finished.at);
            }
        }
        (Task::Demote(_) | Task::KillOrphans | Task::Shutdown { .. }, _) => {}
    }
    // A divergence found against a leader that is not the leader any more says nothing.
    if let Divergence::Found { against: a, .. }
    | Divergence::SameNumber { against: a, .. }
    | Divergence::RewindFailed { against: a, .. }
    | Divergence::None { against: a } = &memory.divergence
        && against.as_ref().is_some_and(|now| now != a)
    {
        memory.divergence = Divergence::Unchecked;
        memory.divergence_checked = None;
    }
}
