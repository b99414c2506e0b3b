//! The replicated state in memory, its snapshots on disk, and the stream of changes for watches.

use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::RaftStateMachine;
use openraft::{Entry, EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError};
use redb::ReadableTable;
use surus_store as kv;
use tokio::sync::{broadcast, watch};

use crate::clock::{LeaseClock, boot_ms};
use crate::disk::{self, Disk, LOG, SNAPSHOT};
use crate::host;
use crate::records::{EntryRecord, MembersRecord, Position, SnapshotMetaRecord, StateRecord};
use crate::state::Change;
pub use crate::state::State;
use crate::types::{Applied, LogId, StoredMembership, TypeConfig};

/// A watch that falls this many commands behind starts over.
const BACKLOG: usize = 512;
const META: &str = "meta";
const DATA: &str = "data";

type Stored<T> = Result<T, StorageError<u64>>;

/// What one applied command did, for watches.
#[derive(Clone, Debug)]
pub enum Event {
    Changes(Vec<Change>),
    /// The state was replaced by a snapshot.
    Replaced,
}

#[derive(Clone)]
pub struct Machine {
    disk: Disk,
    inner: Arc<Mutex<Inner>>,
    events: broadcast::Sender<Arc<Event>>,
    applied: Arc<watch::Sender<u64>>,
}

struct Inner {
    state: State,
    last_applied: Option<LogId>,
    members: StoredMembership,
    clock: LeaseClock,
}

impl Machine {
    /// Begins with the last snapshot; what the log holds beyond it is applied again as it is committed.
    pub fn open(disk: Disk) -> Machine {
        let (state, meta) = match load(&disk) {
            Some((meta, data)) => (disk.decode::<StateRecord>("the snapshot", &data).state, meta.into_meta()),
            None => (State::default(), SnapshotMeta::default()),
        };
        let clock = LeaseClock::new(state.stamp, boot_ms());
        let applied = watch::Sender::new(next(meta.last_log_id));
        let inner = Inner { state, last_applied: meta.last_log_id, members: meta.last_membership, clock };
        Machine {
            disk,
            inner: Arc::new(Mutex::new(inner)),
            events: broadcast::Sender::new(BACKLOG),
            applied: Arc::new(applied),
        }
    }

    /// Everything in the file, whether a majority has it or not: the state, the members, and how far the log goes.
    /// `None` if there is nothing.
    pub fn replay(disk: &Disk) -> Option<(State, MembersRecord, Position)> {
        let machine = Machine::open(disk.clone());
        let mut inner = machine.lock();
        let records = disk.read("reading the log", |txn| {
            let rows = txn.open_table(LOG)?;
            rows.iter()?.map(|row| Ok(row?.1.value().to_vec())).collect::<Result<Vec<_>, redb::Error>>()
        });
        for record in records {
            let entry: Entry<TypeConfig> = disk.decode::<EntryRecord>("reading the log", &record).into();
            // A log keeps some entries below its snapshot.
            if inner.last_applied < Some(entry.log_id) {
                Machine::apply_one(&mut inner, entry);
            }
        }
        let last = inner.last_applied?.into();
        Some((inner.state.clone(), inner.members.membership().into(), last))
    }

    /// Makes a new file begin with this state.
    pub fn plant(disk: &Disk, meta: &SnapshotMetaRecord, state: State, records: &[(&'static str, Vec<u8>)]) {
        let format = state.format();
        let data = disk.encode("the snapshot", &StateRecord { format, state });
        let meta = disk.encode("the snapshot", meta);
        disk.write_blocking("writing the recovered state", |txn| {
            disk.raise_format(txn, format)?;
            let mut table = txn.open_table(SNAPSHOT)?;
            table.insert(META, meta.as_slice())?;
            table.insert(DATA, data.as_slice())?;
            let mut facts = txn.open_table(disk::META)?;
            for (key, value) in records {
                facts.insert(*key, value.as_slice())?;
            }
            Ok(())
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; if something did, the state is still whole between commands.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn view(&self, prefix: &str) -> kv::Snapshot {
        self.lock().state.view(prefix)
    }

    /// The state and every change after it, with nothing between.
    pub fn subscribe(&self, prefix: &str) -> (kv::Snapshot, broadcast::Receiver<Arc<Event>>) {
        let inner = self.lock();
        (inner.state.view(prefix), self.events.subscribe())
    }

    /// Number of log entries applied: index of the last one, plus one.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    pub fn clock_offset(&self) -> i64 {
        self.lock().clock.offset()
    }

    /// That the group writes, as far as this node has applied the log.
    pub fn format(&self) -> u32 {
        self.lock().state.format()
    }

    pub fn next_lease_end(&self) -> Option<u64> {
        self.lock().state.next_end()
    }

    fn apply_one(inner: &mut Inner, entry: Entry<TypeConfig>) -> (Applied, Vec<Change>) {
        inner.last_applied = Some(entry.log_id);
        let mut changes = Vec::new();
        let applied = match entry.payload {
            EntryPayload::Blank => Applied::Done,
            EntryPayload::Membership(members) => {
                inner.members = StoredMembership::new(Some(entry.log_id), members);
                Applied::Done
            }
            EntryPayload::Normal(command) => {
                let stamp = command.stamp;
                let applied = inner.state.apply(entry.log_id.leader_id.term, command, &mut changes);
                if applied != Applied::Misstamped {
                    inner.clock.observe(stamp, boot_ms());
                }
                applied
            }
        };
        (applied, changes)
    }
}

fn next(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

fn load(disk: &Disk) -> Option<(SnapshotMetaRecord, Vec<u8>)> {
    let (meta, data) = disk.read("reading the snapshot", |txn| {
        let table = txn.open_table(SNAPSHOT)?;
        let meta = table.get(META)?.map(|v| v.value().to_vec());
        let data = table.get(DATA)?.map(|v| v.value().to_vec());
        Ok((meta, data))
    });
    Some((disk.decode("the snapshot", &meta?), data?))
}

#[derive(serde::Deserialize)]
struct FormatOnly {
    format: u32,
}

/// Keeps the newer one: building a snapshot runs beside the installation of one, and must not put an
/// old state below a log that was purged up to a later one.
async fn save(disk: &Disk, meta: &SnapshotMetaRecord, format: u32, data: Vec<u8>) {
    let at = meta.at.map(|p| p.index);
    let encoded = disk.encode("the snapshot", meta);
    let reader = disk.clone();
    disk.write("writing the snapshot", move |txn| {
        reader.raise_format(txn, format)?;
        let mut table = txn.open_table(SNAPSHOT)?;
        let kept = table.get(META)?.map(|v| v.value().to_vec());
        let kept = kept.map(|m| reader.decode::<SnapshotMetaRecord>("the snapshot", &m));
        if kept.is_some_and(|k| k.at.map(|p| p.index) > at) {
            return Ok(());
        }
        table.insert(META, encoded.as_slice())?;
        table.insert(DATA, data.as_slice())?;
        Ok(())
    })
    .await;
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Stored<(Option<LogId>, StoredMembership)> {
        let inner = self.lock();
        Ok((inner.last_applied, inner.members.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Stored<Vec<Applied>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut results = Vec::new();
        let upto = {
            let mut inner = self.lock();
            for entry in entries {
                let (applied, changes) = Machine::apply_one(&mut inner, entry);
                results.push(applied);
                if !changes.is_empty() {
                    // No receiver is no error: nobody watches.
                    let _ = self.events.send(Arc::new(Event::Changes(changes)));
                }
            }
            next(inner.last_applied)
        };
        self.applied.send_replace(upto);
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Stored<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, openraft::BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Stored<()> {
        let data = snapshot.into_inner();
        if let Ok(FormatOnly { format }) = serde_json::from_slice(&data)
            && format > host::newest_format()
        {
            return Err(StorageError::from_io_error(
                openraft::ErrorSubject::StateMachine,
                openraft::ErrorVerb::Write,
                std::io::Error::other(format!(
                    "the Raft leader sent a state of format {format}, and this program reads formats up to {}: bring this node to \
                     the leader's version",
                    host::newest_format()
                )),
            ));
        }
        let record: StateRecord = self.disk.decode("a snapshot from the leader", &data);
        save(&self.disk, &SnapshotMetaRecord::new(meta), record.format, data).await;
        let upto = {
            let mut inner = self.lock();
            inner.clock.observe(record.state.stamp, boot_ms());
            inner.state = record.state;
            inner.last_applied = meta.last_log_id;
            inner.members = meta.last_membership.clone();
            let _ = self.events.send(Arc::new(Event::Replaced));
            next(inner.last_applied)
        };
        self.applied.send_replace(upto);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Stored<Option<Snapshot<TypeConfig>>> {
        Ok(load(&self.disk)
            .map(|(meta, data)| Snapshot { meta: meta.into_meta(), snapshot: Box::new(Cursor::new(data)) }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Stored<Snapshot<TypeConfig>> {
        let (record, meta) = {
            let inner = self.lock();
            let at = inner.last_applied.map_or_else(|| "empty".to_owned(), |id| id.to_string());
            let meta = SnapshotMeta {
                last_log_id: inner.last_applied,
                last_membership: inner.members.clone(),
                snapshot_id: at,
            };
            (StateRecord { format: inner.state.format(), state: inner.state.clone() }, meta)
        };
        let data = self.disk.encode("the snapshot", &record);
        save(&self.disk, &SnapshotMetaRecord::new(&meta), record.format, data.clone()).await;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}
