//! Loss receipts: before a data directory is rewound or removed, what it holds that nobody else has is written down and
//! its log is kept.
//!
//! What was lost is counted from the log by `pg_waldump`, before anything is written. Only then, and with the log safe, is
//! the server brought up in single-user mode for the rows themselves (`rows.rs`).

mod files;
mod keep;
mod names;
mod rows;
mod tally;
mod touched;

use std::path::{Path, PathBuf};
use std::time::Duration;

use surus_core::cluster::Upstream;
use surus_core::divergence::HistoryRow;
use surus_core::loss::{Destroying, Position, Receipt, Recorded, TableLoss, fork, stretches};
use surus_core::postgres::ControlData;
use surus_core::{Lsn, Timeline};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::SYNC_LIMIT;
use crate::control::{parse_controldata, wal_segment_size};
use crate::disk::{IO_LIMIT, blocking};
use crate::divergence::{last_timeline, stopped_end};
use crate::instance::{Instance, lock};
use crate::stop::segment_name;
use crate::{ErrorKind, PgError, Result};

pub use files::{acknowledge, acknowledged, directory, forgotten, receipts, rows};
pub(crate) use rows::Lost;
use tally::{Sum, Tally};

/// The new primary's answer.
const ASK: Duration = Duration::from_secs(10);
/// `pg_waldump` reads some 100 MB a second; what it has not read by then is kept unread.
const READ: Duration = Duration::from_secs(120);

struct Local {
    control: ControlData,
    segment_size: u64,
    timeline: Timeline,
    history: Vec<HistoryRow>,
}

/// Segments of one timeline, without a gap.
struct Stretch {
    timeline: Timeline,
    start: Lsn,
    end: Option<Lsn>,
    segments: Vec<PathBuf>,
}

impl Instance {
    /// Looks for what only this data directory has against a primary, and writes a receipt if there is any. The server
    /// must be stopped. An error: it is there, or may be, and could not be written down.
    pub async fn record_loss(
        &self,
        against: &Upstream,
        destroying: Destroying,
        patience: Duration,
        cancel: &CancellationToken,
    ) -> Result<Recorded> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot look for what only this server has").await?;
        *lock(&self.inner.lost) = None;
        let config = self.config();
        let mut receipt = Receipt {
            id: String::new(),
            at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            scope: config.cluster_name.clone(),
            member: config.member.clone(),
            destroying,
            against: against.name.clone(),
            system_id: None,
            fork: None,
            from: None,
            to: None,
            timelines: vec![],
            committed: 0,
            prepared: 0,
            unfinished: 0,
            first_commit: None,
            last_commit: None,
            xids: vec![],
            first_transactions: vec![],
            tables: vec![],
            catalog_rows: 0,
            wal: Default::default(),
            rows: None,
            notes: vec![],
        };
        let local = match self.local().await {
            Ok(local) => local,
            Err(e) if destroying == Destroying::Rewind => return Ok(Recorded::Undecided(e.to_string())),
            Err(e) => {
                receipt.notes.push(format!("the data directory could not be read: {e}"));
                let segments = self.newest_segments().await?;
                return self.write(receipt, segments, None).await;
            }
        };
        receipt.system_id = Some(local.control.system_id.clone());
        let mine = (local.timeline, local.history.as_slice());
        let from = match self.upstream_history(against, Instant::now() + ASK).await {
            Err(e) if destroying == Destroying::Rewind => return Ok(Recorded::Undecided(e.to_string())),
            Err(e) => {
                receipt.notes.push(format!("where the histories part could not be told: {e}"));
                None
            }
            Ok((timeline, history)) => match fork(mine, (timeline, &history)) {
                Some((common, Some(at))) => {
                    receipt.fork = Some(Position { timeline: common, lsn: at });
                    Some((common, at))
                }
                Some((timeline, None)) => {
                    return Ok(Recorded::Nothing(format!("both are on timeline {timeline} with the same past")));
                }
                None => {
                    receipt.notes.push(format!("{} has no timeline in common with this server", against.name));
                    None
                }
            },
        };
        let from = from.unwrap_or((local.control.checkpoint_timeline, local.control.checkpoint_lsn));
        let stretches = self.stretches(&local, from, &mut receipt.notes, (patience, cancel)).await?;
        let read = self.read(&mut receipt, &stretches, local.segment_size, cancel).await?;
        if read.committed + read.prepared() == 0 && receipt.fork.is_some() && receipt.notes.is_empty() {
            let (n, end) = (read.records, read.end.unwrap_or(from.1));
            return Ok(Recorded::Nothing(format!("behind {} there are {n} records up to {end} and no commit", from.1)));
        }
        let mut tables: Vec<TableLoss> = read
            .files
            .iter()
            .map(|(file, Sum { rows: [inserted, updated, deleted], transactions })| TableLoss {
                file: file.clone(),
                inserted: *inserted,
                updated: *updated,
                deleted: *deleted,
                transactions: *transactions,
                ..TableLoss::default()
            })
            .collect();
        tables.sort_by_key(|t| std::cmp::Reverse(t.rows()));
        if receipt.fork.is_some() && !tables.is_empty() {
            receipt.notes.extend(self.name_tables(against, &mut tables, |file| read.created.contains(file)).await);
        }
        receipt.committed = read.committed;
        receipt.prepared = read.prepared();
        receipt.unfinished = read.unfinished();
        receipt.catalog_rows = read.catalog_rows;
        (receipt.first_commit, receipt.last_commit, receipt.xids) = (read.first_commit, read.last_commit, read.xids);
        receipt.first_transactions = read.detailed;
        receipt.tables = tables;
        let databases = receipt.tables.iter().filter_map(|t| {
            let number = t.file.split('/').nth(1)?.to_owned();
            Some((number, t.database.clone()?))
        });
        let lost = receipt.fork.map(|fork| Lost {
            dir: PathBuf::new(),
            fork: fork.lsn,
            timeline: local.timeline,
            touched: read.touched,
            databases: databases.collect(),
            budget: 0,
        });
        // Of the last file of a timeline more than is read may be there, made for later.
        let last = |s: &Stretch| {
            s.end.or(receipt.to.map(|p| p.lsn).filter(|_| receipt.to.map(|p| p.timeline) == Some(s.timeline)))
        };
        let segments = stretches
            .iter()
            .flat_map(|s| {
                let last =
                    last(s).map(|end| segment_name(s.timeline, Lsn(end.0.saturating_sub(1)), local.segment_size));
                let wanted = move |p: &&PathBuf| {
                    last.as_deref().is_none_or(|l| p.file_name().is_some_and(|n| n <= std::ffi::OsStr::new(l)))
                };
                s.segments.iter().filter(wanted).cloned().collect::<Vec<_>>()
            })
            .collect();
        self.write(receipt, segments, lost).await
    }

    /// Where the local log leaves that of a primary, as their timelines tell; `None` on the same one, or with nothing in
    /// common. And the timeline here, where the primary's has the same number.
    pub(crate) async fn fork(&self, from: &Upstream, deadline: Instant) -> Result<(Option<Lsn>, Option<Timeline>)> {
        let local = self.local().await?;
        let (timeline, history) = self.upstream_history(from, deadline).await?;
        let at = fork((local.timeline, &local.history), (timeline, &history)).and_then(|(_, at)| at);
        Ok((at, Some(timeline).filter(|timeline| *timeline == local.timeline)))
    }

    async fn local(&self) -> Result<Local> {
        let text = self.controldata_text().await?;
        let control = parse_controldata(&text).map_err(|e| PgError::new(ErrorKind::Tool, e))?;
        let timeline = stopped_end(&control).map_or_else(|| last_timeline(&control), |(timeline, _)| timeline);
        let history = self.past(timeline).await?;
        Ok(Local { control, segment_size: wal_segment_size(&text).unwrap_or(16 << 20), timeline, history })
    }

    /// The files behind a fork. What should be there and is not comes from the archive, or is noted.
    async fn stretches(
        &self,
        local: &Local,
        from: (Timeline, Lsn),
        notes: &mut Vec<String>,
        fetching: (Duration, &CancellationToken),
    ) -> Result<Vec<Stretch>> {
        let size = local.segment_size;
        let next = |at: Lsn| Lsn((at.0 / size + 1) * size);
        let mut all = vec![];
        for (timeline, mut start, end) in stretches((local.timeline, &local.history), from) {
            let mut behind = self.segments(timeline, start, size).await?;
            let checkpoint = &local.control;
            // Nothing was written there, or it was and is not kept any more.
            let written =
                end.is_some() || (checkpoint.checkpoint_timeline == timeline && checkpoint.checkpoint_lsn > start);
            let first = segment_name(timeline, start, size);
            if written && behind.first().is_none_or(|p| name(p) != first) {
                let there = behind.first().and_then(|p| segment_start(name(p), size));
                let until = there.or(end).unwrap_or(checkpoint.checkpoint_lsn);
                let mut fetch = start;
                let failed = loop {
                    if fetch >= until {
                        break None;
                    }
                    if let Err(e) = self.fetch(&segment_name(timeline, fetch, size), fetching).await {
                        break Some(e);
                    }
                    fetch = next(fetch);
                };
                if let Some(e) = failed {
                    let reads = there.map_or_else(String::new, |at| format!("; reading begins at {at}"));
                    notes.push(format!(
                        "the log of timeline {timeline} from {start} on is not there any more{reads} ({e})"
                    ));
                    let Some(at) = there else { continue };
                    start = at;
                }
                behind = self.segments(timeline, start, size).await?;
            }
            let mut wanted = start;
            let together = behind.into_iter().take_while(|path| {
                let goes_on = name(path) == segment_name(timeline, wanted, size);
                wanted = next(wanted);
                goes_on
            });
            let segments = together.collect();
            all.push(Stretch { timeline, start, end, segments });
        }
        Ok(all)
    }

    /// Of one timeline, from there on.
    async fn segments(&self, timeline: Timeline, from: Lsn, segment_size: u64) -> Result<Vec<PathBuf>> {
        let wal = self.config().data_dir.join("pg_wal");
        let first = segment_name(timeline, from, segment_size);
        let all = blocking("listing pg_wal", IO_LIMIT, move || list(&wal)).await?;
        Ok(all.into_iter().filter(|p| name(p)[..8] == first[..8] && name(p) >= first.as_str()).collect())
    }

    async fn fetch(&self, segment: &str, (patience, cancel): (Duration, &CancellationToken)) -> Result<()> {
        match self.restore_command().await {
            Some(command) => self.restore_segment(&command, segment, patience, cancel).await,
            None => Err(PgError::new(ErrorKind::Refused, "there is no restore_command")),
        }
    }

    async fn read(
        &self,
        receipt: &mut Receipt,
        stretches: &[Stretch],
        segment_size: u64,
        cancel: &CancellationToken,
    ) -> Result<Tally> {
        let mut tally = Tally::new(segment_size);
        let deadline = Instant::now() + READ;
        for stretch in stretches {
            let (Some(first), Some(last)) = (stretch.segments.first(), stretch.segments.last()) else { continue };
            let begins = Position { timeline: stretch.timeline, lsn: stretch.start };
            receipt.from.get_or_insert(begins);
            receipt.timelines.push(stretch.timeline);
            let mut tool = self.tool("pg_waldump").await?.args(["-s", &stretch.start.to_string()]);
            if let Some(end) = stretch.end {
                tool = tool.args(["-e", &end.to_string()]);
            }
            let tool = tool.arg(first).arg(last).env("TZ", "UTC");
            let left = deadline.saturating_duration_since(Instant::now());
            match tool.run_reading(Some(left), Some(cancel), |line| tally.line(line)).await {
                // Its status says nothing: reading ends where no record is, as an error.
                Ok(_) => {}
                Err(e) if e.kind == ErrorKind::Cancelled => return Err(e),
                Err(e) => {
                    let at = tally.end.map_or_else(|| "the beginning".into(), |end| end.to_string());
                    receipt.notes.push(format!("what lies behind {at} was not read, and is not counted here: {e}"));
                    break;
                }
            }
            receipt.to = tally.end.map(|lsn| Position { timeline: stretch.timeline, lsn }).or(receipt.to);
        }
        Ok(tally)
    }

    /// Of a data directory about which nothing else is known.
    async fn newest_segments(&self) -> Result<Vec<PathBuf>> {
        let wal = self.config().data_dir.join("pg_wal");
        let listed = blocking("listing pg_wal", IO_LIMIT, move || Ok(list(&wal).unwrap_or_default())).await?;
        Ok(listed.into_iter().rev().collect())
    }

    /// What is known of the rows of a receipt that lacks them is kept for [`Instance::keep_lost_rows`].
    async fn write(&self, mut receipt: Receipt, segments: Vec<PathBuf>, lost: Option<Lost>) -> Result<Recorded> {
        let (config, user) = (self.config(), self.user().await?);
        let dir = config.loss_dir.clone().unwrap_or_else(|| directory(&config.data_dir));
        let keep = config.loss_keep_wal;
        let whole = blocking("writing a loss receipt", SYNC_LIMIT, move || {
            let (known, odd) = receipts(&dir)?;
            odd.iter().for_each(|text| tracing::warn!("{text}"));
            let used: u64 = known.iter().map(|r| r.wal.bytes).sum();
            if let Some(same) = known.iter().find(|r| r.same_loss(&receipt)) {
                let said = format!("{}: {} (written at {})", same.id, same.summary(), same.at);
                let without = same.rows.is_none().then(|| dir.join(&same.id));
                return Ok((said, without.map(|dir| (dir, keep.saturating_sub(used)))));
            }
            let timeline = receipt.fork.or(receipt.to).map_or_else(String::new, |p| format!("-tl{}", p.timeline));
            receipt.id = format!("{}{timeline}", receipt.at.replace(['-', ':'], ""));
            let work = files::begin(&dir, user.as_ref())?;
            receipt.wal = keep::copy(&segments, &work.join(files::WAL), keep.saturating_sub(used), user.as_ref())?;
            files::finish(&dir, &work, &mut receipt, user.as_ref())?;
            let (kept, id) = (&receipt.wal, &receipt.id);
            let wal = match &kept.why {
                None => format!("{} segments of its log are kept", kept.segments.len()),
                Some(why) => format!(
                    "{} segments of its log are kept and {} not, because {why}",
                    kept.segments.len(),
                    kept.left_out.len()
                ),
            };
            let here = dir.join(id);
            let said = format!("{id}: {}; {wal} in {}", receipt.summary(), here.display());
            Ok((said, Some((here, keep.saturating_sub(used + kept.bytes)))))
        });
        let what = |e: PgError| {
            PgError::new(
                e.kind.clone(),
                format!(
                    "what only this server has could not be written down, so nothing of it is destroyed: {e}; make room, \
                     or name another place by loss.directory"
                ),
            )
        };
        let (said, without_rows) = whole.await.map_err(what)?;
        *lock(&self.inner.lost) = without_rows.zip(lost).map(|((dir, budget), lost)| Lost { dir, budget, ..lost });
        Ok(Recorded::Receipt(said))
    }
}

/// Finished and unfinished segments, by name. Blocking.
fn list(wal: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(wal).map_err(|e| PgError::io("list", wal, &e))?;
    let mut all: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| is_segment(name(p))).collect();
    all.sort_unstable();
    Ok(all)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn segment_start(name: &str, segment_size: u64) -> Option<Lsn> {
    let (id, number) =
        (u64::from_str_radix(name.get(8..16)?, 16).ok()?, u64::from_str_radix(name.get(16..)?, 16).ok()?);
    Some(Lsn((id << 32) + number * segment_size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments() {
        assert!(is_segment("0000001F0000000100000005") && !is_segment("0000001F0000000100000005.partial"));
        assert!(!is_segment("00000002.history"));
        for (lsn, size) in [(0x1_0500_0000, 16 << 20), (0x1_4000_0000, 1 << 30)] {
            let name = segment_name(Timeline(3), Lsn(lsn + 77), size);
            assert_eq!(segment_start(&name, size), Some(Lsn(lsn)));
        }
    }

    fn receipt(id: &str) -> Receipt {
        serde_json::from_value(serde_json::json!({
            "id": id, "at": "2026-01-01T00:00:00Z", "scope": "s", "member": "a", "destroying": "rewind", "against": "b",
            "fork": {"timeline": 1, "lsn": 100}, "to": {"timeline": 1, "lsn": 200}, "timelines": [1], "committed": 1,
            "prepared": 0, "unfinished": 0, "xids": [7], "tables": [], "catalog_rows": 0,
            "wal": {"segments": [], "bytes": 0, "left_out": []}, "notes": [],
        }))
        .unwrap()
    }

    #[test]
    fn written_whole_listed_and_acknowledged() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("data.surus.loss");
        assert_eq!(receipts(&dir).unwrap(), (vec![], vec![]));
        for want in ["x", "x-2"] {
            // What an interrupted attempt left is not counted, and not in the way.
            let work = files::begin(&dir, None).unwrap();
            assert_eq!(receipts(&dir).unwrap().0.len(), usize::from(want == "x-2"));
            drop(work);
            let work = files::begin(&dir, None).unwrap();
            let mut one = receipt("x");
            files::finish(&dir, &work, &mut one, None).unwrap();
            assert_eq!(one.id, want);
        }
        std::fs::create_dir(dir.join("y")).unwrap();
        let (all, odd) = receipts(&dir).unwrap();
        assert_eq!(all.iter().map(|r| r.id.as_str()).collect::<Vec<_>>(), ["x", "x-2"]);
        assert!(odd.len() == 1 && odd[0].contains("receipt.json"), "{odd:?}");
        for none in ["", ".", "..", "y", "../data.surus.loss/x", "z"] {
            assert_eq!(acknowledge(&dir, none).unwrap_err().kind, ErrorKind::Refused, "{none}");
        }
        acknowledge(&dir, "x").unwrap();
        assert_eq!(receipts(&dir).unwrap().0.len(), 1);
        assert!(!dir.join("x").exists());
        // Remembered until the store has forgotten it, also over the next receipt.
        assert_eq!(acknowledged(&dir), ["x"]);
        drop(files::begin(&dir, None).unwrap());
        assert_eq!(acknowledged(&dir), ["x"]);
        forgotten(&dir, &["x".into()]).unwrap();
        assert!(acknowledged(&dir).is_empty());
    }

    #[test]
    fn another_attempt_at_the_same_loss() {
        let mut later = receipt("y");
        later.to = Some(Position { timeline: Timeline(1), lsn: Lsn(300) });
        assert!(later.same_loss(&receipt("x")));
        later.committed = 2;
        assert!(!later.same_loss(&receipt("x")));
        later = receipt("z");
        later.fork = None;
        assert!(!later.same_loss(&later.clone()));
    }
}
