//! A loss receipt, for people.

use std::fmt::Write;
use std::path::Path;

use surus_core::loss::{Destroying, Receipt};

use super::Gone;
use crate::listing::size;

/// Transaction ids and tables shown; the JSON document has all.
const SHOWN: usize = 40;

pub fn receipt(r: &Receipt, directory: &Path) -> String {
    let mut out = String::new();
    let before = match r.destroying {
        Destroying::Rewind => "before pg_rewind from",
        Destroying::Removal => "before its data directory was replaced by a copy, compared with",
    };
    let _ = writeln!(
        out,
        "Loss receipt {} of {} in {}, written {} {before} {}.\n",
        r.id, r.member, r.scope, r.at, r.against
    );
    match (&r.fork, &r.to) {
        (Some(fork), Some(to)) => {
            let _ = writeln!(out, "The histories part at {fork}; the log here went on to {to}.");
        }
        (None, Some(to)) => {
            let _ = writeln!(out, "Where the histories part is not known; the log here went on to {to}.");
        }
        _ => out.push_str("Nothing could be read of the log.\n"),
    }
    let when = match (&r.first_commit, &r.last_commit) {
        (Some(first), Some(last)) => format!(", from {first} to {last}"),
        _ => String::new(),
    };
    let _ = writeln!(out, "Committed here and in no other history: {} transactions{when}.", r.committed);
    for t in r.first_transactions.iter().take(SHOWN) {
        let _ = writeln!(
            out,
            "  {} at {}: {} inserted, {} updated, {} deleted",
            t.xid, t.at, t.inserted, t.updated, t.deleted
        );
    }
    if !r.first_transactions.is_empty() && r.committed > r.first_transactions.len().min(SHOWN) as u64 {
        let _ = writeln!(out, "  and {} more", r.committed - r.first_transactions.len().min(SHOWN) as u64);
    }
    if r.first_transactions.is_empty() && !r.xids.is_empty() {
        let ids: Vec<String> = r.xids.iter().take(SHOWN).map(ToString::to_string).collect();
        let more = if r.committed > ids.len() as u64 { ", ..." } else { "" };
        let _ = writeln!(out, "Their ids: {}{more}", ids.join(", "));
    }
    if r.prepared > 0 {
        let _ = writeln!(out, "Prepared for two-phase commit: {} transactions.", r.prepared);
    }
    if r.unfinished > 0 {
        let _ = writeln!(out, "Begun and not committed, so promised to nobody: {} transactions.", r.unfinished);
    }
    if !r.tables.is_empty() || r.catalog_rows > 0 {
        out.push_str("\nWhat they changed, in rows:\n");
    }
    let names: Vec<String> = r.tables.iter().take(SHOWN).map(surus_core::loss::TableLoss::name).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    for (name, t) in names.iter().zip(&r.tables) {
        let _ = writeln!(
            out,
            "  {name:width$}  {} inserted, {} updated, {} deleted{}{}",
            t.inserted,
            t.updated,
            t.deleted,
            match t.transactions {
                // Of an earlier version.
                0 => String::new(),
                1 => ", in 1 transaction".into(),
                n => format!(", in {n} transactions"),
            },
            if t.table.is_none() { " (created, rewritten or truncated since, or not known)" } else { "" }
        );
    }
    if r.tables.len() > SHOWN {
        let _ = writeln!(out, "  and {} more tables", r.tables.len() - SHOWN);
    }
    if r.catalog_rows > 0 {
        let _ = writeln!(
            out,
            "  system catalogs: {} rows (objects created, altered or dropped, statistics)",
            r.catalog_rows
        );
    }
    out.push_str(&rows(r, directory));
    let wal = directory.join(&r.id).join("wal");
    if r.wal.segments.is_empty() {
        out.push_str("\nNo log is kept");
    } else {
        let n = r.wal.segments.len();
        let _ =
            write!(out, "\nIts log is kept on {}: {n} segments, {}, in {}", r.member, size(r.wal.bytes), wal.display());
    }
    match &r.wal.why {
        Some(why) => {
            let _ = writeln!(out, "; {} segments are not, because {why}.", r.wal.left_out.len());
        }
        None => out.push_str(".\n"),
    }
    for note in &r.notes {
        let _ = writeln!(out, "Note: {note}.");
    }
    if let (Some(from), Some(first), Some(last)) = (r.from, r.wal.segments.first(), r.wal.segments.last()) {
        out.push_str("\nTo see every record of it:\n");
        let range =
            if r.timelines.len() > 1 { format!("  # first of {} timelines", r.timelines.len()) } else { String::new() };
        let last = if last.get(..8) == first.get(..8) { last } else { first };
        let _ = writeln!(out, "  pg_waldump -s {} {}/{first} {}/{last}{range}", from.lsn, wal.display(), wal.display());
    }
    let _ = writeln!(
        out,
        "How to get rows back out of it: docs/loss.md. When nothing of it is needed any more:\n  surus loss ack {}",
        r.id
    );
    out
}

/// Where the rows themselves are, what they are, and why some are missing.
fn rows(r: &Receipt, directory: &Path) -> String {
    let Some(rows) = &r.rows else { return "\nThe rows themselves were not read.\n".into() };
    let mut out = if rows.kept == 0 {
        "\nNo rows are kept.\n".to_owned()
    } else {
        let file = directory.join(&r.id).join("rows.jsonl");
        format!(
            "\nRows are kept on {}: {} of them, in {}; this prints them there:\n  surus loss show {} --dir {}\n",
            r.member,
            rows.kept,
            file.display(),
            r.id,
            directory.display()
        )
    };
    for source in &rows.sources {
        let _ = match &source.slot {
            Some(slot) => writeln!(out, "Of {}: every change, decoded from the slot {slot}.", source.database),
            None => writeln!(
                out,
                "Of {}: rows as they were in the end. No logical slot lies before the fork, so what was in between, and \
                 what was in deleted rows, is not told.",
                source.database
            ),
        };
    }
    for note in &rows.notes {
        let _ = writeln!(out, "Note: {note}.");
    }
    out
}

pub fn gone(gone: &Gone) -> String {
    let r = &gone.receipt;
    let changed: String = r.changed.iter().map(|c| format!("  {c}\n")).collect();
    let changed = if changed.is_empty() { changed } else { format!("What they changed most, in rows:\n{changed}") };
    format!(
        "Loss receipt {} of {}, written {}. This is what the store remembers of it:\n{}.\n\nLost: {}.\n{changed}\
         {} of its log were kept in {} there.\nWhen nothing of it is needed any more:\n  surus loss ack {}\n",
        r.id,
        gone.member,
        r.at,
        gone.why,
        r.what,
        size(r.wal_bytes),
        r.directory,
        r.id
    )
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;
    use surus_core::loss::{KeptRows, RowSource, TransactionLoss};

    use super::*;

    pub fn receipt() -> Receipt {
        serde_json::from_value(json!({
            "id": "20260101T000000Z-tl1", "at": "2026-01-01T00:00:00Z", "scope": "demo", "member": "n1",
            "destroying": "rewind", "against": "n2", "fork": {"timeline": 1, "lsn": 0x300_0060},
            "from": {"timeline": 1, "lsn": 0x300_0060}, "to": {"timeline": 1, "lsn": 0x300_1000},
            "timelines": [1], "committed": 2, "prepared": 0, "unfinished": 1,
            "first_commit": "2026-01-01 00:00:00 UTC", "last_commit": "2026-01-01 00:00:01 UTC", "xids": [745, 746],
            "tables": [
                {"database": "postgres", "table": "public.t", "file": "1663/5/16391", "inserted": 2, "updated": 1, "deleted": 0, "transactions": 2},
                {"database": "postgres", "file": "1663/5/16400", "inserted": 7, "updated": 0, "deleted": 0},
            ],
            "catalog_rows": 3,
            "wal": {"segments": ["000000010000000000000003"], "bytes": 16_777_216, "left_out": ["000000010000000000000004"],
                    "why": "the budget (loss.keep_wal) is used up"},
            "notes": ["the server was asleep"],
        }))
        .unwrap()
    }

    #[test]
    fn a_receipt_tells_what_a_person_needs() {
        let text = super::receipt(&receipt(), Path::new("/d.surus.loss"));
        for part in [
            "part at 0/3000060 on timeline 1; the log here went on to 0/3001000",
            "2 transactions, from 2026-01-01 00:00:00 UTC to 2026-01-01 00:00:01 UTC",
            "Their ids: 745, 746\n",
            "postgres: public.t           2 inserted, 1 updated, 0 deleted, in 2 transactions\n",
            "The rows themselves were not read.",
            "postgres: file 1663/5/16400  7 inserted",
            "system catalogs: 3 rows",
            "1 segments, 16 MB, in /d.surus.loss/20260101T000000Z-tl1/wal; 1 segments are not, because the budget",
            "Note: the server was asleep.",
            "pg_waldump -s 0/3000060 /d.surus.loss/20260101T000000Z-tl1/wal/000000010000000000000003 ",
            "surus loss ack 20260101T000000Z-tl1",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn transactions_and_rows() {
        let mut receipt = receipt();
        receipt.first_transactions =
            vec![TransactionLoss { xid: 745, at: "then".into(), inserted: 2, updated: 1, deleted: 0 }];
        let sources =
            ["app", "web"].map(|d| RowSource { database: d.into(), slot: (d == "app").then(|| "cdc".into()) });
        receipt.rows = Some(KeptRows { kept: 3, sources: sources.into(), notes: vec!["7 are too long".into()] });
        let text = super::receipt(&receipt, Path::new("/d.surus.loss"));
        for part in [
            "  745 at then: 2 inserted, 1 updated, 0 deleted\n  and 1 more\n",
            "3 of them, in /d.surus.loss/20260101T000000Z-tl1/rows.jsonl",
            "surus loss show 20260101T000000Z-tl1 --dir /d.surus.loss\n",
            "Of app: every change, decoded from the slot cdc.",
            "Of web: rows as they were in the end.",
            "Note: 7 are too long.",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
