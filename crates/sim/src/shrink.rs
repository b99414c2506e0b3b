//! Makes a failing plan small: fewer faults and acts, shorter ones, closer to each other, fewer members, a plainer cluster, as
//! long as the same promise is broken.

use crate::bug::Bug;
use crate::history::Violation;
use crate::plan::{Plan, QUIET, StoreKind};
use crate::run::run;
use crate::world::clock::{MS, SECOND, True};

/// Runs spent on one story.
const TRIES: usize = 800;

/// A plan that breaks the same promise, and how it does.
pub fn shrink(plan: &Plan, violation: &Violation, bug: Option<Bug>) -> (Plan, Violation) {
    let mut best = Best { plan: plan.clone(), violation: violation.clone(), bug, left: TRIES };
    // What comes after the violation has nothing to do with it.
    let end = best.violation.at;
    best.attempt(|p| p.actions.retain(|(at, _)| *at <= end));
    loop {
        let fewer = best.fewer();
        let shorter = best.shorter();
        if (!fewer && !shorter) || best.left == 0 {
            break;
        }
    }
    best.rounder();
    let last = best.plan.actions.last().map_or(0, |(at, _)| *at);
    best.attempt(|p| p.heal_at = p.heal_at.min(last + 10 * SECOND));
    (best.plan, best.violation)
}

struct Best {
    plan: Plan,
    violation: Violation,
    bug: Option<Bug>,
    left: usize,
}

impl Best {
    fn attempt(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut candidate = self.plan.clone();
        change(&mut candidate);
        if candidate == self.plan || self.left == 0 {
            return false;
        }
        self.left -= 1;
        match run(&candidate, self.bug, false).violation.filter(|v| v.invariant == self.violation.invariant) {
            Some(violation) => {
                (self.plan, self.violation) = (candidate, violation);
                true
            }
            None => false,
        }
    }

    fn fewer(&mut self) -> bool {
        let mut progress = false;
        for size in [4, 2, 1] {
            let mut from = 0;
            while from < self.plan.actions.len() {
                let to = (from + size).min(self.plan.actions.len());
                let smaller = self.attempt(|p| _ = p.actions.drain(from..to));
                progress |= smaller;
                from += if smaller { 0 } else { size };
            }
        }
        while self.plan.members > 2 && self.attempt(one_member_less) {
            progress = true;
        }
        progress |= self.attempt(|p| p.store = StoreKind::Service);
        progress |= self.attempt(|p| *p = p.plain());
        for number in 0..self.plan.actions.len() {
            progress |= self.attempt(|p| {
                let action = &mut p.actions[number].1;
                *action = action.plainer().unwrap_or(*action);
            });
        }
        for key in self.plan.settings() {
            progress |= self.attempt(|p| p.usual(&key));
        }
        progress
    }

    /// Each thing, and each pause before one, as short as it can be.
    fn shorter(&mut self) -> bool {
        let mut progress = false;
        for number in 0..self.plan.actions.len() {
            for (parts, of) in [(1, 8), (1, 2), (3, 4)] {
                while self.attempt(|p| scale(p, number, |lasts| lasts * parts / of / MS * MS)) {
                    progress = true;
                }
                while self.attempt(|p| closer(p, number, |gap| gap * parts / of / MS * MS)) {
                    progress = true;
                }
            }
        }
        progress
    }

    /// Even figures are easier to read.
    fn rounder(&mut self) {
        for number in 0..self.plan.actions.len() {
            for unit in [SECOND, 500 * MS, 100 * MS, 10 * MS] {
                if self.attempt(|p| scale(p, number, |lasts| lasts.div_ceil(unit) * unit)) {
                    break;
                }
            }
            for unit in [SECOND, 500 * MS, 100 * MS, 10 * MS] {
                if self.attempt(|p| p.actions[number].0 = (p.actions[number].0 + unit / 2) / unit * unit) {
                    break;
                }
            }
        }
        if !self.plan.actions.is_sorted_by_key(|(at, _)| *at) {
            self.attempt(|p| p.actions.sort_by_key(|(at, _)| *at));
        }
    }
}

fn one_member_less(plan: &mut Plan) {
    plan.members -= 1;
    if let StoreKind::Embedded { voters, .. } = &mut plan.store {
        *voters = (*voters).min(plan.members);
    }
}

/// What changes less than a moment stays as it is: an end must come.
fn scale(plan: &mut Plan, number: usize, to: impl Fn(True) -> True) {
    if let Some(lasts) = plan.actions[number].1.lasts() {
        let scaled = to(*lasts);
        if scaled.abs_diff(*lasts) >= 10 * MS && scaled > 0 {
            *lasts = scaled;
        }
    }
}

fn closer(plan: &mut Plan, number: usize, to: impl Fn(True) -> True) {
    let before = number.checked_sub(1).map_or(QUIET, |n| plan.actions[n].0);
    let gap = plan.actions[number].0.saturating_sub(before);
    let less = gap - to(gap).min(gap);
    if less >= 10 * MS {
        plan.actions[number..].iter_mut().for_each(|(at, _)| *at -= less);
        plan.heal_at -= less;
    }
}
