//! The Raft log and vote on disk.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{Entry, EntryPayload, OptionalSend, RaftLogReader, StorageError, Vote};

use crate::disk::{self, Disk, LOG, META};
use crate::format::FIRST;
use crate::host;
use crate::records::{EntryRecord, Position, VoteRecord};
use crate::types::{LogId, TypeConfig};

pub const VOTE: &str = "vote";
pub const PURGED: &str = "purged";
/// A batch sent to a follower stays well below the frame limit of the network.
const BATCH_BYTES: usize = 1 << 20;

type Stored<T> = Result<T, StorageError<u64>>;

#[derive(Clone)]
pub struct LogStore {
    disk: Disk,
}

impl LogStore {
    pub fn new(disk: Disk) -> LogStore {
        LogStore { disk }
    }

    /// The last entry on disk, or the last one purged.
    pub fn last(&self) -> Option<LogId> {
        let last = self.disk.read("reading the log", disk::last_log);
        let last = last.map(|r| LogId::from(self.disk.decode::<EntryRecord>("reading the log", &r).at));
        last.or_else(|| self.purged())
    }

    fn purged(&self) -> Option<LogId> {
        self.disk.meta::<Position>(PURGED).map(LogId::from)
    }

    fn entries(&self, from: Bound<u64>, to: Bound<u64>, max_bytes: usize) -> Vec<Entry<TypeConfig>> {
        let records = self.disk.read("reading the log", |txn| {
            let table = txn.open_table(LOG)?;
            let (mut records, mut bytes) = (Vec::new(), 0);
            for row in table.range::<u64>((from, to))? {
                let record = row?.1.value().to_vec();
                bytes += record.len();
                if bytes > max_bytes && !records.is_empty() {
                    break;
                }
                records.push(record);
            }
            Ok(records)
        });
        records.iter().map(|r| self.disk.decode::<EntryRecord>("reading the log", r).into()).collect()
    }
}

/// The last line of defence: a program that went back to an older version between what it said and what was decided on it.
fn stop_if_too_new(format: u32) {
    let newest = host::newest_format();
    if format > newest {
        tracing::error!(
            "the store group writes format {format}, and this program reads formats up to {newest}. Stopping before anything \
             is misread; start the version that the other nodes run"
        );
        host::abort();
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Stored<Vec<Entry<TypeConfig>>> {
        Ok(self.entries(range.start_bound().cloned(), range.end_bound().cloned(), usize::MAX))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Stored<Vec<Entry<TypeConfig>>> {
        Ok(self.entries(Bound::Included(start), Bound::Excluded(end), BATCH_BYTES))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Stored<LogState<TypeConfig>> {
        Ok(LogState { last_purged_log_id: self.purged(), last_log_id: self.last() })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Stored<()> {
        self.disk.set_meta(VOTE, &VoteRecord::from(vote)).await;
        Ok(())
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote<u64>>> {
        Ok(self.disk.meta::<VoteRecord>(VOTE).map(Vote::from))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Stored<()>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut records, mut format) = (Vec::new(), FIRST);
        for entry in entries {
            if let EntryPayload::Normal(command) = &entry.payload {
                format = format.max(command.op.format());
            }
            records.push((entry.log_id.index, self.disk.encode("a log entry", &EntryRecord::from(entry))));
        }
        stop_if_too_new(format);
        let disk = self.disk.clone();
        self.disk
            .write("appending to the log", move |txn| {
                disk.raise_format(txn, format)?;
                let mut table = txn.open_table(LOG)?;
                for (index, record) in &records {
                    table.insert(index, record.as_slice())?;
                }
                Ok(())
            })
            .await;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Stored<()> {
        self.disk
            .write("truncating the log", move |txn| {
                let mut table = txn.open_table(LOG)?;
                table.retain_in(log_id.index.., |_, _| false)?;
                Ok(())
            })
            .await;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Stored<()> {
        let position = self.disk.encode(PURGED, &Position::from(log_id));
        self.disk
            .write("purging the log", move |txn| {
                txn.open_table(META)?.insert(PURGED, position.as_slice())?;
                let mut table = txn.open_table(LOG)?;
                table.retain_in(..=log_id.index, |_, _| false)?;
                Ok(())
            })
            .await;
        Ok(())
    }
}
