//! Starting the server.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use surus_core::cluster::PendingRestart;
use surus_core::postgres::{ControlData, DataDir};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::conf_write::Writing;
use crate::config::InstanceConfig;
use crate::conninfo::socket_path_fault;
use crate::disk::{IO_LIMIT, blocking, file_tail, give_to, make_dirs};
use crate::instance::{Instance, PROBE_LIMIT, lock};
use crate::os_user::{self, OsUser};
use crate::postmaster::{PidFile, Postmaster};
use crate::proc_fs::Proc;
use crate::synchronous::Chosen;
use crate::tool::Tool;
use crate::{ErrorKind, PgError, Result};
use surus_core::server::StartAs;

/// How often `postmaster.pid` is read while the server starts; there is nothing to wait on.
const CHECK: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
pub struct Started {
    pub postmaster: Postmaster,
    pub took: Duration,
    /// Settings a standby was started with above the configured ones, because its primary ran with more
    /// (`spec/config.md §8.5`).
    pub raised: BTreeMap<String, PendingRestart>,
}

impl Instance {
    /// Ends what a former server left, writes the files, starts the postmaster in a session of its own and returns when
    /// it takes connections. On [`ErrorKind::TimedOut`] the server is still starting and is left alone.
    pub async fn start(&self, role: &StartAs, timeout: Duration) -> Result<Started> {
        let (began, deadline) = (Instant::now(), Instant::now() + timeout);
        let _exclusive = self.inner.exclusive.lock().await;
        self.must_not_run("cannot start").await?;
        self.kill_orphans().await?;
        let config = self.config();
        if self.half_rewound().await?.is_some() {
            let text = format!("cannot start {}: {}", config.data_dir.display(), crate::half_rewound::HINT);
            return Err(PgError::new(ErrorKind::Refused, text));
        }
        // What a bootstrap method made is whole once it has recovered.
        let recovers = matches!(role, StartAs::Recovery { .. });
        let there = if recovers { self.unfinished_data_dir().await } else { self.data_dir().await };
        let (version, control) = match there {
            DataDir::Present { major_version, control, .. } => (major_version, control),
            DataDir::Empty => {
                let text = format!("cannot start: {} is empty", config.data_dir.display());
                return Err(PgError::new(ErrorKind::Refused, text));
            }
            DataDir::Foreign(why) | DataDir::Unreadable(why) => {
                return Err(PgError::new(ErrorKind::Refused, format!("cannot start: {why}")));
            }
        };
        let config = {
            let mut accepted = InstanceConfig::clone(&config);
            self.judged(version).await.apply(&mut accepted);
            Arc::new(accepted)
        };
        let raised = if role.is_primary() { BTreeMap::new() } else { raised_limits(&config, &control) };
        let mut overrides: BTreeMap<String, String> =
            raised.iter().map(|(name, r)| (name.clone(), r.old_value.clone())).collect();
        if !role.is_primary() {
            overrides.extend(unsaid_limits(&config, &control));
        }
        overrides.extend(self.socket_override(&config).await?);
        *lock(&self.inner.overrides) = Some(overrides.clone());
        self.close_session().await;

        let user = self.user().await?;
        let write = {
            let (config, user, overrides, role) = (config.clone(), user.clone(), overrides.clone(), role.clone());
            if config.synchronous && !role.is_primary() {
                // Whoever promotes it by hand is not to wait for those it once had.
                self.choose_names(Some(String::new()));
            }
            let instance = self.clone();
            move || {
                let _alone = lock(&instance.inner.writing);
                let names = lock(&instance.inner.names).clone();
                let writing = Writing { config: &config, user: user.as_ref(), version, raised: &overrides, names };
                writing.all(Some(&role))?;
                writing.markers(&role)?;
                if !role.is_primary() {
                    crate::timeline::clear_placeholders(&config.data_dir)?;
                }
                prepare_dirs(&config, user.as_ref())?;
                *lock(&instance.inner.role) = Some(role);
                Ok(())
            }
        };
        blocking("writing the configuration", IO_LIMIT, write).await?;

        let log_from = config.server_log.as_ref().and_then(|p| fs::metadata(p).ok()).map_or(0, |m| m.len());
        let started_at = SystemTime::now();
        let (postmaster, mut exit) = self.launch(&config, user.as_ref(), &overrides).await?;
        self.remember_process(Some(postmaster.clone()));
        let failure = |status: Option<ExitStatus>| {
            let words = log_tail(&config, log_from, started_at);
            let status = status.map(|s| format!(" ({s})")).unwrap_or_default();
            PgError::new(
                ErrorKind::StartFailed,
                format!("PostgreSQL in {} did not start{status}{words}", config.data_dir.display()),
            )
        };
        loop {
            if !postmaster.is_alive() {
                self.remember_process(None);
                let _ = tokio::time::timeout(Duration::from_secs(1), exit.wait_for(Option::is_some)).await;
                let status = *exit.borrow();
                return Err(failure(status));
            }
            let dir = config.data_dir.clone();
            let file = blocking("reading postmaster.pid", IO_LIMIT, move || Ok(PidFile::read(&dir))).await?;
            let status = file.filter(|f| f.pid == postmaster.pid).and_then(|f| f.status);
            // "standby": recovering with hot_standby off, as far as it will ever get.
            if matches!(status.as_deref(), Some("ready" | "standby")) {
                break;
            }
            if Instant::now() >= deadline {
                return Err(PgError::new(
                    ErrorKind::TimedOut,
                    format!(
                        "PostgreSQL in {} takes no connections after {timeout:?}; it is still starting{}",
                        config.data_dir.display(),
                        log_tail(&config, log_from, started_at)
                    ),
                ));
            }
            tokio::select! {
                () = sleep(CHECK) => {}
                () = postmaster.exited() => {}
            }
        }
        let back_up = move || {
            Writing { config: &config, user: user.as_ref(), version, raised: &overrides, names: Chosen::Unknown }
                .back_up()
        };
        if let Err(e) = blocking("backing up the configuration", IO_LIMIT, back_up).await {
            tracing::warn!("{e}");
        }
        Ok(Started { postmaster, took: began.elapsed(), raised })
    }

    async fn launch(
        &self,
        config: &InstanceConfig,
        user: Option<&OsUser>,
        overrides: &BTreeMap<String, String>,
    ) -> Result<(Postmaster, watch::Receiver<Option<ExitStatus>>)> {
        let program = config.bin("postgres");
        let setsid = setsid_program();
        let own_session = setsid.is_some();
        let tool = match setsid {
            Some(setsid) => Tool::new(setsid, user.cloned()).arg(&program),
            None => Tool::new(program.clone(), user.cloned()),
        };
        let mut conf = std::ffi::OsString::from("--config-file=");
        conf.push(config.conf());
        let mut tool = tool.own_locale().arg("-D").arg(&config.data_dir).arg(conf);
        for (name, value) in &config.command_line {
            let value = overrides.get(name).unwrap_or(value);
            tool = tool.arg(format!("--{name}={value}"));
        }
        let dir = config.data_dir.clone();
        let stale = blocking("reading postmaster.pid", IO_LIMIT, move || Ok(PidFile::read(&dir))).await?;
        if let Some(pid) = stale.map(|f| f.pid.unsigned_abs()).filter(|p| alive(*p)) {
            // A file of a former server that names a process of somebody else: the server believes it is its own
            // grandparent's and overwrites it.
            tool = tool.env("PG_GRANDPARENT_PID", pid.to_string());
        }
        let mut command = tool.command();
        if !own_session {
            command.process_group(0);
        }
        if let Some(path) = &config.server_log {
            let (path, owner) = (path.clone(), user.cloned());
            let file = blocking("opening the server's log", IO_LIMIT, move || open_log(&path, owner.as_ref())).await?;
            let second = file.try_clone().map_err(|e| PgError::new(ErrorKind::Io, format!("server log: {e}")))?;
            command.stdout(Stdio::from(file)).stderr(Stdio::from(second));
        }
        let mut child = os_user::spawn(command, user.cloned()).await.map_err(|e| {
            PgError::new(ErrorKind::Tool, format!("cannot run {}: {e}; check postgresql.bin_dir", program.display()))
        })?;
        let seen = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Proc::read);
        let held = seen.as_ref().and_then(Postmaster::hold);
        let (tx, rx) = watch::channel(None);
        // Whoever starts a process has to wait for it; a postmaster that ended would stay a zombie for ever.
        tokio::spawn(async move {
            let status = child.wait().await.ok();
            let _ = tx.send(status);
        });
        held.map(|p| (p, rx)).ok_or_else(|| {
            PgError::new(
                ErrorKind::StartFailed,
                format!("{} ended at once{}", program.display(), log_tail(config, 0, SystemTime::now())),
            )
        })
    }

    /// `/tmp` where the server would put its socket into a directory its user cannot write to.
    pub(crate) async fn socket_override(&self, config: &InstanceConfig) -> Result<BTreeMap<String, String>> {
        let name = "unix_socket_directories";
        if config.parameters.contains_key(name) || config.command_line.iter().any(|(n, _)| n == name) {
            return Ok(BTreeMap::new());
        }
        let known = lock(&self.inner.socket_dirs).clone();
        let dirs = match known {
            Some(dirs) => dirs,
            None => {
                let output = self.tool("postgres").await?.arg("-D").arg(&config.data_dir).arg("-C").arg(name);
                let output = output.run(Some(PROBE_LIMIT), None).await?;
                let dirs = output.stdout.trim().to_owned();
                if output.status.success() {
                    *lock(&self.inner.socket_dirs) = Some(dirs.clone());
                }
                dirs
            }
        };
        let user = self.user().await?;
        let check = move || {
            Ok(dirs
                .split(',')
                .map(str::trim)
                .filter(|d| !d.is_empty())
                .find(|d| !can_write(Path::new(d), user.as_ref()))
                .map(str::to_owned))
        };
        let unusable = blocking("looking at the socket directories", IO_LIMIT, check).await?;
        Ok(unusable
            .map(|dir| {
                tracing::info!("PostgreSQL's socket goes to /tmp: its user cannot write to {dir}");
                BTreeMap::from([(name.to_owned(), "/tmp".to_owned())])
            })
            .unwrap_or_default())
    }
}

fn configured(config: &InstanceConfig, name: &str) -> Option<String> {
    let on_line = config.command_line.iter().find(|(n, _)| n == name).map(|(_, v)| v);
    on_line.or_else(|| config.parameters.get(name)).cloned()
}

/// Those that were left out because the program did not take them: its own default may be less than the primary runs with.
fn unsaid_limits(config: &InstanceConfig, control: &ControlData) -> BTreeMap<String, String> {
    let unsaid = control.limits.iter().filter(|(name, _)| configured(config, name).is_none());
    unsaid.map(|(name, needed)| (name.clone(), needed.to_string())).collect()
}

/// A standby does not start with less than its primary ran with.
fn raised_limits(config: &InstanceConfig, control: &ControlData) -> BTreeMap<String, PendingRestart> {
    let mut raised = BTreeMap::new();
    for (name, needed) in &control.limits {
        if let Some(value) = configured(config, name)
            && value.trim().parse::<i64>().is_ok_and(|v| v < *needed)
        {
            raised.insert(name.clone(), PendingRestart { old_value: needed.to_string(), new_value: value });
        }
    }
    raised
}

fn prepare_dirs(config: &InstanceConfig, user: Option<&OsUser>) -> Result<()> {
    let configured = config.parameters.get("unix_socket_directories").map_or("", String::as_str);
    for dir in configured.split(',').map(str::trim).filter(|d| !d.is_empty() && !d.starts_with('@')) {
        let path = config.data_dir.join(dir);
        // Measured as the server will use it: relative to the data directory, where it works.
        if let Some(fault) = socket_path_fault(Path::new(dir), config.port) {
            return Err(PgError::new(ErrorKind::Refused, fault));
        }
        make_dirs(&path, user)?;
        if !can_write(&path, user) {
            return Err(PgError::io("use as a socket directory", &path, &"PostgreSQL's user cannot write there"));
        }
    }
    Ok(())
}

fn can_write(dir: &Path, user: Option<&OsUser>) -> bool {
    let Some(user) = user else {
        return dir.is_dir() && rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
    };
    let Ok(meta) = fs::metadata(dir) else { return false };
    let (mode, class) = (meta.mode(), |shift: u32| meta.mode() >> shift & 0o3 == 0o3);
    if !meta.is_dir() || mode & 0o333 == 0 {
        false
    } else if meta.uid() == user.uid {
        class(6)
    } else if user.groups.contains(&meta.gid()) {
        class(3)
    } else {
        class(0)
    }
}

fn open_log(path: &Path, user: Option<&OsUser>) -> Result<File> {
    if let Some(dir) = path.parent() {
        make_dirs(dir, user)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    let file = file.map_err(|e| PgError::io("open the server's log", path, &e))?;
    give_to(path, user)?;
    Ok(file)
}

/// What the server said since it was started, as an ending of a sentence.
fn log_tail(config: &InstanceConfig, from: u64, since: SystemTime) -> String {
    let mut words = config.server_log.as_ref().map(|p| file_tail(p, from, 12)).unwrap_or_default();
    let collects =
        config.parameters.get("logging_collector").is_some_and(|v| matches!(v.as_str(), "on" | "true" | "yes" | "1"));
    if collects && let Some(log) = newest_log(config, since) {
        words.push_str(&format!("\n{}:\n{}", log.display(), file_tail(&log, 0, 12)));
    }
    if words.trim().is_empty() {
        "; see PostgreSQL's log for the reason".to_owned()
    } else {
        format!("; it said:\n{}", words.trim())
    }
}

fn newest_log(config: &InstanceConfig, since: SystemTime) -> Option<PathBuf> {
    let dir = config.data_dir.join(config.parameters.get("log_directory").map_or("log", String::as_str));
    let files = fs::read_dir(dir).ok()?.flatten();
    files
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .filter(|(modified, _)| *modified + Duration::from_secs(1) >= since)
        .max()
        .map(|(_, path)| path)
}

fn alive(pid: u32) -> bool {
    i32::try_from(pid).ok().and_then(Proc::read).is_some_and(|p| !p.is_zombie())
}

/// From util-linux or busybox. Without it a process group of its own keeps terminal signals away just as well.
fn setsid_program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|d| d.join("setsid")).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_raised_only_where_too_low() {
        let command_line = vec![("max_connections".into(), "50".into()), ("max_wal_senders".into(), "20".into())];
        let mut config = InstanceConfig { command_line, ..InstanceConfig::default() };
        config.parameters.insert("max_worker_processes".into(), "4".into());
        let limits = [
            ("max_connections", 100),
            ("max_wal_senders", 10),
            ("max_worker_processes", 8),
            ("max_locks_per_transaction", 64),
        ];
        let control = ControlData {
            system_id: surus_core::SystemId::parse("7710904247095016795").unwrap(),
            state: surus_core::postgres::ControlState::ShutDown,
            checkpoint_timeline: surus_core::Timeline(1),
            checkpoint_lsn: surus_core::Lsn(1),
            min_recovery_timeline: None,
            min_recovery_lsn: surus_core::Lsn(0),
            data_checksums: true,
            wal_log_hints: true,
            wal_level_minimal: false,
            wal_segment: 16 << 20,
            limits: limits.map(|(n, v)| (n.to_owned(), v)).into(),
        };
        let raised = raised_limits(&config, &control);
        assert_eq!(raised.keys().collect::<Vec<_>>(), ["max_connections", "max_worker_processes"]);
        assert_eq!(raised["max_connections"].old_value, "100");
        assert_eq!(raised["max_connections"].new_value, "50");
        assert_eq!(unsaid_limits(&config, &control), [("max_locks_per_transaction".into(), "64".into())].into());
    }

    #[test]
    fn a_socket_path_that_is_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = InstanceConfig { data_dir: dir.path().to_owned(), ..InstanceConfig::default() };
        config.parameters.insert("unix_socket_directories".into(), format!("/tmp/{}", "x".repeat(110)));
        assert!(prepare_dirs(&config, None).unwrap_err().to_string().contains("107"));
        config.parameters.insert("unix_socket_directories".into(), "sockets, @abstract".into());
        prepare_dirs(&config, None).unwrap();
        assert!(dir.path().join("sockets").is_dir());
    }
}
