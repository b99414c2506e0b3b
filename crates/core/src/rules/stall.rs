//! I hold the lead, and the server or its disk hangs.

use std::time::Duration;

use super::{Ctx, Rule, Work};
use crate::candidate;
use crate::order::{Demote, Order, Task};
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 350,
        section: Section::Primary,
        name: "the server that I lead with hangs, candidates not asked yet",
        when: |c| hangs(c) && !asked(c),
        then: |w| {
            w.goal(format!("asking the other members who can take over because {}", why(w)));
            ask(w);
            w.again_in(Duration::from_millis(500));
        },
        why: "The lead goes only to a member that is known to be able to take it.",
    },
    Rule {
        id: 352,
        section: Section::Primary,
        name: "the server that I lead with hangs, and somebody can take over",
        when: |c| hangs(c) && weighed(c).iter().any(|m| m.fit),
        then: |w| {
            w.candidates = w.view.map(|v| candidate::weigh(w.facts, v, None)).unwrap_or_default();
            w.goal(format!("demoting self because {}", why(w)));
            w.begin(Task::Demote(Demote::Release));
        },
        why: "The agent renews the lead of a server that serves nobody, so nobody else would ever get it.",
    },
    Rule {
        id: 354,
        section: Section::Primary,
        name: "the server that I lead with hangs, and nobody can take over",
        when: |c| hangs(c) && c.view.is_some_and(|v| v.failover.is_none()),
        then: |w| {
            w.candidates = w.view.map(|v| candidate::weigh(w.facts, v, None)).unwrap_or_default();
            w.goal(format!("keeping the lead although {}: nobody can take over", why(w)));
            w.wait_for("the server to go on, or a member that can take over");
            // Each answer leads to another step.
            let lately = w.facts.now - Duration::from_secs(1);
            if !w.facts.peers.values().any(|peer| peer.asked > lately) {
                ask(w);
            }
            w.again_in(Duration::from_secs(1));
        },
        why: "A server that hangs may go on; one that was stopped for nobody does not.",
    },
];

/// A standby that leads is about to be promoted; should it hang, the promotion fails.
fn hangs(c: &Ctx) -> bool {
    !c.paused
        && c.i_lead()
        && !c.lease_ends()
        && (c.facts.postgres.is_primary() || c.facts.postgres.orphans)
        && c.facts.stalls.hung(&c.facts.settings.timing).is_some()
}

fn why(w: &Work) -> String {
    w.facts.stalls.hung(&w.facts.settings.timing).unwrap_or_default()
}

fn ask(w: &mut Work) {
    let ask = w.view.map(|v| candidate::to_ask(v, &w.facts.me)).unwrap_or_default();
    if !ask.is_empty() {
        w.order(Order::Probe { members: ask });
    }
}

/// Lately enough that the answers count.
fn asked(c: &Ctx) -> bool {
    let Some(view) = c.view else { return true };
    let oldest = c.facts.now - candidate::FRESH;
    candidate::all_asked(&c.facts.peers, &candidate::to_ask(view, &c.facts.me), oldest)
}

fn weighed(c: &Ctx) -> Vec<crate::report::Candidate> {
    c.view.map(|v| candidate::weigh(c.facts, v, None)).unwrap_or_default()
}
