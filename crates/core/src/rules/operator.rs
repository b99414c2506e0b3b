//! What an operator asks of this member (`spec/ha.md §13`).

use std::time::Duration;

use super::{Ctx, Leads, Rule, Work};
use crate::cluster::{Member, Upstream};
use crate::order::{Request, Task};
use crate::postgres::DataDir;
use crate::report::Section;
use crate::synchronous::{ask_to_leave, on_duty};

pub const RULES: &[Rule] = &[
    Rule {
        id: 150,
        section: Section::Task,
        name: "restart asked for while another task runs",
        when: |c| restart(c) && c.facts.task.is_some(),
        then: refuse_busy,
        why: "One thing at a time happens to a data directory.",
    },
    Rule {
        id: 152,
        section: Section::Task,
        name: "restart asked for without a usable data directory",
        when: |c| restart(c) && !matches!(c.facts.postgres.data_dir, DataDir::Present { .. }),
        then: |w| refuse(w, "restart failed: there is no PostgreSQL cluster in the data directory"),
        why: "There is nothing to start.",
    },
    Rule {
        id: 153,
        section: Section::Task,
        name: "restart asked for and PostgreSQL does not run",
        when: |c| restart(c) && !c.paused && !c.facts.postgres.running(),
        then: |w| refuse(w, "restart failed: PostgreSQL does not run; it is started as soon as it may be"),
        why: "How it may be started, as the primary or as a standby, is for other rules to say.",
    },
    Rule {
        id: 156,
        section: Section::Task,
        name: "restart asked of a synchronous standby",
        when: |c| restart(c) && on_duty(c),
        then: ask_to_leave,
        why: "Commits would wait for a standby that stops until it is missed.",
    },
    Rule {
        id: 154,
        section: Section::Task,
        name: "restart asked for",
        when: restart,
        then: |w| {
            w.goal("restarting PostgreSQL as asked");
            w.reply = Some(Ok("restart".into()));
            w.begin(Task::Restart);
        },
        why: "An operator's restart is obeyed, also while paused.",
    },
    Rule {
        id: 160,
        section: Section::Task,
        name: "reinitialise asked for and nobody leads",
        when: |c| reinit(c).is_some() && (c.leads == Leads::Nobody || c.leads == Leads::MeBefore || c.view.is_none()),
        then: |w| refuse(w, "Cluster has no leader, can not reinitialize"),
        why: "The copy would have nowhere to come from, and this one may be the last.",
    },
    Rule {
        id: 162,
        section: Section::Task,
        name: "reinitialise asked of the leader",
        when: |c| reinit(c).is_some() && c.i_lead(),
        then: |w| refuse(w, "I am the leader, can not reinitialize"),
        why: "The leader's data is what the others are copied from.",
    },
    Rule {
        id: 164,
        section: Section::Task,
        name: "reinitialise asked for while another task runs",
        when: |c| reinit(c) == Some(false) && c.facts.task.is_some(),
        then: refuse_busy,
        why: "One thing at a time happens to a data directory.",
    },
    Rule {
        id: 166,
        section: Section::Task,
        name: "forced reinitialise while another task runs",
        when: |c| reinit(c) == Some(true) && c.facts.task.as_ref().is_some_and(|t| !t.task.is_stopping()),
        then: |w| {
            w.goal("ending the running task for a forced reinitialize");
            w.cancel("a forced reinitialize was asked for");
            w.wait_for("the running task to end");
        },
        why: "Force says that what runs now may be thrown away.",
    },
    Rule {
        id: 168,
        section: Section::Task,
        name: "reinitialise asked for",
        when: |c| {
            reinit(c).is_some() && c.facts.task.is_none() && !matches!(c.facts.postgres.data_dir, DataDir::Foreign(_))
        },
        then: |w| match source(w) {
            Some(from) => {
                w.goal(format!("reinitialize from {}", from.name));
                w.reply = Some(Ok("reinitialize started".into()));
                w.begin(Task::Reinitialize { from });
            }
            None => refuse(w, "the leader publishes no address to copy from, can not reinitialize"),
        },
        why: "The operator gives this copy up.",
    },
];

/// What is asked for, unless a primary has to be stopped first; the request is shown again.
fn asked(c: &Ctx) -> Option<Request> {
    c.facts.request.filter(|_| !c.unled_primary())
}

fn restart(c: &Ctx) -> bool {
    asked(c) == Some(Request::Restart)
}

fn reinit(c: &Ctx) -> Option<bool> {
    match asked(c) {
        Some(Request::Reinitialize { force, .. }) => Some(force),
        _ => None,
    }
}

fn source(w: &Work) -> Option<Upstream> {
    let from_leader = matches!(w.facts.request, Some(Request::Reinitialize { from_leader: true, .. }));
    let view = w.view?;
    let leader = view.leader_member().and_then(Member::upstream);
    if from_leader { leader } else { super::startup::clone_source(view, &w.facts.me).or(leader) }
}

fn refuse(w: &mut Work, why: &str) {
    w.goal(format!("refusing: {why}"));
    w.reply = Some(Err(why.to_owned()));
    // This step only gave an answer; what the cluster needs is for the next.
    w.again_in(Duration::from_millis(10));
}

fn refuse_busy(w: &mut Work) {
    let running = w.facts.task.as_ref().map(|t| t.task.name()).unwrap_or_default();
    refuse(w, &format!("{running} already in progress"));
}
