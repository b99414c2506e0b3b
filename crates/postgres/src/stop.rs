//! Stopping the server, gently or not, and where it ended (`spec/postgres.md §8`).

use std::time::Duration;

use rustix::process::Signal;
use surus_core::postgres::ControlState;
use surus_core::server::{ShutdownPosition, StopMode, Stopped};
use surus_core::{Lsn, Timeline};
use tokio::time::{Instant, sleep};

use crate::control::{parse_controldata, quick_state, wal_segment_size};
use crate::disk::{IO_LIMIT, blocking};
use crate::instance::{Instance, PROBE_LIMIT};
use crate::kill::ServerProcesses;
use crate::postmaster::PidFile;
use crate::proc_fs::Proc;
use crate::{ErrorKind, PgError, Result};

/// How long processes that were killed may take to be gone; who is not by then waits for something.
const SILENCE: Duration = Duration::from_millis(600);

impl Instance {
    /// Waits without limit when `timeout` is absent.
    pub async fn stop(&self, mode: StopMode, timeout: Option<Duration>) -> Result<Stopped> {
        let began = Instant::now();
        let Some(process) = self.process().await else {
            let dir = self.config().data_dir.clone();
            let file = blocking("reading postmaster.pid", IO_LIMIT, move || Ok(PidFile::read(&dir))).await?;
            if let Some(pid) = file.map(|f| f.pid).filter(|pid| *pid < 0)
                && Proc::read(-pid).is_some()
            {
                return Err(PgError::new(
                    ErrorKind::Running,
                    format!("a single-user PostgreSQL (process {}) is at work; wait for it or end it by hand", -pid),
                ));
            }
            return Ok(Stopped::NotRunning);
        };
        // A smart stop would wait for our own session.
        self.close_session().await;
        process.signal(match mode {
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
            StopMode::Smart => Signal::TERM,
        })?;
        let ended = match timeout {
            Some(limit) => tokio::time::timeout(limit.saturating_sub(began.elapsed()), process.exited()).await.is_ok(),
            None => {
                process.exited().await;
                true
            }
        };
        if !ended {
            return Ok(Stopped::TimedOut);
        }
        self.remember_process(None);
        Ok(Stopped::Exited { took: began.elapsed() })
    }

    /// Returns as soon as the shutdown checkpoint is written: `true`, though the process may still be sending WAL or
    /// archiving. `false`: the process ended without one.
    pub async fn wait_shut_down(&self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let process = self.process().await;
            let dir = self.config().data_dir.clone();
            let state = blocking("reading pg_control", IO_LIMIT, move || Ok(quick_state(&dir))).await?;
            if matches!(state, Some(ControlState::ShutDown | ControlState::ShutDownInRecovery)) {
                return Ok(true);
            }
            let Some(process) = process else { return Ok(false) };
            if Instant::now() >= deadline {
                return Err(PgError::new(
                    ErrorKind::TimedOut,
                    format!("PostgreSQL wrote no shutdown checkpoint within {timeout:?}"),
                ));
            }
            tokio::select! {
                () = sleep(Duration::from_millis(5)) => {}
                () = process.exited() => {}
            }
        }
    }

    /// Ends the server whatever state it is in. Crash recovery follows at the next start.
    pub async fn kill_hard(&self) -> Result<()> {
        if let Some(process) = self.process().await {
            let (tree, dir, programs) = (process.clone(), self.config().data_dir.clone(), self.postgres_names());
            blocking("killing the server", IO_LIMIT, move || {
                ServerProcesses::of(&dir, programs).kill(Some(&tree), Duration::from_secs(5))
            })
            .await?;
            if tokio::time::timeout(Duration::from_secs(5), process.exited()).await.is_err() {
                return Err(PgError::new(
                    ErrorKind::TimedOut,
                    format!(
                        "process {} does not end, not even by SIGKILL; it probably waits for a dead \
                         disk: repair it or restart the machine",
                        process.pid
                    ),
                ));
            }
            self.remember_process(None);
        }
        self.close_session().await;
        self.kill_orphans().await.map(|_| ())
    }

    /// As [`Instance::kill_hard`], and returns when no process can acknowledge anything any more, also if some cannot
    /// end before a dead disk answers.
    pub async fn silence(&self) -> Result<surus_core::server::Killed> {
        // Looked up only in memory: on the disk it could take as long as the disk.
        let process = self.known_process();
        let (dir, programs) = (self.config().data_dir.clone(), self.postgres_names());
        let killed = blocking("killing the server", IO_LIMIT, move || {
            ServerProcesses::of(&dir, programs).kill(process.as_ref(), SILENCE)
        })
        .await?;
        if !killed.gone {
            return Ok(surus_core::server::Killed::Silent(format!(
                "processes of PostgreSQL do not end, not even by SIGKILL; they probably wait for a dead disk and can do \
                 nothing meanwhile (of {} processes, silent after {} ms)",
                killed.processes,
                killed.silent_after.as_millis()
            )));
        }
        self.kill_hard().await.map(|()| surus_core::server::Killed::Gone)
    }

    /// `None` unless `pg_control` says `shut down`.
    pub async fn shutdown_position(&self) -> Result<Option<ShutdownPosition>> {
        let text = self.controldata_text().await?;
        let control = parse_controldata(&text).map_err(|e| PgError::new(ErrorKind::Tool, e))?;
        if control.state != ControlState::ShutDown {
            return Ok(None);
        }
        let (timeline, checkpoint) = (control.checkpoint_timeline, control.checkpoint_lsn);
        let segment = wal_segment_size(&text).unwrap_or(16 << 20);
        let publish = match self.wal_record(timeline, checkpoint, segment).await {
            Ok(record) if record.text.contains("CHECKPOINT_SHUTDOWN") => {
                match self.wal_record(timeline, record.prev, segment).await {
                    Ok(before) if before.text.contains("SWITCH") => record.prev,
                    Ok(_) => checkpoint,
                    Err(e) => unreadable(&e, checkpoint),
                }
            }
            Ok(_) => checkpoint,
            Err(e) => unreadable(&e, checkpoint),
        };
        Ok(Some(ShutdownPosition { timeline, checkpoint, publish }))
    }

    /// One WAL record by `pg_waldump`.
    pub(crate) async fn wal_record(&self, timeline: Timeline, at: Lsn, segment_size: u64) -> Result<WalRecord> {
        // The file by its name: given only the directory, the program reads the segment size from any file in there,
        // and fails on one that the server has allocated and not yet written.
        let file = self.config().data_dir.join("pg_wal").join(segment_name(timeline, at, segment_size));
        let tool = self.tool("pg_waldump").await?.args(["-s", &at.to_string(), "-n", "1"]).arg(file);
        let output = tool.run(Some(PROBE_LIMIT), None).await?.success(&format!("pg_waldump at {at}"))?;
        WalRecord::parse(&output.stdout).ok_or_else(|| {
            PgError::new(ErrorKind::Tool, format!("pg_waldump at {at} printed no record: {}", output.stdout.trim()))
        })
    }
}

fn unreadable(error: &PgError, checkpoint: Lsn) -> Lsn {
    tracing::warn!("the record before the shutdown checkpoint is not known: {error}");
    checkpoint
}

pub(crate) fn segment_name(timeline: Timeline, at: Lsn, segment_size: u64) -> String {
    let number = at.0 / segment_size;
    let per_id = (1_u64 << 32) / segment_size;
    format!("{:08X}{:08X}{:08X}", timeline.0, number / per_id, number % per_id)
}

/// A line of `pg_waldump`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalRecord {
    pub at: Lsn,
    pub xid: u32,
    pub total_len: u64,
    pub prev: Lsn,
    pub rmgr: String,
    pub text: String,
}

impl WalRecord {
    fn parse(output: &str) -> Option<WalRecord> {
        output.lines().find_map(WalRecord::of_line)
    }

    pub fn of_line(line: &str) -> Option<WalRecord> {
        let line = line.strip_prefix("rmgr:")?;
        let after = |key: &str| line.split_once(key).map(|(_, rest)| rest.trim_start());
        // len (rec/tot):    114/   114, tx: ...
        let total_len = after("len (rec/tot):")?.split_once('/')?.1.trim_start().split(',').next()?.parse().ok()?;
        let xid = after("tx:")?.split(',').next()?.parse().ok()?;
        let at = after("lsn:")?.split(',').next()?.parse().ok()?;
        let rmgr = line.split_whitespace().next()?.to_owned();
        let prev = after("prev ")?.split(',').next()?.parse().ok()?;
        let text = after("desc:")?.to_owned();
        Some(WalRecord { at, xid, total_len, prev, rmgr, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names() {
        let name = |at: u64, size| segment_name(Timeline(0x1F), Lsn(at), size);
        assert_eq!(name(0x1_0500_5B48, 16 << 20), "0000001F0000000100000005");
        assert_eq!(name(0xFFFF_FFFF, 16 << 20), "0000001F00000000000000FF");
        assert_eq!(name(0x1_4000_0000, 1 << 30), "0000001F0000000100000001");
    }

    #[test]
    fn waldump_lines() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/017414D0, \
                    prev 0/01741488, desc: CHECKPOINT_SHUTDOWN redo 0/17414D0; tli 1";
        let record = WalRecord::parse(line).unwrap();
        assert_eq!((record.total_len, record.prev), (114, Lsn(0x174_1488)));
        assert!(record.text.starts_with("CHECKPOINT_SHUTDOWN"));
        let switch = "rmgr: XLOG        len (rec/tot):     24/    24, tx:          0, lsn: 0/02000028, \
                      prev 0/02000000, desc: SWITCH ";
        assert_eq!(WalRecord::parse(switch).unwrap().text, "SWITCH ");
        assert_eq!(WalRecord::parse(""), None);
    }
}
