//! Running other programs: where, with which environment, and what to say when they fail.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The workspace, wherever the command was started.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo, in the workspace, as if called from a shell: what `cargo run` put into our environment about xtask itself
/// would otherwise look like a change to build scripts that watch those variables.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO" {
            command.env_remove(&key);
        }
    }
    command.args(args).current_dir(root());
    command
}

/// Runs it to its end and says how long that took; a failure names the command to repeat by hand.
pub fn step(what: &str, command: &mut Command) -> Result<Duration> {
    say(what, command);
    let begin = Instant::now();
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    finish(what, command, status.success(), begin)
}

/// As [`step`], and hands each line of standard output to `look` before printing it.
pub fn step_with(what: &str, command: &mut Command, mut look: impl FnMut(&str)) -> Result<Duration> {
    say(what, command);
    let begin = Instant::now();
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.context("reading its output")?;
            let line = String::from_utf8_lossy(&line);
            look(&line);
            println!("{line}");
        }
    }
    let status = child.wait()?;
    finish(what, command, status.success(), begin)
}

fn say(what: &str, command: &Command) {
    println!("\n=> {what}: {}", shown(command));
}

fn finish(what: &str, command: &Command, success: bool, begin: Instant) -> Result<Duration> {
    let took = begin.elapsed();
    if !success {
        bail!("{what} failed after {}; to repeat it: {}", minutes(took), shown(command));
    }
    println!("=> {what}: done in {}", minutes(took));
    Ok(took)
}

pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program).chain(command.get_args()).map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

pub fn minutes(took: Duration) -> String {
    let seconds = took.as_secs();
    if seconds < 60 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}
