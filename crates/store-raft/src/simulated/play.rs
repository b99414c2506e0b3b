//! Runs a group through faults and rests: what happens to it, what it must be like afterwards.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::ServerState;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, sleep_until};

use super::chance::{Random, seed_thread};
use super::faults::Heal;
use super::network::Network;
use super::report::Report;
use super::{Disk, Here, History, Inner, Machine, World, address, agent, within};
use crate::format::NEWEST;
use crate::options::RaftOptions;
use crate::store::RaftStore;
use crate::timing::REPLACE_AFTER;

/// One step of the world, in microseconds.
const STEP: u64 = 5_000;
pub const SECOND: u64 = 1_000_000;
const UNREST: u64 = 240 * SECOND;
pub const DISK_TAKES: u64 = 4_000;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub machines: usize,
    pub time: Duration,
    pub bug: Option<Bug>,
    /// Faults of one kind.
    pub only: Option<usize>,
    /// Says every simulated hour how far it is.
    pub progress: bool,
}

/// What is wrong with the world on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A sync returns before anything is safe.
    DiskForgets,
    /// Who has the lead relies on it for longer than its lease.
    HoldsOn,
}

pub type Slot = Arc<Mutex<Option<Arc<RaftStore>>>>;

pub struct Process {
    pub runtime: Runtime,
    pub here: Here,
    pub store: Slot,
}

pub struct Group {
    pub world: Arc<World>,
    pub processes: Vec<Option<Process>>,
    pub frozen: Vec<bool>,
    /// When who is started again.
    pub starts: Vec<Option<u64>>,
    /// Lost its disk, or was removed, and is not back in the group: nobody else may lose his meanwhile.
    pub returning: Option<usize>,
    pub ongoing: Vec<(u64, Heal)>,
    pub report: Report,
    pub last: VecDeque<String>,
    pub removed: Arc<Mutex<Vec<usize>>>,
    pub only: Option<usize>,
    /// Whose beginning was told.
    begun: Vec<u64>,
}

pub fn play(plan: Plan) -> Report {
    with_group(plan, move |group| group.run(plan))
}

pub fn with_group(plan: Plan, run: impl FnOnce(&mut Group) -> Result<(), String> + Send + 'static) -> Report {
    // A thread of its own, because hash tables are seeded once per thread.
    let run = std::thread::spawn(move || {
        seed_thread(plan.seed);
        let mut group = Group::new(plan);
        let violation = run(&mut group).err();
        group.tell_standings();
        group.finish(violation)
    });
    run.join().expect("the simulation does not panic")
}

impl Group {
    fn new(plan: Plan) -> Group {
        let mut random = Random(plan.seed);
        let machine = |random: &mut Random| Machine {
            on: true,
            life: 0,
            clock: random.between(20, 100_000) * SECOND,
            pace: random.between(0, 1001) as i64 - 500,
            drift: 0,
            disk: Arc::new(Disk::new(plan.bug == Some(Bug::DiskForgets))),
            disk_takes: DISK_TAKES,
            disk_hangs: false,
            newest: NEWEST,
        };
        let machines = (0..plan.machines).map(|_| machine(&mut random)).collect();
        let inner =
            Inner { now: 0, random, machines, network: Network::default(), history: History::default(), bug: plan.bug };
        Group {
            world: Arc::new(World(Mutex::new(inner))),
            processes: (0..plan.machines).map(|_| None).collect(),
            frozen: vec![false; plan.machines],
            starts: vec![Some(0); plan.machines],
            returning: None,
            ongoing: Vec::new(),
            report: Report { seed: plan.seed, machines: plan.machines, ..Report::default() },
            last: VecDeque::new(),
            removed: Arc::default(),
            only: plan.only,
            begun: vec![0; plan.machines],
        }
    }

    fn finish(mut self, violation: Option<String>) -> Report {
        for i in 0..self.processes.len() {
            self.end(i);
        }
        let mut inner = self.world.lock();
        self.report.seconds = inner.now / SECOND;
        self.report.violation = violation;
        self.report.counts = std::mem::take(&mut inner.history.counts);
        self.report.last = self.last.into();
        self.report
    }

    fn run(&mut self, plan: Plan) -> Result<(), String> {
        let end = u64::try_from(plan.time.as_micros()).unwrap_or(u64::MAX);
        self.rest()?;
        while self.now() < end {
            let until = (self.now() + UNREST).min(end);
            let mut next = self.now();
            while self.now() < until {
                if self.now() >= next {
                    next = self.now() + self.between(1, 25) * SECOND;
                    if self.ongoing.len() < 3 {
                        self.fault();
                    }
                }
                self.step()?;
            }
            self.rest()?;
            self.say_progress(plan);
        }
        Ok(())
    }

    pub fn tell_standings(&mut self) {
        for i in 0..self.processes.len() {
            if let Some(store) = self.store(i) {
                self.tell(format!("{i}: {}", standing(&store)));
            }
        }
    }

    fn say_progress(&mut self, plan: Plan) {
        let hours = self.now() / SECOND / 3600;
        if plan.progress && hours > self.report.hours {
            self.report.hours = hours;
            let inner = self.world.lock();
            let (faults, writes) = (self.report.faults.values().sum::<u64>(), inner.history.counts.writes);
            eprintln!("{hours} h: {faults} faults, {writes} writes, no promise broken");
        }
    }

    pub fn now(&self) -> u64 {
        self.world.lock().now
    }

    pub fn between(&self, from: u64, to: u64) -> u64 {
        self.world.lock().random.between(from, to)
    }

    pub fn pick(&self, n: usize) -> usize {
        self.world.lock().random.index(n)
    }

    pub fn tell(&mut self, what: String) {
        let now = self.now();
        let line = format!("{}.{:03} s  {what}", now / SECOND, now % SECOND / 1000);
        if std::env::var_os("STORE_SIM_TRACE").is_some() {
            eprintln!("{line}");
        }
        self.last.push_back(line);
        if self.last.len() > 40 {
            self.last.pop_front();
        }
    }

    pub fn step(&mut self) -> Result<(), String> {
        let now = {
            let mut inner = self.world.lock();
            let inner = &mut *inner;
            inner.now += STEP;
            for machine in &mut inner.machines {
                machine.drift += machine.pace * STEP as i64;
                let whole = machine.drift.div_euclid(SECOND as i64);
                machine.drift -= whole * SECOND as i64;
                machine.clock = (machine.clock + STEP).saturating_add_signed(whole);
            }
            let machines = &inner.machines;
            inner.network.deliver(inner.now, &mut inner.random, |i| machines[i].on.then_some(machines[i].life));
            inner.now
        };
        let mut due = Vec::new();
        self.ongoing.retain(|(at, heal)| {
            if *at <= now {
                due.push(heal.clone());
            }
            *at > now
        });
        due.into_iter().for_each(|heal| self.heal(heal));
        for i in 0..self.processes.len() {
            if self.starts[i].is_some_and(|at| at <= now) {
                self.starts[i] = None;
                self.start(i);
            }
            if !self.frozen[i] {
                self.drive(i);
            }
            if self.processes[i].as_ref().is_some_and(|p| p.here.is_dead()) {
                self.end(i);
                self.report.aborts += 1;
                self.tell(format!("the process of {i} ended itself"));
                self.starts[i] = Some(now + self.between(1, 5) * SECOND);
            }
        }
        if now % (10 * STEP) == 0 {
            self.look();
        }
        match self.world.lock().history.violations.first() {
            Some(what) => Err(what.clone()),
            None => Ok(()),
        }
    }

    /// Lets a process run up to what its machine's clock shows.
    fn drive(&mut self, i: usize) {
        let clock = self.world.lock().machines[i].clock;
        let Some(process) = &self.processes[i] else { return };
        let (began, shown) = process.here.began;
        let until = began + Duration::from_micros(clock.saturating_sub(shown));
        within(&process.here, || {
            process.runtime.block_on(async {
                // Frozen: all the time passed at once.
                let late = until.saturating_duration_since(Instant::now());
                if late > Duration::from_micros(STEP * 4) {
                    advance(late - Duration::from_micros(STEP)).await;
                }
                sleep_until(until).await;
            });
        });
    }

    fn start(&mut self, i: usize) {
        let (clock, newest) = {
            let mut inner = self.world.lock();
            let machine = &mut inner.machines[i];
            machine.on = true;
            machine.life += 1;
            (machine.clock, machine.newest)
        };
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime needs nothing that could be missing");
        let began = runtime.block_on(async { Instant::now() });
        let here = Here {
            world: self.world.clone(),
            machine: i,
            life: self.world.lock().machines[i].life,
            began: (began, clock),
            dead: Arc::new(AtomicBool::new(false)),
            dies_in: Arc::new(AtomicI64::new(-1)),
            newest,
        };
        let options = RaftOptions {
            self_addr: address(i),
            bind_addr: address(i),
            partner_addrs: (0..self.processes.len()).filter(|other| *other != i).map(address).collect(),
            data_dir: "simulated".into(),
            password: Some("herd".into()),
            tls: None,
            voter: true,
            witness: false,
            replace_after: REPLACE_AFTER,
        };
        let (store, slot) = (Slot::default(), here.clone());
        let place = store.clone();
        runtime.spawn(async move {
            match RaftStore::start(options).await {
                Ok(started) => {
                    let started = Arc::new(started);
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(started.clone());
                    tokio::spawn(agent::hold(slot.clone(), started.clone()));
                    tokio::spawn(agent::write(slot.clone(), started.clone()));
                    tokio::spawn(agent::watch(slot, started));
                }
                // As the process does with such an error.
                Err(_) => slot.dead.store(true, Ordering::Relaxed),
            }
        });
        self.frozen[i] = false;
        self.processes[i] = Some(Process { runtime, here, store });
    }

    /// The process is gone, with whatever it had not done yet.
    pub fn end(&mut self, i: usize) {
        if let Some(process) = self.processes[i].take() {
            process.here.dead.store(true, Ordering::Relaxed);
            within(&process.here.clone(), || {
                *process.store.lock().unwrap_or_else(PoisonError::into_inner) = None;
                drop(process);
            });
        }
        self.frozen[i] = false;
    }

    pub fn store(&self, i: usize) -> Option<Arc<RaftStore>> {
        self.processes[i].as_ref()?.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who leads the group, where that is to be seen, and in which term.
    fn look(&mut self) {
        let removed = std::mem::take(&mut *self.removed.lock().unwrap_or_else(PoisonError::into_inner));
        removed.into_iter().for_each(|i| self.replace(i));
        for i in 0..self.processes.len() {
            let Some(store) = self.store(i) else { continue };
            let life = self.processes[i].as_ref().map_or(0, |p| p.here.life);
            if self.begun[i] != life {
                self.begun[i] = life;
                self.tell(format!("{i} begins: {}", standing(&store)));
            }
            let (leads, term, id) = {
                let metrics = store.node.raft.metrics();
                let m = metrics.borrow();
                (m.state == ServerState::Leader, m.current_term, store.node.id)
            };
            if leads {
                self.world.lock().history.leads(term, id);
            }
        }
    }
}

pub fn standing(store: &RaftStore) -> String {
    let m = store.node.raft.metrics().borrow().clone();
    let applied = m.last_applied.map(|id| id.index);
    let last = store.node.log.last().map(|id| (id.leader_id.term, id.index));
    format!(
        "{:?} in term {}, log to {last:?}, applied to {applied:?}, {}",
        m.state, m.current_term, m.membership_config
    )
}
