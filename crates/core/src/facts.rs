//! Everything a step may decide on, gathered once into one immutable value.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterView, Tags};
use crate::failsafe;
use crate::ids::{Lsn, MemberName, Timeline};
use crate::order::{Epoch, Request, Task};
use crate::postgres::{DataDir, Observed, ProcessState};
use crate::settings::ClusterSettings;
use crate::slots::{LogicalSlot, Room};
use crate::stall::Stalls;
use crate::synchronous;
use crate::time::BootTime;

/// What ends this server should its lead end while nobody here can act.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Fence {
    /// Not wanted.
    #[default]
    Off,
    Working,
    Broken {
        required: bool,
        why: String,
    },
}

impl Fence {
    /// Why this member must not lead.
    pub fn forbids(&self) -> Option<&str> {
        match self {
            Fence::Broken { required: true, why } => Some(why),
            _ => None,
        }
    }

    /// What operators should see of it at first sight: nothing while it works.
    pub fn remark(&self) -> Option<String> {
        match self {
            Fence::Off => Some("off".into()),
            Fence::Working => None,
            Fence::Broken { why, .. } => Some(format!("does not work: {why}")),
        }
    }
}

/// My hold on the leader key, as the lease keeper knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    /// Until then I may act as leader: counted from before the last confirmed renewal was sent, less a margin.
    pub until: BootTime,
    /// Version of the leader key when I took it: a view of an older revision knows nothing about it.
    pub version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreFact {
    /// The last reading; absent before the first.
    pub view: Option<Arc<ClusterView>>,
    /// Since when the reading grows stale, and why. `None`: it is current.
    pub broken: Option<(BootTime, String)>,
    /// A session is open: keys of mine can be written.
    pub session: bool,
}

/// What a peer answered when asked directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerAnswer {
    pub in_recovery: bool,
    pub position: Lsn,
    pub timeline: Option<Timeline>,
    pub tags: Tags,
    pub watchdog_failed: bool,
    /// On the disk of its log.
    #[serde(default)]
    pub room: Option<Room>,
    /// Permanent logical slots that a reader could not go on with there after a failover, or not be sure to miss nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unready_slots: Vec<String>,
    /// Its log left that of the cluster: in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFact {
    /// When the question was sent: an answer is as old as that.
    pub asked: BootTime,
    /// Or why there was no answer.
    pub answer: Result<PeerAnswer, String>,
}

/// A long operation that runs now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTask {
    pub task: Task,
    pub epoch: Epoch,
    pub since: BootTime,
}

/// How a long operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedTask {
    pub task: Task,
    pub epoch: Epoch,
    pub at: BootTime,
    pub outcome: Result<TaskDone, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskDone {
    Done,
    /// The lead was handed over on the way.
    Released,
    /// A handover was given up and the primary goes on, and why.
    GivenUp(String),
    /// Local history continues into the upstream's.
    NotDiverged,
    /// Local history has a part that the upstream's lacks, in words.
    Diverged(String),
    /// Both have a timeline of one number and of their own.
    SameNumber(String),
    /// Could not be told yet, in words.
    Undecided(String),
    /// Another member initialised the cluster first.
    LostRace,
}

/// The server's answer to the monitoring query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Known(Arc<Observed>),
    /// No answer since then, and why.
    Unknown(BootTime, String),
}

/// What the server shows of its replay while it recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// When replay was first seen at `from`.
    pub since: BootTime,
    pub from: Lsn,
    /// The segment that it works on begins here.
    pub at: Lsn,
    pub segment: u64,
    /// The last position that this server was seen to have written, by an agent that is still the same.
    pub end: Option<Lsn>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresFact {
    pub data_dir: DataDir,
    pub process: ProcessState,
    /// Since when the process is in this state.
    pub since: BootTime,
    /// Server processes of a postmaster that is gone still run: they may finish a commit.
    pub orphans: bool,
    /// How far a server that does not accept connections yet has replayed its log, if that can be seen.
    #[serde(default)]
    pub replay: Option<Replay>,
    /// No agent has ever written its configuration: a server that an operator started and that is to be taken over.
    #[serde(default)]
    pub stand_alone: bool,
    pub answer: Answer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub now: BootTime,
    /// Wall clock in Unix milliseconds; only schedules are compared with it.
    pub unix_ms: i64,
    pub me: MemberName,
    pub tags: Tags,
    pub settings: ClusterSettings,
    /// The local configuration has a `bootstrap` section.
    pub may_bootstrap: bool,
    pub store: StoreFact,
    pub lead: Option<Lead>,
    /// Until when the lease of an earlier run of this agent was good: its primary may go on that long.
    pub inherited: Option<BootTime>,
    /// The store names me as the primary that is left alone while paused, as far as this agent or its earlier run has
    /// seen: nobody else takes the lead, however long I do not answer.
    #[serde(default)]
    pub unguarded: bool,
    /// What is promised to whom, should a primary go on without the store.
    #[serde(default)]
    pub failsafe: failsafe::Fact,
    #[serde(default)]
    pub fence: Fence,
    /// The hardware watchdog.
    #[serde(default)]
    pub watchdog: Fence,
    #[serde(default)]
    pub stalls: Stalls,
    pub postgres: PostgresFact,
    pub task: Option<RunningTask>,
    /// The end of a task, shown to exactly one step.
    pub finished: Option<FinishedTask>,
    pub peers: BTreeMap<MemberName, PeerFact>,
    #[serde(default)]
    pub synchronous: synchronous::Doing,
    /// Shown again until a step has answered it.
    pub request: Option<Request>,
    /// On the disk of the log.
    #[serde(default)]
    pub room: Option<Room>,
    /// Permanent logical slots that this standby lacks and could copy from the leader.
    #[serde(default)]
    pub missing_slots: Vec<LogicalSlot>,
    /// Those that a reader could not go on with here, missing ones among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unready_slots: Vec<String>,
    /// The agent was asked to end.
    pub shutdown: bool,
    /// When the failover request asks to be carried out, in Unix milliseconds; an unreadable text is `Err`.
    pub failover_due: Option<Result<i64, String>>,
}

impl Facts {
    /// Why this member must not lead, or go on leading: nothing would end its server, or its machine.
    pub fn may_not_lead(&self) -> Option<String> {
        let fence = self.fence.forbids().map(|why| format!("the fence does not work: {why}"));
        fence.or_else(|| self.no_watchdog())
    }

    /// The part of it that is the hardware's.
    pub fn no_watchdog(&self) -> Option<String> {
        self.watchdog.forbids().map(|why| format!("the watchdog is required and cannot be used: {why}"))
    }

    /// An earlier run of this agent led and may have ordered a promotion that this standby still has to finish. It does so
    /// before the end of that lead, or the fence ends it.
    pub fn promotion_pending(&self) -> bool {
        self.inherited.is_some_and(|until| self.now < until)
    }
}

impl PostgresFact {
    pub fn observed(&self) -> Option<&Observed> {
        match &self.answer {
            Answer::Known(observed) => Some(observed),
            Answer::Unknown(..) => None,
        }
    }

    pub fn running(&self) -> bool {
        self.process != ProcessState::NotRunning
    }

    pub fn accepting(&self) -> bool {
        self.process == ProcessState::Accepting
    }

    pub fn standby_signal(&self) -> bool {
        matches!(self.data_dir, DataDir::Present { standby_signal: true, .. })
    }

    /// The server runs and may accept writes. Without an answer the files decide: a server that was
    /// started without a standby signal counts as a primary, because assuming otherwise could leave
    /// two of them.
    pub fn is_primary(&self) -> bool {
        self.running() && self.observed().map_or(!self.standby_signal(), |o| !o.in_recovery)
    }

    pub fn is_standby(&self) -> bool {
        self.running() && !self.is_primary()
    }
}
