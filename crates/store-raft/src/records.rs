//! What the log file holds: our own records, so that a change of the consensus library moves code, not
//! files. JSON, because the log is small, the rate low, and a person with a broken cluster can read it.
//! The number in the file changes with any change that an older program would misread ([`crate::format`]).

use std::collections::{BTreeMap, BTreeSet};

use openraft::{BasicNode, CommittedLeaderId, Entry, EntryPayload, Vote};
use serde::{Deserialize, Serialize};

use crate::state::State;
use crate::types::{Command, LogId, Membership, StoredMembership, TypeConfig};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    /// Drawn at random when the file is created: a node that lost its log is another node.
    pub node: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct VoteRecord {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MembersRecord {
    /// One set of voters, or two while they are being changed.
    pub voters: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Body {
    Blank,
    Command(Command),
    Members(MembersRecord),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryRecord {
    pub at: Position,
    pub body: Body,
}

/// The state at one position of the log; also what is sent to a node that is too far behind.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotMetaRecord {
    pub id: String,
    pub at: Option<Position>,
    pub members_at: Option<Position>,
    pub members: MembersRecord,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateRecord {
    pub format: u32,
    pub state: State,
}

/// Written before the group is formed, so that a crash in between forms the same group again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Founding {
    pub group: String,
    pub nodes: BTreeMap<u64, String>,
}

impl From<LogId> for Position {
    fn from(id: LogId) -> Position {
        Position { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<Position> for LogId {
    fn from(at: Position) -> LogId {
        LogId::new(CommittedLeaderId::new(at.term, at.node), at.index)
    }
}

impl From<&Vote<u64>> for VoteRecord {
    fn from(vote: &Vote<u64>) -> VoteRecord {
        VoteRecord { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteRecord> for Vote<u64> {
    fn from(record: VoteRecord) -> Vote<u64> {
        let mut vote = Vote::new(record.term, record.node);
        vote.committed = record.committed;
        vote
    }
}

impl From<&Membership> for MembersRecord {
    fn from(m: &Membership) -> MembersRecord {
        MembersRecord {
            voters: m.get_joint_config().clone(),
            nodes: m.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
        }
    }
}

impl From<MembersRecord> for Membership {
    fn from(record: MembersRecord) -> Membership {
        let nodes: BTreeMap<u64, BasicNode> =
            record.nodes.into_iter().map(|(id, addr)| (id, BasicNode::new(addr))).collect();
        Membership::new(record.voters, nodes)
    }
}

impl From<Entry<TypeConfig>> for EntryRecord {
    fn from(entry: Entry<TypeConfig>) -> EntryRecord {
        let body = match entry.payload {
            EntryPayload::Blank => Body::Blank,
            EntryPayload::Normal(command) => Body::Command(command),
            EntryPayload::Membership(m) => Body::Members((&m).into()),
        };
        EntryRecord { at: entry.log_id.into(), body }
    }
}

impl From<EntryRecord> for Entry<TypeConfig> {
    fn from(record: EntryRecord) -> Entry<TypeConfig> {
        let payload = match record.body {
            Body::Blank => EntryPayload::Blank,
            Body::Command(command) => EntryPayload::Normal(command),
            Body::Members(m) => EntryPayload::Membership(m.into()),
        };
        Entry { log_id: record.at.into(), payload }
    }
}

impl SnapshotMetaRecord {
    pub fn new(meta: &openraft::SnapshotMeta<u64, BasicNode>) -> SnapshotMetaRecord {
        SnapshotMetaRecord {
            id: meta.snapshot_id.clone(),
            at: meta.last_log_id.map(Position::from),
            members_at: meta.last_membership.log_id().map(Position::from),
            members: meta.last_membership.membership().into(),
        }
    }

    pub fn into_meta(self) -> openraft::SnapshotMeta<u64, BasicNode> {
        openraft::SnapshotMeta {
            last_log_id: self.at.map(LogId::from),
            last_membership: StoredMembership::new(self.members_at.map(LogId::from), self.members.into()),
            snapshot_id: self.id,
        }
    }
}
