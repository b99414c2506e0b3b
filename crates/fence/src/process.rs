//! The process itself: one thread, one deadline, no disk.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::getuid;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use surus_core::BootTime;
use surus_postgres::{Postmaster, ServerProcesses};
use surus_store::clock::boot_now;

use crate::protocol::{Ask, Fired, Meeting, State, VERSION};
use crate::standing::Standing;

/// One attempt to see all processes end; what is left after that waits for a disk, and is looked at again.
const KILL: Duration = Duration::from_millis(300);
/// A question is a line of a hundred bytes; nobody who may speak here says more.
const LONGEST: usize = 4096;
/// Agents at once: one, and the one before it that is just ending.
const CONNECTIONS: usize = 8;

/// What the fence guards.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Without symbolic links.
    pub data_dir: PathBuf,
    /// File names of the server's program.
    pub programs: Vec<String>,
}

/// Until told to quit, or until there is nothing to guard and nobody to ask for it.
pub fn serve(options: &ServeOptions) -> std::io::Result<()> {
    let _ = rustix::thread::set_name(c"surus fence");
    // Whoever ends the agent by signalling its group or session must not end the fence with it.
    let _ = rustix::process::setsid();
    let _ = nix::sys::signal::SigSet::all().thread_block();
    let meeting = Meeting::of(&options.data_dir)?;
    let listener = bind(&meeting)?;
    listener.set_nonblocking(true)?;
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let server = ServerProcesses::of(&options.data_dir, options.programs.clone());
    let mut fence = Fence { server, until: None, postmaster: None, fired: None, standing: Standing::take() };
    // Everything that is needed at the deadline is in memory from here on.
    let _ = fence.server.count();
    let mut connections: Vec<Connection> = Vec::new();
    let mut heard = false;
    loop {
        set(&timer, fence.until)?;
        wait(&listener, &timer, &connections);
        // Before anything is read: what arrives now was said by somebody who was away when the lead ended.
        fence.look();
        while let Ok((stream, _)) = listener.accept() {
            heard = true;
            if connections.len() < CONNECTIONS && permitted(&stream) && stream.set_nonblocking(true).is_ok() {
                connections.push(Connection { stream, line: Vec::new() });
            }
        }
        let mut quit = false;
        connections.retain_mut(|connection| connection.serve(|ask| fence.answer(ask, &mut quit)));
        fence.look();
        // What it did is kept for the agent that comes to ask.
        let idle = heard && connections.is_empty() && fence.until.is_none() && fence.fired.is_none();
        if quit || idle {
            let _ = std::fs::remove_file(&meeting.path);
            return Ok(());
        }
    }
}

fn bind(meeting: &Meeting) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(&meeting.path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let what = format!("{} stands where its socket must be and cannot be removed: {e}", meeting.path.display());
            return Err(std::io::Error::new(e.kind(), what));
        }
        _ => {}
    }
    UnixListener::bind(meeting.short())
}

/// Only the one the fence runs as, and root, may speak to it.
fn permitted(stream: &UnixStream) -> bool {
    socket_peercred(stream).is_ok_and(|peer| peer.uid.is_root() || peer.uid == getuid())
}

fn set(timer: &impl std::os::fd::AsFd, until: Option<BootTime>) -> std::io::Result<()> {
    let at = until.map_or(Timespec::default(), |until| {
        let ms = until.as_millis().max(1);
        Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        }
    });
    // Absolute, so that a suspend which goes past it wakes the fence together with everybody else.
    let once = Itimerspec { it_interval: Timespec::default(), it_value: at };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &once)?;
    Ok(())
}

fn wait(listener: &UnixListener, timer: &impl std::os::fd::AsFd, connections: &[Connection]) {
    let mut fds = vec![PollFd::new(timer, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
    fds.extend(connections.iter().map(|c| PollFd::new(&c.stream, PollFlags::IN)));
    let _ = poll(&mut fds, None);
}

struct Fence {
    server: ServerProcesses,
    until: Option<BootTime>,
    postmaster: Option<Postmaster>,
    fired: Option<Fired>,
    standing: Standing,
}

impl Fence {
    /// The lead has ended and nobody said otherwise.
    fn look(&mut self) {
        let Some(deadline) = self.until.filter(|until| *until <= boot_now()) else { return };
        let at = boot_now();
        // Refused: the server belongs to somebody this process may not signal. Tried again, and again.
        let Ok(killed) = self.server.kill(self.postmaster.as_ref(), KILL) else {
            std::thread::sleep(Duration::from_millis(10));
            return;
        };
        let late = at.since(deadline) + killed.silent_after;
        let silent_after_us = u64::try_from(late.as_micros()).unwrap_or(u64::MAX);
        let first = Fired { at, deadline, processes: killed.processes, silent_after_us, gone: killed.gone };
        // A server that had been stopped already is nothing to tell about.
        if killed.processes > 0 {
            let again = self.fired.filter(|fired| fired.deadline == deadline);
            self.fired = Some(again.map_or(first, |fired| Fired { gone: killed.gone, ..fired }));
        }
        // Armed for as long as one of them is there: a process that waits for a disk may have been about to start another.
        if killed.gone {
            (self.until, self.postmaster) = (None, None);
        }
    }

    fn answer(&mut self, ask: Ask, quit: &mut bool) -> State {
        match ask {
            Ask::State => {}
            Ask::Arm { until, postmaster } => {
                self.until = Some(until);
                let held = self.postmaster.as_ref().map(|p| (p.pid, p.start_ticks));
                if let Some(named) = postmaster
                    && held != Some((named.pid, named.start_ticks))
                {
                    self.postmaster = Postmaster::open(named.pid, named.start_ticks);
                }
                if until > boot_now() {
                    self.fired = None;
                }
            }
            Ask::Disarm => (self.until, self.postmaster) = (None, None),
            Ask::Quit => *quit = true,
        }
        State {
            version: VERSION,
            pid: std::process::id(),
            until: self.until,
            fired: self.fired,
            standing: self.standing.clone(),
        }
    }
}

struct Connection {
    stream: UnixStream,
    line: Vec<u8>,
}

impl Connection {
    /// `false`: it is over.
    fn serve(&mut self, mut answer: impl FnMut(Ask) -> State) -> bool {
        let mut buffer = [0; 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(n) => self.line.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return self.line.len() <= LONGEST,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => return false,
            }
            while let Some(end) = self.line.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                let Ok(ask) = serde_json::from_slice(&line) else { return false };
                let Ok(mut text) = serde_json::to_vec(&answer(ask)) else { return false };
                text.push(b'\n');
                // Into a socket's buffer, or not at all: the fence waits for nobody.
                if self.stream.write_all(&text).is_err() {
                    return false;
                }
            }
        }
    }
}
