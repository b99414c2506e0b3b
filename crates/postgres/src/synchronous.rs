//! Whom commits wait for: writing `synchronous_standby_names`, and knowing when the old value is of the past.

use std::collections::BTreeMap;
use std::time::Duration;

use surus_core::Lsn;
use tokio::time::{Instant, sleep};

use crate::conf_text::read_names;
use crate::conf_write::read_if_there;
use crate::config::InstanceConfig;
use crate::instance::{Instance, lock};
use crate::sql::Profile;
use crate::{ErrorKind, PgError, Result};

pub(crate) const NAMES: &str = "synchronous_standby_names";

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// A checkpointer that spreads its writes wakes at least this often, and reads its settings then.
const SPREAD: Duration = Duration::from_millis(250);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// By an earlier process, if the cluster is synchronous: what the file says stays.
    #[default]
    Unknown,
    /// The configuration says.
    Configured,
    Text(String),
}

impl Chosen {
    /// Puts the value that is to be written into the parameters.
    pub fn apply(&self, config: &InstanceConfig, parameters: &mut BTreeMap<String, String>) -> Result<()> {
        let text = match self {
            Chosen::Configured => return Ok(()),
            Chosen::Unknown if !config.synchronous => return Ok(()),
            Chosen::Unknown => read_if_there(&config.conf())?.as_deref().and_then(read_names).unwrap_or_default(),
            Chosen::Text(text) => text.clone(),
        };
        // Written even when empty: an included file must not bring a value of its own.
        parameters.insert(NAMES.into(), text);
        Ok(())
    }
}

impl Instance {
    /// What `synchronous_standby_names` is from the next writing of the files on. `None`: what the configuration says.
    /// `true`: that is not what it was.
    pub fn choose_names(&self, text: Option<String>) -> bool {
        let chosen = text.map_or(Chosen::Configured, Chosen::Text);
        let before = std::mem::replace(&mut *lock(&self.inner.names), chosen.clone());
        let unset = before == Chosen::Unknown && chosen == Chosen::Configured && !self.config().synchronous;
        before != chosen && !unset
    }

    /// Writes the chosen value, has the server read it, and returns once nobody can acknowledge a commit by an older one:
    /// how far the log was flushed then. Whatever was acknowledged by the older value is below that.
    ///
    /// Three kinds of processes go by the setting. The postmaster tells all its children before it accepts another
    /// connection, so that a new session which shows the value says that all have been told. A walsender that has been
    /// told finishes with the replies it is at, which are about log that it sent before. The checkpointer tells
    /// backends whether to wait at all, and is only asked to when it was not busy.
    pub async fn bring_names_into_force(&self, timeout: Duration) -> Result<Lsn> {
        let deadline = Instant::now() + timeout;
        let chosen = lock(&self.inner.names).clone();
        self.reload().await?;
        let expected = match &chosen {
            Chosen::Text(text) => Some(text.as_str()),
            _ => None,
        };
        let mut told_at = None;
        loop {
            let late = Instant::now() >= deadline;
            let session = self.session(&Profile::WORK, deadline).await?;
            let rows = session
                .rows(
                    "SELECT current_setting('synchronous_standby_names'), \
                     CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END::text, \
                     (SELECT lower(coalesce(wait_event, 'busy')) FROM pg_stat_activity WHERE backend_type = 'checkpointer')",
                    deadline,
                )
                .await?;
            let cell = |i: usize| rows.first().and_then(|r| r.get(i)).cloned().flatten();
            let (shown, flushed, checkpointer) = (cell(0).unwrap_or_default(), cell(1), cell(2));
            if expected.is_some_and(|e| e != shown) {
                if late {
                    return Err(PgError::new(
                        ErrorKind::Refused,
                        format!(
                            "{NAMES} is \"{shown}\" although \"{}\" was written to postgresql.conf; if it is set by ALTER \
                             SYSTEM, ALTER ROLE or ALTER DATABASE, reset it there",
                            expected.unwrap_or_default()
                        ),
                    ));
                }
                sleep(LOOK).await;
                continue;
            }
            let told = *told_at.get_or_insert_with(Instant::now);
            let read = match checkpointer.as_deref() {
                // None runs: none is needed for a server that is about to end.
                None | Some("checkpointermain") => true,
                Some("checkpointwritedelay") => told.elapsed() >= SPREAD,
                Some(_) => false,
            };
            if !read {
                if late {
                    return Err(PgError::new(
                        ErrorKind::TimedOut,
                        format!("{NAMES} is not in force: the checkpointer is busy and has not read it yet"),
                    ));
                }
                sleep(LOOK).await;
                continue;
            }
            let Some(flushed) = flushed else { return Ok(Lsn::INVALID) };
            // A walsender lets waiting commits go when it hears from its standby, and a standby reports when it gets
            // something. Without waiting itself: that could take for ever.
            let nudge = "SET synchronous_commit = local; SELECT pg_logical_emit_message(true, 'surus', 'names')";
            if let Err(e) = session.rows(nudge, deadline).await {
                tracing::debug!("{e}");
            }
            return flushed
                .parse()
                .map_err(|_| PgError::new(ErrorKind::Connection, format!("\"{flushed}\" is no position in the log")));
        }
    }
}
