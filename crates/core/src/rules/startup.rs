//! What the data directory and the cluster's identity allow (`spec/ha.md §4 steps 8-9, §5`).

use std::time::Duration;

use super::{Ctx, Leads, Rule, Work};
use crate::cluster::{ClusterView, Initialize, Member, MemberRole, Upstream};
use crate::facts::{Answer, Facts};
use crate::ids::{MemberName, SystemId};
use crate::order::{Demote, Order, Task};
use crate::postgres::DataDir;
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 400,
        section: Section::Startup,
        name: "the data directory holds something else",
        when: |c| matches!(c.facts.postgres.data_dir, DataDir::Foreign(_)) && !c.facts.postgres.running(),
        then: |w| {
            let what = match &w.facts.postgres.data_dir {
                DataDir::Foreign(what) => what.clone(),
                _ => String::new(),
            };
            w.goal(format!("refusing to touch the data directory: {what}"));
            if w.facts.lead.is_some() {
                w.order(Order::ReleaseLead);
            }
            w.order(Order::Exit(Err(what)));
        },
        why: "Whatever it is, it is not ours to overwrite.",
    },
    Rule {
        id: 405,
        section: Section::Startup,
        name: "the data directory cannot be read",
        when: |c| matches!(c.facts.postgres.data_dir, DataDir::Unreadable(_)) && !c.facts.postgres.running(),
        then: |w| {
            let what = match &w.facts.postgres.data_dir {
                DataDir::Unreadable(what) => what.clone(),
                _ => String::new(),
            };
            w.goal(format!("data directory is not accessible: {what}"));
            if w.leads == Leads::Me && w.facts.settings.pause {
                w.order(Order::ReleaseLead);
            } else if w.leads == Leads::Me {
                // Backends of a dead postmaster cannot be looked for on such a disk, and may still acknowledge a commit.
                w.begin(Task::Demote(Demote::Release));
            }
            w.wait_for("the data directory");
            w.again_in(Duration::from_secs(1));
        },
        why: "A disk may come back; until then somebody else should lead.",
    },
    Rule {
        id: 410,
        section: Section::Startup,
        name: "the data belongs to another cluster",
        when: |c| foreign_id(c).is_some() && !c.paused,
        then: |w| {
            let (mine, theirs) = foreign_ids(w);
            let text = format!(
                "system ID mismatch, node {} belongs to a different cluster: the data directory has {mine}, the cluster has {theirs}. \
                 Use another scope or data directory, or empty the data directory to clone this cluster into it.",
                w.facts.me
            );
            w.goal(text.clone());
            if w.facts.lead.is_some() {
                w.order(Order::ReleaseLead);
            }
            w.order(Order::Exit(Err(text)));
        },
        why: "Streaming or rewinding between two clusters destroys one of them.",
    },
    Rule {
        id: 412,
        section: Section::Startup,
        name: "paused and the data belongs to another cluster",
        when: |c| foreign_id(c).is_some(),
        then: |w| {
            let (mine, theirs) = foreign_ids(w);
            w.goal(format!("system ID mismatch while paused: the data directory has {mine}, the cluster has {theirs}"));
            if w.leads == Leads::Me {
                w.order(Order::ReleaseLead);
            }
            w.wait_for("the cluster to be resumed or the data to be replaced");
        },
        why: "Somebody may be replacing the data by hand; the lead does not belong to it meanwhile.",
    },
    Rule {
        id: 413,
        section: Section::Startup,
        name: "a primary that no agent ever managed, and the cluster has another",
        when: |c| c.stands_alone() && !c.paused && c.facts.postgres.is_primary() && superseded(c).is_some(),
        then: |w| {
            let why = superseded_by(w.view, &w.leads, w.facts).unwrap_or_default();
            let text = format!(
                "{why}, and PostgreSQL runs here as a primary that was never managed; it is left alone. If it is the wrong \
                 one, stop it and start the agent again: it then follows, and what only it has is written down before it \
                 is cut off. If it is the right one, give this agent another scope, or remove the cluster from the store"
            );
            w.goal(text.clone());
            w.order(Order::Exit(Err(text)));
        },
        why: "Which of two running primaries is the right one is for an operator to say.",
    },
    Rule {
        id: 415,
        section: Section::Startup,
        name: "an existing standby and no identity in the store",
        when: |c| {
            unclaimed(c)
                && c.leads == Leads::Nobody
                && c.facts.postgres.is_standby()
                && !c.facts.settings.standby_cluster
                && !c.paused
                && c.memory.last_leader.is_none()
        },
        then: |w| {
            w.goal(
                "No initialize key in DCS and PostgreSQL is running as replica; leaving it as it is. Please first start \
                 the agent on the node running as primary",
            );
            w.wait_for("the agent of the node that runs as the primary");
            w.again_in(Duration::from_secs(1));
        },
        why: "The primary's identity is the cluster's; a standby that has not seen a leader since its agent started \
              cannot tell whether its primary is the right one. One that has goes on if the store forgot everything.",
    },
    Rule {
        id: 416,
        section: Section::Startup,
        name: "an existing primary that does not let me in, and no identity in the store",
        when: |c| {
            unclaimed(c)
                && c.leads == Leads::Nobody
                && c.stands_alone()
                && !c.paused
                && c.facts.postgres.observed().is_none()
        },
        then: |w| {
            let why = match &w.facts.postgres.answer {
                Answer::Unknown(_, why) => why.clone(),
                Answer::Known(_) => String::new(),
            };
            w.goal(format!(
                "not taking the running server over, it does not answer ({why}); it is left as it is. Check \
                 postgresql.listen and postgresql.authentication.superuser"
            ));
            w.wait_for("PostgreSQL to answer");
            w.again_in(Duration::from_secs(1));
        },
        why: "A server that cannot be asked cannot be led, and somebody relies on it as it is.",
    },
    Rule {
        id: 418,
        section: Section::Startup,
        name: "existing data and no identity in the store",
        when: |c| {
            unclaimed(c)
                && c.leads == Leads::Nobody
                && !c.paused
                // A standby cluster begins with one that follows the remote node.
                && (!c.facts.postgres.is_standby() || c.facts.settings.standby_cluster)
        },
        then: |w| {
            if let DataDir::Present { control, .. } = &w.facts.postgres.data_dir {
                let id = control.system_id.clone();
                w.goal(format!("claiming the scope for the existing cluster {id}"));
                w.order(Order::WriteSystemId { id });
            }
            w.again_in(Duration::from_millis(200));
        },
        why: "An existing cluster is taken over as it is; the key is created only if nobody else did.",
    },
    Rule {
        id: 425,
        section: Section::Startup,
        name: "the data directory vanished under a running server",
        when: |c| empty(c) && c.facts.postgres.running() && !c.paused,
        then: |w| {
            w.goal("stopping PostgreSQL because its data directory is gone");
            w.begin(Task::Demote(if w.leads == Leads::Me { Demote::Release } else { Demote::Deposed }));
        },
        why: "It still acknowledges commits, which are lost with it; and a new copy needs the place.",
    },
    Rule {
        id: 430,
        section: Section::Startup,
        name: "no data and I hold the lead",
        when: |c| empty(c) && c.facts.lead.is_some(),
        then: |w| {
            w.goal("released leader key voluntarily as data dir empty and currently leader");
            w.order(Order::ReleaseLead);
            w.again_in(Duration::from_millis(100));
        },
        why: "A leader without data cannot serve; a member that has the data must be free to take over.",
    },
    Rule {
        id: 432,
        section: Section::Startup,
        name: "no data and paused",
        when: |c| empty(c) && c.paused,
        then: |w| {
            w.goal("running with empty data directory");
            w.wait_for("the cluster to be resumed");
        },
        why: "Paused means hands off.",
    },
    Rule {
        id: 434,
        section: Section::Startup,
        name: "no data, and the last attempts to get some failed",
        when: |c| empty(c) && c.backing_off(),
        then: |w| {
            w.goal("waiting before the next attempt to create the data directory");
            w.wait_for("the pause after a failed attempt to pass");
            w.again_in(Duration::from_millis(500));
        },
        why: "A cause such as a wrong password does not go away by hammering the leader.",
    },
    Rule {
        id: 435,
        section: Section::Startup,
        name: "no data and somebody leads",
        when: |c| empty(c) && c.other_leads() && c.view.is_some_and(|v| source(v, &c.facts.me).is_some()),
        then: |w| {
            if let Some(from) = w.view.and_then(|v| source(v, &w.facts.me)) {
                let kind = if w.view.and_then(|v| v.leader_name()) == Some(&from.name) { "leader" } else { "replica" };
                w.goal(format!("trying to bootstrap from {kind} '{}'", from.name));
                w.begin(Task::Clone { from });
            }
        },
        why: "A new member is a copy of the cluster.",
    },
    Rule {
        id: 439,
        section: Section::Startup,
        name: "no data, no cluster, and no fence or watchdog works here",
        when: |c| empty(c) && c.leads == Leads::Nobody && c.facts.may_not_lead().is_some() && may_create(c),
        then: |w| {
            let why = w.facts.may_not_lead().unwrap_or_default();
            w.goal(format!("not creating a cluster because {why}"));
            w.wait_for("the fence and the watchdog to work");
            w.again_in(Duration::from_secs(1));
        },
        why: "Whoever creates the cluster leads it (fence: required, watchdog.mode: required).",
    },
    Rule {
        id: 437,
        section: Section::StandbyCluster,
        name: "no data, no cluster, and this is to be a standby cluster",
        when: |c| empty(c) && c.facts.settings.standby_cluster && c.leads == Leads::Nobody && may_create(c),
        then: |w| {
            w.goal("trying to bootstrap a new standby leader");
            w.begin(Task::Bootstrap);
        },
        why: "A standby cluster begins as a copy of the remote one, never with initdb.",
    },
    Rule {
        id: 440,
        section: Section::Startup,
        name: "no data, no cluster and nobody creating one",
        when: |c| empty(c) && c.leads == Leads::Nobody && may_create(c),
        then: |w| {
            w.goal("trying to bootstrap a new cluster");
            w.begin(Task::Bootstrap);
        },
        why: "The initialize key is created by exactly one member, which then creates the cluster. A member that saw \
              another one lead knows better than a store that forgot everything.",
    },
    Rule {
        id: 442,
        section: Section::Startup,
        name: "no data, nobody leads, and a method needs no leader",
        when: |c| {
            empty(c)
                && c.leads == Leads::Nobody
                && c.facts.settings.no_leader_methods
                && c.view.is_some_and(|v| v.initialize != Initialize::InProgress)
        },
        then: |w| {
            w.goal("trying to bootstrap (without leader)");
            w.begin(Task::CloneWithoutLeader);
        },
        why: "A backup of the cluster serves as well as a member; while somebody creates the cluster there is none yet.",
    },
    Rule {
        id: 445,
        section: Section::Startup,
        name: "no data and nobody to get it from",
        when: empty,
        then: |w| {
            let leader = if w.facts.settings.standby_cluster { "standby_leader" } else { "leader" };
            w.goal(format!("waiting for {leader} to bootstrap"));
            let what = match (w.view.map(|v| &v.initialize), &w.leads) {
                (Some(Initialize::InProgress), _) => "the member that creates the cluster",
                (Some(Initialize::Done(_)), Leads::Nobody) => "a member that has the data to take the lead",
                (Some(Initialize::Absent), _) if !w.facts.may_bootstrap => {
                    "a member whose configuration has a bootstrap section"
                }
                _ => "a leader that publishes its address",
            };
            w.wait_for(what);
            w.again_in(Duration::from_secs(1));
        },
        why: "Creating a second cluster under the same name would split the members.",
    },
];

fn superseded(c: &Ctx) -> Option<String> {
    superseded_by(c.view, &c.leads, c.facts)
}

/// Why the cluster is not this primary's.
fn superseded_by(view: Option<&ClusterView>, leads: &Leads, facts: &Facts) -> Option<String> {
    if let Leads::Other(name) = leads {
        return Some(format!("{name} leads the cluster"));
    }
    let (mine, cluster) = (facts.postgres.observed()?.timeline?, view?.history_timeline()?);
    (mine < cluster).then(|| format!("the cluster is on timeline {cluster}, and this server on {mine}"))
}

/// Also an empty directory under a running server counts: somebody removed the data under it.
fn empty(c: &Ctx) -> bool {
    c.facts.postgres.data_dir == DataDir::Empty
}

fn unclaimed(c: &Ctx) -> bool {
    matches!(c.facts.postgres.data_dir, DataDir::Present { .. })
        && c.view.is_some_and(|v| v.initialize == Initialize::Absent)
}

fn foreign_id<'a>(c: &'a Ctx) -> Option<(&'a SystemId, &'a SystemId)> {
    match (&c.facts.postgres.data_dir, c.view.map(|v| &v.initialize)) {
        (DataDir::Present { control, .. }, Some(Initialize::Done(theirs))) if control.system_id != *theirs => {
            Some((&control.system_id, theirs))
        }
        _ => None,
    }
}

fn foreign_ids(w: &Work) -> (String, String) {
    match (&w.facts.postgres.data_dir, w.view.map(|v| &v.initialize)) {
        (DataDir::Present { control, .. }, Some(Initialize::Done(theirs))) => {
            (control.system_id.to_string(), theirs.to_string())
        }
        _ => (String::new(), String::new()),
    }
}

fn source(view: &ClusterView, me: &MemberName) -> Option<Upstream> {
    let leader = view.leader_member().filter(|m| m.role == MemberRole::Primary || m.is_running());
    clone_source(view, me).or_else(|| leader.and_then(Member::upstream))
}

/// A running replica that offers itself by tag; the first by name, so that a retry asks the same one.
pub(super) fn clone_source(view: &ClusterView, me: &MemberName) -> Option<Upstream> {
    view.others(me)
        .filter(|m| Some(&m.name) != view.leader_name() && m.tags.clonefrom() && m.is_running())
        .find_map(Member::upstream)
}

fn may_create(c: &Ctx) -> bool {
    c.facts.may_bootstrap
        && !c.facts.tags.nofailover()
        && c.view.is_some_and(|v| v.initialize == Initialize::Absent)
        && c.memory.last_leader.as_ref().is_none_or(|l| *l == c.facts.me)
}
