//! The world the members live in: machines, clocks, network, store, PostgreSQL, disks.
//!
//! Everything that happens is an event at a point of true time; events at the same time happen in the order in which
//! they were arranged. Chance comes from one generator only. So a seed gives one run.

pub mod clock;
mod election;
pub mod fence;
pub mod group;
pub mod half;
pub mod network;
pub mod node;
pub mod postgres;
pub mod remote;
pub mod replication;
pub mod store;
pub mod wal;

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use surus_config::DynamicConfig;
use surus_core::{BootTime, MemberName};

use crate::bug::Bug;
use crate::exec::{May, Pid, Work};
use crate::history::History;
use crate::plan::{Plan, StoreKind};
use crate::random::Random;
use crate::trace::Trace;

use clock::True;
use group::Group;
use network::Network;
use node::Node;
use remote::Remote;
use store::Store;

pub type Act = Box<dyn FnOnce(&mut World) + Send>;

struct Event {
    at: True,
    number: u64,
    act: Act,
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The heap gives its greatest first, and the earliest is wanted.
impl Ord for Event {
    fn cmp(&self, other: &Event) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

pub struct World {
    pub now: True,
    events: BinaryHeap<Event>,
    last_event: u64,
    last_pid: Pid,
    last_id: u64,
    pub random: Random,
    pub nodes: Vec<Node>,
    /// The other site, where there is one.
    pub remote: Option<Remote>,
    pub store: Store,
    /// The embedded store; `None`: it is a service of its own.
    pub group: Option<Group>,
    pub network: Network,
    pub plan: Arc<Plan>,
    pub founding: Arc<DynamicConfig>,
    pub bug: Option<Bug>,
    pub history: History,
    pub trace: Trace,
    /// No fault is in force any more, since then.
    pub healed: Option<True>,
    /// For the executor: begun, and ended.
    pub spawned: Vec<(Pid, Work)>,
    pub killed: Vec<Pid>,
    pub thawed: bool,
    /// Nothing more is to be seen.
    pub over: bool,
    /// An agent that ends is started again.
    pub supervised: bool,
    pub well_since: Option<True>,
    me: Weak<Mutex<World>>,
}

impl World {
    pub fn new(plan: Arc<Plan>, bug: Option<Bug>, traced: bool) -> World {
        let mut random = Random::new(plan.seed ^ 0xA5A5);
        let nodes = (0..plan.members).map(|i| Node::new(i, &mut random)).collect();
        let group = match plan.store {
            StoreKind::Service => None,
            StoreKind::Embedded { voters, witness } => {
                Some(Group::new(plan.members, voters, witness, &mut Random::new(plan.seed ^ 0x5A5A)))
            }
        };
        let mut world = World {
            now: 0,
            events: BinaryHeap::new(),
            last_event: 0,
            last_pid: 0,
            last_id: 0,
            store: Store::new(plan.members, &mut random),
            network: Network::new(plan.members),
            nodes,
            remote: None,
            random,
            bug,
            history: History::default(),
            trace: Trace::new(traced),
            healed: None,
            spawned: vec![],
            killed: vec![],
            thawed: false,
            over: false,
            supervised: true,
            well_since: None,
            me: Weak::new(),
            founding: plan.founding(),
            plan,
            group,
        };
        world.watch_group();
        if world.plan.remote {
            world.found_remote();
        }
        world
    }

    pub fn after(&mut self, us: True, act: impl FnOnce(&mut World) + Send + 'static) {
        self.at(self.now + us, act);
    }

    pub fn at(&mut self, at: True, act: impl FnOnce(&mut World) + Send + 'static) {
        self.last_event += 1;
        self.events.push(Event { at: at.max(self.now), number: self.last_event, act: Box::new(act) });
    }

    /// When the next event is due.
    pub fn next_at(&self) -> Option<True> {
        self.events.peek().map(|e| e.at)
    }

    /// `false`: nothing will ever happen again.
    pub fn happen(&mut self) -> bool {
        let Some(event) = self.events.pop() else { return false };
        self.now = event.at;
        (event.act)(self);
        true
    }

    pub fn new_pid(&mut self) -> Pid {
        self.last_pid += 1;
        self.last_pid
    }

    pub fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn spawn(&mut self, of: Pid, work: Work) {
        self.spawned.push((of, work));
    }

    pub fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub fn boot(&self, node: usize) -> BootTime {
        self.nodes[node].clock.boot(self.now)
    }

    pub fn number(&self, name: &MemberName) -> Option<usize> {
        self.nodes.iter().position(|n| n.name == *name)
    }

    pub fn may(&self, pid: Pid) -> May {
        let of = self.nodes.iter().find(|n| n.agent.as_ref().is_some_and(|a| a.pid == pid));
        match of {
            None => May::Never,
            Some(n) if n.suspended || n.agent.as_ref().is_some_and(|a| a.frozen) => May::Wait,
            Some(_) => May::Run,
        }
    }

    /// For procedures that are begun from in here.
    pub fn sim(&self) -> Option<Sim> {
        self.me.upgrade().map(Sim)
    }

    pub fn tell(&mut self, node: usize, text: impl FnOnce() -> String) {
        let name = &self.nodes[node].name;
        self.trace.line(self.now, name.as_str(), text);
    }

    pub fn tell_world(&mut self, text: impl FnOnce() -> String) {
        self.trace.line(self.now, "world", text);
    }
}

/// The world, shared by the procedures that run in it. Never locked across a point where one waits.
#[derive(Clone)]
pub struct Sim(Arc<Mutex<World>>);

impl Sim {
    pub fn new(world: World) -> Sim {
        let sim = Sim(Arc::new(Mutex::new(world)));
        sim.with(|w| w.me = Arc::downgrade(&sim.0));
        sim
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut World) -> T) -> T {
        work(&mut self.lock())
    }
}
