//! What operators do, close together or at a bad moment, and what is drawn beside the rest.

use serde_json::json;

use super::{Action, Plan, QUIET, StoreKind, Who, us};
use crate::random::Random;
use crate::world::clock::{MS, SECOND, True};
use crate::world::remote::HOST;

impl Plan {
    /// Acts of operators, one close on the other, and one failure among them.
    pub(super) fn operators(&mut self, r: &mut Random) {
        let ttl = us(self.timing.ttl);
        let mut at = QUIET + r.below(3 * SECOND);
        let acts = r.between(3, 9);
        let fails = r.below(acts);
        for act in 0..acts {
            let action = if act == fails { self.action(r, ttl) } else { self.operation(r, ttl) };
            self.actions.push((at, action));
            at += r.pick(&[20 * MS, 200 * MS, SECOND, 3 * SECOND, ttl]) * r.between(50, 150) / 100;
        }
        self.heal_at = at + r.pick(&[SECOND, ttl]);
    }

    fn operation(&self, r: &mut Random, ttl: True) -> Action {
        let who = self.who(r);
        let to = Who::Other(r.index(self.members));
        match r.below(9) {
            0 => Action::Switchover { to: None },
            1 => Action::Switchover { to: Some(to) },
            2 => Action::Failover { to },
            3 => Action::Pause { lasts: r.pick(&[SECOND, 3 * SECOND, ttl, 2 * ttl]) },
            4 => Action::Restart { who },
            5 => Action::Reinit { who, force: r.percent(50) },
            6 => Action::UpgradeAgent { who },
            7 => Action::EndAgent { who },
            _ => setting(r),
        }
    }

    /// What forked is left to an operator. The leader is lost, and the next one when the first has come back.
    pub(super) fn unmended(&mut self, r: &mut Random) {
        if !r.percent(6) || self.remote {
            return;
        }
        self.set("postgresql", json!({"use_pg_rewind": false, "use_slots": true}));
        let ttl = us(self.timing.ttl);
        let mut at = self.heal_at;
        for _ in 0..r.between(1, 3) {
            let (who, down) = (Who::Leader, ttl * r.between(150, 400) / 100);
            let lost =
                if r.percent(50) { Action::PowerOff { who, down } } else { Action::Isolate { who, lasts: down } };
            self.actions.push((at, lost));
            at += down + r.between(0, ttl);
        }
        self.heal_at = at;
    }

    /// A member is given new data, and before that is done it is needed, or what it copies from goes away.
    pub(super) fn trouble_while_copying(&mut self, r: &mut Random) {
        let ttl = us(self.timing.ttl);
        let mut at = QUIET + r.below(3 * SECOND);
        for _ in 0..r.between(1, 4) {
            let copies = Who::Other(r.index(self.members));
            self.actions.push((at, Action::Reinit { who: copies, force: true }));
            let (who, lasts) = (Who::Leader, ttl * r.between(50, 250) / 100);
            let then = match r.below(8) {
                0 => Action::PowerOff { who, down: lasts },
                1 => Action::KillAgent { who, down: lasts },
                2 => Action::Isolate { who, lasts },
                3 => Action::KillPostmaster { who, outlive: 0 },
                4 => Action::Switchover { to: Some(copies) },
                5 => Action::Failover { to: copies },
                6 => Action::FillDisk { who: copies, lasts },
                _ => Action::KillAgent { who: copies, down: r.pick(&[200 * MS, lasts]) },
            };
            self.actions.push((at + r.between(20 * MS, 3 * SECOND), then));
            at += lasts + r.between(ttl, 2 * ttl);
        }
        self.heal_at = at;
    }

    /// Beside the rest.
    pub(super) fn more_trouble(&mut self, r: &mut Random) {
        for _ in 0..r.between(1, 4) {
            let at = r.between(QUIET, self.heal_at);
            let lasts = us(self.timing.ttl) * r.between(10, 300) / 100;
            let action = match r.below(4) {
                0 if self.has_witness() => Action::LoseWitness { lasts },
                1 => setting(r),
                _ => {
                    let side = u8::try_from(r.between(1, 1 << self.members)).unwrap_or(1);
                    Action::Partition { side, with_store: r.percent(50), lasts }
                }
            };
            self.actions.push((at, action));
        }
        self.actions.sort_by_key(|(at, _)| *at);
    }
}

impl Plan {
    /// Some clusters follow another site, or come to, and change places with it while all the rest happens.
    pub(super) fn two_sites(&mut self, r: &mut Random) {
        if !r.percent(15) || self.document.get("synchronous_mode").is_some() {
            return;
        }
        self.remote = true;
        if r.percent(75) {
            self.set("standby_cluster", json!({"host": HOST, "port": 5432}));
        }
        // Without it nobody but an operator mends a fork.
        self.set("postgresql", json!({"use_pg_rewind": true, "use_slots": true}));
        let ttl = us(self.timing.ttl);
        for _ in 0..r.between(1, 8) {
            let at = r.between(QUIET, self.heal_at.max(QUIET + 30 * SECOND));
            let lasts = r.pick(&[SECOND, 3 * SECOND, ttl, 3 * ttl]);
            let action = match r.below(10) {
                0 | 1 => Action::RemoteFails { lasts },
                2 | 3 => Action::RemoteFailsOver { lost: r.pick(&[0, 400, 20_000]) },
                4 => Action::CutRemote { who: self.who(r), lasts },
                5..8 => Action::PromoteCluster,
                _ => Action::DemoteCluster { hasty: r.percent(50) },
            };
            self.actions.push((at, action));
            self.heal_at = self.heal_at.max(at + SECOND);
        }
        self.actions.sort_by_key(|(at, _)| *at);
    }

    /// The leader's server crashes and takes long to recover, and perhaps an operator does not wait for it.
    pub(super) fn long_recovery(&mut self, r: &mut Random) {
        if !r.percent(8) {
            return;
        }
        let (who, lasts) = (Who::Leader, r.between(20, 120) * SECOND);
        let at = r.between(QUIET, self.heal_at.max(QUIET + 20 * SECOND));
        let crash = if r.percent(50) {
            Action::CrashServer { who }
        } else {
            Action::KillPostmaster { who, outlive: r.pick(&[0, 500 * MS]) }
        };
        self.actions.extend([(at, Action::SlowNode { who, percent: 4000, lasts }), (at + 20 * MS, crash)]);
        let to = Who::Other(r.index(self.members));
        let asked = match r.below(4) {
            0 => Some(Action::Switchover { to: None }),
            1 => Some(Action::Switchover { to: Some(to) }),
            2 => Some(Action::Failover { to }),
            _ => None,
        };
        let later = at + r.between(500 * MS, 30 * SECOND);
        self.actions.extend(asked.map(|asked| (later, asked)));
        self.heal_at = self.heal_at.max(later + r.between(SECOND, 40 * SECOND));
        self.actions.sort_by_key(|(at, _)| *at);
    }
}

/// A group of three or five as far as there are members for it, with a witness where it takes one, or more.
pub(super) fn embedded(r: &mut Random, members: usize) -> StoreKind {
    let (voters, witness) = match members {
        2 => (2, r.percent(80)),
        3 => (3, false),
        4 => r.pick(&[(3, false), (4, true), (2, true)]),
        _ => r.pick(&[(5, false), (3, false), (4, true)]),
    };
    StoreKind::Embedded { voters, witness }
}

pub(super) fn setting(r: &mut Random) -> Action {
    const SETTINGS: [(&str, &[u64]); 6] = [
        ("ttl", &[6, 8, 10, 15, 20, 30]),
        ("loop_wait", &[1, 2, 5, 10]),
        ("retry_timeout", &[1, 3, 10]),
        ("maximum_lag_on_failover", &[0, 16_384, 1_048_576, 1_000_000_000]),
        ("primary_start_timeout", &[0, 5, 300]),
        ("check_timeline", &[0, 1]),
    ];
    let (setting, values) = r.pick(&SETTINGS);
    Action::Set { setting, value: r.pick(values) }
}
