//! `loss`: receipts of what only one member had, asked of the members or read from their disks.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use surus_core::loss::{Destroying, Receipt};
use surus_postgres::loss;

use super::{API_LIMIT, journal};
use crate::cli::{Format, Loss, LossCommand, LossSource};
use crate::context::Context;
use crate::failure::{OrFail, Outcome, failed};
use crate::listing::size;
use crate::table;
use crate::terminal::{Terminal, say};

/// What one member, or one directory, has to say.
#[derive(Deserialize)]
struct Told {
    /// Absent for a directory on this machine.
    #[serde(skip)]
    api_url: Option<String>,
    directory: PathBuf,
    receipts: Vec<Receipt>,
    problems: Vec<String>,
}

pub async fn loss(context: &Context, terminal: &mut Terminal, args: &Loss) -> Outcome {
    let cluster = context.cluster(args.source().cluster.as_deref(), args.source().group)?;
    let reading = cluster.read().await?;
    let asked = reading.view.members.values().map(|member| async move {
        let url = journal::own_api(member)?;
        let answer = context.api.get(url, "/loss", API_LIMIT).await.map_err(|e| e.to_string())?;
        let told = answer.json::<Told>().ok().filter(|_| answer.code == 200);
        let told = told.ok_or_else(|| format!("it knows no loss receipts (status {})", answer.code))?;
        Ok(Told { api_url: Some(url.to_owned()), ..told })
    });
    let answers: Vec<Result<Told, String>> = join_all(asked).await;
    let mut told = vec![];
    for (name, answer) in reading.view.members.keys().zip(answers) {
        match answer {
            Ok(answer) => told.push(answer),
            Err(why) => crate::warn(&format!("{name} tells nothing: {why}; read its receipts with --dir")),
        }
    }
    perform(Some(context), terminal, args, told).await
}

/// The same from directories on this machine.
pub async fn offline(terminal: &mut Terminal, args: &Loss) -> Outcome {
    let one = |dir: &PathBuf| -> Outcome<Told> {
        // Also the data directory itself may be named: that is what people know.
        let named = if dir.join("PG_VERSION").exists() { loss::directory(dir) } else { dir.clone() };
        let (receipts, problems) = loss::receipts(&named).or_fail()?;
        Ok(Told { api_url: None, directory: named, receipts, problems })
    };
    let told = args.source().dir.iter().map(one).collect::<Outcome<Vec<Told>>>()?;
    perform(None, terminal, args, told).await
}

async fn perform(context: Option<&Context>, terminal: &mut Terminal, args: &Loss, told: Vec<Told>) -> Outcome {
    told.iter().flat_map(|t| &t.problems).for_each(|problem| crate::warn(problem));
    match &args.command {
        LossCommand::List { format, .. } => list(terminal, *format, &told),
        LossCommand::Show { id, format, .. } => {
            let (told, receipt) = find(&told, id)?;
            match format {
                Format::Pretty | Format::Tsv => terminal.write(&render(receipt, &told.directory)),
                format => table::objects_out(terminal, *format, &serde_json::to_value(receipt).or_fail()?),
            }
        }
        LossCommand::Ack { id, .. } => {
            let (told, receipt) = find(&told, id)?;
            match (&told.api_url, context) {
                (Some(url), Some(context)) => {
                    let path = format!("/loss/{id}");
                    let answer = context.api.delete(url, &path, API_LIMIT * 4).await.or_fail()?;
                    if !answer.is_success() {
                        return failed(format!("{} did not remove {id}: {}", receipt.member, answer.body));
                    }
                }
                _ => loss::acknowledge(&told.directory, id).or_fail()?,
            }
            say!(
                terminal,
                "Removed {id} of {}: {}, and {} of log kept with it",
                receipt.member,
                receipt.summary(),
                size(receipt.wal.bytes)
            );
            Ok(())
        }
    }
}

fn find<'a>(told: &'a [Told], id: &str) -> Outcome<(&'a Told, &'a Receipt)> {
    let all = told.iter().flat_map(|t| t.receipts.iter().map(move |r| (t, r)));
    let found: Vec<_> = all.filter(|(_, r)| r.id == id).collect();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => {
            failed(format!("no member that answers has a loss receipt {id}; `surus loss list` shows those there are"))
        }
        many => {
            let names: Vec<String> = many.iter().map(|(t, _)| t.directory.display().to_string()).collect();
            failed(format!("more than one member has a loss receipt {id}; name one of {} by --dir", names.join(", ")))
        }
    }
}

const COLUMNS: [&str; 8] =
    ["Receipt", "Member", "Written", "Transactions", "Last commit", "Behind", "Up to", "Kept WAL"];

fn list(terminal: &mut Terminal, format: Format, told: &[Told]) -> Outcome {
    let all: Vec<&Receipt> = told.iter().flat_map(|t| &t.receipts).collect();
    if matches!(format, Format::Json | Format::Yaml) {
        return table::objects_out(terminal, format, &json!(all));
    }
    let position = |p: &Option<surus_core::loss::Position>| {
        p.map_or_else(|| "unknown".to_owned(), |p| format!("{} (TL {})", p.lsn, p.timeline))
    };
    let rows: Vec<Vec<Value>> = all
        .iter()
        .map(|r| {
            vec![
                r.id.clone().into(),
                r.member.to_string().into(),
                r.at.clone().into(),
                r.transactions().into(),
                r.last_commit.clone().unwrap_or_default().into(),
                position(&r.fork).into(),
                position(&r.to).into(),
                size(r.wal.bytes).into(),
            ]
        })
        .collect();
    table::print(terminal, format, &COLUMNS, &rows, false)
}

/// Transaction ids and tables shown; the JSON document has all.
const SHOWN: usize = 40;

fn render(r: &Receipt, directory: &Path) -> String {
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
    if !r.xids.is_empty() {
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
            "  {name:width$}  {} inserted, {} updated, {} deleted{}",
            t.inserted,
            t.updated,
            t.deleted,
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

impl Loss {
    pub fn source(&self) -> &LossSource {
        match &self.command {
            LossCommand::List { source, .. } | LossCommand::Show { source, .. } | LossCommand::Ack { source, .. } => {
                source
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        serde_json::from_value(json!({
            "id": "20260101T000000Z-tl1", "at": "2026-01-01T00:00:00Z", "scope": "demo", "member": "n1",
            "destroying": "rewind", "against": "n2", "fork": {"timeline": 1, "lsn": 0x300_0060},
            "from": {"timeline": 1, "lsn": 0x300_0060}, "to": {"timeline": 1, "lsn": 0x300_1000},
            "timelines": [1], "committed": 2, "prepared": 0, "unfinished": 1,
            "first_commit": "2026-01-01 00:00:00 UTC", "last_commit": "2026-01-01 00:00:01 UTC", "xids": [745, 746],
            "tables": [
                {"database": "postgres", "table": "public.t", "file": "1663/5/16391", "inserted": 2, "updated": 1, "deleted": 0},
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
        let text = render(&receipt(), Path::new("/d.surus.loss"));
        for part in [
            "part at 0/3000060 on timeline 1; the log here went on to 0/3001000",
            "2 transactions, from 2026-01-01 00:00:00 UTC to 2026-01-01 00:00:01 UTC",
            "Their ids: 745, 746\n",
            "postgres: public.t           2 inserted, 1 updated, 0 deleted\n",
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
    fn one_of_that_id() {
        let told = |receipts| Told { api_url: None, directory: "/d".into(), receipts, problems: vec![] };
        let all = [told(vec![receipt()]), told(vec![])];
        assert!(find(&all, "20260101T000000Z-tl1").is_ok());
        assert!(find(&all, "x").is_err());
        assert!(find(&[told(vec![receipt()]), told(vec![receipt()])], "20260101T000000Z-tl1").is_err());
    }
}
