//! Making a data directory fit to follow again: `pg_rewind` and single-user recovery (`spec/postgres.md §15, §16.3`).

use surus_core::cluster::Upstream;
use surus_core::postgres::Progress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::SYNC_LIMIT;
use crate::clone::Meter;
use crate::conf_write::{read_if_there, remove_if_there};
use crate::conninfo::tool_conninfo;
use crate::disk::{IO_LIMIT, blocking, sync_trees};
use crate::instance::{Instance, PROBE_LIMIT};
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
    pub async fn rewind(
        &self,
        from: &Upstream,
        progress: &watch::Sender<Option<Progress>>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot rewind").await?;
        self.kill_orphans().await?;
        let (config, version) = (self.config(), self.major_version().await?);
        let who = config.rewind_credentials();
        let source = tool_conninfo(who, from, Some(&config.database), true, version);
        let mut tool = self.tool("pg_rewind").await?.args(["--progress", "--no-sync"]);
        if config.recovery_conf.get("restore_command").is_some_and(|c| !c.is_empty()) {
            // Before 15 the program finds the setting only in a configuration beside the data.
            if version >= 150_000 || !config.separate_config_dir() {
                tool = tool.arg("--restore-target-wal");
            }
        }
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
                if meter.read(line) {
                    progress.send_replace(Some(meter.progress.clone()));
                }
            })
            .await;
        progress.send_replace(None);
        let output = output?.success(&format!("pg_rewind from {} ({}:{})", from.name, from.host, from.port))?;
        let dir = config.data_dir.clone();
        blocking("forcing the rewound data directory to disk", SYNC_LIMIT, move || sync_trees(&dir)).await?;
        tracing::info!("pg_rewind: {}", crate::disk::tail(&output.stderr, 4).replace('\n', "; "));
        Ok(())
    }

    /// Crash recovery without letting anybody in, so that the data directory is cleanly shut down afterwards.
    pub async fn crash_recover_single_user(&self, cancel: &CancellationToken) -> Result<()> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot recover in single-user mode").await?;
        self.kill_orphans().await?;
        let config = self.config();
        let dir = config.data_dir.clone();
        let options = blocking("preparing single-user recovery", IO_LIMIT, move || {
            for marker in ["standby.signal", "recovery.signal", "recovery.conf"] {
                remove_if_there(&dir.join(marker))?;
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
        for (name, value) in single_user_options(&options) {
            tool = tool.arg("-c").arg(format!("{name}={value}"));
        }
        let output = tool.arg("template1").run(None, Some(cancel)).await?;
        output.success("recovery in single-user mode").map(|_| ())
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
