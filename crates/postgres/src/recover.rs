//! From a restored backup to the primary of a new cluster (`spec/postgres.md §13.2, §13.3`).

use std::time::Duration;

use surus_core::postgres::Progress;
use surus_core::server::StartAs;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::conf_write::Writing;
use crate::disk::{IO_LIMIT, blocking};
use crate::in_place;
use crate::instance::Instance;
use crate::methods::no_method;
use crate::synchronous::Chosen;
use crate::{ErrorKind, PgError, Result};

/// How long a start is watched before the server's own answers are.
const WATCHED: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(250);

const QUESTION: &str = "SELECT pg_is_in_recovery()::text, \
     CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused()::text END, \
     pg_last_wal_replay_lsn()::text, pg_last_xact_replay_timestamp()::text";

impl Instance {
    /// Starts the server on what a bootstrap method made and returns when it accepts writes, however long its recovery
    /// takes. Given up, the server is left as it is.
    pub async fn recover(&self, progress: &watch::Sender<Option<Progress>>, cancel: &CancellationToken) -> Result<()> {
        let config = self.config();
        let method = config.custom_bootstrap.as_ref().ok_or_else(no_method)?;
        let role = StartAs::Recovery {
            settings: method.recovery_conf.clone().unwrap_or_default(),
            keep_existing: method.recovery_conf.is_none() && method.keep_existing_recovery_conf,
        };
        match self.start(&role, WATCHED).await {
            Err(e) if !e.is_timeout() => return Err(e),
            _ => {}
        }
        let tell = |what: String| {
            progress.send_replace(Some(Progress { what, ..Progress::default() }));
        };
        let mut told_paused = false;
        loop {
            let answer = tokio::select! {
                answer = self.kept_rows(QUESTION, Instant::now() + ANSWER) => answer,
                () = cancel.cancelled() => {
                    return Err(PgError::new(ErrorKind::Cancelled, "the recovery was given up on request"));
                }
            };
            let rows = answer.unwrap_or_default();
            let cell = |n: usize| rows.first().and_then(|row| row.get(n)).and_then(Option::as_deref);
            match (cell(0), cell(1)) {
                (Some("false"), _) => break,
                (Some(_), paused) => {
                    let at = cell(2).unwrap_or("its beginning");
                    let time = cell(3).map(|t| format!(", transactions up to {t}")).unwrap_or_default();
                    tell(format!("waiting for end of recovery after bootstrap: at {at}{time}"));
                    if paused == Some("true") && !std::mem::replace(&mut told_paused, true) {
                        warn!(
                            "recovery has stopped at {at} and waits: the new cluster is ready once it is promoted. Say \
                             SELECT pg_wal_replay_resume(), and set recovery_target_action to promote for the next time"
                        );
                    }
                }
                (None, _) => tell("waiting for end of recovery after bootstrap: no connections yet".into()),
            }
            if self.process().await.is_none() {
                return Err(PgError::new(
                    ErrorKind::NotRunning,
                    "PostgreSQL ended before its recovery was complete; its log says why (a target that was not \
                     reached, WAL that restore_command did not bring, or recovery_target_action = shutdown)",
                ));
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = cancel.cancelled() => {}
            }
        }
        Ok(())
    }

    /// The server that has recovered is to start as a primary, and its data directory counts from now on.
    pub async fn end_custom_bootstrap(&self) -> Result<()> {
        let (config, user, version) = (self.config(), self.user().await?, self.major_version().await?);
        blocking("restoring pg_hba.conf", IO_LIMIT, move || {
            let raised = std::collections::BTreeMap::new();
            Writing { config: &config, user: user.as_ref(), version, raised: &raised, names: Chosen::Unknown }
                .restore_hba()
        })
        .await?;
        self.write_config(&StartAs::Primary).await?;
        // Opened while everybody here was trusted.
        self.close_session().await;
        let dir = self.config().data_dir.clone();
        blocking("marking the new cluster as whole", IO_LIMIT, move || in_place::forget(&dir)).await
    }
}
