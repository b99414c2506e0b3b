//! The wall clock of one member, moved by libfaketime; the boot-time and monotonic clocks stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::procs;

pub struct Clock {
    library: PathBuf,
    /// Holds the offset; read at every call.
    file: PathBuf,
}

impl Clock {
    pub(crate) fn of(dir: &Path) -> Result<Clock> {
        let library = Clock::available().map_err(anyhow::Error::msg)?;
        let clock = Clock { library, file: dir.join("clock") };
        clock.set(0)?;
        Ok(clock)
    }

    /// The library, when it is installed.
    pub fn available() -> Result<PathBuf, String> {
        let arch = std::env::consts::ARCH;
        let places = [format!("/usr/lib/{arch}-linux-gnu/faketime"), "/usr/lib/faketime".to_owned()];
        let found = places.iter().map(|dir| Path::new(dir).join("libfaketime.so.1")).find(|path| path.is_file());
        found.ok_or_else(|| "libfaketime is not installed (Debian: apt-get install faketime)".to_owned())
    }

    pub(crate) fn given_to(&self, command: &mut Command) {
        // A process does not start where a dead one of the same number left its semaphore, and numbers come round.
        remove_what_the_dead_left();
        command.env("LD_PRELOAD", &self.library).env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_NO_CACHE", "1").env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }

    /// From the real time.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // Renamed into place: a reader never sees half of it.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}s\n"))?;
        fs::rename(&new, &self.file).with_context(|| format!("cannot write {}", self.file.display()))
    }

    pub fn offset(&self) -> i64 {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        text.trim().trim_end_matches('s').parse().unwrap_or(0)
    }

    pub fn step(&self, by: Duration, back: bool) -> Result<()> {
        let by = i64::try_from(by.as_secs()).context("further than any clock goes")?;
        self.set(self.offset() + if back { -by } else { by })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        remove_what_the_dead_left();
    }
}

/// What the library shares within a family of processes stays when the first of them is killed. Those that it started
/// have it open, and one that they start makes it anew.
fn remove_what_the_dead_left() {
    for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let family = ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|prefix| name.strip_prefix(prefix));
        if family.and_then(|pid| pid.parse().ok()).is_some_and(|pid| !procs::alive(pid)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_the_wall_clock_of_a_running_process_alone() {
        if let Err(why) = Clock::available() {
            eprintln!("not available here: {why}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::of(dir.path()).unwrap();
        let date = || -> i64 {
            let mut command = Command::new("date");
            clock.given_to(&mut command);
            String::from_utf8(command.arg("+%s").output().unwrap().stdout).unwrap().trim().parse().unwrap()
        };
        let real = date();
        clock.step(Duration::from_secs(7200), true).unwrap();
        assert!((date() - real + 7200).abs() < 60);
        clock.step(Duration::from_secs(3600), false).unwrap();
        assert!((date() - real + 3600).abs() < 60);
    }
}
