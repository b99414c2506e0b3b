//! What one run is made of: the cluster, and everything that happens to it. A plan is plain data, drawn from a seed, so
//! that a failing one can be made smaller.

mod acts;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use surus_config::DynamicConfig;
use surus_core::settings::Timing;

use crate::random::Random;
use crate::world::clock::{MS, SECOND, True};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Servers of its own, as etcd.
    Service,
    /// A server beside each agent; the first so many have a vote, and so has the witness.
    Embedded { voters: usize, witness: bool },
}

/// Whom something happens to; looked up when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Node(usize),
    Leader,
    /// The member whose embedded server leads the store.
    StoreLeader,
    /// The n-th of those that do not lead.
    Other(usize),
}

/// Faults end by themselves after the time they are given; operations are what operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    KillAgent {
        who: Who,
        down: True,
    },
    FreezeAgent {
        who: Who,
        lasts: True,
    },
    /// SIGTERM, and started again by whoever supervises it.
    EndAgent {
        who: Who,
    },
    /// Killed and started again at once, as by an upgrade.
    UpgradeAgent {
        who: Who,
    },
    PowerOff {
        who: Who,
        down: True,
    },
    Suspend {
        who: Who,
        lasts: True,
    },
    StepWall {
        who: Who,
        by_ms: i64,
    },
    KillPostmaster {
        who: Who,
        outlive: True,
    },
    CrashServer {
        who: Who,
    },
    FreezePostmaster {
        who: Who,
        lasts: True,
    },
    KillFence {
        who: Who,
    },
    CutPair {
        a: Who,
        b: Who,
        one_way: bool,
        lasts: True,
    },
    CutStore {
        who: Who,
        one_way: bool,
        lasts: True,
    },
    Isolate {
        who: Who,
        lasts: True,
    },
    SlowNetwork {
        who: Who,
        by: True,
        lasts: True,
    },
    SlowStore {
        by: True,
        lasts: True,
    },
    StoreOutage {
        lasts: True,
        again: bool,
    },
    LoseAnswers {
        percent: u64,
        lasts: True,
    },
    LoseWitness {
        lasts: True,
    },
    /// The network falls into two parts: these machines, as bits, perhaps with the store's (or the witness's), and the rest.
    Partition {
        side: u8,
        with_store: bool,
        lasts: True,
    },
    StallWatch {
        who: Who,
        lasts: True,
    },
    BreakWatch {
        who: Who,
        lasts: True,
    },
    HangDisk {
        who: Who,
        lasts: True,
    },
    FillDisk {
        who: Who,
        lasts: True,
    },
    SlowNode {
        who: Who,
        percent: u64,
        lasts: True,
    },
    Lag {
        who: Who,
        by: True,
        lasts: True,
    },
    PromotionFails {
        who: Who,
        lasts: True,
    },
    Switchover {
        to: Option<Who>,
    },
    Failover {
        to: Who,
    },
    Pause {
        lasts: True,
    },
    /// A number in the configuration of the cluster.
    Set {
        setting: &'static str,
        value: u64,
    },
    /// The other site's primary is away.
    RemoteFails {
        lasts: True,
    },
    /// Another server takes over there, without so much of what the former one wrote last.
    RemoteFailsOver {
        lost: u64,
    },
    CutRemote {
        who: Who,
        lasts: True,
    },
    PromoteCluster,
    /// To follow the other site, which takes over with everything, or in haste.
    DemoteCluster {
        hasty: bool,
    },
    Restart {
        who: Who,
    },
    Reinit {
        who: Who,
        force: bool,
    },
}

impl Action {
    /// Trouble in the store alone.
    pub fn is_of_store(self) -> bool {
        use Action::{BreakWatch, LoseAnswers, LoseWitness, SlowStore, StoreOutage};
        matches!(
            self,
            StoreOutage { .. } | SlowStore { .. } | LoseAnswers { .. } | BreakWatch { .. } | LoseWitness { .. }
        )
    }

    /// How long it lasts, if it does.
    pub fn lasts(&mut self) -> Option<&mut True> {
        use Action as A;
        match self {
            A::KillAgent { down: lasts, .. }
            | A::PowerOff { down: lasts, .. }
            | A::KillPostmaster { outlive: lasts, .. }
            | A::FreezeAgent { lasts, .. }
            | A::Suspend { lasts, .. }
            | A::FreezePostmaster { lasts, .. }
            | A::CutPair { lasts, .. }
            | A::CutStore { lasts, .. }
            | A::Isolate { lasts, .. }
            | A::SlowNetwork { lasts, .. }
            | A::SlowStore { lasts, .. }
            | A::StoreOutage { lasts, .. }
            | A::LoseAnswers { lasts, .. }
            | A::LoseWitness { lasts }
            | A::Partition { lasts, .. }
            | A::StallWatch { lasts, .. }
            | A::BreakWatch { lasts, .. }
            | A::HangDisk { lasts, .. }
            | A::FillDisk { lasts, .. }
            | A::SlowNode { lasts, .. }
            | A::Lag { lasts, .. }
            | A::PromotionFails { lasts, .. }
            | A::RemoteFails { lasts }
            | A::CutRemote { lasts, .. }
            | A::Pause { lasts } => Some(lasts),
            A::EndAgent { .. }
            | A::UpgradeAgent { .. }
            | A::StepWall { .. }
            | A::CrashServer { .. }
            | A::KillFence { .. }
            | A::Switchover { .. }
            | A::Failover { .. }
            | A::Set { .. }
            | A::RemoteFailsOver { .. }
            | A::PromoteCluster
            | A::DemoteCluster { .. }
            | A::Restart { .. }
            | A::Reinit { .. } => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub seed: u64,
    pub members: usize,
    pub store: StoreKind,
    /// There is another site, and one of the two follows the other.
    pub remote: bool,
    pub timing: Timing,
    /// The founding configuration of the cluster.
    pub document: Value,
    pub commit_bytes: u64,
    pub actions: Vec<(True, Action)>,
    /// When faults stop.
    pub heal_at: True,
}

/// Sets the draws about synchronous replication apart.
const SYNC: u64 = 0x73_796e_6368;

/// And those about another site.
const SITES: u64 = 0x73_6974_6573;

/// And those about a recovery that takes long.
const RECOVERY: u64 = 0x72_6563_6f76;

/// And those about primaries that go on without the store.
const FAILSAFE: u64 = 0x66_6169_6c73;

/// And those about logs that fork and may not be mended.
const FORKS: u64 = 0x66_6f72_6b73;

/// From the loss of the embedded store's leader until there is one again, at the longest.
pub const ELECTION: True = 3500 * MS;

/// Time to come up in before anything happens.
pub const QUIET: True = 12 * SECOND;

impl Plan {
    /// Without any action.
    pub fn calm(seed: u64, members: usize, timing: Timing) -> Plan {
        let document = json!({
            "ttl": timing.ttl.as_secs(), "loop_wait": timing.loop_wait.as_secs(),
            "retry_timeout": timing.retry_timeout.as_secs(), "maximum_lag_on_failover": 1_048_576,
            "failsafe_mode": false,
            "postgresql": {"use_pg_rewind": true, "use_slots": true},
        });
        Plan {
            seed,
            members,
            store: StoreKind::Service,
            remote: false,
            timing,
            document,
            commit_bytes: 4000,
            actions: vec![],
            heal_at: QUIET,
        }
    }

    /// The same story of a cluster that has nothing special about it.
    pub fn plain(&self) -> Plan {
        let calm = Plan::calm(self.seed, self.members, Timing::NEW_CLUSTER);
        Plan { store: self.store, remote: self.remote, actions: self.actions.clone(), heal_at: self.heal_at, ..calm }
    }

    /// Settings that a plan without anything special has not.
    pub fn special(&self) -> Vec<String> {
        let calm = Plan::calm(self.seed, self.members, self.timing).document;
        let all = self.document.as_object().into_iter().flatten();
        all.filter(|(key, value)| calm.get(key.as_str()) != Some(value))
            .map(|(key, value)| format!("{key} {value}"))
            .collect()
    }

    /// One setting less that is special.
    pub fn usual(&mut self, key: &str) {
        let calm = Plan::calm(self.seed, self.members, self.timing).document;
        match calm.get(key) {
            Some(value) => self.set(key, value.clone()),
            None => self.document.as_object_mut().into_iter().for_each(|document| _ = document.remove(key)),
        }
    }

    pub fn founding(&self) -> Arc<DynamicConfig> {
        Arc::new(DynamicConfig::read(&self.document).0)
    }

    pub fn set(&mut self, key: &str, value: Value) {
        if let Some(map) = self.document.as_object_mut() {
            map.insert(key.to_owned(), value);
        }
    }

    /// The plan of a seed.
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed);
        let r = &mut random;
        let members = *[3, 3, 3, 3, 2, 5, 4, 7, 6, 3].get(r.index(10)).unwrap_or(&3);
        let timing = if r.percent(85) {
            Timing::NEW_CLUSTER
        } else {
            Timing { ttl: secs(r.between(5, 13)), loop_wait: secs(1), retry_timeout: secs(r.between(1, 3)) }
        };
        // Drawn apart: most of what a seed means stays when there is more to choose from.
        let more = &mut Random::new(seed ^ 0x0057_0FE0);
        let store = if more.percent(35) { acts::embedded(more, members) } else { StoreKind::Service };
        let patient = [Timing::PATRONI, Timing { ttl: secs(20), loop_wait: secs(2), retry_timeout: secs(6) }];
        let timing = if store != StoreKind::Service && more.percent(40) { more.pick(&patient) } else { timing };
        let mut plan = Plan { store, ..Plan::calm(seed, members, timing) };
        plan.commit_bytes = r.pick(&[400, 4000, 4000, 60_000]);
        plan.set("maximum_lag_on_failover", r.pick(&[1_048_576_u64, 1_048_576, 65_536]).into());
        plan.set("check_timeline", r.percent(50).into());
        plan.set("primary_start_timeout", r.pick(&[300_u64, 300, 300, 20, 0]).into());
        if r.percent(20) {
            plan.set("postgresql", json!({
                "use_pg_rewind": r.percent(50), "use_slots": true,
                "remove_data_directory_on_diverged_timelines": true, "remove_data_directory_on_rewind_failure": true,
            }));
        }
        // Of a generator of its own: what the other plans are stays as it was.
        let sync = &mut Random::new(seed ^ SYNC);
        if sync.percent(30) {
            plan.set("synchronous_mode", sync.pick(&["on", "quorum"]).into());
            plan.set("synchronous_mode_strict", sync.percent(25).into());
            plan.set("synchronous_node_count", sync.pick(&[1_u64, 1, 1, 2]).into());
        }
        match r.below(20) {
            0 | 1 => plan.trouble_in_the_store(r),
            2 | 3 => plan.trouble_with_the_lease(r),
            4 => plan.trouble_at_the_end(r),
            _ => match more.below(10) {
                0 => plan.operators(r),
                1 => plan.trouble_while_copying(r),
                2 | 3 => {
                    plan.trouble(r);
                    plan.more_trouble(more);
                }
                _ => plan.trouble(r),
            },
        }
        plan.failsafe(&mut Random::new(seed ^ FAILSAFE));
        plan.two_sites(&mut Random::new(seed ^ SITES));
        plan.long_recovery(&mut Random::new(seed ^ RECOVERY));
        plan.unmended(&mut Random::new(seed ^ FORKS));
        if store != StoreKind::Service {
            plan.actions.iter_mut().for_each(|(_, action)| {
                // A server that hears no leader knows it within moments: nothing is silent for longer.
                if let Action::StallWatch { who, lasts } = *action {
                    *action = Action::CutStore { who, one_way: false, lasts };
                }
            });
        }
        plan
    }

    /// Short troubles of the store, with time to recover between them: no reason to move the lead.
    fn trouble_in_the_store(&mut self, r: &mut Random) {
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

    /// Members may vouch for a primary that has lost the store; in some runs the store is away for long.
    fn failsafe(&mut self, r: &mut Random) {
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

    /// The leader's agent fails while the answer to a renewal is on its way.
    fn trouble_with_the_lease(&mut self, r: &mut Random) {
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
    fn trouble_at_the_end(&mut self, r: &mut Random) {
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

    fn has_witness(&self) -> bool {
        matches!(self.store, StoreKind::Embedded { witness: true, .. })
    }

    fn trouble(&mut self, r: &mut Random) {
        let ttl = us(self.timing.ttl);
        let mut at = QUIET + r.below(3 * SECOND);
        for _ in 0..r.between(2, 12) {
            let action = self.action(r, ttl);
            self.actions.push((at, action));
            at += r.pick(&[50 * MS, 300 * MS, SECOND, 3 * SECOND, ttl, 2 * ttl]) * r.between(50, 150) / 100;
        }
        self.heal_at = at + r.pick(&[SECOND, ttl, 2 * ttl]);
    }

    fn who(&self, r: &mut Random) -> Who {
        if self.store != StoreKind::Service && r.percent(20) {
            return Who::StoreLeader;
        }
        match r.below(10) {
            0..5 => Who::Leader,
            5..8 => Who::Other(r.index(self.members)),
            _ => Who::Node(r.index(self.members)),
        }
    }

    fn action(&self, r: &mut Random, ttl: True) -> Action {
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

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn us(d: Duration) -> True {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// How long the store may be in trouble without a primary having to stop: what is left of a lease that was about to be
/// renewed, less the time for a request that was under way, for another attempt, and for noticing.
pub fn tolerated(timing: &Timing) -> True {
    let margin = surus_conduct::lease::margin(timing.ttl);
    let reserve = surus_core::rules::stop_reserve(timing);
    let request = timing.ttl / 5;
    us(timing.ttl.saturating_sub(margin + reserve + surus_conduct::lease::every(timing) + request + secs(1)))
}
