//! The handle on one instance. What it can do is in the modules beside this one, each adding its part.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crate::config::InstanceConfig;
use crate::disk::{IO_LIMIT, blocking};
use crate::judge::{Asked, Judged};
use crate::orphans::unlisted;
use crate::os_user::{self, OsUser};
use crate::postmaster::{PidFile, Postmaster};
use crate::sql::Session;
use crate::synchronous::Chosen;
use crate::tool::Tool;
use crate::version::{major_text, parse_version};
use crate::{ErrorKind, PgError, Result};
use surus_core::server::StartAs;

/// For programs that only print something.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(50);
pub(crate) const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// A handle on one instance; clones share everything.
#[derive(Clone)]
pub struct Instance {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    config: RwLock<Arc<InstanceConfig>>,
    process: Mutex<Option<Postmaster>>,
    versions: Mutex<Option<(PathBuf, Option<SystemTime>, u32)>>,
    pub session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// Settings this server was started with in place of the configured ones; unknown for one that was found running.
    pub overrides: Mutex<Option<BTreeMap<String, String>>>,
    /// What the recovery block is written for; unknown for a server that was found running.
    pub role: Mutex<Option<StartAs>>,
    /// `synchronous_standby_names`.
    pub names: Mutex<Chosen>,
    /// Held while the files are written, on the thread that writes: two writers would fall over each other's new file,
    /// and one that began earlier could put back whom commits waited for before.
    pub writing: Mutex<()>,
    pub socket_dirs: Mutex<Option<String>>,
    /// Of the latest sets of parameters.
    pub judged: tokio::sync::Mutex<Vec<(Asked, Judged)>>,
    /// One at a time of those that create, replace or start.
    pub exclusive: tokio::sync::Mutex<()>,
    /// What the latest loss receipt is about, until its rows are read.
    pub lost: Mutex<Option<crate::loss::Lost>>,
    /// Until when the local replication connection is not tried again.
    pub no_walsender_until: Mutex<Option<std::time::Instant>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each of these holds a plain value that is replaced as a whole; a panic elsewhere cannot have left half of one.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Instance {
    pub fn new(config: InstanceConfig) -> Instance {
        Instance {
            inner: Arc::new(Inner {
                config: RwLock::new(Arc::new(config)),
                process: Mutex::default(),
                versions: Mutex::default(),
                session: tokio::sync::Mutex::default(),
                overrides: Mutex::default(),
                role: Mutex::default(),
                names: Mutex::default(),
                writing: Mutex::default(),
                socket_dirs: Mutex::default(),
                judged: tokio::sync::Mutex::default(),
                exclusive: tokio::sync::Mutex::default(),
                lost: Mutex::default(),
                no_walsender_until: Mutex::default(),
            }),
        }
    }

    pub fn config(&self) -> Arc<InstanceConfig> {
        self.inner.config.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes effect with the next call; [`Instance::reload`] brings it to the server.
    pub fn set_config(&self, config: InstanceConfig) {
        *self.inner.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// The postmaster, if one runs. Costs no disk access while the one known lives.
    pub async fn process(&self) -> Option<Postmaster> {
        if let Some(known) = lock(&self.inner.process).clone().filter(Postmaster::is_alive) {
            return Some(known);
        }
        let (config, names) = (self.config(), self.postgres_names());
        let found = blocking("reading postmaster.pid", IO_LIMIT, move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Ok(PidFile::read(&config.data_dir).and_then(|f| f.process(&config.data_dir, &names)))
        })
        .await;
        let found = found.unwrap_or_else(|e| {
            tracing::warn!("{e}");
            None
        });
        self.remember_process(found.clone());
        found
    }

    pub(crate) fn known_process(&self) -> Option<Postmaster> {
        lock(&self.inner.process).clone().filter(Postmaster::is_alive)
    }

    pub(crate) fn remember_process(&self, process: Option<Postmaster>) {
        *lock(&self.inner.process) = process;
    }

    /// Base names the server program goes by.
    /// What the server's program may be called.
    pub fn postgres_names(&self) -> Vec<String> {
        let configured = self.config().bin("postgres");
        let base = configured.file_name().map(|n| n.to_string_lossy().into_owned());
        let mut names = vec!["postgres".to_owned(), "postmaster".to_owned()];
        names.extend(base.filter(|b| b != "postgres" && b != "postmaster"));
        names
    }

    /// Whom to run as; looked up each time, since the data directory may have come into being meanwhile.
    pub(crate) async fn user(&self) -> Result<Option<OsUser>> {
        let dir = self.config().data_dir.clone();
        blocking("looking up PostgreSQL's user", IO_LIMIT, move || os_user::run_as(&dir)).await
    }

    pub(crate) async fn tool(&self, program: &str) -> Result<Tool> {
        Ok(Tool::new(self.config().bin(program), self.user().await?))
    }

    /// Of the installed programs, as `server_version_num` has it.
    pub async fn binaries_version(&self) -> Result<u32> {
        let program = self.config().bin("postgres");
        let modified = std::fs::metadata(&program).and_then(|m| m.modified()).ok();
        if let Some((known, when, version)) = lock(&self.inner.versions).clone()
            && known == program
            && when == modified
        {
            return Ok(version);
        }
        let output = self.tool("postgres").await?.arg("--version").run(Some(PROBE_LIMIT), None).await?;
        let output = output.success(&format!("{} --version", program.display()))?;
        let version = parse_version(&output.stdout).ok_or_else(|| {
            let words = output.stdout.trim();
            PgError::new(
                ErrorKind::Tool,
                format!("{} --version says \"{words}\"; is it PostgreSQL?", program.display()),
            )
        })?;
        if version < 130_000 {
            return Err(PgError::new(
                ErrorKind::Refused,
                format!("{} is PostgreSQL {}; 13 or later is needed", program.display(), major_text(version)),
            ));
        }
        *lock(&self.inner.versions) = Some((program, modified, version));
        Ok(version)
    }

    pub(crate) fn no_server(&self) -> PgError {
        PgError::new(ErrorKind::NotRunning, format!("no PostgreSQL runs in {}", self.config().data_dir.display()))
    }

    pub(crate) async fn must_not_run(&self, for_what: &str) -> Result<()> {
        let config = self.config();
        let dir = config.data_dir.display();
        if let Some(p) = self.process().await {
            let text = format!("{for_what}: PostgreSQL runs in {dir} as process {}; stop it first", p.pid);
            return Err(PgError::new(ErrorKind::Running, text));
        }
        let mut hidden = self.unlisted().await?;
        for _ in 0..LOOKS {
            if hidden.is_none() {
                break;
            }
            // A backend that was forked just now has the arguments of its postmaster, which may be gone meanwhile, until
            // it gives itself a title.
            tokio::time::sleep(LOOK_AGAIN).await;
            hidden = self.unlisted().await?;
        }
        match hidden {
            None => Ok(()),
            Some(pid) => Err(PgError::new(
                ErrorKind::Running,
                format!(
                    "{for_what}: process {pid} is a PostgreSQL in {dir} that its postmaster.pid does not name; end that \
                     process first"
                ),
            )),
        }
    }

    async fn unlisted(&self) -> Result<Option<i32>> {
        let (data_dir, names) = (self.config().data_dir.clone(), self.postgres_names());
        blocking("looking for a running server", IO_LIMIT, move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Ok(unlisted(&data_dir, &names))
        })
        .await
    }
}
