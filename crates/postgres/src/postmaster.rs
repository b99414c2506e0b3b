//! One running postmaster: found through `postmaster.pid`, held through a pidfd (`spec/postgres.md §5`).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::proc_fs::{Proc, same_dir};
use crate::{ErrorKind, PgError, Result};

/// A process named by pid and start time and held by a pidfd, so that a reused pid is never taken for it.
#[derive(Clone, Debug)]
pub struct Postmaster {
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub start_ticks: u64,
    pidfd: Arc<OwnedFd>,
}

impl PartialEq for Postmaster {
    fn eq(&self, other: &Postmaster) -> bool {
        (self.pid, self.start_ticks) == (other.pid, other.start_ticks)
    }
}

impl Eq for Postmaster {}

impl Postmaster {
    /// Takes hold of a process that was seen; `None` if it has ended meanwhile.
    pub(crate) fn hold(seen: &Proc) -> Option<Postmaster> {
        let pidfd = pidfd_open(Pid::from_raw(seen.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at again while the pidfd is held: what is seen now is what is held.
        let now = Proc::read(seen.pid)?;
        let held = Postmaster { pid: seen.pid, start_ticks: now.start_ticks, pidfd: Arc::new(pidfd) };
        (now.start_ticks == seen.start_ticks && held.is_alive()).then_some(held)
    }

    /// A process that has ended is not alive, whether or not its parent has waited for it.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
    }

    /// Resolves when the process has ended.
    pub async fn exited(&self) {
        // A descriptor of its own for each waiter: epoll takes each descriptor once.
        let own = self.pidfd.as_fd().try_clone_to_owned();
        let waited = own.and_then(readable);
        match waited {
            Ok(fd) => {
                while self.is_alive() {
                    if let Ok(mut ready) = fd.readable().await {
                        ready.clear_ready();
                    }
                }
            }
            // Out of descriptors: slower, and still right.
            Err(_) => {
                while self.is_alive() {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// A process that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&*self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(PgError::new(
                ErrorKind::Refused,
                format!(
                    "cannot send {signal:?} to process {}: {e}; run the agent as the user PostgreSQL runs as",
                    self.pid
                ),
            )),
        }
    }
}

#[expect(deprecated, reason = "the replacement is unsafe; an OwnedFd keeps the promise that one asks for")]
fn readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

impl Postmaster {
    /// Takes hold of a process known by pid and start time, for example from another process; `None` if it has ended.
    pub fn open(pid: i32, start_ticks: u64) -> Option<Postmaster> {
        Postmaster::hold(&Proc::read(pid).filter(|p| p.start_ticks == start_ticks && !p.is_zombie())?)
    }
}

/// `postmaster.pid`, line by line. The later lines appear while the server starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PidFile {
    /// Negative for a single-user backend.
    pub pid: i32,
    pub start_time: Option<u64>,
    pub port: Option<u16>,
    pub socket_dir: Option<PathBuf>,
    pub listen_addr: Option<String>,
    pub status: Option<String>,
}

impl PidFile {
    pub fn parse(text: &str) -> Option<PidFile> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |n: usize| lines.get(n).copied().filter(|l| !l.is_empty());
        Some(PidFile {
            pid: line(0)?.parse().ok().filter(|p| *p != 0)?,
            start_time: line(2).and_then(|l| l.parse().ok()),
            port: line(3).and_then(|l| l.parse().ok()),
            socket_dir: line(4).map(PathBuf::from),
            listen_addr: line(5).map(str::to_owned),
            status: line(7).map(str::to_owned),
        })
    }

    pub fn read(data_dir: &Path) -> Option<PidFile> {
        PidFile::parse(&fs::read_to_string(data_dir.join("postmaster.pid")).ok()?)
    }

    /// The process the file names, if it is a server of this data directory.
    pub fn process(&self, data_dir: &Path, programs: &[&str]) -> Option<Postmaster> {
        let seen = Proc::read(self.pid.checked_abs()?).filter(|p| !p.is_zombie())?;
        let me = i32::try_from(std::process::id()).ok()?;
        if seen.pid == me || Proc::read(me).is_some_and(|own| own.ppid == seen.pid) {
            return None;
        }
        let elsewhere = seen.cwd().is_some_and(|cwd| !same_dir(&cwd, data_dir));
        let same_time = match (seen.started_at(), self.start_time) {
            (Some(process), Some(file)) => process.abs_diff(file) < 3,
            _ => false,
        };
        let named = seen.exe_name().is_some_and(|exe| programs.contains(&exe.as_str()));
        if elsewhere || !(same_time || named) {
            return None;
        }
        Postmaster::hold(&seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_file() {
        let text = "1234\n/data\n1790000000\n5433\n/var/run/postgresql\nlocalhost\n 5432001   32768\nready   \n";
        let file = PidFile::parse(text).unwrap();
        assert_eq!((file.pid, file.port, file.status.as_deref()), (1234, Some(5433), Some("ready")));
        assert_eq!(file.socket_dir.as_deref(), Some(Path::new("/var/run/postgresql")));
        let early = PidFile::parse("-77\n/data\n1790000000\n5433\n\n").unwrap();
        assert_eq!((early.pid, early.socket_dir, early.status), (-77, None, None));
        for bad in ["", "x", "0", "\n1"] {
            assert_eq!(PidFile::parse(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn an_ended_process_is_not_alive_even_unwaited() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let seen = Proc::read(i32::try_from(child.id()).unwrap()).unwrap();
        let held = Postmaster::hold(&seen).unwrap();
        assert!(held.is_alive());
        held.signal(Signal::KILL).unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), held.exited()).await.unwrap();
        assert!(!held.is_alive());
        assert!(Postmaster::hold(&seen).is_none(), "a zombie is nothing to hold");
        child.wait().unwrap();
        held.signal(Signal::KILL).unwrap();
        assert_eq!(Postmaster::hold(&Proc { start_ticks: 1, ..seen }), None);
    }

    #[test]
    fn a_stale_file_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let file = PidFile { pid: i32::try_from(other.id()).unwrap(), start_time: Some(1), ..PidFile::default() };
        assert_eq!(file.process(dir.path(), &["postgres"]), None);
        let me = PidFile { pid: i32::try_from(std::process::id()).unwrap(), ..PidFile::default() };
        assert_eq!(me.process(dir.path(), &["postgres"]), None);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
