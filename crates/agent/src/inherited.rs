//! The deadline of this member's lead, left for a successor of this process.
//!
//! An agent that is killed cannot say how long its lease was good for. Its successor finds the deadline
//! in a small file beside the data directory, and asks the fence for it, which may know a later one: until then the running
//! primary may go on while the store is being found again, and not longer; and until then a standby that may have been told
//! to promote keeps its lead. It is written before a server is promoted or started as a primary, and after that from a thread
//! that nobody waits for; it counts only within the same boot. A primary that is left alone while paused has no deadline;
//! that it is written in the store ends only after it is not written here any more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use surus_conduct::member::Inherited;
use surus_core::BootTime;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a disk may take for it before a server becomes a primary. One that takes longer would take the promotion too.
const PATIENCE: Duration = Duration::from_secs(1);

pub struct Deadline {
    path: PathBuf,
    says: watch::Sender<Says>,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq)]
enum Says {
    This(Option<Inherited>),
    /// It is being written.
    Either,
    /// Nothing is known of it yet, or a write failed.
    Unknown(Option<String>),
}

pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

impl Deadline {
    /// Also returns what an earlier process left.
    pub fn open(data_dir: &Path) -> (Deadline, Option<Inherited>) {
        let path = named(data_dir, ".surus.lease");
        let left = std::fs::read_to_string(&path).ok().and_then(|text| parse(&text, &boot_id()));
        (Deadline { path, says: watch::Sender::new(Says::Unknown(None)) }, left)
    }

    /// A successor may take this primary for one that is left alone.
    pub fn leaves_alone(&self) -> bool {
        match &*self.says.borrow() {
            Says::This(left) => *left == Some(Inherited::Unguarded),
            Says::Either | Says::Unknown(_) => true,
        }
    }

    /// Leaves this for a successor; `None` when the lead is gone.
    pub fn leave(&self, left: Option<Inherited>) {
        let begins = self.says.send_if_modified(|says| {
            let begins = *says != Says::This(left) && *says != Says::Either;
            if begins {
                *says = Says::Either;
            }
            begins
        });
        if !begins {
            return;
        }
        let (path, says) = (self.path.clone(), self.says.clone());
        tokio::task::spawn_blocking(move || {
            // A disk that hangs holds this one thread, and the file stays as it was: too early.
            let done = replace(&path, &text(left, &boot_id()));
            says.send_replace(match done {
                Ok(()) => Says::This(left),
                Err(e) => {
                    tracing::debug!("{} could not be written: {e}", path.display());
                    Says::Unknown(Some(e.to_string()))
                }
            });
        });
    }

    /// Returns once a successor reads at least this. `Err`: the disk does not take it in time, so that it would not be
    /// known who is to end what begins now. A directory that cannot be written to at all does not keep anybody
    /// from leading: the fence knows the deadline too.
    pub async fn write(&self, until: BootTime) -> Result<(), String> {
        let mut says = self.says.subscribe();
        let mut tried = false;
        let written = async {
            loop {
                let now = says.borrow_and_update().clone();
                match now {
                    Says::Either => {}
                    Says::This(Some(Inherited::Unguarded)) => return,
                    Says::This(Some(Inherited::Until(at))) if at >= until => return,
                    Says::Unknown(Some(why)) if tried => {
                        return tracing::warn!(
                            "how long the lead is good for is not left to a successor of this agent: {} could not be \
                             written: {why}",
                            self.path.display()
                        );
                    }
                    Says::This(_) | Says::Unknown(_) => {
                        tried = true;
                        self.leave(Some(Inherited::Until(until)));
                        continue;
                    }
                }
                if says.changed().await.is_err() {
                    return;
                }
            }
        };
        let late = || {
            let path = self.path.display();
            format!("a write to {path} has not returned within {} s; is its disk well?", PATIENCE.as_secs())
        };
        timeout(PATIENCE, written).await.map_err(|_| late())
    }
}

fn named(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whoever is killed in the middle of it leaves the old text or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = named(path, ".new");
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path)
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

    fn until(ms: u64) -> Inherited {
        Inherited::Until(BootTime::from_millis(ms))
    }

    fn deadline() -> (tempfile::TempDir, PathBuf, Deadline) {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let (deadline, left) = Deadline::open(&data_dir);
        assert_eq!(left, None);
        (dir, data_dir, deadline)
    }

    fn left(data_dir: &Path) -> Option<Inherited> {
        Deadline::open(data_dir).1
    }

    #[tokio::test]
    async fn it_is_on_the_disk_before_a_server_becomes_a_primary() {
        let (_dir, data_dir, deadline) = deadline();
        deadline.write(BootTime::from_millis(1000)).await.unwrap();
        assert_eq!(left(&data_dir), Some(until(1000)));
        // While another write is under way, and after one that says less.
        deadline.leave(None);
        deadline.write(BootTime::from_millis(2000)).await.unwrap();
        assert_eq!(left(&data_dir), Some(until(2000)));
        deadline.write(BootTime::from_millis(1500)).await.unwrap();
        assert_eq!(left(&data_dir), Some(until(2000)), "a later one stays");
        deadline.leave(Some(Inherited::Unguarded));
        deadline.write(BootTime::from_millis(3000)).await.unwrap();
        assert_eq!(left(&data_dir), Some(Inherited::Unguarded), "nothing ends it, as the store knows");
    }

    /// A pipe that nobody reads takes a write as a disk does that hangs.
    #[tokio::test]
    async fn no_server_becomes_a_primary_on_a_disk_that_hangs() {
        let (_dir, data_dir, deadline) = deadline();
        let pipe = named(&data_dir, ".surus.lease.new");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let why = deadline.write(BootTime::from_millis(1000)).await.unwrap_err();
        assert!(why.contains("has not returned within 1 s") && why.contains(".surus.lease"), "{why}");
        assert_eq!(left(&data_dir), None);
        let reader = {
            let pipe = pipe.clone();
            tokio::task::spawn_blocking(move || std::fs::read(pipe).unwrap())
        };
        reader.await.unwrap();
        deadline.write(BootTime::from_millis(1000)).await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_to_keeps_nobody_from_leading() {
        let (dir, data_dir, deadline) = deadline();
        drop(dir);
        deadline.write(BootTime::from_millis(1000)).await.unwrap();
        assert_eq!(left(&data_dir), None);
    }
}
