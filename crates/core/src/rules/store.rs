//! The store cannot be read, or the lease cannot be renewed (`spec/ha.md §8`).

use std::time::Duration;

use super::{Ctx, Leads, Rule, Work};
use crate::order::{Demote, Task};
use crate::postgres::DataDir;
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 300,
        section: Section::Store,
        name: "the lease of a primary is about to end",
        when: |c| !c.left_alone && c.facts.lead.is_some() && c.lease_ends() && c.facts.postgres.is_primary(),
        then: |w| {
            let why = broken(w.facts.store.broken.as_ref().map(|b| b.1.as_str()));
            w.goal(format!("demoting self because the leader lock could not be renewed in time{why}"));
            let stop_by = w.facts.lead.map_or(w.facts.now, |l| l.until);
            w.begin(Task::Demote(Demote::LeaseEnding { stop_by }));
        },
        why: "When the lease ends another member may be promoted; by then nothing may be acknowledged here. That goes also \
              for a pause that the store does not know me to have seen.",
    },
    Rule {
        id: 305,
        section: Section::Store,
        name: "a primary whose lease is over and whose lead cannot be looked up",
        when: |c| {
            !c.left_alone
                && (!c.paused || c.facts.inherited.is_some())
                && unreadable(c)
                && c.facts.lead.is_none()
                && c.facts.postgres.is_primary()
                && !c.stands_alone()
                && patience_over(c)
        },
        then: |w| {
            let why = broken(w.facts.store.broken.as_ref().map(|b| b.1.as_str()));
            w.goal(format!("demoting self because the store is not accessible and I hold no lease{why}"));
            w.begin(Task::Demote(Demote::LeaseEnding { stop_by: w.facts.now }));
        },
        why: "Without a lease somebody else may lead. An agent that has just started over a running primary has until the \
              lease of its earlier run ends, or `retry_timeout`, to find its way back to the store.",
    },
    Rule {
        id: 310,
        section: Section::Store,
        name: "paused and the store cannot be read",
        when: |c| (c.paused || c.left_alone && c.facts.postgres.running()) && unreadable(c),
        then: |w| {
            w.goal("DCS is not accessible; paused, nothing is done");
            w.wait_for("the store");
        },
        why: "Paused means hands off.",
    },
    Rule {
        id: 312,
        section: Section::Store,
        name: "server processes of a dead postmaster still run and the store cannot be read",
        when: |c| unreadable(c) && c.facts.postgres.orphans && !c.facts.postgres.running(),
        then: |w| {
            w.goal("ending server processes that a dead postmaster left behind");
            w.begin(Task::KillOrphans);
        },
        why: "They could still finish a commit after the lease has ended.",
    },
    Rule {
        id: 315,
        section: Section::Store,
        name: "stopped for want of a lease, the store still away",
        when: |c| {
            unreadable(c)
                && c.memory.lost_store
                && !c.facts.postgres.running()
                && matches!(c.facts.postgres.data_dir, DataDir::Present { .. })
                && !c.backing_off()
        },
        then: |w| {
            w.goal("starting as a standby that follows nobody, to serve reads until the store is back");
            w.begin(Task::StartStandby { upstream: None });
        },
        why: "A standby without upstream cannot do harm, and readers are served meanwhile.",
    },
    Rule {
        id: 320,
        section: Section::Store,
        name: "the store cannot be read and I hold the lease",
        when: |c| unreadable(c) && c.leads == Leads::Me && c.facts.lead.is_some() && c.facts.postgres.is_primary(),
        then: |w| {
            let left = w.facts.lead.map(|l| l.until.since(w.facts.now)).unwrap_or_default();
            let by: Vec<_> = w.facts.failsafe.vouched_by.iter().map(ToString::to_string).collect();
            if by.is_empty() {
                w.goal(format!(
                    "DCS is not accessible; continuing as the leader for up to {:.1} s",
                    left.as_secs_f64()
                ));
            } else {
                w.goal(format!(
                    "continue to run as a leader because failsafe mode is enabled: {} vouch for me, for another {:.1} s",
                    by.join(", "),
                    left.as_secs_f64()
                ));
            }
            w.wait_for("the store");
            let reserve = super::stop_reserve(&w.facts.settings.timing);
            w.again_in(left.saturating_sub(reserve));
        },
        why: "The lease is good until its time is up, whatever the store does meanwhile; and so is what members vouch for.",
    },
    Rule {
        id: 330,
        section: Section::Store,
        name: "the store cannot be read",
        when: unreadable,
        then: |w| {
            let why = broken(w.facts.store.broken.as_ref().map(|b| b.1.as_str()));
            w.goal(format!("DCS is not accessible{why}"));
            w.wait_for("the store");
            w.again_in(Duration::from_secs(1));
        },
        why: "Not knowing what the others do, a member goes on as it is.",
    },
    Rule {
        id: 335,
        section: Section::Store,
        name: "no session in the store",
        when: |c| !c.facts.store.session && c.facts.lead.is_none() && !c.facts.postgres.is_primary(),
        then: |w: &mut Work| {
            w.goal("opening a session in the store");
            w.wait_for("a session in the store");
            w.again_in(Duration::from_millis(200));
        },
        why: "Every key of mine is bound to the session.",
    },
];

fn unreadable(c: &Ctx) -> bool {
    c.view.is_none() || c.facts.store.broken.is_some()
}

fn patience_over(c: &Ctx) -> bool {
    let broken = c.facts.store.broken.as_ref().map(|(since, _)| *since);
    // A store that never answered is not broken since any time; then it counts since when I look.
    let since = broken.into_iter().chain(c.memory.unreadable_since).min();
    let waited = since.is_some_and(|t| c.facts.now.since(t) >= c.facts.settings.timing.retry_timeout);
    waited && !c.inherited_lease_holds()
}

fn broken(why: Option<&str>) -> String {
    why.map(|w| format!(" ({w})")).unwrap_or_default()
}
