//! `surus fence --test`: does it work on this machine, and how fast? Tried on processes that stand for a server.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use surus_store::clock::boot_now;

use crate::client::{FenceClient, FenceError};
use crate::protocol::{Ask, Meeting, State};

/// How long the stand-in serves before its lead ends.
const LEAD: Duration = Duration::from_millis(300);
/// The silence that proves that nobody is left.
const SILENCE: Duration = Duration::from_millis(500);
const BACKENDS: usize = 8;
/// Acknowledgements after which all of them serve.
const WARM: usize = 2000;

/// What happened in one case.
#[derive(Clone, Debug)]
pub struct Trial {
    pub case: &'static str,
    /// From the deadline to the last acknowledgement; zero if that came before.
    pub last_after: Duration,
    /// Acknowledgements before the deadline: without any the trial proves nothing.
    pub acknowledged: usize,
    pub state: State,
    pub fence_rss_kib: Option<u64>,
}

/// `program` with `["fence", "--guard", DIR, NAME]` guards, and with `["fence", "--victim", ROLE]` stands for a server.
pub async fn trial(program: &Path, dir: &Path) -> Result<Vec<Trial>, FenceError> {
    let cases = [("busy backends", false), ("busy backends, postmaster stopped", true)];
    let mut trials = Vec::new();
    for (number, (case, stop)) in cases.into_iter().enumerate() {
        let data = dir.join(format!("server{number}"));
        trials.push(one(program, &data, case, stop).await?);
    }
    Ok(trials)
}

async fn one(program: &Path, data: &Path, case: &'static str, stop: bool) -> Result<Trial, FenceError> {
    let text = |what: &str, e: io::Error| FenceError::new(format!("{what}: {e}"));
    std::fs::create_dir_all(data).map_err(|e| text("the scratch directory cannot be made", e))?;
    let data = std::fs::canonicalize(data).map_err(|e| text("the scratch directory cannot be found", e))?;
    let real = std::fs::canonicalize(program).map_err(|e| text("this program cannot be found", e))?;
    let name = real.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (mut postmaster, stamps) = stand_in(&real, &data).map_err(|e| text("the stand-in cannot be started", e))?;
    let pid = i32::try_from(postmaster.id()).unwrap_or(0);
    let started = surus_postgres::start_ticks(pid);
    let arguments = ["fence".to_owned(), "--guard".to_owned(), data.display().to_string(), name];
    let meeting = Meeting::of(&data).map_err(|e| text("the scratch directory cannot be opened", e))?;
    let (mut fence, _) = FenceClient::open(&meeting, &real, &arguments).await?;
    for _ in 0..WARM {
        let stamp = stamps.recv_timeout(Duration::from_secs(10));
        stamp.map_err(|_| FenceError::new("the stand-in does not serve".into()))?;
    }
    let until = boot_now() + LEAD;
    let postmaster_id = started.map(|start_ticks| crate::protocol::Postmaster { pid, start_ticks });
    let armed = fence.ask(&Ask::Arm { until, postmaster: postmaster_id }).await?;
    let fence_rss_kib = resident_kib(armed.pid);
    if stop && let Some(pid) = Pid::from_raw(pid) {
        kill_process(pid, Signal::STOP).map_err(|e| text("the stand-in cannot be stopped", e.into()))?;
    }
    let deadline_us = until.as_millis() * 1000;
    let listening = tokio::task::spawn_blocking(move || {
        let (mut last, mut acknowledged) = (0, 0);
        while let Ok(stamp) = stamps.recv_timeout(LEAD + SILENCE) {
            last = last.max(stamp);
            acknowledged += usize::from(stamp <= deadline_us);
        }
        (last, acknowledged)
    });
    let (last, acknowledged) = listening.await.map_err(|e| FenceError::new(e.to_string()))?;
    let _ = postmaster.kill();
    let _ = postmaster.wait();
    let state = fence.ask(&Ask::State).await?;
    fence.ask(&Ask::Quit).await?;
    let last_after = Duration::from_micros(last.saturating_sub(deadline_us));
    Ok(Trial { case, last_after, acknowledged, state, fence_rss_kib })
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

/// A process with children that acknowledge as fast as they can, each time saying when.
fn stand_in(program: &Path, data: &Path) -> io::Result<(Child, Receiver<u64>)> {
    let mut child = Command::new(program)
        .args(["fence", "--victim", "postmaster"])
        .current_dir(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut out = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        let mut stamp = [0; 8];
        while out.read_exact(&mut stamp).is_ok() {
            if tx.send(u64::from_le_bytes(stamp)).is_err() {
                return;
            }
        }
    });
    Ok((child, rx))
}

/// The stand-in. Ends by itself when nobody listens any more.
pub fn victim(role: &str) -> io::Result<()> {
    if role == "postmaster" {
        let program = std::env::current_exe()?;
        let start = |_| Command::new(&program).args(["fence", "--victim", "backend"]).stdin(Stdio::null()).spawn();
        let backends: io::Result<Vec<Child>> = (0..BACKENDS).map(start).collect();
        for mut backend in backends? {
            backend.wait()?;
        }
        return Ok(());
    }
    loop {
        let now = clock_gettime(ClockId::Boottime);
        let us = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000;
        // In one write, unbuffered: those of other processes must not get between its bytes.
        rustix::io::write(rustix::stdio::stdout(), &us.to_le_bytes())?;
        // As busy as a backend between two commits.
        let busy = std::time::Instant::now();
        while busy.elapsed() < Duration::from_micros(200) {
            std::hint::spin_loop();
        }
    }
}
