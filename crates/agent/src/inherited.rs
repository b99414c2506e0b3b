//! The deadline of this member's lead, left for a successor of this process.
//!
//! An agent that is killed cannot say how long its lease was good for. Its successor finds the deadline
//! in a small file beside the data directory: until then the running primary may go on while the store is
//! being found again, and not longer. The file is a hint that can only be too early: it is written after a
//! renewal, from a thread that nobody waits for, and counts only within the same boot.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use surus_core::BootTime;

pub struct Deadline {
    path: PathBuf,
    writing: Arc<AtomicBool>,
    written: Option<BootTime>,
}

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Deadline {
    /// Also returns what an earlier process left.
    pub fn open(data_dir: &Path) -> (Deadline, Option<BootTime>) {
        let mut name = data_dir.as_os_str().to_owned();
        name.push(".surus.lease");
        let path = PathBuf::from(name);
        let left = std::fs::read_to_string(&path).ok().and_then(|text| parse(&text, &boot_id()));
        (Deadline { path, writing: Arc::default(), written: None }, left)
    }

    /// Leaves `until` for a successor; `None` when the lead is gone.
    pub fn leave(&mut self, until: Option<BootTime>) {
        if self.written == until || self.writing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.written = until;
        let (path, writing) = (self.path.clone(), self.writing.clone());
        tokio::task::spawn_blocking(move || {
            // A disk that hangs holds this one thread, and the file stays as it was: too early.
            let done = match until {
                Some(until) => std::fs::write(&path, format!("{} {}\n", boot_id(), until.as_millis())),
                None => std::fs::write(&path, ""),
            };
            if let Err(e) = done {
                tracing::debug!("{} could not be written: {e}", path.display());
            }
            writing.store(false, Ordering::Release);
        });
    }
}

fn parse(text: &str, boot: &str) -> Option<BootTime> {
    let (id, until) = text.trim().split_once(' ')?;
    (id == boot && !boot.is_empty()).then(|| until.parse().ok().map(BootTime::from_millis))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deadline_of_this_boot_counts() {
        assert_eq!(parse("abc 1500\n", "abc"), Some(BootTime::from_millis(1500)));
        for (text, boot) in [("abc 1500", "def"), ("", "abc"), ("abc", "abc"), ("abc x", "abc"), (" 15", "")] {
            assert_eq!(parse(text, boot), None, "{text:?}");
        }
    }
}
