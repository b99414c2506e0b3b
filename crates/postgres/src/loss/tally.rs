//! Adds up what `pg_waldump` prints of a stretch of log: which transactions came to an end, and what they did.

use std::collections::{BTreeMap, BTreeSet};

use surus_core::Lsn;
use surus_core::loss::TransactionLoss;

use super::touched::{Change, Touched};
use crate::divergence::record_end;
use crate::stop::WalRecord;

/// Transaction ids listed one by one.
const XIDS: usize = 1000;
/// Transactions listed with what they wrote.
const DETAILED: usize = 100;
/// Below that, files belong to relations that `initdb` made: catalogs.
const FIRST_OF_USERS: u32 = 16384;

/// Rows inserted, updated and deleted.
pub(super) type Rows = [u64; 3];

/// What committed transactions did to one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub rows: Rows,
    pub transactions: u64,
}

#[derive(Default)]
struct Open {
    files: BTreeMap<String, Rows>,
    changes: Vec<(String, Change)>,
    subxacts: Vec<u32>,
}

#[derive(Default)]
pub(super) struct Tally {
    segment_size: u64,
    open: BTreeMap<u32, Open>,
    prepared: BTreeSet<u32>,
    /// Files that came into being in the stretch: their numbers mean something else to other servers.
    pub created: BTreeSet<String>,
    pub files: BTreeMap<String, Sum>,
    pub catalog_rows: u64,
    pub committed: u64,
    pub xids: Vec<u32>,
    pub detailed: Vec<TransactionLoss>,
    pub touched: Touched,
    pub first_commit: Option<String>,
    pub last_commit: Option<String>,
    pub records: u64,
    pub end: Option<Lsn>,
}

impl Tally {
    pub fn new(segment_size: u64) -> Tally {
        Tally { segment_size, ..Tally::default() }
    }

    /// Prepared and neither committed nor rolled back.
    pub fn prepared(&self) -> u64 {
        self.prepared.len() as u64
    }

    pub fn unfinished(&self) -> u64 {
        self.open.keys().filter(|xid| !self.prepared.contains(xid)).count() as u64
    }

    pub fn line(&mut self, line: &str) {
        let Some(record) = WalRecord::of_line(line) else { return };
        self.records += 1;
        self.end = Some(record_end(record.at, record.total_len, self.segment_size));
        let (what, rest) = record.text.split_once(' ').unwrap_or((&record.text, ""));
        match (record.rmgr.as_str(), what) {
            ("Transaction", "COMMIT") => self.committed(record.xid, rest),
            ("Transaction", "ABORT") => self.forget(record.xid, rest),
            // Both begin with the id of the transaction that was prepared; this record's own is another.
            ("Transaction", "COMMIT_PREPARED" | "ABORT_PREPARED") => {
                let Some((xid, rest)) = rest.split_once(':') else { return };
                let Ok(xid) = xid.trim().parse() else { return };
                self.prepared.remove(&xid);
                if what == "COMMIT_PREPARED" { self.committed(xid, rest) } else { self.forget(xid, rest) }
            }
            ("Transaction", "PREPARE") => {
                self.prepared.insert(record.xid);
                self.open.entry(record.xid).or_default().subxacts = subxacts(rest);
            }
            ("Storage", "CREATE") => {
                if let Some(file) = rest.split_whitespace().next().and_then(file_of_path) {
                    self.created.insert(file);
                }
            }
            ("Heap" | "Heap2", _) => self.rows(record.xid, what, rest),
            _ => {}
        }
    }

    fn rows(&mut self, xid: u32, what: &str, rest: &str) {
        let (kind, n) = match what.trim_end_matches("+INIT") {
            "INSERT" => (0, 1),
            "MULTI_INSERT" => (0, tuples(rest)),
            "UPDATE" | "HOT_UPDATE" => (1, 1),
            "DELETE" => (2, 1),
            _ => return,
        };
        let Some(file) = rest.split_once("blkref #0: rel ").and_then(|(_, r)| r.split_whitespace().next()) else {
            return;
        };
        let open = self.open.entry(xid).or_default();
        open.files.entry(file.to_owned()).or_default()[kind] += n;
        if self.touched.wants(n) && !of_catalog(file) {
            open.changes.extend(Change::of(self.records, what, rest, n).map(|change| (file.to_owned(), change)));
        }
    }

    fn committed(&mut self, xid: u32, rest: &str) {
        self.committed += 1;
        if self.xids.len() < XIDS {
            self.xids.push(xid);
        }
        let at = rest.trim_start().split(';').next().unwrap_or_default().trim().to_owned();
        self.first_commit.get_or_insert_with(|| at.clone());
        self.last_commit = Some(at.clone());
        let mut written: BTreeMap<String, Rows> = BTreeMap::new();
        let mut changes = vec![];
        for (id, mut done) in self.take(xid, rest) {
            changes.extend(std::mem::take(&mut done.changes).into_iter().map(|(file, change)| (id, file, change)));
            for (file, rows) in done.files {
                if of_catalog(&file) {
                    self.catalog_rows += rows.iter().sum::<u64>();
                    continue;
                }
                let sum = written.entry(file).or_default();
                sum.iter_mut().zip(rows).for_each(|(sum, n)| *sum += n);
            }
        }
        // Subtransactions of one transaction change the rows of each other.
        changes.sort_by_key(|(_, _, change)| change.number);
        self.touched.committed(xid, &at, changes);
        let mut all = Rows::default();
        for (file, rows) in written {
            let sum = self.files.entry(file).or_default();
            sum.transactions += 1;
            sum.rows.iter_mut().chain(&mut all).zip(rows.iter().chain(&rows)).for_each(|(sum, n)| *sum += n);
        }
        if self.detailed.len() < DETAILED {
            let [inserted, updated, deleted] = all;
            self.detailed.push(TransactionLoss { xid, at, inserted, updated, deleted });
        }
    }

    fn forget(&mut self, xid: u32, rest: &str) {
        for (_, gone) in self.take(xid, rest) {
            self.touched.forget(gone.changes.len());
        }
    }

    /// A transaction with its subtransactions.
    fn take(&mut self, xid: u32, rest: &str) -> Vec<(u32, Open)> {
        let own = self.open.remove(&xid).unwrap_or_default();
        let mut all: BTreeSet<u32> = subxacts(rest).into_iter().collect();
        all.extend(&own.subxacts);
        let mut taken: Vec<(u32, Open)> = all.iter().filter_map(|sub| Some((*sub, self.open.remove(sub)?))).collect();
        taken.push((xid, own));
        taken
    }
}

fn subxacts(rest: &str) -> Vec<u32> {
    let Some((_, list)) = rest.split_once("subxacts:") else { return vec![] };
    list.split_whitespace().map_while(|word| word.trim_end_matches(';').parse().ok()).collect()
}

/// `5 tuples`, and from 16 on `ntuples: 5`.
fn tuples(rest: &str) -> u64 {
    let words: Vec<&str> = rest.split([' ', ',']).filter(|w| !w.is_empty()).collect();
    let beside = words.windows(2).find_map(|pair| match (pair[0], pair[1]) {
        ("ntuples:", n) | (n, "tuples") => n.parse().ok(),
        _ => None,
    });
    beside.unwrap_or(1)
}

/// `base/5/16391` and `pg_tblspc/16400/PG_15_202209061/5/16391` as other records name them: `1663/5/16391`.
fn file_of_path(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.trim_end_matches(';').split('/').collect();
    match parts.as_slice() {
        ["base", database, file] => Some(format!("1663/{database}/{file}")),
        ["global", file] => Some(format!("1664/0/{file}")),
        ["pg_tblspc", space, _, database, file] => Some(format!("{space}/{database}/{file}")),
        _ => None,
    }
}

fn of_catalog(file: &str) -> bool {
    file.rsplit('/').next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n < FIRST_OF_USERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[(&str, u32, &str)]) -> Tally {
        let mut tally = Tally::new(16 << 20);
        for (i, (rmgr, xid, text)) in lines.iter().enumerate() {
            let at = 0x0176_0000 + i * 64;
            tally.line(&format!(
                "rmgr: {rmgr:<11} len (rec/tot):     59/    59, tx: {xid:>10}, lsn: 0/{at:08X}, prev 0/01750000, desc: {text}"
            ));
        }
        tally
    }

    #[test]
    fn only_what_was_committed_counts() {
        let tally = of(&[
            ("Heap", 700, "INSERT off 2 flags 0x00, blkref #0: rel 1663/5/16391 blk 0"),
            ("Heap", 701, "INSERT off 3 flags 0x00, blkref #0: rel 1663/5/16391 blk 0 FPW"),
            ("Heap", 703, "DELETE off 13 flags 0x00 KEYS_UPDATED , blkref #0: rel 1663/5/16391 blk 14"),
            ("Heap2", 700, "MULTI_INSERT+INIT 5 tuples flags 0x02, blkref #0: rel 1663/5/16400 blk 56"),
            ("Btree", 700, "INSERT_LEAF off 2, blkref #0: rel 1663/5/16396 blk 1"),
            ("Heap", 700, "UPDATE off 6 xmax 732 flags 0x60 ; new off 10 xmax 0, blkref #0: rel 1663/5/1259 blk 0"),
            ("Transaction", 700, "COMMIT 2026-11-26 00:13:45.189980 UTC; rels: base/5/16388; subxacts: 703 704; inval"),
            ("Transaction", 701, "ABORT 2026-11-26 00:13:46 UTC"),
            ("Heap", 702, "HOT_UPDATE off 6 xmax 7, blkref #0: rel 1663/5/16391 blk 0"),
            ("Transaction", 0, "COMMIT"),
        ]);
        assert_eq!(tally.files["1663/5/16391"], Sum { rows: [1, 0, 1], transactions: 1 });
        assert_eq!(tally.files["1663/5/16400"], Sum { rows: [5, 0, 0], transactions: 1 });
        let detail = &tally.detailed[0];
        assert_eq!((detail.xid, detail.inserted, detail.updated, detail.deleted), (700, 6, 0, 1));
        assert_eq!((tally.files.len(), tally.catalog_rows, tally.unfinished()), (2, 1, 1));
        assert_eq!((tally.committed, tally.xids.as_slice()), (2, &[700, 0][..]));
        assert_eq!(tally.first_commit.as_deref(), Some("2026-11-26 00:13:45.189980 UTC"));
        assert_eq!(tally.end, Some(Lsn(0x0176_0000 + 9 * 64 + 64)));
    }

    #[test]
    fn two_phase_commit() {
        let insert = "INSERT off 2 flags 0x00, blkref #0: rel 1663/5/16391 blk 0";
        let tally = of(&[
            ("Heap", 800, insert),
            ("Heap", 801, insert),
            ("Heap", 805, insert),
            ("Transaction", 800, "PREPARE gid a: 2026-11-26 00:13:45 UTC; subxacts: 805"),
            ("Transaction", 801, "PREPARE gid b: 2026-11-26 00:13:45 UTC"),
            ("Transaction", 802, "PREPARE gid c: 2026-11-26 00:13:45 UTC"),
            ("Transaction", 0, "COMMIT_PREPARED 800: 2026-11-26 00:13:47 UTC"),
            ("Transaction", 0, "ABORT_PREPARED 801: 2026-11-26 00:13:47 UTC"),
        ]);
        assert_eq!((tally.committed, tally.prepared(), tally.unfinished()), (1, 1, 0));
        assert_eq!(tally.files["1663/5/16391"], Sum { rows: [2, 0, 0], transactions: 1 });
        assert_eq!(tally.last_commit.as_deref(), Some("2026-11-26 00:13:47 UTC"));
    }

    #[test]
    fn numbers_and_files() {
        for (text, n) in [("5 tuples flags 0x02", 5), ("ntuples: 96, flags: 0x02, offsets: [1, 2]", 96), ("x", 1)] {
            assert_eq!(tuples(text), n);
        }
        for (path, file) in [
            ("base/5/16391", Some("1663/5/16391")),
            ("global/1262", Some("1664/0/1262")),
            ("pg_tblspc/16400/PG_15_202209061/5/16391", Some("16400/5/16391")),
            ("x", None),
        ] {
            assert_eq!(file_of_path(path).as_deref(), file);
        }
    }
}
