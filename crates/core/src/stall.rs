//! What stands still although it should go on, as the agent's probes see it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::Timing;
use crate::time::BootTime;

/// Something that has not come back since then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    pub since: BootTime,
    /// When that was last seen. Time in which nobody looked proves nothing: an agent that was frozen itself finds
    /// everything outstanding when it wakes.
    pub seen: BootTime,
}

impl Stall {
    pub fn lasted(&self) -> Duration {
        self.seen.since(self.since)
    }
}

/// A time in which this agent did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub ended: BootTime,
    pub lasted: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stalls {
    /// The postmaster runs and answers no new connection.
    pub postmaster: Option<Stall>,
    /// Processes wait for WAL to reach the disk, and none of it does.
    pub commits: Option<Stall>,
    /// A write to the disk of the data directory or of the WAL does not return.
    pub disk: Option<Stall>,
    /// The store does not confirm this member's session.
    pub store: Option<Stall>,
    /// The last time this agent was not scheduled.
    pub unscheduled: Option<Pause>,
    /// The last time the whole machine was asleep.
    pub asleep: Option<Pause>,
}

impl Stalls {
    /// What a server may hang before its lead goes to somebody else. Together with the probe's interval, a quarter of
    /// the ttl at most, that is less than it takes to replace a node that is lost.
    pub fn limit(timing: &Timing) -> Duration {
        (timing.ttl / 2).max(Duration::from_secs(3))
    }

    fn of_server(&self) -> [(Option<Stall>, &'static str); 3] {
        [
            (self.disk, "a write to the disk has not returned"),
            (self.postmaster, "the postmaster has taken no new connection"),
            (self.commits, "commits wait and no WAL has reached the disk"),
        ]
    }

    /// Why this server counts as hung, in words.
    pub fn hung(&self, timing: &Timing) -> Option<String> {
        let limit = Stalls::limit(timing);
        let long = |stall: Stall| stall.lasted() >= limit;
        self.of_server()
            .into_iter()
            .find_map(|(stall, what)| stall.filter(|s| long(*s)).map(|s| (s, what)))
            .map(|(stall, what)| format!("{what} for {:.1} s", stall.lasted().as_secs_f64()))
    }

    /// Something of the server stands still, for however short a time.
    pub fn suspicious(&self) -> bool {
        self.of_server().iter().any(|(stall, _)| stall.is_some())
    }

    pub fn disk_hangs(&self, timing: &Timing) -> bool {
        self.disk.is_some_and(|s| s.lasted() >= Stalls::limit(timing))
    }
}
