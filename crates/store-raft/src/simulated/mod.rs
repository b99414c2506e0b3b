//! Whole nodes on simulated machines: every line of the shipped node runs (consensus, elections, voters, forming, joining,
//! the log in redb, handshake and frames of the connections, lease time), on a clock, a disk, a network and a source of
//! chance that a seed decides. The same seed is the same run, if it is the only one in its process.
//!
//! A machine has a boot clock with a pace of its own and a disk. A process on it is a runtime of one thread with paused
//! time, driven to the machine's clock in small steps; killing it is dropping the runtime, freezing it is leaving it
//! alone. [`crate::host`] is the seam.

mod agent;
mod chance;
mod disk;
mod faults;
mod history;
mod network;
mod play;
mod report;
mod rest;
mod tests;
mod upgrade;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use disk::{Disk, Open};
pub use network::Listener;
use tokio::time::Instant;

use self::chance::Random;
use self::history::History;
use self::network::Network;

/// Everything that is not a process.
pub struct World(Mutex<Inner>);

pub struct Inner {
    /// Microseconds of the simulation, which nobody in it sees.
    pub now: u64,
    pub random: Random,
    pub machines: Vec<Machine>,
    pub network: Network,
    pub history: History,
    pub bug: Option<play::Bug>,
}

pub struct Machine {
    pub on: bool,
    /// The process that runs, counted.
    pub life: u64,
    /// Boot clock in microseconds.
    pub clock: u64,
    /// So many millionths fast.
    pub pace: i64,
    /// Of a microsecond, not yet on the clock.
    pub drift: i64,
    pub disk: Arc<Disk>,
    /// Microseconds that a write takes, at the most.
    pub disk_takes: u64,
    pub disk_hangs: bool,
    /// Of the program that is installed: the newest format that it reads.
    pub newest: u32,
}

impl World {
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process, as what runs in it sees itself.
#[derive(Clone)]
pub struct Here {
    pub world: Arc<World>,
    pub machine: usize,
    pub life: u64,
    /// Where the runtime's clock began, and what the boot clock showed then.
    pub began: (Instant, u64),
    pub dead: Arc<AtomicBool>,
    pub dies_in: Arc<AtomicI64>,
    pub newest: u32,
}

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// The process that this thread runs now, if any.
pub fn here() -> Option<Here> {
    HERE.with_borrow(Clone::clone)
}

pub fn within<T>(here: &Here, what: impl FnOnce() -> T) -> T {
    HERE.set(Some(here.clone()));
    let done = what();
    HERE.set(None);
    done
}

pub fn boot_ms() -> Option<u64> {
    HERE.with_borrow(|here| here.as_ref().map(|h| h.boot_us() / 1000))
}

pub fn random(bytes: &mut [u8]) -> bool {
    let here = here();
    if let Some(here) = &here {
        here.world.lock().random.fill(bytes);
    }
    here.is_some()
}

/// Ends a simulated process: from here on nothing that it does has an effect. Returns where none is simulated.
pub fn abort() {
    if let Some(here) = here() {
        here.dead.store(true, Ordering::Relaxed);
        std::panic::resume_unwind(Box::new("the simulated process aborted"));
    }
}

pub fn address(machine: usize) -> String {
    format!("n{machine}:7800")
}

fn machine_of(addr: &str) -> Option<usize> {
    addr.strip_prefix('n')?.strip_suffix(":7800")?.parse().ok()
}

impl Here {
    pub fn boot_us(&self) -> u64 {
        self.began.1 + u64::try_from(self.began.0.elapsed().as_micros()).unwrap_or(0)
    }

    pub fn newest_format(&self) -> u32 {
        self.newest
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub async fn disk_answers(&self) {
        loop {
            let wait = {
                let mut inner = self.world.lock();
                let inner = &mut *inner;
                let machine = &inner.machines[self.machine];
                (!machine.disk_hangs).then(|| inner.random.below(machine.disk_takes))
            };
            match wait {
                Some(us) => return tokio::time::sleep(Duration::from_micros(us)).await,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The machine's file, as this process opens it.
    pub fn file(&self) -> Open {
        self.open(self.world.lock().machines[self.machine].disk.clone())
    }

    pub fn open(&self, disk: Arc<Disk>) -> Open {
        Open { disk, dead: self.dead.clone(), dies_in: self.dies_in.clone() }
    }
}
