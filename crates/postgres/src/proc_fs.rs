//! Looking at processes through `/proc`. Blocking, but never on a data disk.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proc {
    pub pid: i32,
    pub ppid: i32,
    pub state: char,
    /// Clock ticks since boot.
    pub start_ticks: u64,
}

/// `USER_HZ`: 100 on every Linux we run on, whatever the kernel's own tick is.
const TICKS_PER_SECOND: u64 = 100;

impl Proc {
    pub fn read(pid: i32) -> Option<Proc> {
        parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    pub fn all() -> Vec<Proc> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|e| Proc::read(e.file_name().to_str()?.parse().ok()?)).collect()
    }

    pub fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    pub fn exe_name(&self) -> Option<String> {
        let exe = fs::read_link(format!("/proc/{}/exe", self.pid)).ok()?;
        let name = exe.file_name()?.to_string_lossy().into_owned();
        // A package upgrade replaces the file under a running server.
        Some(name.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(name))
    }

    pub fn cwd(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    pub fn args(&self) -> Vec<String> {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        bytes.split(|b| *b == 0).filter(|a| !a.is_empty()).map(|a| String::from_utf8_lossy(a).into_owned()).collect()
    }

    /// Seconds since 1970, as far as the kernel knows when it booted.
    pub fn started_at(&self) -> Option<u64> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let boot: u64 = stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()?;
        Some(boot + self.start_ticks / TICKS_PER_SECOND)
    }
}

/// When a process started, in clock ticks since boot: together with its pid this names it for ever.
pub fn start_ticks(pid: i32) -> Option<u64> {
    Proc::read(pid).map(|p| p.start_ticks)
}

/// What a process of one thread started, without looking at everybody. Nobody on a kernel that does not tell; one that is
/// being born may be missing.
pub(crate) fn children(pid: i32) -> Vec<Proc> {
    let named = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let read = named.split_whitespace().filter_map(|child| Proc::read(child.parse().ok()?));
    // A pid that was read may be another process by now.
    read.filter(|child| child.ppid == pid).collect()
}

/// Everything below `root`, itself excluded.
pub(crate) fn descendants(all: &[Proc], root: i32) -> Vec<Proc> {
    let mut found: Vec<Proc> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for p in all.iter().filter(|p| p.ppid == parent && p.pid != root) {
            parents.push(p.pid);
            found.push(p.clone());
        }
    }
    found
}

/// Whether `ancestor` is above `pid`.
pub(crate) fn is_below(all: &[Proc], mut pid: i32, ancestor: i32) -> bool {
    for _ in 0..64 {
        match all.iter().find(|p| p.pid == pid) {
            Some(p) if p.ppid == ancestor => return true,
            Some(p) if p.ppid > 1 => pid = p.ppid,
            _ => return false,
        }
    }
    false
}

pub(crate) fn same_dir(a: &Path, b: &Path) -> bool {
    a == b || matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

fn parse_stat(text: &str) -> Option<Proc> {
    // The name is in parentheses and may itself contain spaces and parentheses.
    let (head, tail) = text.rsplit_once(')')?;
    let pid = head.split_once('(')?.0.trim().parse().ok()?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Proc { pid, ppid, state, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_line() {
        let line = "4242 (a) b (c) S 17 4242 4242 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(parse_stat(line), Some(Proc { pid: 4242, ppid: 17, state: 'S', start_ticks: 987_654 }));
        assert_eq!(parse_stat("1 (x"), None);
        assert_eq!(parse_stat("1 (x) S"), None);
    }

    #[test]
    fn sees_itself() {
        let me = i32::try_from(std::process::id()).unwrap();
        let all = Proc::all();
        let own = Proc::read(me).unwrap();
        assert!(all.iter().any(|p| p.pid == me && p.start_ticks == own.start_ticks));
        assert!(is_below(&all, me, own.ppid));
        assert!(descendants(&all, own.ppid).iter().any(|p| p.pid == me));
        assert!(!is_below(&all, own.ppid, me));
    }

    #[test]
    fn a_parent_tells_its_children() {
        let mut parent = std::process::Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let pid = i32::try_from(parent.id()).unwrap();
        let told = Path::new(&format!("/proc/{pid}/task/{pid}/children")).exists();
        let begun = std::time::Instant::now();
        let mut found = children(pid);
        while told && found.is_empty() && begun.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            found = children(pid);
        }
        for child in &found {
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(child.pid).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
        }
        parent.kill().unwrap();
        parent.wait().unwrap();
        assert_eq!(found.len(), usize::from(told));
        assert!(found.iter().all(|child| child.ppid == pid));
    }

    #[test]
    fn trees() {
        let p = |pid, ppid| Proc { pid, ppid, state: 'S', start_ticks: 0 };
        let all = [p(1, 0), p(5, 1), p(6, 5), p(7, 6), p(8, 1)];
        let mut below: Vec<i32> = descendants(&all, 5).iter().map(|p| p.pid).collect();
        below.sort_unstable();
        assert_eq!(below, [6, 7]);
        assert!(is_below(&all, 7, 5) && !is_below(&all, 8, 5));
    }
}
