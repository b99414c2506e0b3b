//! There is data and PostgreSQL does not run, or does not accept connections yet (`spec/ha.md §4.2, §6`).

use std::time::Duration;

use super::replica::{compare_again, forked, to_compare_again};
use super::{Ctx, Leads, Rule, Work};
use crate::candidate;
use crate::cluster::Initialize;
use crate::memory::Divergence;
use crate::order::{Demote, Order, Task};
use crate::postgres::{ControlState, DataDir, ProcessState};
use crate::recovery;
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 500,
        section: Section::Stopped,
        name: "server processes of a dead postmaster still run",
        when: |c| c.facts.postgres.orphans && !c.facts.postgres.running(),
        then: |w| {
            w.goal("ending server processes that a dead postmaster left behind");
            w.begin(Task::KillOrphans);
        },
        why: "They hold shared memory that a new postmaster needs, and could still finish a commit.",
    },
    Rule {
        id: 505,
        section: Section::Pause,
        name: "paused and PostgreSQL does not run",
        when: |c| c.paused && !c.facts.postgres.running() && (!c.memory.handed_over || c.i_lead()),
        then: |w| {
            if w.facts.lead.is_some() {
                w.goal("removed leader lock because postgres is not running");
                w.order(Order::ReleaseLead);
            } else {
                w.goal("postgres is not running");
            }
            w.wait_for("the cluster to be resumed or PostgreSQL to be started by hand");
        },
        why: "Paused means hands off; the lead goes to whoever runs as the primary. What a handover stopped is started \
              again, for an operator asked for that.",
    },
    Rule {
        id: 507,
        section: Section::Stopped,
        name: "the leader key carries my name and no fence or watchdog works here",
        when: |c| down(c) && c.leads == Leads::MeBefore && c.facts.may_not_lead().is_some(),
        then: |w| {
            let why = w.facts.may_not_lead().unwrap_or_default();
            w.goal(format!("leaving the lead of an earlier run to others because {why}"));
            w.order(Order::ReleaseLead);
            w.wait_for("the fence and the watchdog to work");
        },
        why: "Without a fence nothing ends a primary here when its agent cannot (fence: required, watchdog.mode: required).",
    },
    Rule {
        id: 508,
        section: Section::Stopped,
        name: "the leader key carries my name from an earlier run",
        when: |c| down(c) && c.leads == Leads::MeBefore,
        then: |w| {
            w.goal("taking the leader lock over from an earlier run of this agent");
            w.order(Order::RetakeLead);
            w.again_in(Duration::from_millis(200));
        },
        why: "An agent that was restarted goes on where it was.",
    },
    Rule {
        id: 510,
        section: Section::Stopped,
        name: "the primary crashed and is to be failed over at once",
        when: |c| down(c) && c.i_lead() && c.facts.settings.primary_start_timeout.is_zero() && !asked(c),
        then: |w| {
            w.goal("asking the other members who can take over");
            w.memory.asked_at.get_or_insert(w.facts.now);
            let ask = w.view.map(|v| candidate::to_ask(v, &w.facts.me)).unwrap_or_default();
            w.order(Order::Probe { members: ask });
            w.again_in(Duration::from_millis(500));
        },
        why: "primary_start_timeout is 0.",
    },
    Rule {
        id: 512,
        section: Section::Stopped,
        name: "the primary crashed or cannot be started, and somebody can take over",
        when: |c| {
            down(c)
                && c.i_lead()
                && (c.facts.settings.primary_start_timeout.is_zero() || c.memory.start_failures > 0)
                && somebody_else(c)
        },
        then: |w| {
            w.goal("Primary crashed. Failing over.");
            w.candidates = w.view.map(|v| candidate::weigh(w.facts, v, None)).unwrap_or_default();
            let ttl = w.facts.settings.timing.ttl;
            w.abstain(ttl);
            w.order(Order::ReleaseLead);
        },
        why: "A standby is ready and this server is not.",
    },
    Rule {
        id: 515,
        section: Section::Stopped,
        name: "waiting after a failed start",
        when: |c| down(c) && c.backing_off(),
        then: |w| {
            w.goal("waiting before the next attempt to start PostgreSQL");
            w.wait_for("the pause after a failed start to pass");
            if w.leads == Leads::Me {
                let ask = w.view.map(|v| candidate::to_ask(v, &w.facts.me)).unwrap_or_default();
                if !ask.is_empty() {
                    w.memory.asked_at = Some(w.facts.now);
                    w.order(Order::Probe { members: ask });
                }
            }
            w.again_in(Duration::from_millis(500));
        },
        why: "The log says why it failed; starting it in a tight loop buries that.",
    },
    Rule {
        id: 518,
        section: Section::Stopped,
        name: "I hold the lead and its lease is about to end",
        when: |c| down(c) && c.i_lead() && c.lease_ends(),
        then: |w| {
            w.goal("not starting PostgreSQL because the leader lock is about to end");
            w.wait_for("the lease to be renewed, or to end");
            w.again_in(Duration::from_millis(200));
        },
        why: "A primary that is not up before the lease ends would have to be stopped again.",
    },
    Rule {
        id: 519,
        section: Section::Stopped,
        name: "I hold the lead and another member may go on as the primary without the store",
        when: |c| down(c) && c.i_lead() && !c.leads_standbys() && was_primary(c) && !c.cleared(),
        then: super::primary::wait_for_clearance,
        why: "Whoever vouches for another vouches until its time is up, whoever holds the lead meanwhile.",
    },
    Rule {
        id: 520,
        section: Section::Stopped,
        name: "I hold the lead and my data was the primary's",
        when: |c| down(c) && c.i_lead() && !c.leads_standbys() && was_primary(c),
        then: |w| {
            w.goal("starting primary after failure");
            w.begin(Task::StartPrimary);
        },
        why: "The data is the cluster's newest and its timeline need not change.",
    },
    Rule {
        id: 525,
        section: Section::Stopped,
        name: "I hold the lead and my data was a standby's",
        when: |c| down(c) && c.i_lead() && !c.leads_standbys(),
        then: |w| {
            w.goal("starting as readonly because i had the session lock");
            w.begin(Task::StartStandby { upstream: None });
        },
        why: "It is promoted once it has replayed what it has.",
    },
    Rule {
        id: 530,
        section: Section::Stopped,
        name: "my data was the primary's, or does not start, somebody else leads, histories not compared",
        when: |c| {
            down(c)
                && (was_primary(c) || fails_to_follow(c))
                && c.memory.divergence == Divergence::Unchecked
                && c.authority().is_some()
                && !checked_lately(c)
        },
        then: |w| {
            if let Some(from) = w.authority() {
                w.goal(format!("comparing history with the new primary {}", from.name));
                w.begin(Task::CheckDivergence { from });
            }
        },
        why: "A former primary may hold records that the new one lacks; starting it would only replay them. A rewind that \
              broke off leaves a standby that does not start, until another one is done.",
    },
    Rule {
        id: 532,
        section: Section::Stopped,
        name: "my history forked from the leader's",
        when: |c| down(c) && forked(c) && c.authority().is_some() && repair(c).is_some(),
        then: super::replica::repair,
        why: "Records that the new primary does not have must go before this server can follow it.",
    },
    Rule {
        id: 534,
        section: Section::Stopped,
        name: "my timeline and that of whom I should follow have one number, not compared lately",
        when: |c| down(c) && to_compare_again(c),
        then: compare_again,
        why: "Once the other has another number, what forked can be told and mended.",
    },
    Rule {
        id: 535,
        section: Section::Stopped,
        name: "my timeline and that of whom I should follow have one number",
        when: |c| {
            down(c)
                && c.memory.divergence.same_number()
                && (c.facts.settings.standby_cluster || c.authority().is_some())
        },
        then: super::replica::cannot_repair,
        why: "Its records come from the archive as well as from the stream, and PostgreSQL would take them for its own.",
    },
    Rule {
        id: 540,
        section: Section::Stopped,
        name: "the lead was handed over and not taken yet",
        when: |c| down(c) && c.leads == Leads::Nobody && c.memory.abstain_until.is_some_and(|t| c.facts.now < t),
        then: |w| {
            w.goal("waiting for another member to take the lead");
            w.wait_for("a new leader");
            w.again_in(Duration::from_millis(500));
        },
        why: "Started too early, this server would begin by following nobody.",
    },
    Rule {
        id: 542,
        section: Section::Stopped,
        name: "my data was the primary's, nobody leads, and no standby can be made of it",
        when: |c| down(c) && c.leads == Leads::Nobody && !c.paused && only_as_primary(c),
        then: |w| {
            w.goal("taking the lead: the log was written with wal_level minimal, so that nobody else has it");
            w.order(Order::TakeLead);
            w.again_in(Duration::from_millis(300));
        },
        why: "PostgreSQL refuses to recover such a log as a standby, which is where a member without the lead begins.",
    },
    Rule {
        id: 545,
        section: Section::Stopped,
        name: "PostgreSQL does not run",
        when: down,
        then: |w| {
            let upstream = w.upstream();
            match (&upstream, w.facts.settings.standby_cluster) {
                (_, true) if w.leads == Leads::Me => {
                    w.goal("starting as a standby leader because i had the session lock");
                }
                (_, true) if w.leads == Leads::Nobody => {
                    w.goal("trying to follow a remote member because standby cluster is unhealthy");
                }
                (Some(u), _) => w.goal(format!("starting as a secondary, following {}", u.name)),
                (None, _) => w.goal("starting as a secondary"),
            }
            w.begin(Task::StartStandby { upstream });
        },
        why: "A standby is where every member without the lead begins.",
    },
    Rule {
        id: 550,
        section: Section::Stopped,
        name: "a primary that is starting up without the lead",
        when: |c| starting(c) && !c.paused && c.other_leads() && c.facts.postgres.is_primary(),
        then: |w| {
            w.goal("stopped PostgreSQL while starting up because leader key was lost");
            w.begin(Task::Demote(Demote::Deposed));
        },
        why: "It would accept writes as soon as it is up.",
    },
    Rule {
        id: 551,
        section: Section::Stopped,
        name: "the leader takes too long to start up, candidates not asked yet",
        when: |c| waited_for(c) && too_long(c).is_some() && !asked_lately(c),
        then: |w| {
            let why = recovery::too_long(w.facts, w.view).unwrap_or_default();
            w.goal(format!("asking the other members who can take over because {why}"));
            ask(w);
            w.again_in(Duration::from_millis(500));
        },
        why: "The lead goes only to a member that is known to be able to take it.",
    },
    Rule {
        id: 552,
        section: Section::Stopped,
        name: "the leader takes too long to start up, and somebody can take over",
        when: |c| waited_for(c) && too_long(c).is_some() && somebody_else(c),
        then: |w| {
            let why = recovery::too_long(w.facts, w.view).unwrap_or_default();
            w.candidates = w.view.map(|v| candidate::weigh(w.facts, v, None)).unwrap_or_default();
            w.goal(format!("stopped PostgreSQL because of startup timeout: {why}"));
            w.begin(Task::Demote(Demote::Release));
        },
        why: "A standby is ready and this server is not. It is stopped before the lead goes, so that it cannot come up as a \
              primary any more.",
    },
    Rule {
        id: 553,
        section: Section::Stopped,
        name: "a standby that is starting up was told to follow somebody else",
        when: |c| {
            starting(c)
                && (c.other_leads() || c.leads_standbys())
                && c.facts.postgres.is_standby()
                && c.upstream().is_some_and(|wanted| {
                    c.memory.followed.as_ref().is_none_or(|(told, _)| told.as_ref() != Some(&wanted))
                })
        },
        then: |w| {
            let upstream = w.upstream();
            w.goal("changing primary_conninfo of a standby that is starting up");
            w.begin(Task::Follow { upstream });
        },
        why: "It may need log that only the new leader has before it can accept connections at all.",
    },
    Rule {
        id: 554,
        section: Section::Stopped,
        name: "the leader takes too long to start up, and nobody can take over",
        when: |c| waited_for(c) && too_long(c).is_some() && !asked_to_hand_over(c),
        then: |w| {
            let why = recovery::too_long(w.facts, w.view).unwrap_or_default();
            w.candidates = w.view.map(|v| candidate::weigh(w.facts, v, None)).unwrap_or_default();
            w.goal(format!(
                "primary start has timed out, but continuing to wait because failover is not possible: {why}"
            ));
            w.wait_for("PostgreSQL to accept connections, or a member that can take over");
            // Each answer leads to another step.
            let lately = w.facts.now - Duration::from_secs(1);
            if !w.facts.peers.values().any(|peer| peer.asked > lately) {
                ask(w);
            }
            w.again_in(Duration::from_secs(1));
        },
        why: "A server that recovers serves again in the end; one that was stopped for nobody does not.",
    },
    Rule {
        id: 555,
        section: Section::Stopped,
        name: "PostgreSQL does not accept connections",
        when: |c| starting(c) && !asked_to_hand_over(c),
        then: |w| {
            w.goal("PostgreSQL is still starting up");
            if w.leads == Leads::Me {
                let timeout = w.facts.settings.primary_start_timeout;
                let left = timeout.saturating_sub(w.facts.now.since(w.facts.postgres.since)).as_secs();
                let told = match recovery::estimate(w.facts, w.view) {
                    Some(least) => format!(
                        "; recovery takes {} s more at least, which is waited for because a failover {}",
                        least.as_secs(),
                        if least < recovery::FAILOVER { "takes as long" } else { "could lose commits" }
                    ),
                    None => String::new(),
                };
                w.goal(format!("PostgreSQL is still starting up, {left} seconds until timeout{told}"));
            }
            let long = w.facts.now.since(w.facts.postgres.since) >= Duration::from_secs(20);
            w.wait_for(if long && w.facts.postgres.is_standby() {
                "PostgreSQL to accept connections; one that was started with hot_standby off does so after a restart"
            } else {
                "PostgreSQL to accept connections"
            });
            if w.leads == Leads::MeBefore && w.facts.may_not_lead().is_none() {
                w.order(Order::RetakeLead);
            }
            w.again_in(Duration::from_millis(500));
        },
        why: "Recovery takes the time it takes.",
    },
];

fn down(c: &Ctx) -> bool {
    !c.facts.postgres.running() && matches!(c.facts.postgres.data_dir, DataDir::Present { .. })
}

fn starting(c: &Ctx) -> bool {
    c.facts.postgres.process == ProcessState::NotAccepting
}

/// The leader is starting up, and nothing else keeps it from giving the lead away.
fn waited_for(c: &Ctx) -> bool {
    starting(c) && !c.paused && c.i_lead()
}

/// An operator does not want to wait for it: the request is weighed as that of a leader that serves.
pub(super) fn asked_to_hand_over(c: &Ctx) -> bool {
    let here = c.facts.postgres.is_primary() || c.leads_standbys();
    waited_for(c) && here && super::primary::is_due(c)
}

fn too_long(c: &Ctx) -> Option<String> {
    recovery::too_long(c.facts, c.view)
}

fn ask(w: &mut Work) {
    let ask = w.view.map(|v| candidate::to_ask(v, &w.facts.me)).unwrap_or_default();
    if !ask.is_empty() {
        w.order(Order::Probe { members: ask });
    }
}

fn asked_lately(c: &Ctx) -> bool {
    let Some(view) = c.view else { return true };
    candidate::all_asked(&c.facts.peers, &candidate::to_ask(view, &c.facts.me), c.facts.now - candidate::FRESH)
}

fn control_state(c: &Ctx) -> Option<ControlState> {
    match &c.facts.postgres.data_dir {
        DataDir::Present { control, .. } => Some(control.state),
        _ => None,
    }
}

/// Its timeline can go on: it was stopped or died as a primary.
fn was_primary(c: &Ctx) -> bool {
    !c.facts.postgres.standby_signal()
        && matches!(
            control_state(c),
            Some(
                ControlState::InProduction
                    | ControlState::InCrashRecovery
                    | ControlState::ShuttingDown
                    | ControlState::ShutDown
                    | ControlState::StartingUp
            )
        )
}

/// Nothing that this server wrote last was ever sent to a standby, and it recovers as a primary or not at all.
fn only_as_primary(c: &Ctx) -> bool {
    let DataDir::Present { control, .. } = &c.facts.postgres.data_dir else { return false };
    let (Some(view), facts) = (c.view, c.facts) else { return false };
    control.wal_level_minimal
        && was_primary(c)
        && matches!(&view.initialize, Initialize::Done(id) if *id == control.system_id)
        && view.history_timeline().is_none_or(|cluster| control.checkpoint_timeline >= cluster)
        && candidate::active_sync(facts, view).is_none_or(|sync| sync.is_leader(&facts.me))
        && view.left_alone_beside(&facts.me).is_none()
        && view.failover.is_none()
        && c.memory.forked.is_none()
        && c.memory.abstain_until.is_none_or(|until| facts.now >= until)
        && facts.may_not_lead().is_none()
        && !facts.tags.nofailover()
        && !facts.settings.standby_cluster
}

/// A standby that could not be started.
fn fails_to_follow(c: &Ctx) -> bool {
    c.facts.postgres.standby_signal() && c.memory.start_failures > 0
}

fn asked(c: &Ctx) -> bool {
    let Some(view) = c.view else { return true };
    let ask = candidate::to_ask(view, &c.facts.me);
    let since = c.facts.postgres.since;
    ask.is_empty()
        || c.facts.now.since(since) > Duration::from_secs(3)
        || candidate::all_asked(&c.facts.peers, &ask, since)
}

fn somebody_else(c: &Ctx) -> bool {
    c.view.is_some_and(|v| candidate::can_take_over(c.facts, v))
}

pub(super) fn checked_lately(c: &Ctx) -> bool {
    c.memory.divergence_checked.is_some_and(|at| c.facts.now.since(at) < Duration::from_secs(2))
}

/// How this divergence can be mended, as the settings allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    Rewind,
    Reinitialize,
}

pub(super) fn repair(c: &Ctx) -> Option<Repair> {
    repair_for(c.facts, c.memory)
}

pub(crate) fn repair_for(facts: &crate::facts::Facts, memory: &crate::memory::Memory) -> Option<Repair> {
    let settings = &facts.settings;
    match &memory.divergence {
        Divergence::Found { .. } if settings.use_pg_rewind && rewindable(facts) => Some(Repair::Rewind),
        // A remote node that was set wrong must not cost a standby cluster its data.
        Divergence::Found { .. } if settings.standby_cluster => None,
        Divergence::Found { .. } if settings.remove_data_directory_on_diverged_timelines => Some(Repair::Reinitialize),
        // A rewind sees nothing to do.
        Divergence::RewindFailed { .. } | Divergence::SameNumber { .. }
            if settings.remove_data_directory_on_rewind_failure
                || settings.remove_data_directory_on_diverged_timelines =>
        {
            Some(Repair::Reinitialize)
        }
        _ => None,
    }
}

/// pg_rewind would see which blocks changed.
pub(super) fn rewindable(facts: &crate::facts::Facts) -> bool {
    match &facts.postgres.data_dir {
        DataDir::Present { control, .. } => control.data_checksums || control.wal_log_hints,
        _ => false,
    }
}
