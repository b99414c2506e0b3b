//! The first process of a container: starts the agent as its child, reaps every orphan, forwards signals.
//!
//! Reaping happens in a process of its own because a `waitpid(-1)` inside the agent would take the
//! exit statuses of its own children away from it. This process is single-threaded, and receives all
//! signals by waiting for them, so there are no handlers.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

const FORWARDED: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGABRT,
    Signal::SIGTERM,
    Signal::SIGCONT,
];
const FLAG: &str = "--init";

pub fn is_first_process() -> bool {
    getpid() == Pid::from_raw(1)
}

/// Undoes what this process was started with: the parent below blocks signals, and a child inherits that.
pub fn unblock_signals() {
    let _ = SigSet::all().thread_unblock();
}

/// Never called by the child: it is not the first process, and the flag is not handed on.
pub fn run() -> ExitCode {
    match supervise() {
        Ok(code) => code,
        Err(problem) => {
            crate::complain(&format!("as the first process: {problem}"));
            ExitCode::FAILURE
        }
    }
}

fn supervise() -> Result<ExitCode, String> {
    if !is_first_process() {
        // Asked for by the flag: orphans come here instead of to the first process of the machine.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|e| format!("cannot become the reaper of orphans: {e}"))?;
    }
    let mut awaited: SigSet = FORWARDED.into_iter().collect();
    awaited.add(Signal::SIGCHLD);
    // Before the child exists, so that none of its signals can be missed.
    awaited.thread_block().map_err(|e| format!("signals cannot be blocked: {e}"))?;
    let program = std::env::current_exe().map_err(|e| format!("the program cannot find itself: {e}"))?;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let mut command = Command::new(program);
    let child = command
        .arg0(name)
        .args(arguments.filter(|a| a != FLAG))
        .spawn()
        .map_err(|e| format!("the agent cannot be started: {e}"))?;
    let child = Pid::from_raw(i32::try_from(child.id()).map_err(|e| e.to_string())?);
    loop {
        match awaited.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = reap(child) {
                    return Ok(exit_code(status));
                }
            }
            Ok(signal) => {
                let _ = kill(child, signal);
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(format!("signals cannot be received: {e}")),
        }
    }
}

/// Several ends may be behind one signal. The agent's own end is handed back after all were reaped.
fn reap(child: Pid) -> Option<WaitStatus> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))) if pid == child => {
                ended = Some(status);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => {}
        }
    }
}

fn exit_code(status: WaitStatus) -> ExitCode {
    let code = match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 1,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
