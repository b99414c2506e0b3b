//! What one run is made of: the cluster, and everything that happens to it. A plan is plain data, drawn from a seed, so
//! that a failing one can be made smaller.

mod action;
mod acts;
mod failsafe;
mod half;
mod trouble;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use surus_config::{DynamicConfig, new_cluster_document};
use surus_core::settings::Timing;

use crate::random::Random;
use crate::world::clock::{MS, SECOND, True};

pub use self::action::{Action, Refuses, Who};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Servers of its own, as etcd.
    Service,
    /// A server beside each agent; the first so many have a vote, and so has the witness.
    Embedded { voters: usize, witness: bool },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub seed: u64,
    pub members: usize,
    pub store: StoreKind,
    /// There is another site, and one of the two follows the other.
    pub remote: bool,
    pub timing: Timing,
    /// What operators say in `bootstrap.dcs`.
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

/// And those about what is said of it, and when.
const DEFAULT: u64 = 0x64_6566_6175;

/// And those about stores that are half alive.
const HALF: u64 = 0x68_616c_6600;

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
        let all = self.settings().into_iter().map(|key| (self.document.get(&key), key));
        all.filter(|(value, key)| calm.get(key) != *value)
            .map(|(value, key)| value.map_or_else(|| format!("{key} by default"), |value| format!("{key} {value}")))
            .collect()
    }

    /// The names of those that are there, or usually are.
    pub fn settings(&self) -> BTreeSet<String> {
        let calm = Plan::calm(self.seed, self.members, self.timing).document;
        [&self.document, &calm].into_iter().filter_map(Value::as_object).flat_map(|all| all.keys().cloned()).collect()
    }

    /// One setting less that is special.
    pub fn usual(&mut self, key: &str) {
        let calm = Plan::calm(self.seed, self.members, self.timing).document;
        match calm.get(key) {
            Some(value) => self.set(key, value.clone()),
            None => self.unset(key),
        }
    }

    /// The founding configuration of the cluster.
    pub fn founding(&self) -> Arc<DynamicConfig> {
        Arc::new(DynamicConfig::read(&new_cluster_document(&self.document, None, true)).0)
    }

    pub fn set(&mut self, key: &str, value: Value) {
        if let Some(map) = self.document.as_object_mut() {
            map.insert(key.to_owned(), value);
        }
    }

    /// Nothing is said about it.
    pub fn unset(&mut self, key: &str) {
        if let Some(map) = self.document.as_object_mut() {
            map.remove(key);
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
        plan.half_alive(&mut Random::new(seed ^ HALF));
        plan.failsafe_by_default(&mut Random::new(seed ^ DEFAULT));
        plan.two_sites(&mut Random::new(seed ^ SITES));
        plan.long_recovery(&mut Random::new(seed ^ RECOVERY));
        plan.unmended(&mut Random::new(seed ^ FORKS));
        if store != StoreKind::Service {
            plan.actions.iter_mut().for_each(|(_, action)| *action = of_embedded_store(*action));
        }
        plan
    }
}

/// What comes nearest to it where the members are the store. There all goes through one log, and a server that hears no
/// leader knows it within moments: nothing is answered without a majority, nothing is silent for longer.
fn of_embedded_store(action: Action) -> Action {
    match action {
        Action::StallWatch { who, lasts } => Action::CutStore { who, one_way: false, lasts },
        Action::StoreErrors { who: None, percent, lasts } => Action::LoseAnswers { percent, lasts },
        Action::FlapStore { .. } => action,
        other => other.plainer().unwrap_or(other),
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
