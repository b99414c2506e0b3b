//! Finds out what stands still: this agent, the store, a disk, the postmaster.
//!
//! Each probe runs where nobody waits for it: a disk on a thread of its own, the postmaster's new connection on a task.
//! One task looks at them once a second, more often while one is outstanding, and leaves what it sees in one value.

mod disk;
mod shown;
mod ticks;
mod told;
mod waiting;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_core::BootTime;
use surus_core::postgres::Observed;
use surus_core::settings::Timing;
use surus_core::stall::{Stall, Stalls};
use surus_postgres::{Doors, Instance};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::lease::LeaseState;
use disk::DiskProbe;
pub use shown::{KINDS, PAUSES, Shown};
use ticks::Moment;
use told::{Told, Word};
use waiting::Waiting;

const TICK: Duration = Duration::from_secs(1);
const TICK_OUTSTANDING: Duration = Duration::from_millis(250);
/// For finding out which disks there are.
const PLACES: Duration = Duration::from_secs(1);
/// A renewal that is later than this is the store's fault.
const STORE_LATE: Duration = Duration::from_secs(1);

/// What the agent's loop says of the server.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Server {
    timing: Timing,
    /// Pid and start time of a postmaster that runs.
    postmaster: Option<(i32, u64)>,
    /// It took connections at some time, so that it is to go on doing so.
    accepted: bool,
}

#[derive(Default)]
struct Commits {
    last: Option<(BootTime, surus_core::Lsn)>,
    waiting: Option<Waiting>,
    /// When WAL was last seen to have reached the disk.
    progress: Option<BootTime>,
}

#[derive(Clone)]
pub struct StallWatch {
    server: Arc<watch::Sender<Server>>,
    commits: Arc<Mutex<Commits>>,
    shown: watch::Receiver<Shown>,
}

impl StallWatch {
    /// `wake` is told when something begins to hang, or counts as hung.
    pub fn start(
        instance: Instance,
        data_dir: PathBuf,
        timing: Timing,
        lease: watch::Receiver<LeaseState>,
        wake: Arc<Notify>,
    ) -> StallWatch {
        let server = Arc::new(watch::channel(Server { timing, postmaster: None, accepted: false }).0);
        let commits = Arc::new(Mutex::new(Commits::default()));
        let (tx, shown) = watch::channel(Shown::default());
        let look = Look {
            instance,
            data_dir,
            server: server.subscribe(),
            commits: commits.clone(),
            lease,
            wake,
            shown: tx,
            disks: Vec::new(),
            postmaster: Door::default(),
            told: Default::default(),
            hung: false,
        };
        tokio::spawn(look.run());
        StallWatch { server, commits, shown }
    }

    /// What the loop found out about the server.
    pub fn server(&self, timing: Timing, postmaster: Option<(i32, u64)>, accepting: bool) {
        self.server.send_if_modified(|known| {
            let accepted = accepting || (known.accepted && known.postmaster == postmaster);
            let now = Server { timing, postmaster, accepted: accepted && postmaster.is_some() };
            std::mem::replace(known, now) != now
        });
    }

    /// What a primary answered.
    pub fn observed(&self, observed: &Observed, apart: Duration) {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).look(observed, apart);
    }

    pub fn fact(&self) -> Stalls {
        let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner).waiting.map(|w| w.stall());
        Stalls { commits, ..self.shown.borrow().stalls }
    }

    pub fn shown(&self) -> Shown {
        self.shown.borrow().clone()
    }
}

impl Commits {
    fn look(&mut self, observed: &Observed, apart: Duration) {
        let (at, flushed) = (observed.at, observed.flush_lsn);
        let moved = self.last.is_some_and(|(_, before)| before != flushed);
        self.last = Some((at, flushed));
        if moved {
            self.progress = Some(at);
        }
        if observed.in_recovery || observed.flush_waiters == 0 || moved {
            self.waiting = None;
            return;
        }
        self.waiting.get_or_insert(Waiting::since(at)).still(at, apart);
    }
}

/// A probe of the disk and what is outstanding of it.
struct Disk {
    probe: DiskProbe,
    begun: Option<BootTime>,
    waiting: Option<Waiting>,
    /// WAL goes there: when some of it arrives, the disk does not hang.
    wal: bool,
}

/// The probe of new connections.
#[derive(Default)]
struct Door {
    of: Option<(i32, u64)>,
    doors: Option<Doors>,
    begun: Option<BootTime>,
    attempt: Option<(BootTime, JoinHandle<Option<Doors>>)>,
    waiting: Option<Waiting>,
}

struct Look {
    instance: Instance,
    data_dir: PathBuf,
    server: watch::Receiver<Server>,
    commits: Arc<Mutex<Commits>>,
    lease: watch::Receiver<LeaseState>,
    wake: Arc<Notify>,
    shown: watch::Sender<Shown>,
    disks: Vec<Disk>,
    postmaster: Door,
    told: [Told; 4],
    hung: bool,
}

impl Look {
    async fn run(mut self) {
        let mut tick = TICK;
        loop {
            let last = Moment::now();
            tokio::time::sleep(tick).await;
            if self.shown.is_closed() {
                return;
            }
            let now = Moment::now();
            let gap = ticks::gap(last, now, tick);
            let server = *self.server.borrow_and_update();
            let commits = {
                let commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
                (commits.waiting.map(|w| w.stall()), commits.progress)
            };
            let store = self.store(now.boot, server.timing);
            let disk = self.look_at_disks(now.boot, tick, server, commits.1).await;
            let postmaster = self.postmaster.look(now.boot, tick, server, &self.instance).await;
            let mut shown = self.shown.borrow().clone();
            shown.note(now.boot, gap);
            let Stalls { unscheduled, asleep, .. } = shown.stalls;
            shown.stalls = Stalls { postmaster, commits: commits.0, disk, store, unscheduled, asleep };
            self.tell(&mut shown);
            let stalls = shown.stalls;
            let hung = stalls.hung(&server.timing).is_some();
            if hung && !self.hung {
                self.wake.notify_one();
            }
            self.hung = hung;
            self.shown.send_if_modified(|before| std::mem::replace(before, shown.clone()) != shown);
            let outstanding = stalls.suspicious() || self.postmaster.attempt.is_some();
            tick = if outstanding { TICK_OUTSTANDING } else { TICK };
        }
    }

    fn store(&self, now: BootTime, timing: Timing) -> Option<Stall> {
        let lease = self.lease.borrow();
        let late = lease.renewed.map(|(sent, _)| sent + timing.loop_wait + STORE_LATE).filter(|late| now > *late);
        let since = lease.failing.as_ref().map(|f| f.0).or(late)?;
        Some(Stall { since, seen: now })
    }

    /// One that runs is tried; of one that does not, the probe lets go.
    async fn look_at_disks(
        &mut self,
        now: BootTime,
        tick: Duration,
        server: Server,
        progress: Option<BootTime>,
    ) -> Option<Stall> {
        if self.disks.is_empty() && server.postmaster.is_some() {
            self.disks = Disk::all(&self.data_dir).await;
        }
        for disk in &mut self.disks {
            disk.look(now, tick, server, progress);
        }
        self.disks.iter().filter_map(|d| d.waiting.map(|w| w.stall())).max_by_key(Stall::lasted)
    }

    fn tell(&mut self, shown: &mut Shown) {
        for (kind, stall) in shown.stalling().into_iter().enumerate() {
            let what = KINDS[kind].1;
            match self.told[kind].look(stall, &mut shown.totals[kind]) {
                Some(Word::Began) => warn!("{what} (data directory {})", self.data_dir.display()),
                Some(Word::Ended(lasted)) => info!("over after {:.1} s: {what}", lasted.as_secs_f64()),
                None => {}
            }
        }
    }
}

/// Between two attempts: short enough that with the limit the whole stays below the ttl.
fn interval(timing: &Timing) -> Duration {
    timing.loop_wait.min(timing.ttl / 4).max(Duration::from_secs(1))
}

fn due(begun: Option<BootTime>, now: BootTime, timing: &Timing) -> bool {
    begun.is_none_or(|at| now.since(at) >= interval(timing))
}

impl Disk {
    async fn all(data_dir: &std::path::Path) -> Vec<Disk> {
        let dir = data_dir.to_owned();
        let looked = tokio::time::timeout(PLACES, tokio::task::spawn_blocking(move || disk::places(&dir))).await;
        // A disk that does not even tell that much is the one to watch.
        let places = looked.ok().and_then(Result::ok).unwrap_or_else(|| vec![data_dir.to_owned()]);
        let apart = places.len() > 1;
        let start = |(n, dir): (usize, PathBuf)| match DiskProbe::start(dir) {
            Ok(probe) => Some(Disk { probe, begun: None, waiting: None, wal: n > 0 || !apart }),
            Err(e) => {
                warn!("no thread for watching a disk: {e}");
                None
            }
        };
        places.into_iter().enumerate().filter_map(start).collect()
    }

    fn look(&mut self, now: BootTime, tick: Duration, server: Server, progress: Option<BootTime>) {
        if self.probe.outstanding() {
            let waiting = self.waiting.get_or_insert(Waiting::since(self.begun.unwrap_or(now)));
            waiting.still(now, tick);
            if let Some(at) = progress.filter(|_| self.wal) {
                waiting.not_before(at);
            }
            return;
        }
        self.waiting = None;
        if server.postmaster.is_none() {
            self.probe.let_go();
            self.begun = None;
        } else if due(self.begun, now, &server.timing) {
            self.begun = Some(now);
            self.probe.begin();
        }
    }
}

impl Door {
    async fn look(&mut self, now: BootTime, tick: Duration, server: Server, instance: &Instance) -> Option<Stall> {
        if self.of != server.postmaster || !server.accepted {
            self.end();
            *self = Door { of: server.postmaster, ..Door::default() };
            return None;
        }
        if let Some((begun, attempt)) = &mut self.attempt {
            if attempt.is_finished() {
                self.doors = attempt.await.ok().flatten();
                self.attempt = None;
                self.waiting = None;
            } else {
                self.waiting.get_or_insert(Waiting::since(*begun)).still(now, tick);
                // One connection can be unlucky: its process was killed, or waits for something.
                if now.since(*begun) >= Stalls::limit(&server.timing) / 3 {
                    self.end();
                }
            }
        }
        if self.attempt.is_none() && (self.waiting.is_some() || due(self.begun, now, &server.timing)) {
            let (known, instance) = (self.doors.clone(), instance.clone());
            let ask = async move {
                let doors = match known {
                    Some(doors) => doors,
                    None => instance.doors().await.ok()?,
                };
                // Nobody listens: it is stopping, or somebody removed the socket. Looked up again next time.
                doors.answer().await.then_some(doors)
            };
            self.begun = Some(now);
            self.attempt = Some((now, tokio::spawn(ask)));
        }
        self.waiting.map(|w| w.stall()).filter(|s| !s.lasted().is_zero())
    }

    fn end(&mut self) {
        if let Some((_, attempt)) = self.attempt.take() {
            attempt.abort();
        }
    }
}

#[cfg(test)]
mod tests;
