//! Makes a failing plan small: fewer faults, shorter ones, fewer members, as long as the same promise is broken.

use crate::bug::Bug;
use crate::history::Violation;
use crate::plan::Plan;
use crate::run::run;
use crate::world::clock::SECOND;

/// A plan that breaks the same promise, and how it does.
pub fn shrink(plan: &Plan, violation: &Violation, bug: Option<Bug>) -> (Plan, Violation) {
    let mut best = (plan.clone(), violation.clone());
    let fails = |candidate: &Plan| run(candidate, bug, false).violation.filter(|v| v.invariant == violation.invariant);
    // What comes after the violation has nothing to do with it.
    let cut = best.0.actions.iter().filter(|(at, _)| *at <= best.1.at).copied().collect();
    attempt(&mut best, &fails, |p| p.actions = cut);
    let mut progress = true;
    while progress {
        progress = false;
        for size in [4, 2, 1] {
            let mut from = 0;
            while from < best.0.actions.len() {
                let to = (from + size).min(best.0.actions.len());
                let smaller = attempt(&mut best, &fails, |p| _ = p.actions.drain(from..to));
                progress |= smaller;
                from += if smaller { 0 } else { size };
            }
        }
        if best.0.members > 3 {
            progress |= attempt(&mut best, &fails, |p| p.members -= 1);
        }
    }
    let last = best.0.actions.last().map_or(0, |(at, _)| *at);
    attempt(&mut best, &fails, |p| p.heal_at = p.heal_at.min(last + 10 * SECOND));
    best
}

fn attempt(
    best: &mut (Plan, Violation),
    fails: &dyn Fn(&Plan) -> Option<Violation>,
    change: impl FnOnce(&mut Plan),
) -> bool {
    let mut candidate = best.0.clone();
    change(&mut candidate);
    if candidate == best.0 {
        return false;
    }
    match fails(&candidate) {
        Some(violation) => {
            *best = (candidate, violation);
            true
        }
        None => false,
    }
}
