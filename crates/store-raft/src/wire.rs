//! What nodes and clients say to each other once they trust the connection.
//!
//! **Versions.** `PROTOCOL` in the handshake changes only with what an older program would misread; ends that differ in it
//! part with a sentence. Within it, a field may be added where its absence means what it meant before, and a request,
//! which an older node answers by saying that it does not know it. What travels in the log ([`crate::types`]) and in a
//! state must be understood by every node before anybody writes it ([`crate::format`]).

use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use serde::{Deserialize, Serialize};
use surus_store as kv;
use surus_store::{StoreError, WatchEvent};

use crate::format;
use crate::members::Member;
use crate::records::Position;
use crate::types::{Applied, Blob, Operation, TypeConfig};

#[derive(Serialize, Deserialize)]
pub struct Call {
    pub id: u64,
    /// How long the caller will wait, for work that is bounded by it.
    pub within_ms: u64,
    pub request: Request,
}

/// What can be read of a [`Call`] whatever it asks.
#[derive(Deserialize)]
pub struct CallId {
    pub id: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Answer {
    pub id: u64,
    pub reply: Reply,
}

#[derive(Serialize, Deserialize)]
pub enum Request {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<u64>),
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    /// Would you vote for me, if I asked? See [`crate::election`].
    PreVote {
        last: Option<Position>,
    },
    Probe,
    /// To the Raft leader only.
    ReadIndex,
    Propose(Operation),
    Join {
        node: u64,
        addr: String,
        voter: bool,
    },
    /// To any node, which finds the leader.
    Read {
        prefix: String,
    },
    Write(Operation),
    /// Answered by `Event`s until the connection ends; each client gives a watch a connection of its own.
    Watch {
        prefix: String,
    },
    /// Shows that the connection is alive.
    Ping,
    Members,
    AddMember {
        addr: String,
    },
    RemoveMember {
        addr: String,
    },
}

impl Request {
    /// May only come from a node of the same group.
    pub fn is_raft(&self) -> bool {
        matches!(self, Request::Append(_) | Request::Vote(_) | Request::Snapshot(_) | Request::PreVote { .. })
    }
}

#[derive(Serialize, Deserialize)]
pub enum Reply {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>>),
    /// `stranger`: the asking node is not in the membership this node knows.
    PreVote {
        granted: bool,
        stranger: bool,
    },
    Probe(Probed),
    Index(u64),
    Applied(Applied),
    Read(View),
    Event(WireEvent),
    Members(Vec<Member>),
    Done,
    /// Nothing was done: this node does not lead.
    NotLeader,
    Failed(Failure),
}

/// What a node tells about itself while groups are formed and members looked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probed {
    pub node: u64,
    pub addr: String,
    pub voter: bool,
    /// Not said by nodes before version 2 of this record, which had none.
    #[serde(default)]
    pub witness: bool,
    /// The newest format that it reads.
    #[serde(default = "format::first")]
    pub format: u32,
    pub group: Option<String>,
    /// Every address the node was configured with, its own included, sorted.
    pub initial: Vec<String>,
    /// Address of the Raft leader it knows.
    pub leader: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    pub revision: u64,
    pub keys: Vec<ViewKey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ViewKey {
    pub key: String,
    pub value: Blob,
    pub version: u64,
    pub lease: Option<u64>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Failure {
    Unavailable(String),
    OutcomeUnknown(String),
    LeaseGone,
    Refused(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum WireEvent {
    Restarted(View),
    Put(ViewKey),
    Deleted { key: String, revision: u64 },
    Progress(u64),
    Broken(String),
}

impl From<WatchEvent> for WireEvent {
    fn from(e: WatchEvent) -> WireEvent {
        match e {
            WatchEvent::Restarted(snapshot) => WireEvent::Restarted(snapshot.into()),
            WatchEvent::Put(key) => WireEvent::Put(key.into()),
            WatchEvent::Deleted { key, revision } => WireEvent::Deleted { key, revision },
            WatchEvent::Progress(revision) => WireEvent::Progress(revision),
            WatchEvent::Broken(why) => WireEvent::Broken(why),
        }
    }
}

impl From<WireEvent> for WatchEvent {
    fn from(e: WireEvent) -> WatchEvent {
        match e {
            WireEvent::Restarted(view) => WatchEvent::Restarted(view.into()),
            WireEvent::Put(key) => WatchEvent::Put(key.into()),
            WireEvent::Deleted { key, revision } => WatchEvent::Deleted { key, revision },
            WireEvent::Progress(revision) => WatchEvent::Progress(revision),
            WireEvent::Broken(why) => WatchEvent::Broken(why),
        }
    }
}

impl From<kv::KeyValue> for ViewKey {
    fn from(k: kv::KeyValue) -> ViewKey {
        ViewKey { key: k.key, value: Blob(k.value), version: k.version, lease: k.lease }
    }
}

impl From<ViewKey> for kv::KeyValue {
    fn from(k: ViewKey) -> kv::KeyValue {
        kv::KeyValue { key: k.key, value: k.value.0, version: k.version, lease: k.lease }
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Failure {
        match e {
            StoreError::Unavailable(why) => Failure::Unavailable(why),
            StoreError::OutcomeUnknown(why) => Failure::OutcomeUnknown(why),
            StoreError::LeaseGone => Failure::LeaseGone,
            StoreError::Refused(why) => Failure::Refused(why),
        }
    }
}

impl From<Failure> for StoreError {
    fn from(f: Failure) -> StoreError {
        match f {
            Failure::Unavailable(why) => StoreError::Unavailable(why),
            Failure::OutcomeUnknown(why) => StoreError::OutcomeUnknown(why),
            Failure::LeaseGone => StoreError::LeaseGone,
            Failure::Refused(why) => StoreError::Refused(why),
        }
    }
}

impl From<kv::Snapshot> for View {
    fn from(s: kv::Snapshot) -> View {
        View { revision: s.revision, keys: s.keys.into_iter().map(ViewKey::from).collect() }
    }
}

impl From<View> for kv::Snapshot {
    fn from(v: View) -> kv::Snapshot {
        kv::Snapshot { revision: v.revision, keys: v.keys.into_iter().map(kv::KeyValue::from).collect() }
    }
}
