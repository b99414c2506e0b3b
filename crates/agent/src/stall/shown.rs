//! What readers get to see of what stands still.

use std::time::Duration;

use serde_json::{Map, Value, json};
use surus_core::BootTime;
use surus_core::stall::{Pause, Stall, Stalls};
use tracing::warn;

use super::ticks::Gap;
use super::told::{Total, WORTH};

/// In this order everywhere.
pub const KINDS: [(&str, &str); 4] = [
    ("postmaster", "PostgreSQL runs and takes no new connection"),
    ("commits", "processes of PostgreSQL wait for the log to reach the disk"),
    ("disk", "the disk of PostgreSQL does not complete a write"),
    ("store", "the store does not confirm this member's session"),
];

pub const PAUSES: [(&str, &str); 2] =
    [("unscheduled", "this agent was not scheduled"), ("asleep", "the machine was asleep")];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    pub stalls: Stalls,
    /// Of what is over.
    pub totals: [Total; 4],
    pub pauses: [Total; 2],
}

impl Shown {
    pub fn stalling(&self) -> [Option<Stall>; 4] {
        let Stalls { postmaster, commits, disk, store, .. } = self.stalls;
        [postmaster, commits, disk, store]
    }

    pub fn paused(&self) -> [Option<Pause>; 2] {
        [self.stalls.unscheduled, self.stalls.asleep]
    }

    pub(super) fn note(&mut self, now: BootTime, gap: Gap) {
        let last = [&mut self.stalls.unscheduled, &mut self.stalls.asleep];
        for (n, (last, lasted)) in last.into_iter().zip([gap.unscheduled, gap.asleep]).enumerate() {
            if lasted.is_zero() {
                continue;
            }
            *last = Some(Pause { ended: now, lasted });
            self.pauses[n].add(lasted);
            warn!("{} for {:.1} s", PAUSES[n].1, lasted.as_secs_f64());
        }
    }

    /// Absent when there is nothing to tell.
    pub fn document(&self, now: BootTime) -> Option<Value> {
        let mut out = Map::new();
        for ((name, what), stall) in KINDS.iter().zip(self.stalling()) {
            if let Some(stall) = stall.filter(|s| s.lasted() >= WORTH) {
                out.insert((*name).into(), json!({"what": what, "seconds": seconds(stall.lasted())}));
            }
        }
        for ((name, what), pause) in PAUSES.iter().zip(self.paused()) {
            if let Some(pause) = pause {
                let ago = seconds(now.since(pause.ended));
                out.insert((*name).into(), json!({"what": what, "seconds": seconds(pause.lasted), "seconds_ago": ago}));
            }
        }
        (!out.is_empty()).then_some(Value::Object(out))
    }
}

/// To the tenth.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
