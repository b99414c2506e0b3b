//! What an operator asks of this member (`spec/ha.md §13`).

use super::{Ctx, Leads, Rule, Work};
use crate::cluster::{Member, Upstream};
use crate::order::{Request, Task};
use crate::postgres::DataDir;
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 150,
        section: Section::Task,
        name: "restart asked for while another task runs",
        when: |c| c.facts.request == Some(Request::Restart) && c.facts.task.is_some(),
        then: refuse_busy,
        why: "One thing at a time happens to a data directory.",
    },
    Rule {
        id: 152,
        section: Section::Task,
        name: "restart asked for without a usable data directory",
        when: |c| {
            c.facts.request == Some(Request::Restart) && !matches!(c.facts.postgres.data_dir, DataDir::Present { .. })
        },
        then: |w| refuse(w, "restart failed: there is no PostgreSQL cluster in the data directory"),
        why: "There is nothing to start.",
    },
    Rule {
        id: 154,
        section: Section::Task,
        name: "restart asked for",
        when: |c| c.facts.request == Some(Request::Restart),
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
        when: |c| reinit(c) == Some(true) && c.facts.task.is_some(),
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
        when: |c| reinit(c).is_some(),
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

fn reinit(c: &Ctx) -> Option<bool> {
    match c.facts.request {
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
}

fn refuse_busy(w: &mut Work) {
    let running = w.facts.task.as_ref().map(|t| t.task.name()).unwrap_or_default();
    refuse(w, &format!("{running} already in progress"));
}
