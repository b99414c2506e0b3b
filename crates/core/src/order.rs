//! What a step asks the agent to do. The agent chooses nothing: each order carries all it needs.

use serde::{Deserialize, Serialize};

use crate::cluster::{FailoverRequest, KeyVersion, SyncState, Upstream};
use crate::ids::{MemberName, SystemId};
use crate::slots::LogicalSlot;
use crate::synchronous::Names;
use crate::time::BootTime;

/// Counts the tasks of this process. The end of a task of an older epoch is dropped.
pub type Epoch = u64;

/// How a primary is stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Demote {
    /// Planned: checkpoint while serving, stop, release the lead once `to` holds every record. Given
    /// up, with the primary going on, when that takes longer than its budget.
    Handover { to: MemberName, upstream: Option<Upstream> },
    /// The lease ends at `stop_by` and cannot be renewed: nothing may be acknowledged after that.
    LeaseEnding { stop_by: BootTime },
    /// The lead is somebody else's, or nobody's: stop at once.
    Deposed,
    /// I lead and cannot serve: stop at once and let somebody else.
    Release,
    /// The whole cluster is to follow another one: stop in order and keep the lead.
    Cluster,
}

/// A long operation on this PostgreSQL. One runs at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Win the `initialize` key, create the cluster, and take the lead with its first data.
    Bootstrap,
    Clone {
        from: Upstream,
    },
    /// Make the copy with what needs nobody to copy from: a backup, say.
    CloneWithoutLeader,
    StartPrimary,
    StartStandby {
        upstream: Option<Upstream>,
    },
    Promote,
    Demote(Demote),
    /// Point a running standby at another upstream, by reload where the server can.
    Follow {
        upstream: Option<Upstream>,
    },
    /// Compare local history with the upstream's.
    CheckDivergence {
        from: Upstream,
    },
    Rewind {
        from: Upstream,
    },
    /// Give the local copy up and clone again, after the upstream was seen to be able to give one.
    Reinitialize {
        from: Upstream,
    },
    Restart,
    /// Bring logical slots over from the leader, which takes a restart of this standby.
    CopySlots {
        from: Upstream,
        slots: Vec<LogicalSlot>,
    },
    /// End the server processes that a dead postmaster left behind.
    KillOrphans,
    /// Stop because the agent ends: hand the lead over if I have it.
    Shutdown {
        to: Option<MemberName>,
    },
}

impl Task {
    /// The name operators see, also in answers such as `restart already in progress`.
    pub fn name(&self) -> String {
        match self {
            Task::Bootstrap => "bootstrap".into(),
            Task::Clone { from } => format!("bootstrap from leader '{}'", from.name),
            Task::CloneWithoutLeader => "bootstrap (without leader)".into(),
            Task::StartPrimary => "restarting after failure".into(),
            Task::StartStandby { .. } => "starting as a secondary".into(),
            Task::Promote => "promote".into(),
            Task::Demote(Demote::Handover { .. }) => "switchover: demote".into(),
            Task::Demote(Demote::Cluster) => "demoting to a standby cluster".into(),
            Task::Demote(_) => "demote".into(),
            Task::Follow { .. } => "changing primary_conninfo".into(),
            Task::CheckDivergence { from } => format!("comparing history with {}", from.name),
            Task::Rewind { from } => format!("running pg_rewind from {}", from.name),
            Task::Reinitialize { .. } => "reinitialize".into(),
            Task::Restart => "restart".into(),
            Task::CopySlots { .. } => "copy_logical_slots".into(),
            Task::KillOrphans => "ending orphaned server processes".into(),
            Task::Shutdown { .. } => "shutdown".into(),
        }
    }

    /// Only the holder of the lead may carry this task on.
    pub fn needs_lead(&self) -> bool {
        matches!(self, Task::StartPrimary | Task::Promote)
    }

    /// It stops the server, which is all that losing the lead could ask for.
    pub fn is_stopping(&self) -> bool {
        matches!(self, Task::Demote(_) | Task::Shutdown { .. } | Task::KillOrphans)
    }
}

/// What an operator asked this member for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Restart,
    Reinitialize { force: bool, from_leader: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    Begin {
        task: Task,
        epoch: Epoch,
    },
    /// Stop the running task as soon as it can be left.
    Cancel {
        epoch: Epoch,
        why: String,
    },
    TakeLead,
    /// Go on with the lead of an earlier run of this agent: only if the key still carries my name. The reading that says so
    /// may be old, and somebody else may have led, and written, since.
    RetakeLead,
    /// Give the lead up without touching PostgreSQL: delete the leader key if it carries my name. Ordered
    /// again while the store still shows it, also when I hold no lease any more.
    ReleaseLead,
    /// Ask these members directly how they are.
    Probe {
        members: Vec<MemberName>,
    },
    /// Promise it to myself, and ask these, that nobody else is vouched for while I take the lead.
    AskConsent {
        members: Vec<MemberName>,
    },
    WriteSystemId {
        id: SystemId,
    },
    /// The `config` key is absent or spoilt: write the configuration that is in force.
    WriteConfig {
        version: Option<KeyVersion>,
    },
    WriteHistory,
    /// What commits wait for. `None`: what the operator configured.
    SetNames {
        names: Option<Names>,
    },
    /// Who may be promoted: write the `sync` key if it has this version, or delete it.
    WriteSync {
        state: Option<SyncState>,
        version: Option<KeyVersion>,
    },
    ClearFailover {
        version: KeyVersion,
    },
    /// Ask for a switchover from me, as an operator would, if the `failover` key has this version still.
    RequestSwitchover {
        version: Option<KeyVersion>,
        request: FailoverRequest,
    },
    /// Name the candidate in a request that left it open, so that all members agree on one.
    NameCandidate {
        version: KeyVersion,
        request: FailoverRequest,
    },
    /// The process ends; `Err` is what it says, with a non-zero exit.
    Exit(Result<(), String>),
}
