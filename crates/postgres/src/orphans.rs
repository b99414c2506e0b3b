//! Processes that still work on this data directory although what started them is gone.
//!
//! Backends of a killed postmaster hold its shared memory, so the next start fails on them, and one of them could still
//! acknowledge a commit. A program (`pg_basebackup`, `pg_rewind`, `initdb`, `postgres --single`) whose agent was
//! killed goes on writing.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::disk::{IO_LIMIT, blocking};
use crate::instance::Instance;
use crate::postmaster::{PidFile, Postmaster};
use crate::proc_fs::{Proc, is_below, same_dir};
use crate::staging::staged_path;
use crate::{ErrorKind, PgError, Result};

const TOOLS: [&str; 4] = ["pg_basebackup", "pg_rewind", "initdb", "pg_resetwal"];
/// How long a backend may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(10);

impl Instance {
    /// Empty while a postmaster lives: then every server process is its child.
    pub async fn orphans(&self) -> Result<Vec<i32>> {
        Ok(self.find_orphans().await?.iter().map(|p| p.pid).collect())
    }

    /// Ends them and returns when they are gone; how many there were.
    pub async fn kill_orphans(&self) -> Result<usize> {
        let deadline = Instant::now() + LIMIT;
        let mut ended = Vec::new();
        loop {
            // Looked for again: a backend can have started another process just before it ended.
            let found = self.find_orphans().await?;
            if found.is_empty() {
                return Ok(ended.len());
            }
            if Instant::now() > deadline {
                let pids: Vec<i32> = found.iter().map(|p| p.pid).collect();
                return Err(PgError::new(
                    ErrorKind::TimedOut,
                    format!(
                        "processes {pids:?} of a former server in {} do not end, not even by SIGKILL; they probably \
                         wait for a dead disk: repair it or restart the machine",
                        self.config().data_dir.display()
                    ),
                ));
            }
            for process in &found {
                process.signal(Signal::QUIT)?;
                if !ended.contains(&process.pid) {
                    tracing::warn!(pid = process.pid, "ending a process left over from a former server or copy");
                    ended.push(process.pid);
                }
            }
            let all_gone = futures_util::future::join_all(found.iter().map(Postmaster::exited));
            if tokio::time::timeout(GRACE, all_gone).await.is_err() {
                for process in found.iter().filter(|p| p.is_alive()) {
                    process.signal(Signal::KILL)?;
                }
                let all_gone = futures_util::future::join_all(found.iter().map(Postmaster::exited));
                let _ = tokio::time::timeout(Duration::from_secs(2), all_gone).await;
            }
        }
    }

    async fn find_orphans(&self) -> Result<Vec<Postmaster>> {
        if self.process().await.is_some() {
            return Ok(Vec::new());
        }
        let config = self.config();
        let postgres = self.postgres_names();
        blocking("looking for processes of a former server", IO_LIMIT, move || {
            let names: Vec<&str> = postgres.iter().map(String::as_str).collect();
            Ok(scan(&config.data_dir, &names))
        })
        .await
    }
}

fn scan(data_dir: &Path, postgres: &[&str]) -> Vec<Postmaster> {
    let all = Proc::all();
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    // A postmaster that has just started and whose file is read only now: nothing of it is an orphan.
    let living = PidFile::read(data_dir).filter(|f| f.pid > 0).and_then(|f| f.process(data_dir, postgres));
    let staged = staged_path(data_dir);
    all.iter()
        .filter(|p| !p.is_zombie() && p.pid != me)
        .filter(|p| {
            let Some(exe) = p.exe_name() else { return false };
            if TOOLS.contains(&exe.as_str()) {
                return names_dir(&p.args(), &[data_dir, &staged]) && !is_below(&all, p.pid, me);
            }
            if !postgres.contains(&exe.as_str()) {
                return false;
            }
            let args = p.args();
            let backend = args.first().is_some_and(|a| a.starts_with("postgres: "));
            let lone = args.iter().any(|a| a == "--single" || a == "--boot");
            let here = p.cwd().is_some_and(|cwd| same_dir(&cwd, data_dir)) || (lone && names_dir(&args, &[&staged]));
            let of_living = living.as_ref().is_some_and(|m| is_below(&all, p.pid, m.pid));
            here && !of_living
                && ((backend && !parent_is_server(&all, p, postgres)) || (lone && !is_below(&all, p.pid, me)))
        })
        .filter_map(Postmaster::hold)
        .collect()
}

/// A postmaster that runs here although `postmaster.pid` does not name it (somebody removed the file).
pub(crate) fn unlisted(data_dir: &Path, postgres: &[&str]) -> Option<i32> {
    let server = |p: &&Proc| {
        let args = p.args();
        !p.is_zombie()
            && p.exe_name().is_some_and(|exe| postgres.contains(&exe.as_str()))
            && p.cwd().is_some_and(|cwd| same_dir(&cwd, data_dir))
            && args.first().is_some_and(|a| !a.starts_with("postgres: "))
            && !args.iter().any(|a| a == "--single" || a == "--boot" || a == "-C")
    };
    Proc::all().iter().find(server).map(|p| p.pid)
}

/// The parent of a backend that still has one is its postmaster, however that was started.
fn parent_is_server(all: &[Proc], process: &Proc, postgres: &[&str]) -> bool {
    all.iter().any(|p| {
        p.pid == process.ppid && !p.is_zombie() && p.exe_name().is_some_and(|exe| postgres.contains(&exe.as_str()))
    })
}

fn names_dir(args: &[String], dirs: &[&Path]) -> bool {
    args.iter().any(|arg| {
        let value = arg.strip_prefix("--").and_then(|a| a.split_once('=')).map_or(arg.as_str(), |(_, v)| v);
        dirs.iter().any(|d| Path::new(value) == *d)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_directory_among_arguments() {
        let dir = Path::new("/d");
        for (args, want) in [
            (vec!["pg_rewind", "-D", "/d"], true),
            (vec!["pg_basebackup", "--pgdata=/d"], true),
            (vec!["pg_basebackup", "--pgdata=/d2"], false),
            (vec!["initdb", "/d/"], true),
        ] {
            let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
            assert_eq!(names_dir(&args, &[dir]), want, "{args:?}");
        }
    }
}
