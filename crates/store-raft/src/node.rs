//! One node: the consensus library, the state it drives, the connections, and who leads now.
//!
//! **Identity.** A node's id is drawn when its log file is created and lives in that file. A node whose
//! directory was lost is therefore another node: under its old id it could vote a second time in a
//! term it has forgotten, and elect a leader that lacks acknowledged writes. Which address belongs to
//! which id is part of the replicated membership; connections check that the node they reach is the one
//! they mean. See [`crate::membership`] for how a node that lost its log takes its old place.
//!
//! **Contact.** What this node believes is worth something only while a majority is behind it: the
//! leader must have heard from a majority, any other node from the leader, within the leader's lease.
//! Without contact nothing is proposed (which would leave outcomes unknown), and watches say so.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::{Mutex, watch};

use crate::clock::{at_offset, boot_ms};
use crate::disk::Disk;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::peers::Peers;
use crate::timing::{LEADER_LEASE, LEADER_LEASE_MS};
use crate::types::{Membership, Raft, Stamp, random_id};

pub struct Node {
    pub id: u64,
    pub addr: String,
    /// The configured others, without this node's own address.
    pub partners: Vec<String>,
    pub voter: bool,
    pub witness: bool,
    pub replace_after: Duration,
    pub raft: Raft,
    pub machine: Machine,
    pub peers: Peers,
    pub disk: Disk,
    pub log: LogStore,
    pub began_with: BeganWith,
    pub group: watch::Sender<Option<String>>,
    pub contact: watch::Sender<bool>,
    /// Why the node waits, for operators; empty when it does not.
    pub waiting_for: watch::Sender<String>,
    /// One change of membership at a time.
    pub changing: Mutex<()>,
    pub entering: Mutex<()>,
    pub(crate) leader_heard_at: AtomicU64,
    pub(crate) leadership: Mutex<Leadership>,
}

/// What was on the disk when this process started: the term of its vote, and how many entries the log ever had.
#[derive(Clone, Copy, Debug)]
pub struct BeganWith {
    pub term: u64,
    pub entries: u64,
}

/// The stamps of this process's present term.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leadership {
    term: u64,
    lead: u64,
    offset: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leader {
    Me,
    Other { node: u64, addr: String },
    Unknown(String),
}

impl Node {
    pub fn is_raft_leader(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }

    pub fn membership(&self) -> Membership {
        self.raft.metrics().borrow().membership_config.membership().clone()
    }

    /// Where requests for the leader go now.
    pub fn leader(&self) -> Leader {
        if !*self.contact.borrow() {
            return Leader::Unknown(self.why_no_contact());
        }
        let metrics = self.raft.metrics();
        let m = metrics.borrow();
        match m.current_leader {
            Some(id) if id == self.id && m.state == ServerState::Leader => Leader::Me,
            Some(id) if id != self.id => match m.membership_config.membership().get_node(&id) {
                Some(node) => Leader::Other { node: id, addr: node.addr.clone() },
                None => Leader::Unknown("the Raft leader is not among the members this node knows".into()),
            },
            _ => Leader::Unknown("the group has no Raft leader at the moment".into()),
        }
    }

    pub fn heard_leader(&self) {
        self.leader_heard_at.store(boot_ms(), Ordering::Relaxed);
        if !*self.contact.borrow() {
            self.refresh_contact();
        }
    }

    /// Milliseconds since a leader was last heard; `None` if never in this process.
    pub fn leader_silence(&self) -> Option<u64> {
        let at = self.leader_heard_at.load(Ordering::Relaxed);
        (at != 0).then(|| boot_ms().saturating_sub(at))
    }

    pub fn refresh_contact(&self) {
        let now = self.in_contact();
        if self.contact.send_if_modified(|c| std::mem::replace(c, now) != now) && now {
            self.wait_for(String::new());
        }
    }

    fn in_contact(&self) -> bool {
        let metrics = self.raft.metrics();
        let m = metrics.borrow();
        match m.state {
            ServerState::Leader => self.majority_heard(m.membership_config.membership()),
            ServerState::Shutdown => false,
            _ => m.current_leader.is_some() && self.leader_silence().is_some_and(|ms| ms < LEADER_LEASE_MS),
        }
    }

    /// Has a majority of every voter set (two while they are being changed) answered lately?
    pub fn majority_heard(&self, members: &Membership) -> bool {
        let heard = |id: &u64| {
            let addr = || members.get_node(id).map(|n| n.addr.as_str());
            *id == self.id || addr().and_then(|a| self.peers.heard(a)).is_some_and(|ago| ago < LEADER_LEASE)
        };
        members.get_joint_config().iter().all(|voters| is_majority(voters, heard))
    }

    fn why_no_contact(&self) -> String {
        let waiting = self.waiting_for.borrow();
        if !waiting.is_empty() {
            return waiting.clone();
        }
        match self.is_raft_leader() {
            true => "this node leads the group but reaches no majority of it".to_owned(),
            false => match self.leader_silence() {
                Some(ms) => format!("no Raft leader was heard from for {}.{} s", ms / 1000, ms % 1000 / 100),
                None => "no Raft leader was heard from since the start".to_owned(),
            },
        }
    }

    /// The stamp of a command proposed now; `None` if this node does not lead. The first one of a term
    /// waits until all that was in the log at the election is applied ([`crate::clock`] says why).
    pub async fn stamp(&self) -> Option<Stamp> {
        let mut leadership = self.leadership.lock().await;
        let term = self.leading_term()?;
        if leadership.term != term {
            let last = self.log.last().map_or(0, |id| id.index + 1);
            let mut applied = self.machine.applied();
            while *applied.borrow_and_update() < last {
                // Looks again without news as well: leadership may end before the entries are committed.
                let _ = tokio::time::timeout(std::time::Duration::from_millis(50), applied.changed()).await;
                if self.leading_term() != Some(term) {
                    return None;
                }
            }
            *leadership = Leadership { term, lead: random_id(), offset: self.machine.clock_offset() };
        }
        let now = at_offset(leadership.offset, boot_ms());
        Some(Stamp { lead: leadership.lead, term, now })
    }

    /// The offset of the present leadership, once it has stamped something.
    pub async fn leading_offset(&self) -> Option<i64> {
        self.stamp().await?;
        Some(self.leadership.lock().await.offset)
    }

    fn leading_term(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let m = metrics.borrow();
        (m.state == ServerState::Leader).then_some(m.current_term)
    }
}

pub fn is_majority(voters: &BTreeSet<u64>, counts: impl Fn(&u64) -> bool) -> bool {
    voters.iter().filter(|id| counts(id)).count() * 2 > voters.len()
}
