//! One machine: power, clocks, disk, and the processes on it.

use std::sync::Arc;
use std::task::Waker;

use surus_conduct::failsafe::Asking;
use surus_conduct::member::Inherited;
use surus_core::failsafe::{Electors, Promises};
use surus_core::store::Followed;
use surus_core::{BootTime, MemberName};

use super::clock::{Clock, MOST_DRIFT, MS, True};
use super::fence::Fence;
use super::postgres::Postgres;
use super::{Act, World};
use crate::exec::Pid;
use crate::member::lease::Desk;
use crate::member::{Desired, Inbox};
use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    Works,
    /// Nothing that is asked of it comes back.
    Hangs,
    Full,
}

/// The agent process.
pub struct Agent {
    pub pid: Pid,
    pub frozen: bool,
    pub inbox: Inbox,
    /// What its watch has delivered.
    pub followed: Arc<Followed>,
    /// Changes with every connection of the watch: what an older one had under way is lost.
    pub watch: u64,
    pub connected: bool,
    /// Deliveries come in order.
    pub watch_due: True,
    pub desk: Desk,
    /// What the loop was told of the lease: the lead, the session's number.
    pub lease_told: (bool, u64),
    /// As far as it knows, the cluster is paused.
    pub paused: bool,
    /// As of its latest step, its server is a primary that is left alone.
    pub left_alone: bool,
    /// Whether its server is to be guarded; unknown before the first step.
    pub guard: Option<bool>,
    /// The end of the lead that counts for the fence, kept when the lead is lost.
    pub guarded_until: Option<BootTime>,
    /// What the fence was told last and has confirmed.
    pub fence_told: Option<Option<BootTime>>,
    /// What it has promised, whom it may ask to vouch for it, and what it asks.
    pub promises: Promises,
    pub failsafe_mode: bool,
    pub electors: Option<Electors>,
    pub asking: Asking,
    /// How the log here left that of the cluster, as far as it knows.
    pub forked: Option<String>,
    /// What its keys in the store are to say.
    pub said: Option<Arc<Desired>>,
}

pub struct Node {
    pub name: MemberName,
    pub clock: Clock,
    pub powered: bool,
    pub suspended: bool,
    pub disk: Disk,
    /// Nothing is started here: the process ended with an error that only an operator can mend.
    pub given_up: Option<String>,
    pub agent: Option<Agent>,
    pub postgres: Postgres,
    pub fence: Fence,
    /// The longest promise that an agent here may have given, in a small file.
    pub promises_last: std::time::Duration,
    /// What the agent leaves for its successor in a small file.
    pub left: Option<Inherited>,
    /// What waits for the machine, or a process on it, to go on.
    deferred: Vec<Act>,
    waiting: Vec<Waker>,
    /// Promotions fail here.
    pub promotion_fails: bool,
    /// Long checkpoints, recoveries and promotions, in percent of the usual.
    pub slowness: u64,
    /// How far a standby lags, on top of the usual.
    pub lag: True,
}

impl Node {
    pub fn new(number: usize, random: &mut Random) -> Node {
        let drift = i64::try_from(random.below(2 * MOST_DRIFT as u64)).unwrap_or(0) - MOST_DRIFT;
        Node {
            name: MemberName::new(format!("n{}", number + 1)),
            clock: Clock::new(random.between(10_000, 10_000_000), drift),
            powered: true,
            suspended: false,
            disk: Disk::Works,
            given_up: None,
            agent: None,
            postgres: Postgres::default(),
            fence: Fence::default(),
            promises_last: Default::default(),
            left: None,
            deferred: vec![],
            waiting: vec![],
            promotion_fails: false,
            slowness: 100,
            lag: 0,
        }
    }

    /// To be woken when anything about this machine changes.
    pub fn wait(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|w| w.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    pub fn stir(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    pub fn agent_runs(&self) -> bool {
        self.powered && !self.suspended && self.agent.as_ref().is_some_and(|a| !a.frozen)
    }
}

impl World {
    /// Happens once the machine, or the process that must do it, goes on.
    pub fn defer(&mut self, node: usize, act: Act) {
        self.nodes[node].deferred.push(act);
    }

    pub fn go_on(&mut self, node: usize) {
        for act in std::mem::take(&mut self.nodes[node].deferred) {
            let wait = self.random.between(0, 30 * MS);
            self.after(wait, act);
        }
        self.nodes[node].stir();
        self.thawed = true;
    }

    pub fn suspend(&mut self, node: usize) {
        self.nodes[node].suspended = true;
    }

    pub fn resume(&mut self, node: usize) {
        if std::mem::take(&mut self.nodes[node].suspended) {
            self.go_on(node);
        }
    }

    pub fn freeze_agent(&mut self, node: usize) {
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.frozen = true;
        }
    }

    pub fn thaw_agent(&mut self, node: usize) {
        if let Some(agent) = self.nodes[node].agent.as_mut().filter(|a| a.frozen) {
            agent.frozen = false;
            self.go_on(node);
        }
    }

    /// SIGKILL.
    pub fn kill_agent(&mut self, node: usize) {
        if let Some(agent) = self.nodes[node].agent.take() {
            self.killed.push(agent.pid);
        }
    }

    /// The machine goes off. What was written is on its disk.
    pub fn power_off(&mut self, node: usize) {
        self.kill_agent(node);
        self.kill_server(node, "the machine went off");
        let n = &mut self.nodes[node];
        n.fence = Fence::default();
        n.powered = false;
        n.suspended = false;
        // Another boot: a deadline of the last one says nothing.
        n.left = None;
        n.deferred.clear();
        n.stir();
    }

    pub fn set_disk(&mut self, node: usize, disk: Disk) {
        let before = std::mem::replace(&mut self.nodes[node].disk, disk);
        if disk == Disk::Full && before != Disk::Full && self.nodes[node].postgres.writes() {
            // No room for the log.
            self.crash_server(node, "PANIC: no space left on device");
        }
        if disk == Disk::Works {
            self.go_on(node);
        }
    }
}
