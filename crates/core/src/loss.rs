//! What a data directory holds that nobody else has, told before it is destroyed.

use serde::{Deserialize, Serialize};

use crate::divergence::HistoryRow;
use crate::ids::{Lsn, MemberName, SystemId, Timeline};

/// What is about to happen to a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destroying {
    Rewind,
    /// It goes as a whole: what cannot be found out about it is written down as that.
    Removal,
}

/// What came of looking for log that only this server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Nobody loses a transaction.
    Nothing(String),
    /// A receipt is on disk, from now or from an earlier attempt; in words.
    Receipt(String),
    /// Cannot be told now, in words: ask again.
    Undecided(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub timeline: Timeline,
    pub lsn: Lsn,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.timeline)
    }
}

/// What the lost transactions did to one table.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TableLoss {
    /// Absent where the new primary has no such database, or was not to be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Absent for one that was created, rewritten or truncated after the fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// Tablespace, database and file, as `pg_waldump --relation` takes it.
    pub file: String,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    /// Of the committed ones, how many wrote to it.
    #[serde(default)]
    pub transactions: u64,
}

impl TableLoss {
    pub fn rows(&self) -> u64 {
        self.inserted + self.updated + self.deleted
    }

    pub fn name(&self) -> String {
        match (&self.database, &self.table) {
            (Some(database), Some(table)) => format!("{database}: {table}"),
            (Some(database), None) => format!("{database}: file {}", self.file),
            _ => format!("file {}", self.file),
        }
    }
}

/// One committed transaction; rows of system catalogs are not counted.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TransactionLoss {
    pub xid: u32,
    /// When it was committed, in UTC.
    pub at: String,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

/// The rows themselves: one JSON object a line, in a file beside the receipt.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeptRows {
    /// How many are there.
    pub kept: u64,
    /// What each line is, for each database that was read.
    pub sources: Vec<RowSource>,
    /// Why some are not.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowSource {
    pub database: String,
    /// The logical slot whose position lies before the fork: changes in their order, with the old keys. Absent: rows as
    /// the lost transactions left them, read from the tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeptWal {
    pub segments: Vec<String>,
    pub bytes: u64,
    /// Segments of the range that were not kept, and why.
    pub left_out: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One loss. Written once, gone when it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    pub id: String,
    /// When it was written.
    pub at: String,
    pub scope: String,
    pub member: MemberName,
    pub destroying: Destroying,
    /// The member whose history counts from then on.
    pub against: MemberName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_id: Option<SystemId>,
    /// Where the histories part. Absent: could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Position>,
    /// Where reading began: the fork, or the first log behind it that was still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Position>,
    /// The end of the last record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Position>,
    /// Timelines that the range goes through.
    pub timelines: Vec<Timeline>,
    /// Transactions that were committed, or prepared for two-phase commit, and are lost.
    pub committed: u64,
    pub prepared: u64,
    /// Had begun to write and were not committed: never promised to anybody.
    pub unfinished: u64,
    /// The first and the last commit, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<String>,
    /// Of the committed ones, in their order, up to a limit.
    pub xids: Vec<u32>,
    /// The first of them one by one, with what they wrote.
    #[serde(default)]
    pub first_transactions: Vec<TransactionLoss>,
    /// Of the committed ones, most rows first.
    pub tables: Vec<TableLoss>,
    /// Rows of system catalogs they changed: tables, roles and the like were created, altered or dropped.
    pub catalog_rows: u64,
    pub wal: KeptWal,
    /// Absent until they were read, or where they cannot be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<KeptRows>,
    /// Why something is not known.
    pub notes: Vec<String>,
}

impl Receipt {
    pub fn transactions(&self) -> u64 {
        self.committed + self.prepared
    }

    /// The same loss, found again by another attempt. Every attempt leaves a checkpoint behind the last transaction, so
    /// the ends differ.
    pub fn same_loss(&self, other: &Receipt) -> bool {
        let key = |r: &Receipt| {
            let counted = (r.committed, r.prepared, r.first_commit.clone(), r.last_commit.clone());
            (r.system_id.clone(), r.fork.map(|f| (f.timeline, f.lsn)), counted)
        };
        self.fork.is_some() && key(self) == key(other)
    }

    /// One line for logs and lists.
    pub fn summary(&self) -> String {
        let range = match (&self.fork, &self.to) {
            (Some(fork), Some(to)) => format!("behind {fork}, up to {to}"),
            (None, Some(to)) => format!("up to {to}; where the histories part is not known"),
            _ => "of which nothing could be read".into(),
        };
        let when = match (&self.first_commit, &self.last_commit) {
            (Some(first), Some(last)) if first != last => format!(", committed from {first} to {last}"),
            (Some(at), _) => format!(", committed at {at}"),
            _ => String::new(),
        };
        let n = self.transactions();
        format!("{n} transaction{} {range}{when}", if n == 1 { "" } else { "s" })
    }
}

/// What the store remembers of a receipt that nobody has acknowledged, for when the machine it lies on is no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub id: String,
    pub at: String,
    pub transactions: u64,
    /// As in lists.
    pub what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Position>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Position>,
    /// The tables with the most rows.
    pub changed: Vec<String>,
    pub wal_bytes: u64,
    /// Where the receipt and its log were.
    pub directory: String,
}

/// For each member; the store is no place for more, and the newest count.
const REMEMBERED: usize = 20;
const REMEMBERED_TABLES: usize = 5;

impl Remembered {
    pub fn of(receipt: &Receipt, directory: &str) -> Remembered {
        let table = |t: &TableLoss| {
            format!("{}: {} inserted, {} updated, {} deleted", t.name(), t.inserted, t.updated, t.deleted)
        };
        Remembered {
            id: receipt.id.clone(),
            at: receipt.at.clone(),
            transactions: receipt.transactions(),
            what: receipt.summary(),
            last_commit: receipt.last_commit.clone(),
            fork: receipt.fork,
            to: receipt.to,
            changed: receipt.tables.iter().take(REMEMBERED_TABLES).map(table).collect(),
            wal_bytes: receipt.wal.bytes,
            directory: directory.to_owned(),
        }
    }

    pub fn parse(text: &str) -> Result<Vec<Remembered>, String> {
        serde_json::from_str(text).map_err(|e| format!("does not tell of loss receipts ({e})"))
    }

    /// Of a key with all of them.
    pub fn to_text(all: &[Remembered]) -> String {
        // Texts and numbers always make JSON.
        serde_json::to_string(all).unwrap_or_default()
    }
}

/// What the store is to remember of a member, given what it does, what lies on the member's disk, and what was
/// acknowledged there. What is on the disk no more without that is what must not be forgotten.
pub fn to_remember(stored: &[Remembered], on_disk: &[Remembered], acknowledged: &[String]) -> Vec<Remembered> {
    let gone = stored.iter().filter(|s| on_disk.iter().all(|d| d.id != s.id) && !acknowledged.contains(&s.id));
    let mut all: Vec<Remembered> = gone.chain(on_disk).cloned().collect();
    all.sort_by(|a, b| (&a.at, &a.id).cmp(&(&b.at, &b.id)));
    all.drain(..all.len().saturating_sub(REMEMBERED));
    all
}

/// Where two histories part, as their timelines tell: the last timeline both went through, and where the first of them
/// left it. `None`: they have nothing in common. On the same timeline, with the same past, nobody left: no position.
pub fn fork(local: (Timeline, &[HistoryRow]), upstream: (Timeline, &[HistoryRow])) -> Option<(Timeline, Option<Lsn>)> {
    let path = |(own, rows): (Timeline, &[HistoryRow])| -> Vec<(Timeline, Option<Lsn>)> {
        let past = rows.iter().filter(|r| r.timeline < own).map(|r| (r.timeline, Some(r.switch_lsn)));
        past.chain([(own, None)]).collect()
    };
    let mut common = None;
    for (mine, theirs) in path(local).into_iter().zip(path(upstream)) {
        if mine.0 != theirs.0 {
            break;
        }
        let end = match (mine.1, theirs.1) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        common = Some((mine.0, end));
        if mine.1 != theirs.1 {
            break;
        }
    }
    common
}

/// The stretches of the local log behind a fork: timeline, start, and end where another timeline follows.
pub fn stretches(local: (Timeline, &[HistoryRow]), fork: (Timeline, Lsn)) -> Vec<(Timeline, Lsn, Option<Lsn>)> {
    let (own, rows) = local;
    let ends = rows.iter().filter(|r| r.timeline < own).map(|r| (r.timeline, Some(r.switch_lsn)));
    let mut start = fork.1;
    let mut all = vec![];
    for (timeline, end) in ends.chain([(own, None)]) {
        if timeline < fork.0 {
            continue;
        }
        if end.is_none_or(|end| end > start) {
            all.push((timeline, start, end));
        }
        start = start.max(end.unwrap_or(start));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ends: &[(u32, u64)]) -> Vec<HistoryRow> {
        let row =
            |(t, l): &(u32, u64)| HistoryRow { timeline: Timeline(*t), switch_lsn: Lsn(*l), reason: String::new() };
        ends.iter().map(row).collect()
    }

    #[test]
    fn where_histories_part() {
        for (local, mine, upstream, theirs, want) in [
            // The usual one: a former primary stayed on 1, the other went on to 2.
            (1, vec![], 2, vec![(1, 100)], Some((1, Some(100)))),
            (1, vec![], 3, vec![(1, 100), (2, 200)], Some((1, Some(100)))),
            (2, vec![(1, 100)], 3, vec![(1, 100), (2, 200)], Some((2, Some(200)))),
            // Promoted here as well, earlier or later than there.
            (3, vec![(1, 150)], 2, vec![(1, 100)], Some((1, Some(100)))),
            (3, vec![(1, 50)], 2, vec![(1, 100)], Some((1, Some(50)))),
            // Two timelines with one number that began at different places.
            (2, vec![(1, 150)], 2, vec![(1, 100)], Some((1, Some(100)))),
            (4, vec![(1, 100), (3, 300)], 4, vec![(1, 100), (2, 200)], Some((1, Some(100)))),
            (2, vec![(1, 100)], 2, vec![(1, 100)], Some((2, None))),
            (1, vec![], 1, vec![], Some((1, None))),
            (2, vec![], 3, vec![(1, 100)], None),
        ] {
            let (mine, theirs) = (rows(&mine), rows(&theirs));
            let got = fork((Timeline(local), &mine), (Timeline(upstream), &theirs));
            assert_eq!(got.map(|(t, l)| (t.0, l.map(|l| l.0))), want, "{local} {mine:?} {upstream} {theirs:?}");
        }
    }

    #[test]
    fn what_the_store_remembers() {
        let one = |id: &str| Remembered {
            id: id.into(),
            at: format!("2026-01-{id}"),
            transactions: 1,
            what: String::new(),
            last_commit: None,
            fork: Some(Position { timeline: Timeline(1), lsn: Lsn(7) }),
            to: None,
            changed: vec![],
            wal_bytes: 0,
            directory: "/d".into(),
        };
        let ids = |stored: &[&str], disk: &[&str], acknowledged: &[&str]| -> Vec<String> {
            let all = |ids: &[&str]| ids.iter().map(|id| one(id)).collect::<Vec<_>>();
            let acknowledged: Vec<String> = acknowledged.iter().map(|id| (*id).to_owned()).collect();
            let kept = to_remember(&all(stored), &all(disk), &acknowledged);
            assert_eq!(Remembered::parse(&Remembered::to_text(&kept)), Ok(kept.clone()));
            kept.into_iter().map(|r| r.id).collect()
        };
        assert_eq!(ids(&[], &["01"], &[]), ["01"]);
        assert_eq!(ids(&["01"], &["01", "02"], &[]), ["01", "02"]);
        assert_eq!(ids(&["01", "02"], &["02"], &["01"]), ["02"]);
        assert_eq!(ids(&["01"], &[], &[]), ["01"], "another machine has its name now");
        assert_eq!(ids(&["02"], &["01"], &["02", "03"]), ["01"]);
        let many: Vec<String> = (10..40).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let kept = ids(&many, &["05"], &[]);
        assert_eq!((kept.len(), kept[0].as_str()), (REMEMBERED, "20"));
        assert!(Remembered::parse("{").is_err());
    }

    #[test]
    fn what_lies_behind_a_fork() {
        for (own, history, fork, want) in [
            (1, vec![], (1, 100), vec![(1, 100, None)]),
            (3, vec![(1, 150), (2, 200)], (1, 100), vec![(1, 100, Some(150)), (2, 150, Some(200)), (3, 200, None)]),
            // Promoted here exactly where the other left, or before.
            (3, vec![(1, 100)], (1, 100), vec![(3, 100, None)]),
            (3, vec![(1, 50), (2, 200)], (2, 200), vec![(3, 200, None)]),
        ] {
            let history = rows(&history);
            let got = stretches((Timeline(own), &history), (Timeline(fork.0), Lsn(fork.1)));
            let got: Vec<_> = got.into_iter().map(|(t, s, e)| (t.0, s.0, e.map(|e| e.0))).collect();
            assert_eq!(got, want, "{own} {history:?}");
        }
    }
}
