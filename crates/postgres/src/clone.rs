//! A copy of another member by `pg_basebackup` (`spec/postgres.md §14.3`).

use std::time::Duration;

use surus_core::cluster::Upstream;
use surus_core::postgres::Progress;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bootstrap::SYNC_LIMIT;
use crate::conf_write::Writing;
use crate::conninfo::tool_conninfo;
use crate::disk::{IO_LIMIT, blocking};
use crate::instance::Instance;
use crate::staging::Staging;
use crate::synchronous::Chosen;
use crate::tool::Tool;
use crate::{ErrorKind, PgError, Result};

impl Instance {
    /// Fills the empty data directory, whole or not at all. Cancelled, failed, or killed together with the agent: what
    /// was copied is removed, at the latest by the next attempt.
    pub async fn basebackup(
        &self,
        from: &Upstream,
        progress: &watch::Sender<Option<Progress>>,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot copy").await?;
        self.kill_orphans().await?;
        let version = self.binaries_version().await?;
        let (config, user) = (self.config(), self.user().await?);
        let staging = {
            let (dir, user) = (config.data_dir.clone(), user.clone());
            blocking("preparing the data directory", SYNC_LIMIT, move || Staging::begin(&dir, user)).await?
        };
        let mut target = std::ffi::OsString::from("--pgdata=");
        target.push(&staging.work);
        let source = tool_conninfo(&config.replication, from, None, false, version);
        let mut tool = Tool::new(config.bin("pg_basebackup"), user.clone())
            .arg(target)
            .args(["-X", "stream", "--progress", "--no-sync"])
            .arg(format!("--dbname={source}"));
        let options = usable(&config.basebackup_options, version);
        if !options.iter().any(|o| o.starts_with("--checkpoint")) {
            tool = tool.arg("--checkpoint=fast");
        }
        tool = tool.args(options);
        if let Some(password) = &config.replication.password {
            tool = tool.env("PGPASSWORD", password);
        }
        let mut meter = Meter::new(format!("copying from {}", from.name));
        progress.send_replace(Some(meter.progress.clone()));
        let watching = tool.run_watching(None, Some(cancel), |line| {
            if meter.read(line) {
                progress.send_replace(Some(meter.progress.clone()));
            }
        });
        let result = tokio::select! {
            result = watching => result,
            () = staging.keep_marked() => Err(PgError::new(ErrorKind::Cancelled, "the copy was given up")),
        };
        progress.send_replace(None);
        if let Err(e) =
            result.and_then(|o| o.success(&format!("pg_basebackup from {} ({}:{})", from.name, from.host, from.port)))
        {
            blocking("removing an unfinished copy", SYNC_LIMIT, move || staging.abort()).await?;
            return Err(e);
        }
        blocking("putting the copy in place", SYNC_LIMIT, move || staging.commit()).await?;
        blocking("restoring configuration files", IO_LIMIT, move || {
            let raised = std::collections::BTreeMap::new();
            Writing { config: &config, user: user.as_ref(), version, raised: &raised, names: Chosen::Unknown }
                .restore_missing()
        })
        .await
    }
}

/// A directory cannot be compressed where it is written, only on the way, and that since version 15.
fn usable(options: &[String], version: u32) -> Vec<&String> {
    let works = |option: &&String| {
        let Some(value) = option.strip_prefix("--compress") else { return true };
        let works = version >= 150_000 && value.strip_prefix('=').is_some_and(|v| v.starts_with("server"));
        if !works {
            tracing::warn!(
                "{option} of postgresql.basebackup is left out: a copy can only be compressed by the server \
                 (compress: server-gzip), and since PostgreSQL 15"
            );
        }
        works
    };
    options.iter().filter(works).collect()
}

/// Reads what `pg_basebackup --progress` and `pg_rewind --progress` print: `12345/67890 kB (18%), ...`.
pub(crate) struct Meter {
    pub progress: Progress,
    began: Instant,
}

impl Meter {
    pub fn new(what: String) -> Meter {
        Meter { progress: Progress { what, ..Progress::default() }, began: Instant::now() }
    }

    pub fn read(&mut self, line: &str) -> bool {
        let Some((done, total)) = kilobytes(line) else { return false };
        self.progress.done_bytes = done;
        self.progress.total_bytes = Some(total.max(done));
        self.progress.eta_seconds = eta(done, total, self.began.elapsed());
        true
    }
}

fn eta(done: u64, total: u64, elapsed: Duration) -> Option<u64> {
    let seconds = elapsed.as_secs_f64();
    if done == 0 || seconds < 1.0 {
        return None;
    }
    let left = total.saturating_sub(done) as f64 * seconds / done as f64;
    Some(left.ceil() as u64)
}

fn kilobytes(line: &str) -> Option<(u64, u64)> {
    let (head, _) = line.split_once(" kB")?;
    let (done, total) = head.rsplit_once('/')?;
    let number = |t: &str| t.trim().parse::<u64>().ok().map(|n| n.saturating_mul(1024));
    Some((number(done.rsplit(' ').next()?)?, number(total)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compression_where_it_works() {
        let all: Vec<String> =
            ["--max-rate=1M", "--compress=server-gzip", "--compress=9", "--compress"].map(str::to_owned).into();
        assert_eq!(usable(&all, 140_000), [&all[0]]);
        assert_eq!(usable(&all, 150_000), [&all[0], &all[1]]);
    }

    #[test]
    fn progress_lines() {
        for (line, want) in [
            ("     0/22345 kB (0%), 0/1 tablespace", Some((0, 22345))),
            ("22355/22345 kB (100%), 1/1 tablespace (/x/base/1  )", Some((22355, 22345))),
            ("123/456 kB (27%) copied", Some((123, 456))),
            ("waiting for checkpoint", None),
            ("/ kB", None),
        ] {
            assert_eq!(kilobytes(line), want.map(|(d, t)| (d * 1024, t * 1024)), "{line}");
        }
        let mut meter = Meter::new("x".into());
        assert!(meter.read("22355/22345 kB (100%)") && !meter.read("nothing"));
        assert_eq!(meter.progress.percent(), Some(100));
        assert_eq!(eta(50, 100, Duration::from_secs(10)), Some(10));
        assert_eq!(eta(0, 100, Duration::from_secs(10)), None);
    }
}
