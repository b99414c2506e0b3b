//! Ending a server that must not acknowledge another commit, whatever state it is in.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Result;
use crate::postmaster::Postmaster;
use crate::proc_fs::{Proc, children, descendants};

/// Pause between two looks at who is left: the first, and the longest. Whoever looks may have a priority above everybody's,
/// and one that waits for a dead disk stays for as long as the disk does.
const AGAIN: Duration = Duration::from_millis(1);
const AGAIN_AT_LEAST: Duration = Duration::from_millis(50);

/// The processes of one server: what its postmaster started, and what works in its data directory.
#[derive(Clone, Debug)]
pub struct ServerProcesses {
    /// Compared with what the kernel says, as text: asking the file system could wait for a dead disk.
    data_dir: PathBuf,
    /// File names of the server's program.
    programs: Vec<String>,
}

/// What [`ServerProcesses::kill`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Killed {
    pub processes: usize,
    /// When nobody was left who could let a client in or answer one: every process has a signal that it cannot outlive.
    pub silent_after: Duration,
    /// They are also gone. One that waits for a dead disk stays until the disk answers, and does nothing meanwhile.
    pub gone: bool,
}

impl ServerProcesses {
    /// A path with symbolic links in it finds only what a living postmaster started.
    pub fn of(data_dir: &Path, programs: Vec<String>) -> ServerProcesses {
        ServerProcesses { data_dir: data_dir.to_owned(), programs }
    }

    /// How many processes work in the data directory now.
    pub fn count(&self) -> usize {
        self.members(&Proc::all(), None, std::slice::from_ref(&self.data_dir)).len()
    }

    /// Blocking, and never on a disk.
    ///
    /// The postmaster is frozen first, so that it starts nobody any more; then everybody it started is killed, and it
    /// goes last: while it lives its backends can be told by their parent. Backends that an earlier postmaster left
    /// behind are told by where they work.
    pub fn kill(&self, postmaster: Option<&Postmaster>, limit: Duration) -> Result<Killed> {
        let begun = Instant::now();
        let mut ended: Vec<(i32, u64)> = Vec::new();
        if let Some(postmaster) = postmaster {
            postmaster.signal(Signal::STOP)?;
        }
        // Those that one file names go before everybody is looked at, which takes many times as long: a machine that wakes
        // has commits under way.
        let children = postmaster.map(|p| children(p.pid)).unwrap_or_default();
        for process in children.iter().filter_map(Postmaster::hold) {
            process.signal(Signal::KILL)?;
            ended.push((process.pid, process.start_ticks));
        }
        let mut held = postmaster;
        let mut dirs = vec![self.data_dir.clone()];
        dirs.extend(postmaster.and_then(|p| Proc::read(p.pid)).and_then(|p| p.cwd()));
        let mut frozen = false;
        let mut silent_after = None;
        let mut pause = AGAIN;
        loop {
            let all = Proc::all();
            let left: Vec<Postmaster> =
                self.members(&all, held, &dirs).into_iter().filter_map(Postmaster::hold).collect();
            let known = ended.len();
            for process in &left {
                process.signal(Signal::KILL)?;
                if !ended.contains(&(process.pid, process.start_ticks)) {
                    ended.push((process.pid, process.start_ticks));
                }
            }
            let nobody_new = silent_after.is_some() && ended.len() == known;
            pause = if nobody_new { (pause * 2).min(AGAIN_AT_LEAST) } else { AGAIN };
            // Only a look that began when the postmaster was known to stand still has seen everybody it started.
            if frozen && silent_after.is_none() {
                silent_after = Some(begun.elapsed());
            }
            if let Some(postmaster) = held
                && ((frozen && left.is_empty()) || begun.elapsed() >= limit / 2)
            {
                postmaster.signal(Signal::KILL)?;
                ended.push((postmaster.pid, postmaster.start_ticks));
                (held, frozen) = (None, true);
                continue;
            }
            // One that waits for a disk freezes later than it is told to.
            frozen = held.is_none_or(|p| {
                !p.is_alive() || all.iter().any(|seen| seen.pid == p.pid && matches!(seen.state, 'T' | 't'))
            });
            let gone = left.is_empty() && held.is_none();
            if gone || begun.elapsed() >= limit {
                let silent_after = silent_after.unwrap_or_else(|| begun.elapsed());
                return Ok(Killed { processes: ended.len(), silent_after, gone });
            }
            std::thread::sleep(pause);
        }
    }

    /// All but the postmaster itself while it is to live.
    fn members<'a>(&self, all: &'a [Proc], postmaster: Option<&Postmaster>, dirs: &[PathBuf]) -> Vec<&'a Proc> {
        let below: Vec<i32> =
            postmaster.map(|p| descendants(all, p.pid).iter().map(|p| p.pid).collect()).unwrap_or_default();
        all.iter()
            .filter(|p| !p.is_zombie() && postmaster.is_none_or(|held| held.pid != p.pid))
            .filter(|p| below.contains(&p.pid) || self.works_in(p, dirs))
            .collect()
    }

    fn works_in(&self, process: &Proc, dirs: &[PathBuf]) -> bool {
        process.cwd().is_some_and(|cwd| dirs.contains(&cwd))
            && process.exe_name().is_some_and(|exe| self.programs.contains(&exe))
    }
}
