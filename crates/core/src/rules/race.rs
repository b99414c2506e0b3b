//! Nobody leads, and PostgreSQL answers (`spec/ha.md §9`).

use std::time::Duration;

use super::{Ctx, Leads, Rule, Work};
use crate::ids::MemberName;
use crate::order::{Demote, Order, Task};
use crate::race::{Verdict, judge};
use crate::report::Section;

pub const RULES: &[Rule] = &[
    Rule {
        id: 595,
        section: Section::Race,
        name: "a primary that has not got the lead for a whole ttl",
        when: |c| {
            matches!(c.leads, Leads::Nobody | Leads::MeBefore)
                && !c.paused
                && c.facts.postgres.is_primary()
                && c.memory.unled_since.is_some_and(|t| c.facts.now.since(t) >= c.facts.settings.timing.ttl)
                && !c.stands_alone()
                && !c.inherited_lease_holds()
        },
        then: |w| {
            w.goal("demoting self because the leader lock could not be taken for a whole ttl");
            w.begin(Task::Demote(Demote::Deposed));
        },
        why: "A store that can be read and not written to protects nobody: without a lease this server must not go on.",
    },
    Rule {
        id: 598,
        section: Section::Race,
        name: "the leader key carries my name and no fence or watchdog works here",
        when: |c| c.leads == Leads::MeBefore && c.facts.may_not_lead().is_some(),
        then: |w| {
            let why = w.facts.may_not_lead().unwrap_or_default();
            if w.facts.postgres.is_primary() && !w.facts.settings.pause {
                w.goal(format!("demoting self because {why}"));
                w.begin(Task::Demote(Demote::Deposed));
            } else {
                w.goal(format!("not leading because {why}"));
                if !w.facts.postgres.is_primary() && !w.facts.promotion_pending() {
                    w.order(Order::ReleaseLead);
                }
                w.again_in(Duration::from_secs(1));
            }
            w.wait_for("the fence and the watchdog to work");
        },
        why: "Without a fence nothing ends this primary when its agent cannot (fence: required, watchdog.mode: required).",
    },
    Rule {
        id: 600,
        section: Section::Race,
        name: "the leader key carries my name from an earlier run",
        when: |c| c.leads == Leads::MeBefore,
        then: |w| {
            w.goal("taking the leader lock over from an earlier run of this agent");
            w.order(Order::RetakeLead);
            w.again_in(Duration::from_millis(200));
        },
        why: "An agent that was restarted goes on where it was, and PostgreSQL never notices.",
    },
    Rule {
        id: 610,
        section: Section::Race,
        name: "nobody leads and I may",
        when: |c| c.leads == Leads::Nobody && matches!(verdict(c), Verdict::Take { .. }),
        then: |w| {
            if let Some(view) = w.view {
                let (verdict, candidates) = judge(w.facts, &w.memory, view);
                if let Verdict::Take { why } = verdict {
                    w.goal(format!("taking the lead: {why}"));
                }
                w.candidates = candidates;
                let named = view.failover.as_ref().and_then(|f| f.value.candidate.as_ref());
                w.memory.called = named == Some(&w.facts.me) && w.facts.postgres.is_standby();
            }
            w.order(Order::TakeLead);
            w.again_in(Duration::from_millis(300));
        },
        why: "The store gives the leader key to exactly one of those who try.",
    },
    Rule {
        id: 620,
        section: Section::Race,
        name: "nobody leads and others have to be asked",
        when: |c| c.leads == Leads::Nobody && matches!(verdict(c), Verdict::Ask(_)),
        then: |w| {
            if let Some(view) = w.view
                && let (Verdict::Ask(members), _) = judge(w.facts, &w.memory, view)
            {
                let names: Vec<_> = members.iter().map(ToString::to_string).collect();
                w.goal(format!("nobody leads; asking {}", names.join(", ")));
                w.order(Order::Probe { members });
            }
            w.again_in(Duration::from_millis(500));
        },
        why: "The member that has most of the log must win.",
    },
    Rule {
        id: 625,
        section: Section::Race,
        name: "nobody leads and others have to consent",
        when: |c| c.leads == Leads::Nobody && matches!(verdict(c), Verdict::Consent { .. }),
        then: |w| {
            if let Some(view) = w.view
                && let (Verdict::Consent { whom, why }, candidates) = judge(w.facts, &w.memory, view)
            {
                w.candidates = candidates;
                ask_consent(w, whom, &why);
            }
        },
        why: "A primary that cannot reach the store goes on as long as enough members vouch for it. Whoever consents to me \
              vouches for nobody else.",
    },
    Rule {
        id: 630,
        section: Section::Race,
        name: "nobody leads and a primary here must not",
        when: |c| {
            c.leads == Leads::Nobody
                && !c.paused
                && !c.stands_alone()
                && c.facts.postgres.is_primary()
                && c.facts.postgres.observed().is_some()
        },
        then: |w| {
            w.goal("demoting self because i am not allowed to become primary");
            if let Some(view) = w.view
                && let (Verdict::Leave { why }, candidates) = judge(w.facts, &w.memory, view)
            {
                w.goal(format!("demoting self because i am not allowed to become primary: {why}"));
                w.candidates = candidates;
            }
            w.begin(Task::Demote(Demote::Deposed));
        },
        why: "A primary without the lead accepts writes that nobody will follow.",
    },
    Rule {
        id: 640,
        section: Section::Race,
        name: "nobody leads and it is not for me to",
        when: |c| c.leads == Leads::Nobody,
        then: |w| {
            if let Some(view) = w.view {
                let (verdict, candidates) = judge(w.facts, &w.memory, view);
                w.candidates = candidates;
                match verdict {
                    Verdict::Leave { why } if w.facts.settings.pause => {
                        w.goal(format!("no action, nobody leads: {why}"))
                    }
                    Verdict::Leave { why } if w.facts.tags.nofailover() => {
                        w.goal(format!("following a different leader because I am not allowed to promote: {why}"));
                    }
                    Verdict::Leave { why } => {
                        w.goal(format!("following a different leader because i am not the healthiest node: {why}"))
                    }
                    _ => {}
                }
            }
            w.wait_for("a leader");
            // Ask again soon: what stood against me may be gone, and nobody accepts writes meanwhile.
            let again = w.facts.settings.timing.loop_wait.min(Duration::from_secs(1));
            w.again_in(again);
            if w.memory.race_round.is_some_and(|t| w.facts.now.since(t) >= again) {
                w.memory.race_round = Some(w.facts.now);
            }
        },
        why: "Another member is better placed, or this one is not allowed.",
    },
];

/// Asks for what is missing before I may become the primary, and says what it is.
pub(super) fn ask_consent(w: &mut Work, whom: Vec<MemberName>, why: &str) {
    let asked = w.memory.consent_asked.map(|at| w.facts.now.since(at));
    // The answers to the last question need a moment, and who refused does so for longer than that.
    let pause = if whom.is_empty() { Duration::from_millis(50) } else { Duration::from_secs(1) };
    match asked {
        Some(ago) if ago < pause => w.again_in(pause - ago),
        _ => {
            w.memory.consent_asked = Some(w.facts.now);
            w.order(Order::AskConsent { members: whom });
            w.again_in(pause);
        }
    }
    w.goal(format!("waiting for consent to lead: {why}"));
    w.wait_for(format!(
        "consent to lead: {why}; if that leader certainly does not run any more: surus failover --candidate {} --force",
        w.facts.me
    ));
}

fn verdict(c: &Ctx) -> Verdict {
    c.view.map_or(Verdict::Leave { why: String::new() }, |view| judge(c.facts, c.memory, view).0)
}
