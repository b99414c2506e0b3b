//! Timeline history files (`spec/postgres.md §22`).

use std::fs;
use std::io;

use surus_core::cluster::HistoryEntry;
use surus_core::divergence::HistoryRow;
use surus_core::{Lsn, Timeline};

use crate::disk::{IO_LIMIT, blocking};
use crate::instance::Instance;
use crate::{PgError, Result};

/// Lines of three tab-separated fields; anything else is skipped, as the server does.
pub(crate) fn parse_history(text: &str) -> Vec<HistoryRow> {
    let row = |line: &str| {
        let mut fields = line.splitn(3, '\t');
        let timeline = Timeline::known(fields.next()?.trim().parse().ok()?)?;
        let switch_lsn = fields.next()?.parse().ok()?;
        Some(HistoryRow { timeline, switch_lsn, reason: fields.next().unwrap_or_default().trim().to_owned() })
    };
    text.lines()
        .filter(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'))
        .filter_map(|line| {
            let parsed = row(line);
            if parsed.is_none() {
                tracing::warn!(line, "a line of a timeline history file is no history line; it is skipped");
            }
            parsed
        })
        .collect()
}

impl Instance {
    /// The timelines before `timeline`, as this data directory knows them; empty where it does not.
    pub(crate) async fn past(&self, timeline: Timeline) -> Result<Vec<HistoryRow>> {
        let known = self.timeline_history(timeline).await?;
        // Nobody ever left a timeline at its very beginning: a placeholder.
        let real = known.iter().all(|h| h.switch_lsn > Lsn(1));
        let row = |h: HistoryEntry| HistoryRow { timeline: h.timeline, switch_lsn: h.switch_lsn, reason: h.reason };
        Ok(known.into_iter().filter(|_| real).map(row).collect())
    }

    /// The timelines before `timeline`, oldest first; the last one with the time it ended. Empty for timeline 1.
    pub async fn timeline_history(&self, timeline: Timeline) -> Result<Vec<HistoryEntry>> {
        if timeline.0 <= 1 {
            return Ok(Vec::new());
        }
        let path = self.config().data_dir.join(format!("pg_wal/{:08X}.history", timeline.0));
        let read = blocking("reading the timeline history", IO_LIMIT, move || match fs::read_to_string(&path) {
            Ok(text) => Ok(Some((text, fs::metadata(&path).and_then(|m| m.modified()).ok()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(PgError::io("read", &path, &e)),
        });
        let Some((text, modified)) = read.await? else { return Ok(Vec::new()) };
        let ended = modified
            .and_then(|t| jiff::Timestamp::try_from(t).ok())
            .map(|t| t.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string());
        let previous = timeline.0 - 1;
        Ok(parse_history(&text)
            .into_iter()
            .map(|row| HistoryEntry {
                timestamp: ended.clone().filter(|_| row.timeline.0 == previous),
                timeline: row.timeline,
                switch_lsn: row.switch_lsn,
                reason: row.reason,
                new_leader: None,
            })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_lines() {
        let text = "1\t0/3000060\tno recovery target specified\n\n# x\nbroken\n2\t16/B374D848\tafter\tLSN\n0\t0/1\tx\n";
        let rows = parse_history(text);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].timeline, rows[0].switch_lsn), (Timeline(1), Lsn(0x300_0060)));
        assert_eq!(rows[0].reason, "no recovery target specified");
        assert_eq!((rows[1].timeline, rows[1].reason.as_str()), (Timeline(2), "after\tLSN"));
    }
}
