//! What happened, as the invariants want to know it.

use surus_core::facts::Facts;
use surus_core::order::Task;
use surus_core::{BootTime, Step};

use crate::invariant::{self, Invariant};
use crate::world::World;
use crate::world::clock::{MS, SECOND, True};
use crate::world::replication::Waiting;
use crate::world::wal::{Log, Place};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It did what it was told.
    Stopped,
    Killed(&'static str),
    Crashed(&'static str),
}

/// A client was told that its commit is safe.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    pub at: True,
    pub node: usize,
    pub place: Place,
    pub synchronous: bool,
}

/// What an agent does to its server or its data, by its own hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Initdb,
    StartPrimary,
    StartStandby,
    Stop,
    Kill,
    KillOrphans,
    Promote,
    Follow,
    Rewind,
    Clone,
    Remove,
    MoveAside,
}

#[derive(Clone, Copy, Debug)]
pub enum Happened<'a> {
    Acknowledged(&'a Ack),
    /// A standby has become a primary, on a stretch of log of its own.
    Promoted {
        node: usize,
        before: &'a Log,
    },
    /// From here on commits can be acknowledged there.
    BeganToWrite {
        node: usize,
    },
    ServerEnded {
        node: usize,
        how: Ending,
    },
    /// In the store.
    Leader {
        from: Option<usize>,
        to: Option<usize>,
    },
    Decided {
        node: usize,
        facts: &'a Facts,
        step: &'a Step,
    },
    Operates {
        node: usize,
        operation: Operation,
        task: Option<&'a Task>,
    },
    FenceFires {
        node: usize,
        deadline: BootTime,
    },
    /// Log that nobody else may have is about to go. `told` is what the agent said of it before.
    Destroys {
        node: usize,
        log: &'a Log,
        told: Option<&'a str>,
    },
    TaskEnded {
        node: usize,
        task: &'a Task,
        outcome: &'a Result<surus_core::facts::TaskDone, String>,
    },
    /// An operator or a fault acts on this machine, or on all.
    Disturbed {
        node: Option<usize>,
        store_only: bool,
        lasts: True,
    },
    Woke {
        node: usize,
    },
    /// Now and then.
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub at: True,
    pub what: String,
}

pub struct History {
    pub waiting: Vec<Vec<Waiting>>,
    invariants: Vec<Box<dyn Invariant>>,
    pub violation: Option<Violation>,
    pub acknowledged: u64,
    pub last_ack: Option<(True, usize)>,
    /// How often the lead went to another member, and to whom last, and how many acknowledged commits a promotion left behind.
    pub leader_moves: u64,
    led: Option<usize>,
    pub lost: u64,
    pub promotions: u64,
    pub decisions: u64,
}

impl Default for History {
    fn default() -> History {
        History {
            waiting: (0..8).map(|_| vec![]).collect(),
            invariants: invariant::all(),
            violation: None,
            acknowledged: 0,
            last_ack: None,
            leader_moves: 0,
            led: None,
            lost: 0,
            promotions: 0,
            decisions: 0,
        }
    }
}

impl World {
    pub fn happened(&mut self, what: Happened) {
        let mut invariants = std::mem::take(&mut self.history.invariants);
        for invariant in &mut invariants {
            let verdict = invariant.sees(self, &what);
            self.history.lost += invariant.lost_now();
            if let Some(text) = verdict
                && self.history.violation.is_none()
            {
                let (name, at) = (invariant.name(), self.now);
                self.tell_world(|| format!("VIOLATED: {name}: {text}"));
                self.history.violation = Some(Violation { invariant: name, at, what: text });
            }
        }
        self.history.invariants = invariants;
    }

    pub fn acknowledged(&mut self, ack: Ack) {
        self.history.acknowledged += 1;
        self.history.last_ack = Some((ack.at, ack.node));
        self.happened(Happened::Acknowledged(&ack));
    }

    pub fn promotion_done(&mut self, node: usize, _id: u64, before: &Log) {
        self.history.promotions += 1;
        self.tell(node, || "postgres: promoted".into());
        self.happened(Happened::Promoted { node, before });
    }

    pub fn began_to_write(&mut self, node: usize) {
        self.happened(Happened::BeganToWrite { node });
    }

    pub fn fence_fires(&mut self, node: usize, deadline: BootTime) {
        self.happened(Happened::FenceFires { node, deadline });
    }

    pub fn leader_key_moved(&mut self, before: &surus_core::cluster::ClusterView) {
        let (from, to) = (before.leader_name().cloned(), self.store.view().leader_name().cloned());
        if from == to {
            return;
        }
        let number = |name: Option<surus_core::MemberName>| name.and_then(|n| self.number(&n));
        let (from, to) = (number(from), number(to));
        if to.is_some() && to != self.history.led {
            self.history.led = to;
            self.history.leader_moves += 1;
        }
        let name = |n: Option<usize>| n.map_or("nobody".to_owned(), |n| format!("n{}", n + 1));
        self.tell_world(|| format!("store: leader {} -> {}", name(from), name(to)));
        self.happened(Happened::Leader { from, to });
    }

    /// Looks at the whole now and then.
    pub fn tick(&mut self) {
        self.happened(Happened::Tick);
        let well = self.healed.is_some() && invariant::well(self).is_ok();
        self.well_since = if well { self.well_since.or(Some(self.now)) } else { None };
        self.over = self.well_since.is_some_and(|at| self.now >= at + invariant::STAYS);
        self.after(if self.healed.is_some() { 500 * MS } else { SECOND }, World::tick);
    }
}
