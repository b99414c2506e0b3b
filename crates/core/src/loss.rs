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
    /// Of the committed ones, most rows first.
    pub tables: Vec<TableLoss>,
    /// Rows of system catalogs they changed: tables, roles and the like were created, altered or dropped.
    pub catalog_rows: u64,
    pub wal: KeptWal,
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
