//! A look at a server that nobody manages, for whoever writes its first configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Credentials;
use crate::postmaster::PidFile;
use crate::sql::{Endpoint, Profile, Session};
use crate::{ErrorKind, PgError, Result};

#[derive(Clone, Debug)]
pub struct Server {
    /// `server_version_num`.
    pub version: u32,
    pub superuser: bool,
    pub settings: Vec<FoundSetting>,
}

#[derive(Clone, Debug, Default)]
pub struct FoundSetting {
    pub name: String,
    /// With its unit, as `SHOW` tells it.
    pub value: String,
    pub source: String,
    pub context: String,
    pub category: String,
}

impl Server {
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|s| s.name == name).map(|s| s.value.as_str())
    }
}

/// A host that begins with `/` is the directory of a socket.
pub async fn look(host: &str, port: u16, user: &Credentials, database: &str, timeout: Duration) -> Result<Server> {
    let to = match host.starts_with('/') {
        true => Endpoint::Socket { dir: PathBuf::from(host), port },
        false => Endpoint::Tcp { host: host.to_owned(), port },
    };
    let deadline = Instant::now() + timeout;
    let session = Session::connect(&to, user, database, &Profile::WORK, deadline).await?;
    let of_session =
        "SELECT current_setting('server_version_num'), rolsuper FROM pg_roles WHERE rolname = current_user";
    let mut rows = session.rows(of_session, deadline).await?;
    let first = rows.pop().unwrap_or_default();
    let text = |column: usize| first.get(column).cloned().flatten().unwrap_or_default();
    let version = text(0).parse().map_err(|_| PgError::new(ErrorKind::Connection, "the server tells no version"))?;
    let superuser = text(1) == "t";
    let all = "SELECT name, current_setting(name), source, context, category FROM pg_settings ORDER BY name";
    // Who is no superuser may not see all of them.
    let rows = if superuser { session.rows(all, deadline).await? } else { Vec::new() };
    let setting = |row: Vec<Option<String>>| {
        let mut columns = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || columns.next().unwrap_or_default();
        FoundSetting { name: next(), value: next(), source: next(), context: next(), category: next() }
    };
    Ok(Server { version, superuser, settings: rows.into_iter().map(setting).collect() })
}

/// The directory of the program that serves this data directory.
pub fn bin_dir_of(data_dir: &Path) -> Result<PathBuf> {
    let file = data_dir.join("postmaster.pid");
    let pid = PidFile::read(data_dir).map(|f| f.pid.unsigned_abs());
    let refused = |why: String| PgError::new(ErrorKind::Refused, why);
    let pid = pid.ok_or_else(|| {
        refused(format!("{} cannot be read, or has no pid in it; run this on the server, as its user", file.display()))
    })?;
    let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
    let exe = exe.map_err(|e| refused(format!("the program of process {pid} ({}): {e}", file.display())))?;
    Ok(exe.parent().unwrap_or(&exe).to_owned())
}

/// `server_version_num` of what a `postgres` program says of itself.
pub fn version_of(program: &Path) -> Result<u32> {
    let cannot = |why: String| PgError::new(ErrorKind::Tool, format!("{} --version: {why}", program.display()));
    let output = std::process::Command::new(program).arg("--version").output().map_err(|e| cannot(e.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    crate::version::parse_version(&text).ok_or_else(|| cannot("it tells no version".to_owned()))
}
