//! From standby to primary.

use std::time::Duration;

use rustix::process::Signal;
use surus_core::Timeline;
use surus_core::postgres::ControlState;
use tokio::time::{Instant, sleep};

use crate::control::quick_state;
use crate::disk::{IO_LIMIT, blocking, file_mode, replace_file};
use crate::instance::{Instance, lock};
use crate::{ErrorKind, PgError, Result};
use surus_core::server::StartAs;

impl Instance {
    /// Orders it, as `pg_ctl promote --no-wait` does: a file and a signal.
    pub async fn promote(&self) -> Result<()> {
        let process = self.process().await.ok_or_else(|| self.no_server())?;
        let (dir, user) = (self.config().data_dir.clone(), self.user().await?);
        blocking("ordering the promotion", IO_LIMIT, move || {
            let state = quick_state(&dir);
            if state != Some(ControlState::InArchiveRecovery) {
                return Err(PgError::new(
                    ErrorKind::Refused,
                    format!("cannot promote: the server is no standby (pg_control says {state:?})"),
                ));
            }
            replace_file(&dir.join("promote"), "", file_mode(&dir), user.as_ref()).map(|_| ())
        })
        .await?;
        process.signal(Signal::USR1)
    }

    /// Returns when the server accepts writes; its new timeline.
    pub async fn wait_promoted(&self, timeout: Duration) -> Result<Timeline> {
        let deadline = Instant::now() + timeout;
        let question = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN \
                        ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END::text";
        let mut last = None;
        loop {
            match self.kept_rows(question, deadline).await {
                Ok(rows) => {
                    let cell = rows.first().and_then(|r| r.first()).and_then(Option::as_ref);
                    if let Some(timeline) = cell.and_then(|t| t.parse().ok()).and_then(Timeline::known) {
                        *lock(&self.inner.role) = Some(StartAs::Primary);
                        return Ok(timeline);
                    }
                }
                Err(e) => last = Some(e),
            }
            if self.process().await.is_none() {
                return Err(PgError::new(
                    ErrorKind::NotRunning,
                    "PostgreSQL ended while it was being promoted; its log says why",
                ));
            }
            if Instant::now() >= deadline {
                let why = last.map(|e| format!(" ({e})")).unwrap_or_default();
                return Err(PgError::new(
                    ErrorKind::TimedOut,
                    format!("the promotion is not finished after {timeout:?}{why}; it is still going on"),
                ));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn checkpoint(&self, timeout: Duration) -> Result<()> {
        self.query("CHECKPOINT", timeout).await.map(|_| ())
    }
}
