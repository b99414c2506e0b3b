//! Processes by what they work on. PostgreSQL lives in a session of its own and outlives its agent, so parentage and
//! process groups do not find it; its working directory, and the command line of everything else, do.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Every process of the machine.
pub fn all() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
}

/// Where a process works, and what its command line names.
pub struct Place {
    cwd: Option<PathBuf>,
    line: String,
}

impl Place {
    pub fn of(pid: i32) -> Place {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Place { cwd: fs::read_link(format!("/proc/{pid}/cwd")).ok(), line: String::from_utf8_lossy(&line).into_owned() }
    }

    /// Whether it works in the directory or names a file of it on its command line.
    pub fn is_in(&self, dir: &Path) -> bool {
        self.cwd.as_ref().is_some_and(|cwd| cwd.starts_with(dir)) || self.line.contains(&format!("{}/", dir.display()))
    }
}

/// Live processes that work in the directory or name a file of it on their command line.
pub fn under(dir: &Path) -> Vec<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    all().filter(|&pid| pid != own && alive(pid) && Place::of(pid).is_in(dir)).collect()
}

pub fn alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the last parenthesis: a program's name may hold any other character.
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Those of [`under`] whose command line holds the word; PostgreSQL's processes write there what they are.
pub fn named(dir: &Path, word: &str) -> Vec<i32> {
    let line = |pid: i32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    under(dir).into_iter().filter(|pid| String::from_utf8_lossy(&line(*pid)).contains(word)).collect()
}

/// One word of its command line; empty when there is none.
pub fn argument(pid: i32, index: usize) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).nth(index).map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default()
}

pub fn signal(pid: i32, signal: Signal) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Kills everything under the directory, and what that started meanwhile, until nothing is left or time is over.
pub fn sweep(dir: &Path, limit: Duration) -> Vec<i32> {
    let end = Instant::now() + limit;
    loop {
        let left = under(dir);
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        for pid in &left {
            signal(*pid, Signal::KILL);
            // A stopped process dies of SIGKILL all the same; its stopped children may be traced by nobody.
            signal(*pid, Signal::CONT);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What killed servers left behind: their data directories go away, and with them whoever would have removed it.
pub fn release_shared_memory(dir: &Path) {
    for inner in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = inner.path();
        if path.join("PG_VERSION").is_file() {
            surus_postgres::release_shared_memory(&path);
        } else if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            release_shared_memory(&path);
        }
    }
}

/// CPU time used so far and resident memory of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub resident_kib: u64,
}

pub fn usage(pid: i32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(Usage {
        cpu: Duration::from_millis(ticks * 1000 / per_second.max(1)),
        resident_kib: rss.split_whitespace().next()?.parse().ok()?,
    })
}

/// SIGTERM.
pub fn terminate(pid: u32) {
    signal(pid.cast_signed(), Signal::TERM);
}

/// Pid and program of everything under the directory.
pub fn programs(dir: &Path) -> Vec<(i32, String)> {
    let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok()?.file_name()?.to_str().map(str::to_owned);
    under(dir).into_iter().filter_map(|pid| Some((pid, program(pid)?))).collect()
}
