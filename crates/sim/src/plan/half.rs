//! Stores that are half alive: they read and do not write, fail at random, go and come back.

use surus_core::failsafe::SETTING;

use super::{Action, ELECTION, Plan, QUIET, Refuses, StoreKind, Who, tolerated, us};
use crate::random::Random;
use crate::world::clock::{MS, SECOND, True};

impl Plan {
    pub(super) fn half_alive(&mut self, r: &mut Random) {
        let ttl = us(self.timing.ttl);
        let vouched_for = self.document.get(SETTING) == Some(&true.into());
        match r.below(25) {
            0 => {
                let election = if self.store == StoreKind::Service { 0 } else { ELECTION };
                let longest = tolerated(&self.timing).saturating_sub(election).max(100 * MS);
                self.half_alive_alone(r, longest / 4, longest);
            }
            1 | 2 if vouched_for => self.half_alive_alone(r, ttl, 6 * ttl),
            3 | 4 if vouched_for => self.vouched_for_late(r),
            5 if vouched_for => self.vouchers_replaced(r),
            6..9 => {
                for _ in 0..r.between(1, 4) {
                    let at = r.between(QUIET, self.heal_at.max(QUIET + 10 * SECOND));
                    let lasts = ttl * r.between(10, 400) / 100;
                    let action = self.half(r, lasts);
                    self.actions.push((at, action));
                    self.heal_at = self.heal_at.max(at + SECOND);
                }
                self.actions.sort_by_key(|(at, _)| *at);
            }
            _ => {}
        }
    }

    /// Nothing else happens: no reason to move the lead.
    fn half_alive_alone(&mut self, r: &mut Random, shortest: True, longest: True) {
        self.actions.clear();
        let ttl = us(self.timing.ttl);
        let mut at = QUIET + r.below(3 * SECOND);
        for _ in 0..r.between(1, 5) {
            let lasts = r.between(shortest, longest);
            let action = self.half(r, lasts);
            self.actions.push((at, action));
            at += lasts + ELECTION + 2 * ttl + r.below(ttl);
        }
        self.heal_at = at;
    }

    fn half(&self, r: &mut Random, lasts: True) -> Action {
        let who = match r.below(5) {
            0 | 1 => Some(Who::Leader),
            2 => Some(Who::Other(r.index(self.members))),
            _ => None,
        };
        match r.below(3) {
            0 => {
                let refuses = r.pick(&[Refuses::Puts, Refuses::Writes, Refuses::Changes]);
                Action::ReadOnlyStore { who, refuses, lasts }
            }
            1 => Action::StoreErrors { who, percent: r.between(20, 100), lasts },
            _ => {
                let (away, back) = (r.between(100 * MS, 3 * SECOND), r.between(100 * MS, 3 * SECOND));
                Action::FlapStore { who, away, back, lasts }
            }
        }
    }
}
