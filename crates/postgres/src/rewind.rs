//! Making a data directory fit to follow again: `pg_rewind` and single-user recovery (`spec/postgres.md §15, §16.3`).

use std::time::Duration;

use surus_core::cluster::Upstream;
use surus_core::postgres::{ControlState, Progress};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archive::missing_segment;
use crate::bootstrap::SYNC_LIMIT;
use crate::clone::Meter;
use crate::conf_write::{read_if_there, remove_if_there};
use crate::conninfo::tool_conninfo;
use crate::disk::{IO_LIMIT, blocking, sync_trees};
use crate::divergence::last_timeline;
use crate::half_rewound;
use crate::instance::{Instance, PROBE_LIMIT};
use crate::tool::{Output, Tool};
use crate::{ErrorKind, PgError, Result};

impl Instance {
    /// An error tells why `pg_rewind` is impossible here.
    pub async fn can_rewind(&self) -> Result<()> {
        let control = self.control_data().await?;
        if !control.wal_log_hints && !control.data_checksums {
            return Err(PgError::new(
                ErrorKind::Refused,
                "pg_rewind needs wal_log_hints or data checksums, and the server ran without both",
            ));
        }
        let help = self.tool("pg_rewind").await?.arg("--help").run(Some(PROBE_LIMIT), None).await?;
        help.success("pg_rewind --help").map(|_| ())
    }

    /// The server must be stopped. A failure can leave a data directory that is of no use; the caller decides.
    ///
    /// Log that is not here any more is fetched by `restore_command`, each segment within `patience`. By us and not by
    /// `pg_rewind --restore-target-wal`: the program waits for a command that hangs as long as that hangs.
    pub async fn rewind(
        &self,
        from: &Upstream,
        patience: Duration,
        progress: &watch::Sender<Option<Progress>>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot rewind").await?;
        self.kill_orphans().await?;
        let before = self.half_rewound().await?;
        let (fork, same) = self.fork(from, Instant::now() + PROBE_LIMIT).await?;
        if let (Some(fork), Some(number)) = (fork, same) {
            // pg_rewind would find nothing to do.
            let name = &from.name;
            let text = format!(
                "this server and {name} parted at {fork} and gave the number {number} to two timelines, which pg_rewind does \
                 not see; give {name} another one (a switchover there) and it can be done, or make this server anew \
                 (surus reinit)"
            );
            return Err(PgError::new(ErrorKind::Refused, text));
        }
        if before.is_some_and(|before| fork.is_none_or(|fork| fork > before)) {
            let (dir, name) = (self.config().data_dir.display().to_string(), &from.name);
            let text = format!("{name} cannot mend {dir}, it left this history too late: {}", half_rewound::HINT);
            return Err(PgError::new(ErrorKind::Refused, text));
        }
        if let Some(fork) = fork {
            let dir = self.config().data_dir.clone();
            blocking("noting the rewind", IO_LIMIT, move || half_rewound::begin(&dir, fork)).await?;
        }
        let mut began = before.is_some();
        let rewound = self.rewind_with_log(from, patience, progress, cancel, &mut began).await;
        if rewound.is_ok() || !began {
            let dir = self.config().data_dir.clone();
            blocking("forgetting the rewind", IO_LIMIT, move || half_rewound::end(&dir)).await?;
        }
        rewound
    }

    /// `began`: something was changed.
    async fn rewind_with_log(
        &self,
        from: &Upstream,
        patience: Duration,
        progress: &watch::Sender<Option<Progress>>,
        cancel: &CancellationToken,
        began: &mut bool,
    ) -> Result<()> {
        let mut fetched = Vec::new();
        loop {
            let output = self.run_rewind(from, progress, cancel, began).await?;
            if output.status.success() {
                tracing::info!("pg_rewind: {}", crate::disk::tail(&output.stderr, 4).replace('\n', "; "));
                break;
            }
            let failure = output.failure(&format!("pg_rewind from {} ({}:{})", from.name, from.host, from.port));
            let missing = missing_segment(&output.stderr).filter(|name| !fetched.contains(name));
            let (Some(missing), Some(command)) = (missing, self.restore_command().await) else { return Err(failure) };
            tracing::info!("pg_rewind misses the segment {missing}, fetching it by restore_command");
            let fetch = self.restore_segment(&command, &missing, patience, cancel).await;
            fetch
                .map_err(|e| PgError::new(e.kind.clone(), format!("{failure}\nand fetching {missing} failed: {e}")))?;
            fetched.push(missing);
        }
        let dir = self.config().data_dir.clone();
        blocking("forcing the rewound data directory to disk", SYNC_LIMIT, move || sync_trees(&dir)).await
    }

    async fn run_rewind(
        &self,
        from: &Upstream,
        progress: &watch::Sender<Option<Progress>>,
        cancel: &CancellationToken,
        began: &mut bool,
    ) -> Result<Output> {
        let (config, version) = (self.config(), self.major_version().await?);
        let who = config.rewind_credentials();
        let source = tool_conninfo(who, from, Some(&config.database), true, version);
        let mut tool = self.tool("pg_rewind").await?.args(["--progress", "--no-sync"]);
        if version >= 150_000 && config.separate_config_dir() {
            let mut arg = std::ffi::OsString::from("--config-file=");
            arg.push(config.conf());
            tool = tool.arg(arg);
        }
        tool = tool
            .arg("-D")
            .arg(&config.data_dir)
            .arg("--source-server")
            .arg(source)
            .args(&config.rewind_options)
            .env("PGOPTIONS", "-c statement_timeout=0");
        if let Some(password) = &who.password {
            tool = tool.env("PGPASSWORD", password);
        }
        let mut meter = Meter::new(format!("rewinding to {}", from.name));
        progress.send_replace(Some(meter.progress.clone()));
        let output = tool
            .run_watching(None, Some(cancel), |line| {
                // It has looked at everything, and begins to copy.
                *began |= line.contains("need to copy");
                if meter.read(line) {
                    *began = true;
                    progress.send_replace(Some(meter.progress.clone()));
                }
            })
            .await;
        progress.send_replace(None);
        output
    }

    /// Whether the data directory has to go through crash recovery before `pg_rewind` takes it.
    pub async fn needs_recovery(&self) -> Result<bool> {
        let control = self.control_data().await?;
        if matches!(control.state, ControlState::ShutDown | ControlState::ShutDownInRecovery) {
            // A server that was promoted and killed before its first checkpoint, and that stood by since: before 16,
            // pg_rewind goes by the timeline of the checkpoint and looks for the fork in a file that ends there.
            // Recovery goes to the end of the last timeline and makes a checkpoint on it.
            let behind = last_timeline(&control) != control.checkpoint_timeline;
            return Ok(behind && self.major_version().await? < 160_000);
        }
        // An unfinished backup begins where its label says, which 15 and later do not do in single-user mode.
        let label = self.config().data_dir.join("backup_label");
        let labelled = blocking("looking for backup_label", IO_LIMIT, move || Ok(label.exists())).await?;
        Ok(!labelled || self.major_version().await? < 150_000)
    }

    /// Crash recovery without letting anybody in, so that the data directory is cleanly shut down afterwards.
    pub async fn crash_recover_single_user(&self, cancel: &CancellationToken) -> Result<()> {
        let _exclusive = self.inner.exclusive.lock().await;
        let tool = self.single_user_tool(&[]).await?.arg("template1");
        tool.run(None, Some(cancel)).await?.success("recovery in single-user mode").map(|_| ())
    }

    /// PostgreSQL in single-user mode, to which the name of a database is to be added. To be run under the exclusive lock.
    pub(crate) async fn single_user_tool(&self, settings: &[(&str, &str)]) -> Result<Tool> {
        self.must_not_run("cannot start single-user mode").await?;
        self.kill_orphans().await?;
        let config = self.config();
        let dir = config.data_dir.clone();
        let options = blocking("preparing single-user mode", IO_LIMIT, move || {
            for marker in ["standby.signal", "recovery.signal", "recovery.conf"] {
                remove_if_there(&dir.join(marker))?;
            }
            // Without a status each segment counts as not archived, and the checkpoint at the end of recovery must not
            // remove what pg_rewind needs.
            for entry in std::fs::read_dir(dir.join("pg_wal/archive_status")).into_iter().flatten().flatten() {
                remove_if_there(&entry.path())?;
            }
            Ok(read_if_there(&dir.join("postmaster.opts"))?.unwrap_or_default())
        })
        .await?;
        let mut conf = std::ffi::OsString::from("--config-file=");
        conf.push(config.conf());
        let mut tool = self.tool("postgres").await?.arg("--single").arg("-D").arg(&config.data_dir);
        if config.conf().exists() {
            tool = tool.arg(conf);
        }
        let mut all = single_user_options(&options);
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        for (name, value) in all {
            tool = tool.arg("-c").arg(format!("{name}={value}"));
        }
        Ok(tool)
    }
}

/// The settings the server last ran with, and WAL kept until it can be archived properly.
fn single_user_options(opts: &str) -> Vec<(String, String)> {
    let words = shlex::split(opts.trim()).unwrap_or_default();
    let mut all: std::collections::BTreeMap<String, String> = words
        .iter()
        .filter_map(|w| w.strip_prefix("--")?.split_once('='))
        .filter(|(name, _)| *name != "config-file")
        .map(|(n, v)| (n.replace('-', "_"), v.to_owned()))
        .collect();
    all.insert("archive_mode".into(), "on".into());
    all.insert("archive_command".into(), "false".into());
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_last_run() {
        let opts =
            r#"/usr/lib/postgresql/15/bin/postgres "-D" "/d x" "--config-file=/c" "--port=5433" "--wal_level=logical""#;
        let got = single_user_options(opts);
        let names: Vec<&str> = got.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names, ["archive_command", "archive_mode", "port", "wal_level"]);
        assert_eq!(single_user_options("").len(), 2);
    }
}
