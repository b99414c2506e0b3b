//! Which number a promotion gives to its timeline.
//!
//! The server takes the first number, counted from its own timeline on, for which it finds no history file. So a file that
//! lies there makes it leave a number out. Such a file is a placeholder: its only line leads nowhere, and a standby that
//! looks for a newer timeline says in its log that this is none of its own. What was tried with PostgreSQL 15:
//!
//! - The history of the new timeline names the real parent only. The placeholder is not archived.
//! - A standby asks its primary for each history file between its timeline and the primary's, and cannot follow while one
//!   is missing. So the placeholders stay with the primary, and its standbys, and `pg_rewind`, copy them.
//! - A standby that *starts* takes the newest file for its goal: with a placeholder as the newest it waits for ever. So
//!   those go before a start, and when a standby that was not promoted is pointed at another primary, whose timeline may
//!   have just that number.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use surus_core::Timeline;
use tokio::time::Instant;

use crate::disk::{IO_LIMIT, blocking, file_mode, replace_file, sync_parent};
use crate::instance::Instance;
use crate::{ErrorKind, PgError, Result};

const PLACEHOLDER: &str = "1\t0/1\tnumber left out by surus\n";
/// For one short question to a server that answers.
const ANSWER: Duration = Duration::from_secs(5);

fn history_file(data_dir: &Path, timeline: u32) -> PathBuf {
    data_dir.join(format!("pg_wal/{timeline:08X}.history"))
}

/// Counted as the server does.
fn next_number(data_dir: &Path, own: u32) -> u32 {
    (own.saturating_add(1)..u32::MAX).find(|n| !history_file(data_dir, *n).exists()).unwrap_or(u32::MAX)
}

/// Removes the placeholders that are newer than every real history file.
pub(crate) fn clear_placeholders(data_dir: &Path) -> Result<()> {
    let wal = data_dir.join("pg_wal");
    let entries = match fs::read_dir(&wal) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(PgError::io("look into", &wal, &e)),
    };
    let number = |name: &str| {
        let digits = name.strip_suffix(".history").filter(|d| d.len() == 8)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut numbers: Vec<u32> = entries.flatten().filter_map(|e| number(e.file_name().to_str()?)).collect();
    numbers.sort_unstable();
    for number in numbers.into_iter().rev() {
        let path = history_file(data_dir, number);
        if !fs::read(&path).is_ok_and(|text| text == PLACEHOLDER.as_bytes()) {
            break;
        }
        fs::remove_file(&path).map_err(|e| PgError::io("remove", &path, &e))?;
        sync_parent(&path);
    }
    Ok(())
}

impl Instance {
    /// The number that a promotion would take now, unless the archive holds newer history files.
    pub async fn next_timeline(&self) -> Result<Timeline> {
        let question = "SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)::text \
                        FROM pg_control_checkpoint() c, pg_control_recovery() r";
        let rows = self.kept_rows(question, Instant::now() + ANSWER).await?;
        let cell = rows.first().and_then(|r| r.first()).and_then(Option::as_ref);
        let Some(own) = cell.and_then(|t| t.parse::<u32>().ok()).filter(|n| *n != 0) else {
            return Err(PgError::new(ErrorKind::Refused, format!("the server does not say its timeline: {cell:?}")));
        };
        let dir = self.config().data_dir.clone();
        blocking("looking for timeline history files", IO_LIMIT, move || Ok(Timeline(next_number(&dir, own)))).await
    }

    /// Makes the server leave out the numbers from `from` to before `to`, if it is promoted before it starts again.
    pub async fn skip_timelines(&self, from: Timeline, to: Timeline) -> Result<()> {
        let (dir, user) = (self.config().data_dir.clone(), self.user().await?);
        blocking("leaving out numbers of timelines", IO_LIMIT, move || {
            let mode = file_mode(&dir);
            for number in from.0..to.0 {
                let path = history_file(&dir, number);
                if !path.exists() {
                    replace_file(&path, PLACEHOLDER, mode, user.as_ref())?;
                }
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_placeholders_that_are_newer_than_all_else_go() {
        let dir = tempfile::tempdir().unwrap();
        assert!(clear_placeholders(dir.path()).is_ok(), "no data directory at all");
        fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let put = |n: u32, text: &str| fs::write(history_file(dir.path(), n), text).unwrap();
        let real = "1\t0/3000060\tno recovery target specified\n";
        for (n, text) in [(2, PLACEHOLDER), (10, real), (11, PLACEHOLDER), (12, PLACEHOLDER), (16, PLACEHOLDER)] {
            put(n, text);
        }
        fs::write(dir.path().join("pg_wal/0000000100000000000000FF"), "").unwrap();
        fs::write(dir.path().join("pg_wal/000000FF.history.tmp"), PLACEHOLDER).unwrap();
        let next = |own| next_number(dir.path(), own);
        assert_eq!((next(1), next(9), next(10), next(12), next(15)), (3, 13, 13, 13, 17));
        clear_placeholders(dir.path()).unwrap();
        let left: Vec<u32> = (1..20).filter(|n| history_file(dir.path(), *n).exists()).collect();
        assert_eq!(left, [2, 10]);
        assert_eq!((next(1), next(9), next(10)), (3, 11, 11));
    }
}
