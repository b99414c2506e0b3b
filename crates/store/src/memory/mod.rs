//! A store inside the process, with faults that can be switched on for each of its clients.
//!
//! Leases run either on a clock that only [`MemoryStore::advance`] moves, or on the boot-time clock.

mod faults;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use surus_core::BootTime;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use crate::clock::boot_now;
use crate::kv::{Fut, Health, Kv, LeaseId, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, Watch, WatchEvent};

pub use faults::Faults;
use faults::{Fate, Switches};
use state::Changes;
pub use state::State;

/// One client of an in-memory store.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    client: u64,
}

struct Shared {
    inner: Mutex<Inner>,
    /// Something happened that a watch may have to deliver or wait for.
    stirred: Notify,
}

struct Inner {
    state: State,
    /// `None`: the boot-time clock.
    manual: Option<BootTime>,
    clients: BTreeMap<u64, Switches>,
    watches: BTreeMap<u64, Stream>,
    last_watch: u64,
    requests: u64,
}

struct Stream {
    client: u64,
    prefix: String,
    queue: VecDeque<WatchEvent>,
    broken: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn now(&self) -> BootTime {
        self.manual.unwrap_or_else(boot_now)
    }

    fn expire(&mut self) {
        for changes in self.state.expire(self.now()) {
            self.publish(&changes);
        }
    }

    fn publish(&mut self, changes: &Changes) {
        let revision = self.state.revision();
        for stream in self.watches.values_mut().filter(|s| !s.broken) {
            let below = changes.iter().filter(|event| match event {
                WatchEvent::Put(kv) => kv.key.starts_with(&stream.prefix),
                WatchEvent::Deleted { key, .. } => key.starts_with(&stream.prefix),
                _ => false,
            });
            let before = stream.queue.len();
            stream.queue.extend(below.cloned());
            if stream.queue.len() > before {
                stream.queue.push_back(WatchEvent::Progress(revision));
            }
        }
    }

    /// Brings each stream of a client in line with its switches.
    fn settle_streams(&mut self, client: u64) {
        let broken = self.clients.get(&client).is_some_and(Switches::breaks_watches);
        for stream in self.watches.values_mut().filter(|s| s.client == client && s.broken != broken) {
            stream.broken = broken;
            stream.queue.push_back(if broken {
                WatchEvent::Broken("the connection was cut".into())
            } else {
                WatchEvent::Restarted(self.state.snapshot(&stream.prefix))
            });
        }
    }

    fn next_event(&mut self, watch: u64) -> Option<WatchEvent> {
        self.expire();
        let stream = self.watches.get_mut(&watch)?;
        if self.clients.get(&stream.client).is_some_and(|s| s.watches_stalled) {
            return None;
        }
        stream.queue.pop_front()
    }
}

impl MemoryStore {
    /// Leases end when [`MemoryStore::advance`] says so.
    pub fn manual() -> MemoryStore {
        MemoryStore::on_clock(Some(BootTime::from_millis(1_000_000)))
    }

    /// Leases end by the boot-time clock.
    pub fn auto() -> MemoryStore {
        MemoryStore::on_clock(None)
    }

    fn on_clock(manual: Option<BootTime>) -> MemoryStore {
        let inner = Inner {
            state: State::default(),
            manual,
            clients: BTreeMap::from([(0, Switches::default())]),
            watches: BTreeMap::new(),
            last_watch: 0,
            requests: 0,
        };
        MemoryStore { shared: Arc::new(Shared { inner: Mutex::new(inner), stirred: Notify::new() }), client: 0 }
    }

    /// Another client of the same store, without faults.
    pub fn client(&self) -> MemoryStore {
        let mut inner = self.shared.lock();
        let client = inner.clients.keys().next_back().map_or(0, |last| last + 1);
        inner.clients.insert(client, Switches::default());
        MemoryStore { shared: self.shared.clone(), client }
    }

    /// The faults of this client.
    pub fn faults(&self) -> Faults {
        Faults { store: self.clone() }
    }

    pub fn now(&self) -> BootTime {
        self.shared.lock().now()
    }

    /// Moves the manual clock; leases whose time is over end at once. Without effect on the boot-time clock.
    pub fn advance(&self, by: Duration) {
        let mut inner = self.shared.lock();
        inner.manual = inner.manual.map(|now| now + by);
        inner.expire();
        drop(inner);
        self.shared.stirred.notify_waiters();
    }

    /// How many requests all clients have sent; a watch counts once.
    pub fn requests(&self) -> u64 {
        self.shared.lock().requests
    }

    fn switch(&self, change: impl FnOnce(&mut Switches)) {
        let mut inner = self.shared.lock();
        change(inner.clients.entry(self.client).or_default());
        inner.settle_streams(self.client);
        drop(inner);
        self.shared.stirred.notify_waiters();
    }

    /// One request: what the network does to it, then its effect, then what the network does to the answer.
    async fn request<T>(
        &self,
        write: bool,
        deadline: Duration,
        effect: impl FnOnce(&mut Inner) -> StoreResult<T>,
    ) -> StoreResult<T> {
        let fate = {
            let mut inner = self.shared.lock();
            inner.requests += 1;
            inner.clients.entry(self.client).or_default().fate(write, deadline)
        };
        sleep(fate.takes()).await;
        let late = || StoreError::OutcomeUnknown("no answer in time".into());
        match fate {
            Fate::Unreachable => return Err(StoreError::Unavailable("the connection was cut".into())),
            Fate::TooSlow(_) if write => return Err(late()),
            Fate::TooSlow(_) => return Err(StoreError::Unavailable("no answer in time".into())),
            Fate::RequestLost => return Err(late()),
            Fate::Delivered(_) | Fate::AnswerLost => {}
        }
        let result = {
            let mut inner = self.shared.lock();
            inner.expire();
            effect(&mut inner)
        };
        self.shared.stirred.notify_waiters();
        if fate == Fate::AnswerLost { Err(late()) } else { result }
    }
}

impl Kv for MemoryStore {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        Box::pin(self.request(false, deadline, move |inner| Ok(inner.state.snapshot(prefix))))
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(self.request(true, deadline, move |inner| {
            let (outcome, changes) = inner.state.txn(&txn)?;
            inner.publish(&changes);
            Ok(outcome)
        }))
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        Box::pin(self.request(true, deadline, move |inner| Ok(inner.state.grant(ttl, inner.now()))))
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(self.request(true, deadline, move |inner| inner.state.renew(lease, inner.now())))
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(self.request(true, deadline, move |inner| {
            let changes = inner.state.revoke(lease);
            inner.publish(&changes);
            Ok(())
        }))
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (tx, events) = mpsc::channel(64);
        let mut inner = self.shared.lock();
        inner.requests += 1;
        inner.expire();
        inner.last_watch += 1;
        let id = inner.last_watch;
        let broken = inner.clients.get(&self.client).is_some_and(Switches::breaks_watches);
        let first = if broken {
            WatchEvent::Broken("the connection was cut".into())
        } else {
            WatchEvent::Restarted(inner.state.snapshot(prefix))
        };
        let queue = VecDeque::from([first]);
        inner.watches.insert(id, Stream { client: self.client, prefix: prefix.to_owned(), queue, broken });
        drop(inner);
        tokio::spawn(pump(self.shared.clone(), id, tx));
        Watch { events }
    }

    fn health(&self) -> Health {
        let inner = self.shared.lock();
        let cut = inner.clients.get(&self.client).is_some_and(Switches::breaks_watches);
        Health { kind: "memory", summary: if cut { "cut off".into() } else { "in this process".into() } }
    }
}

/// Hands the queued events of one watch to its reader until the reader is gone.
async fn pump(shared: Arc<Shared>, watch: u64, tx: mpsc::Sender<WatchEvent>) {
    loop {
        // Registered before looking, so that what is stirred in between is not missed.
        let stirred = shared.stirred.notified();
        tokio::pin!(stirred);
        stirred.as_mut().enable();
        let (event, wait) = {
            let mut inner = shared.lock();
            let event = inner.next_event(watch);
            // On the boot-time clock nobody else notices that a lease has ended.
            let end = inner.state.next_end().filter(|_| inner.manual.is_none());
            (event, end.map(|end| end.since(inner.now()) + Duration::from_millis(1)))
        };
        match event {
            Some(event) => {
                if tx.send(event).await.is_err() {
                    break;
                }
            }
            None => tokio::select! {
                () = &mut stirred => {}
                () = sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
                () = tx.closed() => break,
            },
        }
    }
    shared.lock().watches.remove(&watch);
}
