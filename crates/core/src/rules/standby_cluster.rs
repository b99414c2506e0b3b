//! I hold the lead of a cluster that follows another one (`spec/ha.md §15`).

use std::time::Duration;

use super::replica::{
    cannot_repair, compare_again, forked, look_again, misdirected, repair, to_compare, to_compare_again,
};
use super::stopped::repair_for;
use super::{Ctx, Rule, Work};
use crate::order::{Demote, Task};
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 900,
        section: Section::StandbyCluster,
        name: "a primary leads what is to be a standby cluster",
        when: |c| leads_and_answers(c) && !c.paused && c.facts.postgres.is_primary(),
        then: |w| {
            w.goal("demoting to a standby cluster: cannot be a real primary in standby cluster");
            w.begin(Task::Demote(Demote::Cluster));
        },
        why: "Its remote node has, or gets, the primary: what is written here would be lost.",
    },
    Rule {
        id: 902,
        section: Section::Pause,
        name: "paused, and a primary leads what is to be a standby cluster",
        when: |c| leads_and_answers(c) && c.facts.postgres.is_primary(),
        then: |w| {
            w.goal("PAUSE: continue to run as primary, it is demoted to a standby cluster when the cluster is resumed");
            w.wait_for("the cluster to be resumed");
        },
        why: "Paused means hands off.",
    },
    Rule {
        id: 910,
        section: Section::StandbyCluster,
        name: "the leader of a standby cluster follows something else than its remote node",
        when: |c| leads_and_answers(c) && misdirected(c),
        then: |w| {
            let upstream = w.upstream();
            let whom = upstream.as_ref().map_or("its archive", |u| u.name.as_str());
            w.goal(format!("promoted self to a standby leader because i had the session lock, following {whom}"));
            w.begin(Task::Follow { upstream });
        },
        why: "The lead came here, or the settings changed.",
    },
    Rule {
        id: 920,
        section: Section::StandbyCluster,
        name: "the history of a standby cluster's leader forked from the remote node's and can be mended",
        when: |c| {
            leads_and_answers(c)
                && forked(c)
                && !c.paused
                && !c.backing_off()
                && c.authority().is_some()
                && repair_for(c.facts, c.memory).is_some()
        },
        then: repair,
        why: "Records that the remote primary does not have must go before this server can follow it.",
    },
    Rule {
        id: 922,
        section: Section::StandbyCluster,
        name: "the timelines of a standby cluster's leader and of the remote node have one number, not compared lately",
        when: |c| leads_and_answers(c) && to_compare_again(c),
        then: compare_again,
        why: "Once the other has another number, what forked can be told and mended.",
    },
    Rule {
        id: 925,
        section: Section::StandbyCluster,
        name: "the history of a standby cluster's leader forked from the remote node's",
        when: |c| leads_and_answers(c) && forked(c) && c.view.is_some_and(|v| v.failover.is_none()),
        then: cannot_repair,
        why: "What this server has and the remote primary lacks is not thrown away unasked.",
    },
    Rule {
        id: 930,
        section: Section::StandbyCluster,
        name: "the leader of a standby cluster does not stream",
        when: |c| leads_and_answers(c) && to_compare(c),
        then: |w| {
            if let Some(from) = w.authority() {
                w.goal(format!("not streaming, comparing history with {}", from.name));
                w.begin(Task::CheckDivergence { from });
            }
        },
        why: "A server whose log forked cannot stream; one whose log did not waits for its remote node.",
    },
];

fn leads_and_answers(c: &Ctx) -> bool {
    c.leads_standbys() && c.facts.postgres.observed().is_some()
}

pub(super) fn follows(w: &mut Work) {
    let pause = if w.facts.settings.pause { "PAUSE: " } else { "" };
    w.goal(format!("{pause}no action. I am ({}), the standby leader with the lock", w.facts.me));
    w.steady = true;
    if let Some(upstream) = w.upstream().filter(|_| w.memory.not_streaming_since.is_some()) {
        w.steady = false;
        w.wait_for(format!("streaming from {} to begin", upstream.name));
        w.again_in(Duration::from_millis(500));
        look_again(w);
    }
}
