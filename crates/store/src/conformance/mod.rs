//! The suite every adapter passes: one list of named cases over the contract in [`crate::kv`] and the
//! operations in [`crate::cluster`].
//!
//! Durations are measured on the harness' clock from before a request is sent, so "not earlier than"
//! is exact, and "not later than" is as generous as a busy machine needs.

mod data;
pub mod election;
mod leases;
mod operations;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use surus_core::BootTime;
use tokio::time::timeout;

use crate::kv::{Fut, Kv, Op, Snapshot, StoreError, Txn, TxnOutcome, Watch, WatchEvent};

/// One store under test. All clients reach the same data.
pub trait Harness: Send + Sync {
    /// A new client with a connection of its own.
    fn client(&self) -> Fut<'_, Arc<dyn Kv>>;

    /// A prefix that ends in `/` and that nobody else uses during the run.
    fn prefix(&self) -> String;

    /// A TTL that the store accepts as it is; the shorter, the faster the run.
    fn ttl(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// The clock the leases of this store run on.
    fn now(&self) -> BootTime {
        crate::clock::boot_now()
    }

    /// Whether any client can use a lease that another one was granted.
    fn shared_leases(&self) -> bool {
        true
    }

    /// What a watch of this store shows.
    fn shows(&self) -> Shows {
        Shows::Changes
    }

    /// Lets lease time pass.
    fn pass(&self, time: Duration) -> Fut<'_, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Every change.
    Changes,
    /// One whole state after the other, of which the next one may be several changes later.
    States,
}

/// Runs every case and panics with the names of those that failed, and why.
pub async fn run(harness: &dyn Harness) {
    let mut failed = Vec::new();
    for (name, case) in data::CASES.iter().chain(leases::CASES).chain(watches::CASES).chain(operations::CASES) {
        let bench = Bench { harness, prefix: format!("{}{name}/", harness.prefix()) };
        let began = std::time::Instant::now();
        match timeout(LONGEST_CASE, case(&bench)).await {
            Ok(Ok(())) => tracing::debug!("{name}: ok after {:?}", began.elapsed()),
            Ok(Err(Failure(text))) => failed.push(format!("{name}: {text}")),
            Err(_) => failed.push(format!("{name}: not done after {LONGEST_CASE:?}")),
        }
    }
    assert!(failed.is_empty(), "{} conformance cases failed:\n  {}", failed.len(), failed.join("\n  "));
}

type Case = for<'a> fn(&'a Bench<'a>) -> Fut<'a, Result<(), Failure>>;

const DEADLINE: Duration = Duration::from_secs(10);
const LONGEST_CASE: Duration = Duration::from_secs(90);
/// How late a store may be with something that has to happen.
const PATIENCE: Duration = Duration::from_secs(20);

struct Failure(String);

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure(error.to_string())
    }
}

macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure(format!($($text)+)));
        }
    };
}
use ensure;

struct Bench<'a> {
    harness: &'a dyn Harness,
    prefix: String,
}

impl Bench<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn put(&self, name: &str, value: &str, lease: Option<u64>) -> Op {
        Op::Put { key: self.key(name), value: value.into(), lease }
    }

    async fn client(&self) -> Arc<dyn Kv> {
        self.harness.client().await
    }

    async fn read(&self, kv: &Arc<dyn Kv>) -> Result<Snapshot, Failure> {
        Ok(kv.read(&self.prefix, DEADLINE).await?)
    }

    /// Value of a key, as text.
    async fn value(&self, kv: &Arc<dyn Kv>, name: &str) -> Result<Option<String>, Failure> {
        let key = self.key(name);
        let snapshot = self.read(kv).await?;
        Ok(snapshot.keys.iter().find(|k| k.key == key).map(|k| String::from_utf8_lossy(&k.value).into_owned()))
    }

    /// Names and values below the prefix.
    async fn all(&self, kv: &Arc<dyn Kv>) -> Result<Vec<(String, String)>, Failure> {
        Ok(self.named(&self.read(kv).await?))
    }

    fn named(&self, snapshot: &Snapshot) -> Vec<(String, String)> {
        let name = |key: &str| key.strip_prefix(&self.prefix).unwrap_or(key).to_owned();
        snapshot.keys.iter().map(|k| (name(&k.key), String::from_utf8_lossy(&k.value).into_owned())).collect()
    }

    /// A write without conditions; its revision.
    async fn write(&self, kv: &Arc<dyn Kv>, then: Vec<Op>) -> Result<u64, Failure> {
        match kv.txn(Txn { compare: vec![], then }, DEADLINE).await? {
            TxnOutcome::Applied(revision) => Ok(revision),
            TxnOutcome::Conflict => Err(Failure("a write without conditions was refused".into())),
        }
    }

    /// Opens a watch and takes its first event, which must be the snapshot.
    async fn open(&self, kv: &Arc<dyn Kv>, prefix: &str) -> Result<(Reader, Snapshot), Failure> {
        let mut reader = Reader { watch: kv.watch(prefix), shows: self.harness.shows() };
        match reader.next().await? {
            WatchEvent::Restarted(snapshot) => Ok((reader, snapshot)),
            other => Err(Failure(format!("a watch began with {other:?}"))),
        }
    }

    /// Lets time pass until `name` is gone; the moment that was seen.
    async fn until_gone(&self, kv: &Arc<dyn Kv>, name: &str) -> Result<BootTime, Failure> {
        let began = self.harness.now();
        while self.value(kv, name).await?.is_some() {
            let waited = self.harness.now().since(began);
            ensure!(waited < self.harness.ttl() + PATIENCE, "key {name} was still there after {waited:?}");
            self.harness.pass(Duration::from_millis(50)).await;
        }
        Ok(self.harness.now())
    }
}

/// Reads a watch and keeps what it says.
struct Reader {
    watch: Watch,
    shows: Shows,
}

impl Reader {
    async fn next(&mut self) -> Result<WatchEvent, Failure> {
        match timeout(PATIENCE, self.watch.events.recv()).await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(Failure("the watch ended".into())),
            Err(_) => Err(Failure("the watch said nothing".into())),
        }
    }

    /// The changes up to the next `Progress`. Of a store that shows changes, they must be those of exactly one revision.
    async fn revision(&mut self) -> Result<(u64, Vec<WatchEvent>), Failure> {
        let mut changes = Vec::new();
        loop {
            let event = self.next().await?;
            let revision = match &event {
                WatchEvent::Put(kv) => kv.version,
                WatchEvent::Deleted { revision, .. } => *revision,
                WatchEvent::Progress(revision) if changes.is_empty() => {
                    tracing::trace!("nothing changed up to {revision}");
                    continue;
                }
                WatchEvent::Progress(revision) => return Ok((*revision, changes)),
                other => return Err(Failure(format!("unexpected {other:?}"))),
            };
            let first = changes.first().map_or(revision, |c| match c {
                WatchEvent::Put(kv) => kv.version,
                WatchEvent::Deleted { revision, .. } => *revision,
                _ => revision,
            });
            let whole = first == revision || self.shows == Shows::States;
            ensure!(whole, "changes of revisions {first} and {revision} without Progress in between");
            changes.push(event);
        }
    }
}
