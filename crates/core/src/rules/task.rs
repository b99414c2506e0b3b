//! A long operation runs (`spec/ha.md §4.1`).

use super::{Ctx, Leads, Rule};
use crate::order::{Demote, Task};
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 200,
        section: Section::Task,
        name: "a task of the leader runs and the lead is gone",
        when: |c| {
            c.facts.task.as_ref().is_some_and(|t| t.task.needs_lead())
                && if c.unleased() { c.other_leads() } else { !c.i_lead() || c.lease_ends() }
        },
        then: |w| {
            w.goal("lost the leader lock, ending what only the leader may do");
            w.cancel("the leader lock is lost");
        },
        why: "Promoting or starting a primary without the lead makes a second one.",
    },
    Rule {
        id: 205,
        section: Section::Task,
        name: "a task runs on a primary and the lead is gone",
        when: |c| {
            !c.unleased()
                && (!c.i_lead() || c.lease_ends())
                && c.facts.task.as_ref().is_some_and(|t| in_the_way(c, &t.task))
        },
        then: |w| {
            w.goal("lost the leader lock, ending the task to stop PostgreSQL");
            w.cancel("the leader lock is lost");
        },
        why: "A primary without the lead must stop, and the task stands in the way.",
    },
    Rule {
        id: 210,
        section: Section::Task,
        name: "histories are compared and nobody leads any more",
        when: |c| {
            c.leads == Leads::Nobody
                && c.facts.task.as_ref().is_some_and(|t| matches!(t.task, Task::CheckDivergence { .. }))
        },
        then: |w| {
            w.goal("ending the comparison with a leader that is gone");
            w.cancel("the leader to compare with is gone");
        },
        why: "The race must not wait for a node that may never answer.",
    },
    Rule {
        id: 290,
        section: Section::Task,
        name: "a task runs",
        when: |c| c.facts.task.is_some(),
        then: |w| {
            let name = w.facts.task.as_ref().map(|t| t.task.name()).unwrap_or_default();
            if w.leads == super::Leads::Me {
                w.goal(format!("updated leader lock during {name}"));
            } else {
                w.goal(format!("{name} in progress"));
            }
            w.wait_for(name);
            w.steady = true;
        },
        why: "One thing at a time happens to a data directory.",
    },
];

/// Whether a primary lives on, or comes back, for as long as this task is left alone.
fn in_the_way(c: &Ctx, task: &Task) -> bool {
    let postgres = &c.facts.postgres;
    match task {
        // A new cluster's first server runs before anybody can hold the lead; copying stops the server.
        Task::Bootstrap | Task::Clone { .. } | Task::CloneWithoutLeader | Task::Reinitialize { .. } => false,
        // A restart that has stopped the primary would start one.
        Task::Restart if !postgres.running() => !postgres.standby_signal(),
        // A rewind stops the server first. What runs after that is crash recovery, which takes no connections.
        Task::Rewind { .. } => postgres.is_primary() && postgres.accepting(),
        // A handover serves on until its checkpoint is done, and only then stops.
        Task::Demote(Demote::Handover { .. }) => postgres.is_primary() && postgres.accepting(),
        other => postgres.is_primary() && !other.is_stopping(),
    }
}
