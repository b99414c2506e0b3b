//! Whether this data directory can follow a primary as it is (`spec/postgres.md §16.2`).

use std::time::Duration;

use surus_core::cluster::Upstream;
use surus_core::postgres::{ControlData, ControlState};
use surus_core::server::Divergence;
use surus_core::{Lsn, Timeline};
use tokio::time::Instant;

use crate::control::wal_segment_size;
use crate::history::{HistoryRow, parse_history};
use crate::instance::Instance;
use crate::sql::{Endpoint, Profile, Session};
use crate::walsender::Walsender;
use crate::{ErrorKind, PgError, Result};

/// How far the local WAL goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LocalEnd {
    /// A standby: everything up to here was replayed or is needed for consistency.
    Replayed(Lsn),
    /// A primary that was shut down: its last checkpoint record, and where that ends if it could be told.
    Checkpoint { start: Lsn, end: Option<Lsn> },
}

/// The decision itself. `history` is that of the upstream's timeline.
pub(crate) fn compare(local: Timeline, end: LocalEnd, upstream: Timeline, history: &[HistoryRow]) -> Divergence {
    if local > upstream {
        return Divergence::Ahead { local, upstream };
    }
    if local == upstream {
        return Divergence::None;
    }
    for row in history {
        if row.timeline > local {
            break;
        }
        if row.timeline == local {
            let fork = |at| Divergence::Forked { timeline: local, switchpoint: row.switch_lsn, local: at };
            return match end {
                LocalEnd::Replayed(lsn) if lsn > row.switch_lsn => fork(lsn),
                LocalEnd::Replayed(_) => Divergence::None,
                LocalEnd::Checkpoint { start, .. } if start >= row.switch_lsn => fork(start),
                // The new primary has our last record and nothing behind it, or it is not known what it has.
                LocalEnd::Checkpoint { end: Some(end), .. } if end == row.switch_lsn => Divergence::None,
                LocalEnd::Checkpoint { start, end } => fork(end.unwrap_or(start)),
            };
        }
    }
    Divergence::Unrelated { local, upstream }
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
        let (local, end) = self.local_end(deadline).await?;
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
        let history = if local < identity.timeline && identity.timeline.0 > 1 {
            parse_history(&walsender.timeline_history(identity.timeline).await?)
        } else {
            Vec::new()
        };
        Ok(compare(local, end, identity.timeline, &history))
    }

    async fn local_end(&self, deadline: Instant) -> Result<(Timeline, LocalEnd)> {
        if self.process().await.is_some() {
            let identity = self.local_walsender(deadline).await?.identify_system().await?;
            let rows =
                self.kept_rows("SELECT pg_last_wal_replay_lsn()::text, pg_is_in_recovery()::text", deadline).await?;
            let cell = |i: usize| rows.first().and_then(|r| r.get(i)).and_then(Option::as_ref);
            if cell(1).is_none_or(|v| v != "true") {
                return Err(PgError::new(ErrorKind::Refused, "the local server is a running primary; stop it first"));
            }
            let lsn = cell(0).and_then(|t| t.parse().ok()).unwrap_or(identity.lsn);
            return Ok((identity.timeline, LocalEnd::Replayed(lsn)));
        }
        let text = self.controldata_text().await?;
        let control = crate::control::parse_controldata(&text).map_err(|e| PgError::new(ErrorKind::Tool, e))?;
        let (timeline, start) = match stopped_end(&control)? {
            (timeline, Some(replayed)) => return Ok((timeline, LocalEnd::Replayed(replayed))),
            (timeline, None) => (timeline, control.checkpoint_lsn),
        };
        let segment = wal_segment_size(&text).unwrap_or(16 << 20);
        let end = match self.wal_record(timeline, start, segment).await {
            Ok(record) => Some(record_end(start, record.total_len, segment)),
            Err(e) => {
                tracing::warn!("where the last checkpoint record ends is not known: {e}");
                None
            }
        };
        Ok((timeline, LocalEnd::Checkpoint { start, end }))
    }
}

/// Timeline, and how far a stopped standby replayed; `None` for a primary that was shut down.
fn stopped_end(control: &ControlData) -> Result<(Timeline, Option<Lsn>)> {
    let primary = (control.checkpoint_timeline, None);
    match control.state {
        ControlState::ShutDown => Ok(primary),
        ControlState::ShutDownInRecovery | ControlState::InArchiveRecovery => {
            Ok(match control.min_recovery_timeline.filter(|_| control.min_recovery_lsn.is_valid()) {
                Some(timeline) => (timeline, Some(control.min_recovery_lsn)),
                None => primary,
            })
        }
        state => Err(PgError::new(
            ErrorKind::Refused,
            format!("the server was not shut down cleanly (pg_control says {state:?}); recover it first"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(timeline: u32, lsn: u64) -> HistoryRow {
        HistoryRow { timeline: Timeline(timeline), switch_lsn: Lsn(lsn), reason: String::new() }
    }

    #[test]
    fn every_case_of_the_table() {
        use Divergence as D;
        use LocalEnd::{Checkpoint, Replayed};
        let t = Timeline;
        // The upstream is on timeline 4: it left 1 at 100, 2 at 200, 3 at 300.
        let history = [row(1, 100), row(2, 200), row(3, 300)];
        let forked = |timeline, switchpoint, local| D::Forked {
            timeline: t(timeline),
            switchpoint: Lsn(switchpoint),
            local: Lsn(local),
        };
        let check = |start, end: Option<u64>| Checkpoint { start: Lsn(start), end: end.map(Lsn) };
        for (local, end, want) in [
            (5, Replayed(Lsn(1)), D::Ahead { local: t(5), upstream: t(4) }),
            (5, check(1, None), D::Ahead { local: t(5), upstream: t(4) }),
            (4, Replayed(Lsn(900)), D::None),
            (4, check(900, None), D::None),
            (3, Replayed(Lsn(299)), D::None),
            (3, Replayed(Lsn(300)), D::None),
            (3, Replayed(Lsn(301)), forked(3, 300, 301)),
            (2, Replayed(Lsn(200)), D::None),
            (2, Replayed(Lsn(250)), forked(2, 200, 250)),
            (1, check(92, Some(100)), D::None),
            (1, check(100, Some(108)), forked(1, 100, 100)),
            (1, check(101, Some(109)), forked(1, 100, 101)),
            (1, check(92, Some(108)), forked(1, 100, 108)),
            (1, check(80, Some(92)), forked(1, 100, 92)),
            (1, check(92, None), forked(1, 100, 92)),
        ] {
            assert_eq!(compare(t(local), end, t(4), &history), want, "timeline {local}, {end:?}");
        }
        // Our timeline is not in the upstream's history.
        let skipping = [row(1, 100), row(3, 300)];
        for end in [Replayed(Lsn(1)), check(1, Some(2))] {
            let want = D::Unrelated { local: t(2), upstream: t(4) };
            assert_eq!(compare(t(2), end, t(4), &skipping), want);
            assert_eq!(compare(t(2), end, t(4), &[]), want);
        }
        assert!(D::None.can_follow() && !forked(1, 1, 1).can_follow());
    }

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
