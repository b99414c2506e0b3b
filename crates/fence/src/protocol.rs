//! What agent and fence say to each other: one JSON value a line, each question answered by the fence's state.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use surus_core::BootTime;

use crate::standing::Standing;

/// Of this conversation. A fence of another version is replaced by the agent.
pub const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    State,
    /// At `until` the server ends, unless this is said again with a later time. Without a postmaster, because none
    /// is started yet, the server is found by where it works.
    Arm {
        until: BootTime,
        postmaster: Option<Postmaster>,
    },
    Disarm,
    /// Ends the fence, armed or not.
    Quit,
}

/// A process by pid and start time, so that a reused pid is never taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Postmaster {
    pub pid: i32,
    pub start_ticks: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub version: u32,
    pub pid: u32,
    pub until: Option<BootTime>,
    /// The last time it had to end the server.
    pub fired: Option<Fired>,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    pub at: BootTime,
    pub deadline: BootTime,
    pub processes: usize,
    /// From the deadline until nobody was left who could acknowledge a commit.
    pub silent_after_us: u64,
    /// All processes are gone, too.
    pub gone: bool,
}

/// Where a fence listens: beside the data directory, like everything of the agent's.
#[derive(Debug)]
pub struct Meeting {
    pub path: PathBuf,
    /// Held open, so that finding the socket again needs no disk.
    directory: File,
}

impl Meeting {
    /// Looks at the disk.
    pub fn of(data_dir: &Path) -> io::Result<Meeting> {
        let mut name = data_dir.as_os_str().to_owned();
        name.push(".surus.fence");
        let path = PathBuf::from(name);
        let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
        Ok(Meeting { path, directory })
    }

    /// For the system calls: the path of a socket must be short, that of a data directory need not be.
    pub(crate) fn short(&self) -> PathBuf {
        let directory = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        self.path.file_name().map_or(directory.clone(), |name| directory.join(name))
    }
}

/// The path as the kernel will spell it for a server that works there, also before it exists.
pub fn resolved(data_dir: &Path) -> io::Result<PathBuf> {
    match std::fs::canonicalize(data_dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = std::fs::canonicalize(data_dir.parent().unwrap_or(Path::new("/")))?;
            Ok(data_dir.file_name().map_or(parent.clone(), |name| parent.join(name)))
        }
        found => found,
    }
}
