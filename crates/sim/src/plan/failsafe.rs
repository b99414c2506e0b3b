//! Members vouch for a primary that has lost the store.

use surus_core::failsafe::SETTING;

use super::{Action, Plan, QUIET, Who, us};
use crate::random::Random;
use crate::world::clock::{MS, SECOND};

impl Plan {
    /// Members may vouch for a primary that has lost the store; in some runs the store is away for long.
    pub(super) fn failsafe(&mut self, r: &mut Random) {
        if !r.percent(50) {
            return;
        }
        self.set("failsafe_mode", true.into());
        let ttl = us(self.timing.ttl);
        match r.below(10) {
            // Nothing else: no reason to move the lead, however long.
            0 => {
                self.actions.clear();
                let mut at = QUIET + r.below(3 * SECOND);
                for _ in 0..r.between(1, 4) {
                    let lasts = ttl * r.between(100, 600) / 100;
                    self.actions.push((at, Action::StoreOutage { lasts, again: r.percent(50) }));
                    at += lasts + 2 * ttl + r.below(ttl);
                }
                self.heal_at = at;
            }
            // The primary, or all, cannot reach the store while other things happen.
            1..=4 => {
                let mut at = QUIET + r.below(3 * SECOND);
                for _ in 0..r.between(1, 4) {
                    let lasts = ttl * r.between(50, 500) / 100;
                    let who = Who::Leader;
                    let away = match r.below(6) {
                        0 | 1 => Action::CutStore { who, one_way: r.percent(30), lasts },
                        2 => Action::Partition {
                            side: u8::try_from(r.below(128)).unwrap_or(1),
                            with_store: r.percent(50),
                            lasts,
                        },
                        3 => Action::SlowStore { by: r.between(500 * MS, 4 * SECOND), lasts },
                        _ => Action::StoreOutage { lasts, again: r.percent(50) },
                    };
                    self.actions.push((at, away));
                    for _ in 0..r.below(4) {
                        let then = self.action(r, ttl);
                        let when = at + r.below(lasts + ttl);
                        self.actions.push((when, then));
                    }
                    at += lasts + r.below(3 * ttl);
                }
                self.actions.sort_by_key(|(at, _)| *at);
                self.heal_at = at;
            }
            _ => {}
        }
    }

    /// Where it is on, mostly nobody has said so; and what is said about it changes.
    pub(super) fn failsafe_by_default(&mut self, r: &mut Random) {
        let on = self.document.get(SETTING) == Some(&true.into());
        match r.below(20) {
            // Whoever founds the cluster writes it.
            0..10 if on => self.unset(SETTING),
            // As of a cluster that came from Patroni: the leader writes it, once all members have been ours for a while.
            10 | 11 if on => {
                let later = r.below(75 * SECOND);
                self.actions.iter_mut().for_each(|(at, _)| *at += later);
                self.heal_at += later;
                self.actions.insert(0, (QUIET - 4 * SECOND, Action::Failsafe { mode: None }));
            }
            12 | 13 => {
                for _ in 0..r.between(1, 4) {
                    let at = r.between(QUIET, self.heal_at);
                    self.actions.push((at, Action::Failsafe { mode: r.pick(&[Some(true), Some(false), None]) }));
                }
                self.actions.sort_by_key(|(at, _)| *at);
            }
            _ => {}
        }
    }

    /// A primary hears late who vouches for it, and then nobody any more.
    pub(super) fn vouched_for_late(&mut self, r: &mut Random) {
        let (ttl, who) = (us(self.timing.ttl), Who::Leader);
        let (at, away) = (QUIET + r.below(3 * SECOND), 6 * ttl);
        let (by, frozen) = (r.between(50 * MS, 700 * MS), ttl * r.between(20, 60) / 100);
        let when = at + ttl / 2 + r.below(ttl);
        self.actions = vec![
            (at, Action::CutStore { who, one_way: false, lasts: away }),
            (at, Action::SlowNetwork { who, by, lasts: away }),
            (when, Action::FreezeAgent { who, lasts: frozen }),
            (when + frozen + r.below(2 * by), Action::Isolate { who, lasts: 3 * ttl }),
        ];
        self.heal_at = at + away;
    }

    /// Those who vouch for a primary are replaced by agents that know nothing of it.
    pub(super) fn vouchers_replaced(&mut self, r: &mut Random) {
        let (ttl, who) = (us(self.timing.ttl), Who::Leader);
        let (at, away) = (QUIET + r.below(3 * SECOND), 5 * ttl);
        self.actions = vec![(at, Action::CutStore { who, one_way: false, lasts: away })];
        for _ in 0..r.between(1, 4) {
            let when = at + r.between(ttl, 4 * ttl);
            for other in 0..self.members - 1 {
                self.actions.push((when + r.below(SECOND), Action::UpgradeAgent { who: Who::Other(other) }));
            }
        }
        self.actions.sort_by_key(|(at, _)| *at);
        self.heal_at = at + away;
    }
}
