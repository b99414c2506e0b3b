//! Why a step decided what it did, as data. Logs, `GET /explain` and `surus explain` render this.

use serde::{Deserialize, Serialize};

use crate::ids::MemberName;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    Shutdown,
    Task,
    Store,
    Startup,
    Pause,
    Stopped,
    Race,
    StandbyCluster,
    Primary,
    Replica,
}

/// A member that was weighed for the lead, and what spoke against it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub name: MemberName,
    pub fit: bool,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Number of the rule that fired; it keeps its meaning for ever.
    pub rule: u16,
    pub section: Section,
    /// The rule's condition in a few words.
    pub name: String,
    /// What follows from it, in the words of the log.
    pub goal: String,
    /// Why the rule is as it is.
    pub why: String,
    pub candidates: Vec<Candidate>,
    pub waiting_for: Vec<String>,
    /// Nothing is to be done and nothing is wrong.
    pub steady: bool,
}
