//! Who belongs to the group: joining, adding, removing; all of it done by the Raft leader.
//!
//! A node that joins follows as a learner; [`crate::voters`] says who gets a vote, and [`Node::keep_voters`] gives it.
//!
//! A node that lost its directory comes back under a new id. The leader lets it in as a learner, waits
//! until it has the log, and then in one step (joint consensus) gives it the vote of the old id at the same
//! address, which can never come back. Before that it calls the address itself and makes sure that the
//! new node answers there: nobody can take the place of a member that is alive.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers, ServerState};
use surus_store::{StoreError, StoreResult};
use tokio::time::{Instant, sleep, timeout};

use crate::members::{Member, Role};
use crate::node::{Leader, Node, is_majority};
use crate::timing::LEADER_LEASE;
use crate::wire::{Reply, Request};

/// A learner this close to the end of the log may vote: the rest comes with the next batch.
pub const CLOSE: u64 = 100;
const CATCH_UP: Duration = Duration::from_secs(20);
/// A change that is under way is over sooner than this, or does not come to an end.
const TURN: Duration = Duration::from_secs(10);

impl Node {
    /// As the leader sees them; without a leader, as this node does.
    pub async fn members(&self, within: Duration) -> StoreResult<Vec<Member>> {
        if let Leader::Other { node, addr } = self.leader()
            && let Ok(Reply::Members(members)) = self.peers.call(&addr, Some(node), Request::Members, within).await
        {
            return Ok(members);
        }
        Ok(self.members_here().await)
    }

    /// Without asking the leader.
    pub async fn members_here(&self) -> Vec<Member> {
        let members = self.membership();
        let nodes: Vec<(u64, String)> = members.nodes().map(|(id, n)| (*id, n.addr.clone())).collect();
        let leading = self.is_raft_leader();
        if !leading {
            // The leader hears from everyone all the time; this node has to ask.
            join_all(nodes.iter().filter(|(id, _)| *id != self.id).map(|(_, addr)| self.probe(addr))).await;
        }
        let metrics = self.raft.metrics().borrow().clone();
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        let describe = |(id, addr): (u64, String)| {
            let me = id == self.id;
            let last_contact = if me { Some(Duration::ZERO) } else { self.peers.heard(&addr) };
            let replicated = metrics.replication.as_ref().and_then(|r| r.get(&id).copied().flatten());
            let role = match voters.contains(&id) {
                true if me && leading => Role::Leader,
                true => Role::Voter,
                false => Role::Learner,
            };
            let log_index = if me { metrics.last_log_index } else { replicated.map(|l| l.index) };
            Member {
                id,
                addr,
                role,
                reachable: last_contact.is_some_and(|ago| ago < 2 * LEADER_LEASE),
                last_contact,
                log_index,
            }
        };
        nodes.into_iter().map(describe).collect()
    }

    /// Carries out `AddMember`, `RemoveMember` or `Join`, or has the leader do it.
    /// `forward`: the caller is no node, which would have asked the leader itself.
    pub async fn change_members(self: &Arc<Node>, request: Request, within: Duration, forward: bool) -> Reply {
        let until = Instant::now() + within;
        loop {
            let why = match self.leader() {
                Leader::Me => {
                    let (node, left) = (self.clone(), until.saturating_duration_since(Instant::now()));
                    // In its own task: a change that has begun is finished, whether or not the caller waits.
                    let work = tokio::spawn(async move { node.change_as_leader(request).await });
                    return match timeout(left, work).await {
                        Ok(Ok(Ok(()))) => Reply::Done,
                        Ok(Ok(Err(e))) => Reply::Failed(e.into()),
                        Ok(Err(_)) => {
                            Reply::Failed(StoreError::OutcomeUnknown("the change was cut short".into()).into())
                        }
                        Err(_) => Reply::Failed(
                            StoreError::OutcomeUnknown("the change goes on; look at the members again".into()).into(),
                        ),
                    };
                }
                _ if !forward => return Reply::NotLeader,
                Leader::Other { node, addr } => {
                    let left = until.saturating_duration_since(Instant::now());
                    match self.peers.call(&addr, Some(node), copy(&request), left).await {
                        Ok(Reply::NotLeader) => "the Raft leader is changing".to_owned(),
                        Ok(reply) => return reply,
                        Err(crate::connection::CallError::NoAnswer(why)) => {
                            return Reply::Failed(StoreError::OutcomeUnknown(why).into());
                        }
                        Err(e) => e.to_string(),
                    }
                }
                Leader::Unknown(why) => why,
            };
            if Instant::now() >= until {
                return Reply::Failed(StoreError::Unavailable(why).into());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn change_as_leader(&self, request: Request) -> StoreResult<()> {
        let Ok(_one) = timeout(TURN, self.changing.lock()).await else {
            return Err(StoreError::Unavailable("another change of the members is under way".into()));
        };
        match request {
            Request::Join { node, addr, voter } => self.join(node, &addr, voter).await,
            Request::AddMember { addr } => {
                let probed = self.probe(&addr).await.map_err(|e| {
                    StoreError::Refused(format!(
                        "{addr} cannot be added, it does not answer as a node of the store: {e}"
                    ))
                })?;
                self.join(probed.node, &addr, probed.voter).await
            }
            Request::RemoveMember { addr } => self.remove(&addr).await,
            _ => Err(StoreError::Refused("no change of members".into())),
        }
    }

    pub async fn join(&self, id: u64, addr: &str, voter: bool) -> StoreResult<()> {
        let probed = self.probe(addr).await.map_err(|e| {
            StoreError::Refused(format!(
                "the Raft leader {} cannot reach {addr}, so nobody may join from there: {e}",
                self.addr
            ))
        })?;
        if probed.node != id {
            return Err(StoreError::Refused(format!(
                "at {addr} another node answers; is self_addr right on the node that wants to join?"
            )));
        }
        self.finish_interrupted_change().await?;
        let members = self.membership();
        match members.get_node(&id) {
            None => {
                self.reads_what_is_written(&probed, TURN).await?;
                tracing::info!("letting {addr} into the store group (node {id})");
                self.may_change().await?;
                let added = self.raft.add_learner(id, BasicNode::new(addr), false).await;
                added.map_err(change_failed)?;
            }
            Some(known) if known.addr != addr => {
                tracing::info!("node {id} of the store group moved from {} to {addr}", known.addr);
                self.change(ChangeMembers::SetNodes([(id, BasicNode::new(addr))].into())).await?;
            }
            Some(_) => {}
        }
        let members = self.membership();
        let gone = |other: u64| other != id && members.get_node(&other).is_some_and(|n| n.addr == addr);
        let before: BTreeSet<u64> = members.voter_ids().collect();
        let mut after: BTreeSet<u64> = before.iter().copied().filter(|v| !gone(*v)).collect();
        if voter && after != before {
            self.caught_up(id, addr).await?;
            after.insert(id);
        }
        if after != before && !after.is_empty() {
            self.change(ChangeMembers::ReplaceAllVoters(after)).await?;
        }
        self.forget_learners(gone).await
    }

    async fn remove(&self, addr: &str) -> StoreResult<()> {
        self.finish_interrupted_change().await?;
        let members = self.membership();
        let there = |id: u64| members.get_node(&id).is_some_and(|n| n.addr == addr);
        if !members.nodes().any(|(id, _)| there(*id)) {
            let known: Vec<&str> = members.nodes().map(|(_, n)| n.addr.as_str()).collect();
            return Err(StoreError::Refused(format!("{addr} is no member; the members are {}", known.join(", "))));
        }
        let before: BTreeSet<u64> = members.voter_ids().collect();
        let after: BTreeSet<u64> = before.iter().copied().filter(|id| !there(*id)).collect();
        if after.is_empty() {
            return Err(StoreError::Refused(format!("{addr} is the last voter; without it there is no group")));
        }
        let reachable = |id: &u64| {
            let addr = || members.get_node(id).and_then(|n| self.peers.heard(&n.addr));
            *id == self.id || addr().is_some_and(|ago| ago < 2 * LEADER_LEASE)
        };
        if !is_majority(&after, reachable) {
            return Err(StoreError::Refused(format!(
                "without {addr}, too few of the remaining {} voters are reachable for the group to go on; bring them \
                 back or remove them first",
                after.len()
            )));
        }
        tracing::info!("removing {addr} from the store group");
        if after != before {
            self.change(ChangeMembers::ReplaceAllVoters(after)).await?;
        }
        self.forget_learners(there).await
    }

    async fn forget_learners(&self, which: impl Fn(u64) -> bool) -> StoreResult<()> {
        let learners: BTreeSet<u64> = self.membership().learner_ids().filter(|id| which(*id)).collect();
        match learners.is_empty() {
            true => Ok(()),
            false => self.change(ChangeMembers::RemoveNodes(learners)).await,
        }
    }

    /// A leader that died half-way leaves two voter sets; its successor has to come to an end with it.
    pub async fn finish_interrupted_change(&self) -> StoreResult<()> {
        let members = self.membership();
        match members.get_joint_config().as_slice() {
            // Nobody is forgotten: whether the vote was to go, or the member, its leader took to the grave.
            [_, target] => self.change_voters(target.clone()).await,
            _ => Ok(()),
        }
    }

    /// A leader that its last change took out still takes itself for the leader inside the consensus library, and
    /// a change that it is asked for breaks it. The question goes there, because what is published lags behind.
    async fn may_change(&self) -> StoreResult<()> {
        let id = self.id;
        let leads = self.raft.with_raft_state(move |state| {
            let voters = state.membership_state.effective().membership().voter_ids().collect::<BTreeSet<u64>>();
            state.server_state == ServerState::Leader && voters.contains(&id)
        });
        match leads.await {
            Ok(true) => Ok(()),
            _ => Err(StoreError::Unavailable(format!("{} does not lead the store group any more", self.addr))),
        }
    }

    /// Who votes no longer follows.
    pub async fn change_voters(&self, voters: BTreeSet<u64>) -> StoreResult<()> {
        self.may_change().await?;
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.raft.change_membership(change, true).await.map(|_| ()).map_err(change_failed)
    }

    async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> StoreResult<()> {
        self.may_change().await?;
        self.raft.change_membership(change, false).await.map(|_| ()).map_err(change_failed)
    }

    async fn caught_up(&self, id: u64, addr: &str) -> StoreResult<()> {
        let mut metrics = self.raft.metrics();
        let close = metrics.wait_for(|m| {
            let position = m.replication.as_ref().and_then(|r| r.get(&id).copied().flatten());
            position.is_some_and(|p| p.index + CLOSE >= m.last_log_index.unwrap_or(0)) || m.replication.is_none()
        });
        match timeout(CATCH_UP, close).await {
            Ok(Ok(m)) if m.replication.is_some() => Ok(()),
            Ok(_) => Err(StoreError::Unavailable("the Raft leader changed meanwhile".into())),
            Err(_) => Err(StoreError::Unavailable(format!("{addr} has not caught up with the log yet"))),
        }
    }
}

/// Requests are not generally repeatable; these are.
fn copy(request: &Request) -> Request {
    match request {
        Request::AddMember { addr } => Request::AddMember { addr: addr.clone() },
        Request::RemoveMember { addr } => Request::RemoveMember { addr: addr.clone() },
        Request::Join { node, addr, voter } => Request::Join { node: *node, addr: addr.clone(), voter: *voter },
        _ => Request::Probe,
    }
}

fn change_failed(e: RaftError<u64, ClientWriteError<u64, BasicNode>>) -> StoreError {
    match e {
        RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_))) => {
            StoreError::Unavailable("another change of the members is under way".into())
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => StoreError::Refused(e.to_string()),
        other => StoreError::OutcomeUnknown(format!("the change may not be complete: {other}")),
    }
}
