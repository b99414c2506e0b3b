//! What is counted while the agent works, for `GET /metrics`.
//!
//! Every label has few values that are known beforehand, so a scrape stays as big as it is.

mod histogram;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_conduct::task::Phase;
use surus_core::BootTime;

pub use histogram::Histogram;
pub use store::{Measured, Operation};

/// Of a change of leader: from a local checkpoint on a fast disk to a shutdown that waits for a slow standby.
const PHASE: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Of a request to the store, within `retry_timeout`.
const REQUEST: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Debug)]
pub struct Measures {
    /// By [`Phase`] and whether an operator asked for the change.
    phases: Vec<((Phase, bool), Histogram)>,
    store: Vec<(Operation, Histogram)>,
    rules: Mutex<Rules>,
}

#[derive(Debug, Default)]
struct Rules {
    now: Option<(u16, BootTime)>,
    spent: BTreeMap<u16, Duration>,
}

impl Default for Measures {
    fn default() -> Self {
        let phases =
            Phase::ALL.into_iter().flat_map(|phase| phase.kinds().iter().map(move |planned| (phase, *planned)));
        Measures {
            phases: phases.map(|key| (key, Histogram::new(PHASE))).collect(),
            store: Operation::ALL.iter().map(|operation| (*operation, Histogram::new(REQUEST))).collect(),
            rules: Mutex::default(),
        }
    }
}

impl Measures {
    pub fn phase(&self, phase: Phase, planned: bool, took: Duration) {
        if let Some((_, histogram)) = self.phases.iter().find(|(key, _)| *key == (phase, planned)) {
            histogram.observe(took);
        }
    }

    fn request(&self, operation: Operation, took: Duration, failed: bool) {
        if let Some((_, histogram)) = self.store.iter().find(|(key, _)| *key == operation) {
            histogram.observe(took);
            if failed {
                histogram.failed();
            }
        }
    }

    /// A rule decided: the time from here on is its.
    pub fn rule(&self, rule: u16, now: BootTime) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, since)) = rules.now.replace((rule, now)) {
            *rules.spent.entry(before).or_default() += now.since(since);
        }
    }

    pub fn phases(&self) -> impl Iterator<Item = (Phase, bool, &Histogram)> {
        self.phases.iter().map(|((phase, planned), histogram)| (*phase, *planned, histogram))
    }

    pub fn requests(&self) -> impl Iterator<Item = (Operation, &Histogram)> {
        self.store.iter().map(|(operation, histogram)| (*operation, histogram))
    }

    /// How long each rule that ever decided was the one in force, up to `now`.
    pub fn rules(&self, now: BootTime) -> BTreeMap<u16, Duration> {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spent = rules.spent.clone();
        if let Some((rule, since)) = rules.now {
            *spent.entry(rule).or_default() += now.since(since);
        }
        spent
    }
}

/// Wraps a store so that each request is measured.
pub fn measured(kv: Arc<dyn surus_store::Kv>, measures: &Arc<Measures>) -> Arc<dyn surus_store::Kv> {
    Arc::new(Measured { kv, measures: measures.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_each_rule_adds_up() {
        let measures = Measures::default();
        let at = |s: u64| BootTime::from_millis(s * 1000);
        for (rule, second) in [(890, 10), (890, 12), (620, 15), (610, 16), (790, 17)] {
            measures.rule(rule, at(second));
        }
        let spent = measures.rules(at(30));
        let seconds: Vec<_> = spent.iter().map(|(rule, time)| (*rule, time.as_secs())).collect();
        assert_eq!(seconds, [(610, 1), (620, 1), (790, 13), (890, 5)]);
        assert_eq!(spent.values().sum::<Duration>(), Duration::from_secs(20));
    }

    #[test]
    fn a_phase_that_only_switchovers_have() {
        let kinds: Vec<_> = Measures::default().phases().map(|(phase, planned, _)| (phase.word(), planned)).collect();
        assert!(kinds.contains(&("checkpoint", true)) && !kinds.contains(&("checkpoint", false)));
        assert!(kinds.contains(&("promote", true)) && kinds.contains(&("promote", false)));
    }
}
