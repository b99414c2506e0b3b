//! What agents do with the store, from inside the node's process: hold a lease and a lead, write a register, read, watch.

use std::sync::Arc;
use std::time::Duration;

use surus_store::{Compare, Kv, Op, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, WatchEvent};
use tokio::time::sleep;

use super::history::History;
use super::play::Bug;
use super::{Here, World};
use crate::store::RaftStore;
use crate::types::Operation;

pub const TTL: Duration = Duration::from_secs(8);
const LOOP: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_millis(1500);
/// Clocks differ by at most 0.1 % of the TTL, and the world moves in steps. An agent's own margin is ten times this.
const MARGIN: u64 = 25_000;
const LEAD: &str = "/leader";
const REGISTER: &str = "/register";

impl Here {
    fn history<T>(&self, tell: impl FnOnce(&mut History) -> T) -> Option<T> {
        // A dead process tells nobody anything.
        (!self.is_dead()).then(|| tell(&mut self.world.lock().history))
    }

    fn chance(&self, below: u64) -> u64 {
        self.world.lock().random.below(below)
    }

    async fn pause(&self, from: u64, to: u64) {
        let ms = self.world.lock().random.between(from, to);
        sleep(Duration::from_millis(ms)).await;
    }
}

pub fn clocks(world: &World) -> Vec<u64> {
    world.lock().machines.iter().map(|m| m.clock).collect()
}

fn find(snapshot: &Snapshot, key: &str) -> Option<(u64, String)> {
    let found = snapshot.keys.iter().find(|k| k.key == key)?;
    Some((found.version, String::from_utf8_lossy(&found.value).into_owned()))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// A session like the lease keeper's, and the lead when it is free.
pub async fn hold(here: Here, store: Arc<RaftStore>) {
    let ttl = u64::try_from(TTL.as_micros()).unwrap_or(0);
    let holds_on = here.world.lock().bug == Some(Bug::HoldsOn);
    loop {
        let mut sent = here.boot_us();
        let Ok(lease) = store.grant(TTL, DEADLINE).await else {
            here.pause(200, 800).await;
            continue;
        };
        let name = format!("{}-{lease}", here.machine);
        loop {
            let until = sent + ttl - MARGIN + if holds_on { 3_000_000 } else { 0 };
            if here.boot_us() < until && lead(&here, &store, &name, lease).await == Ok(true) {
                let clocks = clocks(&here.world);
                here.history(|h| h.claims(here.machine, until, &clocks));
                // Given up in order, now and then.
                if here.chance(100) == 0 {
                    here.history(|h| h.gives_up(here.machine));
                    let compare = vec![Compare::Value { key: LEAD.into(), value: name.clone().into_bytes() }];
                    let _ = store.txn(Txn { compare, then: vec![Op::Delete { key: LEAD.into() }] }, DEADLINE).await;
                    here.pause(500, 3000).await;
                }
            }
            sleep(LOOP).await;
            let renewed = loop {
                let now = here.boot_us();
                match store.renew(lease, DEADLINE).await {
                    Ok(()) => break Some(now),
                    Err(StoreError::LeaseGone) => break None,
                    Err(_) => here.pause(100, 400).await,
                }
            };
            match renewed {
                Some(now) => sent = now,
                None => break,
            }
            here.history(|h| h.counts.renewals += 1);
        }
    }
}

/// Is it mine, now that I looked and took it if it was free?
async fn lead(here: &Here, store: &RaftStore, name: &str, lease: u64) -> StoreResult<bool> {
    match find(&store.read(LEAD, DEADLINE).await?, LEAD) {
        Some((_, holder)) => return Ok(holder == name),
        None => here.pause(0, 300).await,
    }
    let compare = vec![Compare::Absent { key: LEAD.into() }];
    let then = vec![Op::Put { key: LEAD.into(), value: name.into(), lease: Some(lease) }];
    // Where the outcome is not known the next look tells.
    Ok(matches!(store.txn(Txn { compare, then }, DEADLINE).await?, TxnOutcome::Applied(_)))
}

/// Writes the register over what was read last, and reads.
pub async fn write(here: Here, store: Arc<RaftStore>) {
    let mut known = 0;
    loop {
        here.pause(200, 3000).await;
        if here.newest_format() > 1 && here.chance(4) == 0 && store.node.write(Operation::Later, DEADLINE).await.is_ok()
        {
            here.history(|h| h.counts.later += 1);
        }
        let Some(floor) = here.history(|h| h.floor()) else { return };
        if here.chance(2) == 0 {
            if let Ok(snapshot) = store.read(REGISTER, DEADLINE).await {
                let found = find(&snapshot, REGISTER);
                known = found.as_ref().map_or(0, |f| f.0);
                here.history(|h| h.read(found.map(|(version, text)| (version, number(&text))), floor));
            }
            continue;
        }
        let now = here.world.lock().now;
        let Some(made) = here.history(|h| h.write_begins(known, now)) else { return };
        let key = REGISTER.to_owned();
        let compare = match known {
            0 => Compare::Absent { key: key.clone() },
            version => Compare::Version { key: key.clone(), version },
        };
        let then = vec![Op::Put { key, value: made.to_string().into_bytes(), lease: None }];
        let outcome = store.txn(Txn { compare: vec![compare], then }, DEADLINE).await;
        let now = here.world.lock().now;
        here.history(|h| match outcome {
            Ok(TxnOutcome::Applied(version)) => {
                known = version;
                h.acknowledged(made, version, floor);
            }
            Ok(TxnOutcome::Conflict) => h.conflicted(made, now),
            Err(StoreError::OutcomeUnknown(_)) => h.counts.unknown += 1,
            Err(_) => {
                h.counts.refused += 1;
                h.no_effect(made);
            }
        });
    }
}

pub async fn watch(here: Here, store: Arc<RaftStore>) {
    let mut watch = store.watch("/");
    let mut last = 0;
    while let Some(event) = watch.events.recv().await {
        let (revision, found) = match event {
            WatchEvent::Restarted(snapshot) => (snapshot.revision, find(&snapshot, REGISTER)),
            WatchEvent::Put(kv) if kv.key == REGISTER => {
                (kv.version, Some((kv.version, String::from_utf8_lossy(&kv.value).into_owned())))
            }
            WatchEvent::Put(kv) => (kv.version, None),
            WatchEvent::Deleted { revision, .. } | WatchEvent::Progress(revision) => (revision, None),
            WatchEvent::Broken(_) => continue,
        };
        here.history(|h| {
            if revision < last {
                h.violations.push(format!("the watch of machine {} went from {last} back to {revision}", here.machine));
            }
            if let Some((version, text)) = found {
                h.watched(version, number(&text));
            }
        });
        last = revision;
    }
}
