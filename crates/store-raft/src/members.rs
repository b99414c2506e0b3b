use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Leader,
    Voter,
    Learner,
}

/// One node as the Raft leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: u64,
    pub addr: String,
    pub role: Role,
    pub reachable: bool,
    /// Time since the leader last had an answer from it; `None` if never.
    pub last_contact: Option<Duration>,
    /// Index of the last log entry known to be on its disk.
    pub log_index: Option<u64>,
}
