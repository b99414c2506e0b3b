//! Whether this data directory can follow a primary as it is (`spec/postgres.md §16.2`).

use std::time::Duration;

use surus_core::cluster::Upstream;
use surus_core::divergence::{HistoryRow, LocalEnd, compare_past};
use surus_core::postgres::{ControlData, ControlState};
use surus_core::server::Divergence;
use surus_core::{Lsn, Timeline};
use tokio::time::Instant;

use crate::control::wal_segment_size;
use crate::history::parse_history;
use crate::instance::Instance;
use crate::sql::{Endpoint, Profile, Session};
use crate::walsender::Walsender;
use crate::{ErrorKind, PgError, Result};

/// What is known of the local end before the other's history is.
enum Local {
    End(LocalEnd),
    /// A primary that was killed: its log goes on behind the checkpoint, as far as records can be read.
    Crashed {
        checkpoint: (Timeline, Lsn),
        segment: u64,
    },
}

/// Where the record behind one of that length begins: records are aligned to 8 bytes and skip page headers.
pub(crate) fn record_end(start: Lsn, total_len: u64, segment_size: u64) -> Lsn {
    const PAGE: u64 = 8192;
    let mut at = start.0;
    let mut left = total_len;
    loop {
        let room = PAGE - at % PAGE;
        if left <= room {
            return Lsn((at + left).next_multiple_of(8));
        }
        left -= room;
        at += room;
        at += if at.is_multiple_of(segment_size) { 40 } else { 24 };
    }
}

impl Instance {
    /// An error means: not decidable now, ask again.
    pub async fn divergence(&self, upstream: &Upstream, timeout: Duration) -> Result<Divergence> {
        let deadline = Instant::now() + timeout;
        if let Some(fork) = self.half_rewound().await? {
            return Ok(Divergence::HalfRewound { fork });
        }
        let (local, end) = self.local_end(deadline).await?;
        let (timeline, history) = self.upstream_history(upstream, deadline).await?;
        let end = match end {
            Local::End(end) => end,
            Local::Crashed { checkpoint, segment } => self.crashed_end(local, checkpoint, segment, &history).await?,
        };
        let past = self.past(local).await?;
        Ok(compare_past((local, &past), end, (timeline, &history)))
    }

    /// Timeline and past of a primary of this cluster. An error: it is none, or does not answer.
    pub(crate) async fn upstream_history(
        &self,
        upstream: &Upstream,
        deadline: Instant,
    ) -> Result<(Timeline, Vec<HistoryRow>)> {
        let mut failures = Vec::new();
        let mut left = u32::try_from(upstream.each().count()).unwrap_or(u32::MAX);
        for one in upstream.each() {
            // One that does not answer must leave time for the others.
            let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
            left -= 1;
            match self.history_of(&one, Instant::now() + share).await {
                Ok(known) => return Ok(known),
                Err(e) => failures.push(e),
            }
        }
        // The last one is as good as any: most often there is only one.
        Err(failures
            .pop()
            .unwrap_or_else(|| PgError::new(ErrorKind::Refused, format!("{} has no address", upstream.name))))
    }

    async fn history_of(&self, upstream: &Upstream, deadline: Instant) -> Result<(Timeline, Vec<HistoryRow>)> {
        let config = self.config();
        let to = Endpoint::from(upstream);
        let session =
            Session::connect(&to, config.rewind_credentials(), &config.database, &Profile::HEARTBEAT, deadline).await?;
        let rows = session.rows("SELECT pg_is_in_recovery()", deadline).await?;
        if rows.first().and_then(|r| r.first()).and_then(Option::as_deref) != Some("f") {
            return Err(PgError::new(
                ErrorKind::Refused,
                format!("{} is not a primary (yet); whether we can follow it is not known", upstream.name),
            ));
        }
        let mut walsender = Walsender::connect(&to, &config.replication, deadline).await?;
        let identity = walsender.identify_system().await?;
        if upstream.remote {
            // Members of this cluster publish that; of another one it has to be asked. `pg_rewind` goes by the control file
            // and would find nothing to do.
            let rows = session.rows("SELECT timeline_id FROM pg_control_checkpoint()", deadline).await?;
            let checkpoint = rows.first().and_then(|r| r.first()).and_then(Option::as_deref);
            if checkpoint.is_none_or(|timeline| timeline != identity.timeline.0.to_string()) {
                return Err(PgError::new(
                    ErrorKind::Refused,
                    format!("{} has not made its first checkpoint since its promotion yet", upstream.name),
                ));
            }
        }
        let own = self.control_data().await?.system_id;
        if identity.system_id != own {
            return Err(PgError::new(
                ErrorKind::Refused,
                format!(
                    "{} has system identifier {}, {} has {own}: they are different clusters and cannot follow each other",
                    upstream.name,
                    identity.system_id,
                    config.data_dir.display()
                ),
            ));
        }
        let history = if identity.timeline.0 > 1 {
            parse_history(&walsender.timeline_history(identity.timeline).await?)
        } else {
            Vec::new()
        };
        Ok((identity.timeline, history))
    }

    /// A killed primary that has nothing behind the point where the other left its timeline can stream as it is; crash
    /// recovery would add a checkpoint to it and make that a fork. So it is asked before, from its log.
    async fn crashed_end(
        &self,
        timeline: Timeline,
        checkpoint: (Timeline, Lsn),
        segment: u64,
        history: &[HistoryRow],
    ) -> Result<LocalEnd> {
        let left = history.iter().find(|row| row.timeline == timeline).map(|row| row.switch_lsn);
        let Some(left) = left.filter(|at| *at > checkpoint.1) else {
            return Ok(LocalEnd::Checkpoint { start: checkpoint.1, end: None });
        };
        // Readable at all: only then does an error at the other place mean that nothing is there.
        self.wal_record(checkpoint.0, checkpoint.1, segment).await?;
        Ok(LocalEnd::Replayed(match self.wal_record(timeline, left, segment).await {
            Ok(record) => record_end(record.at, record.total_len, segment),
            Err(e) if e.is_timeout() => return Err(e),
            Err(_) => left,
        }))
    }

    async fn local_end(&self, deadline: Instant) -> Result<(Timeline, Local)> {
        if self.process().await.is_some() {
            let identity = self.local_walsender(deadline).await?.identify_system().await?;
            let rows =
                self.kept_rows("SELECT pg_last_wal_replay_lsn()::text, pg_is_in_recovery()::text", deadline).await?;
            let cell = |i: usize| rows.first().and_then(|r| r.get(i)).and_then(Option::as_ref);
            if cell(1).is_none_or(|v| v != "true") {
                return Err(PgError::new(ErrorKind::Refused, "the local server is a running primary; stop it first"));
            }
            let lsn = cell(0).and_then(|t| t.parse().ok()).unwrap_or(identity.lsn);
            return Ok((identity.timeline, Local::End(LocalEnd::Replayed(lsn))));
        }
        let text = self.controldata_text().await?;
        let control = crate::control::parse_controldata(&text).map_err(|e| PgError::new(ErrorKind::Tool, e))?;
        let segment = wal_segment_size(&text).unwrap_or(16 << 20);
        let (timeline, start) = match stopped_end(&control) {
            None => {
                let checkpoint = (control.checkpoint_timeline, control.checkpoint_lsn);
                return Ok((last_timeline(&control), Local::Crashed { checkpoint, segment }));
            }
            Some((timeline, Some(replayed))) => return Ok((timeline, Local::End(LocalEnd::Replayed(replayed)))),
            Some((timeline, None)) => (timeline, control.checkpoint_lsn),
        };
        let end = match self.wal_record(timeline, start, segment).await {
            Ok(record) => Some(record_end(start, record.total_len, segment)),
            Err(e) => {
                tracing::warn!("where the last checkpoint record ends is not known: {e}");
                None
            }
        };
        Ok((timeline, Local::End(LocalEnd::Checkpoint { start, end })))
    }
}

/// Timeline, and how far a stopped standby replayed; the latter is absent for a primary that was shut down. `None`: a
/// primary that was not.
pub(crate) fn stopped_end(control: &ControlData) -> Option<(Timeline, Option<Lsn>)> {
    let primary = (control.checkpoint_timeline, None);
    match control.state {
        ControlState::ShutDown => Some(primary),
        ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => {
            Some(match control.min_recovery_timeline.filter(|_| control.min_recovery_lsn.is_valid()) {
                Some(timeline) => (timeline, Some(control.min_recovery_lsn)),
                None => primary,
            })
        }
        ControlState::StartingUp
        | ControlState::ShuttingDown
        | ControlState::InCrashRecovery
        | ControlState::InProduction => None,
    }
}

/// Of a primary that was not shut down. Right after a promotion only the end of recovery is on the new timeline.
pub(crate) fn last_timeline(control: &ControlData) -> Timeline {
    control.checkpoint_timeline.max(control.min_recovery_timeline.unwrap_or(control.checkpoint_timeline))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_ends() {
        let segment = 16 << 20;
        for (start, len, end) in [
            (0x174_14D0, 114, 0x174_1548),
            // Exactly to the end of a page.
            (8192 - 120, 120, 8192),
            (8192 - 120, 114, 8192),
            // Over a page boundary: 24 bytes of header.
            (8192 - 64, 114, 8192 + 24 + 56),
            // Over a segment boundary: 40 bytes of header.
            (segment - 64, 114, segment + 40 + 56),
            (8192 - 64, 64 + 8168 + 10, 16384 + 24 + 16),
        ] {
            assert_eq!(record_end(Lsn(start), len, segment), Lsn(end), "{start:X} {len}");
        }
    }
}
