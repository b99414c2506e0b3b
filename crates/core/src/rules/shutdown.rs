//! The agent was asked to end (`spec/ha.md §7.5`).

use std::time::Duration;

use super::{Ctx, Rule};
use crate::candidate;
use crate::order::{Order, Task};
use crate::report::Section;
use crate::synchronous::{ask_to_leave, on_duty};

pub const RULES: &[Rule] = &[
    Rule {
        id: 100,
        section: Section::Shutdown,
        name: "asked to end while paused",
        when: |c| c.facts.shutdown && c.paused && c.facts.task.is_none() && !leads_guarded(c),
        then: |w| {
            w.goal("leader key is not deleted and PostgreSQL is not stopped due to paused state");
            w.order(Order::Exit(Ok(())));
        },
        why: "Paused means hands off: whoever paused the cluster manages PostgreSQL by hand.",
    },
    Rule {
        id: 102,
        section: Section::Shutdown,
        name: "asked to end just after the pause began",
        when: |c| c.facts.shutdown && c.paused && c.facts.task.is_none() && leads_guarded(c) && !c.lease_ends(),
        then: |w| {
            w.goal("ending once the store knows that this primary is left alone");
            w.wait_for("the store to know that this primary is left alone");
            w.again_in(Duration::from_millis(500));
        },
        why: "A primary whose agent is gone would go on while others take over, who do not know of it.",
    },
    Rule {
        id: 104,
        section: Section::Shutdown,
        name: "asked to end, and the server here was never taken over",
        when: |c| c.facts.shutdown && c.stands_alone() && c.facts.task.is_none(),
        then: |w| {
            w.goal("ending and leaving PostgreSQL as it is: it was never taken over");
            w.order(Order::Exit(Ok(())));
        },
        why: "Whoever started it relies on it.",
    },
    Rule {
        id: 105,
        section: Section::Shutdown,
        name: "asked to end, a task that stops the server runs",
        when: |c| c.facts.shutdown && c.facts.task.as_ref().is_some_and(|t| t.task.is_stopping()),
        then: |w| {
            w.goal("stopping PostgreSQL");
            w.wait_for("PostgreSQL to stop");
        },
        why: "What runs already does what is wanted.",
    },
    Rule {
        id: 110,
        section: Section::Shutdown,
        name: "asked to end while a task runs",
        when: |c| c.facts.shutdown && c.facts.task.is_some(),
        then: |w| {
            w.goal("ending the running task because the agent ends");
            w.cancel("the agent ends");
        },
        why: "A task may take hours; its remains are cleaned up when the agent starts again.",
    },
    Rule {
        id: 115,
        section: Section::Shutdown,
        name: "asked to end and PostgreSQL does not run",
        when: |c| c.facts.shutdown && !c.facts.postgres.running() && !c.facts.postgres.orphans,
        then: |w| {
            w.goal("ending");
            if w.facts.lead.is_some() {
                w.order(Order::ReleaseLead);
            }
            w.order(Order::Exit(Ok(())));
        },
        why: "Nothing is left to stop; a lead that is still held is given up at once.",
    },
    Rule {
        id: 118,
        section: Section::Shutdown,
        name: "asked to end as a synchronous standby",
        when: |c| c.facts.shutdown && on_duty(c),
        then: ask_to_leave,
        why: "Commits would wait for a standby that stops until it is missed.",
    },
    Rule {
        id: 120,
        section: Section::Shutdown,
        name: "asked to end as the leader, candidates not asked yet",
        when: |c| c.facts.shutdown && c.i_lead() && c.facts.postgres.is_primary() && !c.lease_ends() && !asked(c),
        then: |w| {
            w.goal("asking the other members who can take over");
            let ask = w.view.map(|v| candidate::to_ask(v, &w.facts.me)).unwrap_or_default();
            w.memory.asked_at.get_or_insert(w.facts.now);
            w.order(Order::Probe { members: ask });
            w.again_in(Duration::from_millis(500));
        },
        why: "The lead is kept until a named successor holds every record, instead of leaving it to a race.",
    },
    Rule {
        id: 125,
        section: Section::Shutdown,
        name: "asked to end",
        when: |c| c.facts.shutdown,
        then: |w| {
            w.goal("stopping PostgreSQL because the agent ends");
            let weighed = match w.view {
                Some(view) if w.leads == super::Leads::Me => candidate::weigh(w.facts, view, None),
                _ => vec![],
            };
            let to = weighed.iter().find(|c| c.fit).map(|c| c.name.clone());
            w.candidates = weighed;
            w.begin(Task::Shutdown { to });
        },
        why: "A clean stop sends every record to the standbys before the lead is given up.",
    },
];

/// The end of its lease would still end this primary.
fn leads_guarded(c: &Ctx) -> bool {
    c.facts.lead.is_some() && c.facts.postgres.is_primary() && !c.left_alone
}

fn asked(c: &Ctx) -> bool {
    let Some(view) = c.view.filter(|_| c.facts.store.broken.is_none()) else { return true };
    let ask = candidate::to_ask(view, &c.facts.me);
    let late = c.memory.asked_at.is_some_and(|at| c.facts.now.since(at) > Duration::from_secs(2));
    late || c.memory.asked_at.map_or(ask.is_empty(), |at| candidate::all_asked(&c.facts.peers, &ask, at))
}
