//! The deadline of this member's lead, left for a successor of this process.
//!
//! An agent that is killed cannot say how long its lease was good for. Its successor finds the deadline
//! in a small file beside the data directory: until then the running primary may go on while the store is
//! being found again, and not longer. The file is a hint that can only be too early: it is written after a
//! renewal, from a thread that nobody waits for, and counts only within the same boot. A primary that is left alone
//! while paused has no deadline; that it is written in the store ends only after it is not written here any more.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use surus_conduct::member::Inherited;
use surus_core::BootTime;

pub struct Deadline {
    path: PathBuf,
    /// What the file says; unknown while it is being written.
    says: Arc<Mutex<Says>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Says {
    This(Option<Inherited>),
    Either,
    /// A write failed, and it may say anything.
    Unknown,
}

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Deadline {
    /// Also returns what an earlier process left.
    pub fn open(data_dir: &Path) -> (Deadline, Option<Inherited>) {
        let mut name = data_dir.as_os_str().to_owned();
        name.push(".surus.lease");
        let path = PathBuf::from(name);
        let left = std::fs::read_to_string(&path).ok().and_then(|text| parse(&text, &boot_id()));
        (Deadline { path, says: Arc::new(Mutex::new(Says::Unknown)) }, left)
    }

    fn says(&self) -> Says {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A successor may take this primary for one that is left alone.
    pub fn leaves_alone(&self) -> bool {
        match self.says() {
            Says::This(left) => left == Some(Inherited::Unguarded),
            Says::Either | Says::Unknown => true,
        }
    }

    /// Leaves this for a successor; `None` when the lead is gone.
    pub fn leave(&self, left: Option<Inherited>) {
        if self.says() == Says::This(left) || self.says() == Says::Either {
            return;
        }
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = Says::Either;
        let (path, says) = (self.path.clone(), self.says.clone());
        tokio::task::spawn_blocking(move || {
            // A disk that hangs holds this one thread, and the file stays as it was: too early.
            let done = std::fs::write(&path, text(left, &boot_id()));
            if let Err(e) = &done {
                tracing::debug!("{} could not be written: {e}", path.display());
            }
            *says.lock().unwrap_or_else(PoisonError::into_inner) =
                if done.is_ok() { Says::This(left) } else { Says::Unknown };
        });
    }
}

const UNGUARDED: &str = "unguarded";

fn text(left: Option<Inherited>, boot: &str) -> String {
    match left {
        Some(Inherited::Until(until)) => format!("{boot} {}\n", until.as_millis()),
        Some(Inherited::Unguarded) => format!("{boot} {UNGUARDED}\n"),
        None => String::new(),
    }
}

fn parse(text: &str, boot: &str) -> Option<Inherited> {
    let (_, left) = text.trim().split_once(' ').filter(|(id, _)| *id == boot && !boot.is_empty())?;
    match left {
        UNGUARDED => Some(Inherited::Unguarded),
        until => until.parse().ok().map(|ms| Inherited::Until(BootTime::from_millis(ms))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_deadline_of_this_boot_counts() {
        for left in [Inherited::Until(BootTime::from_millis(1500)), Inherited::Unguarded] {
            assert_eq!(parse(&text(Some(left), "abc"), "abc"), Some(left));
        }
        assert_eq!(parse(&text(None, "abc"), "abc"), None);
        for (text, boot) in [("abc 1500", "def"), ("", "abc"), ("abc", "abc"), ("abc x", "abc"), (" 15", "")] {
            assert_eq!(parse(text, boot), None, "{text:?}");
        }
    }
}
