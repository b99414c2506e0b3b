//! Faults, and the moments at which they do most harm.

use super::{Action, ELECTION, Plan, QUIET, StoreKind, Who, tolerated, us};
use crate::random::Random;
use crate::world::clock::{MS, SECOND, True};

impl Plan {
    /// Short troubles of the store, with time to recover between them: no reason to move the lead.
    pub(super) fn trouble_in_the_store(&mut self, r: &mut Random) {
        let election = if self.store == StoreKind::Service { 0 } else { ELECTION };
        let longest = tolerated(&self.timing).saturating_sub(election).max(100 * MS);
        let pause = us(self.timing.ttl) + 2 * SECOND;
        let mut at = QUIET;
        for _ in 0..r.between(3, 8) {
            let lasts = r.between(longest / 4, longest);
            let action = match r.below(5) {
                0 => Action::SlowStore { by: r.between(50 * MS, 300 * MS), lasts },
                1 => Action::LoseAnswers { percent: r.between(30, 100), lasts },
                2 => Action::BreakWatch { who: Who::Node(r.index(self.members)), lasts: lasts * 3 },
                3 if self.has_witness() => Action::LoseWitness { lasts: lasts * 3 },
                _ => Action::StoreOutage { lasts, again: r.percent(50) },
            };
            self.actions.push((at, action));
            at += lasts * 3 + election + pause + r.below(3 * SECOND);
        }
        self.heal_at = at;
    }

    /// The leader's agent fails while the answer to a renewal is on its way.
    pub(super) fn trouble_with_the_lease(&mut self, r: &mut Random) {
        let ttl = us(self.timing.ttl);
        let mut at = QUIET + r.below(3 * SECOND);
        for _ in 0..r.between(1, 4) {
            let lasts = r.between(3, 8) * SECOND;
            self.actions.push((at, Action::SlowStore { by: r.between(300 * MS, 3 * SECOND), lasts }));
            let (who, down) = (Who::Leader, ttl * r.between(120, 300) / 100);
            let then = match r.below(4) {
                0 => Action::KillAgent { who, down },
                1 | 2 => Action::FreezeAgent { who, lasts: down },
                _ => Action::CutStore { who, one_way: r.percent(50), lasts: down },
            };
            self.actions.push((at + r.between(SECOND, lasts), then));
            at += lasts + down + r.below(ttl);
        }
        self.heal_at = at;
    }

    /// The leader is to end, or to hand over, while its server or its disk does not do as it is told.
    pub(super) fn trouble_at_the_end(&mut self, r: &mut Random) {
        let ttl = us(self.timing.ttl);
        let mut at = QUIET + r.below(3 * SECOND);
        for _ in 0..r.between(1, 4) {
            let (who, lasts) = (Who::Leader, ttl * r.between(50, 300) / 100);
            let first = match r.below(4) {
                0 => Action::HangDisk { who, lasts },
                1 => Action::SlowNode { who, percent: 4000, lasts },
                _ => Action::FreezePostmaster { who, lasts },
            };
            let then = match r.below(4) {
                0 => Action::Switchover { to: None },
                1 => Action::Restart { who },
                _ => Action::EndAgent { who },
            };
            self.actions.push((at, first));
            self.actions.push((at + r.between(50 * MS, 2 * SECOND), then));
            at += lasts + r.between(ttl, 2 * ttl);
        }
        self.heal_at = at;
    }

    pub(super) fn has_witness(&self) -> bool {
        matches!(self.store, StoreKind::Embedded { witness: true, .. })
    }

    pub(super) fn trouble(&mut self, r: &mut Random) {
        let ttl = us(self.timing.ttl);
        let mut at = QUIET + r.below(3 * SECOND);
        for _ in 0..r.between(2, 12) {
            let action = self.action(r, ttl);
            self.actions.push((at, action));
            at += r.pick(&[50 * MS, 300 * MS, SECOND, 3 * SECOND, ttl, 2 * ttl]) * r.between(50, 150) / 100;
        }
        self.heal_at = at + r.pick(&[SECOND, ttl, 2 * ttl]);
    }

    pub(super) fn who(&self, r: &mut Random) -> Who {
        if self.store != StoreKind::Service && r.percent(20) {
            return Who::StoreLeader;
        }
        match r.below(10) {
            0..5 => Who::Leader,
            5..8 => Who::Other(r.index(self.members)),
            _ => Who::Node(r.index(self.members)),
        }
    }

    pub(super) fn action(&self, r: &mut Random, ttl: True) -> Action {
        let who = self.who(r);
        let lasts = r.pick(&[200 * MS, SECOND, 3 * SECOND, ttl * 3 / 4, ttl, ttl * 5 / 4, 2 * ttl, 3 * ttl])
            * r.between(70, 130)
            / 100;
        let one_way = r.percent(40);
        match r.below(40) {
            0 | 1 => Action::KillAgent { who, down: lasts },
            2..5 => Action::FreezeAgent { who, lasts },
            5 => Action::EndAgent { who },
            6 => Action::UpgradeAgent { who },
            7 | 8 => Action::PowerOff { who, down: lasts },
            9 | 10 => Action::Suspend { who, lasts },
            11 => Action::StepWall { who, by_ms: 3_600_000 },
            12 => Action::KillPostmaster { who, outlive: r.pick(&[0, 500 * MS, 20 * SECOND]) },
            13 => Action::CrashServer { who },
            14 => Action::FreezePostmaster { who, lasts },
            15 => Action::KillFence { who },
            16 | 17 => Action::CutPair { a: who, b: Who::Node(r.index(self.members)), one_way, lasts },
            18..21 => Action::CutStore { who, one_way, lasts },
            21 | 22 => Action::Isolate { who, lasts },
            23 => Action::SlowNetwork { who, by: r.between(20 * MS, 800 * MS), lasts },
            24 => Action::SlowStore { by: r.between(50 * MS, 2 * SECOND), lasts },
            25 | 26 => Action::StoreOutage { lasts, again: r.percent(50) },
            27 => Action::LoseAnswers { percent: r.between(10, 100), lasts },
            28 => Action::StallWatch { who, lasts },
            29 => Action::BreakWatch { who, lasts },
            30 => Action::HangDisk { who, lasts },
            31 => Action::FillDisk { who, lasts },
            32 => Action::SlowNode { who, percent: r.pick(&[300, 1000, 4000]), lasts: lasts * 2 },
            33 => Action::Lag { who, by: r.between(200 * MS, 5 * SECOND), lasts: lasts * 2 },
            34 => Action::PromotionFails { who, lasts },
            35 | 36 => {
                let to = r.percent(60).then(|| Who::Other(r.index(self.members)));
                if r.percent(70) {
                    Action::Switchover { to }
                } else {
                    Action::Failover { to: Who::Other(r.index(self.members)) }
                }
            }
            37 => Action::Pause { lasts },
            38 => Action::Set { setting: "ttl", value: r.pick(&[6, 8, 10, 15, 20]) },
            _ => {
                if r.percent(60) {
                    Action::Restart { who }
                } else {
                    Action::Reinit { who, force: r.percent(50) }
                }
            }
        }
    }
}
