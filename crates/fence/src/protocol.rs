//! What agent and fence say to each other: one JSON value a line, each question answered by the fence's state.

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

/// Beside the data directory, like everything of the agent's.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    let mut name = data_dir.as_os_str().to_owned();
    name.push(".surus.fence");
    PathBuf::from(name)
}
