//! When to call for an election.
//!
//! The consensus library has no pre-vote, so its own election timer is switched off and this one asks
//! first: a node that would lose, or that alone has lost sight of a healthy leader, never raises the
//! term and so never disturbs. The vote itself, with all that safety rests on, stays the library's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

use crate::clock::boot_ms;
use crate::connection::CallError;
use crate::node::{Node, is_majority};
use crate::records::Position;
use crate::timing::{ELECTION_MS, LEADER_LEASE_MS, RETRY_MS, jitter};
use crate::types::LogId;
use crate::wire::{Reply, Request};

const ASK: Duration = Duration::from_millis(700);

impl Node {
    pub async fn hold_elections(self: Arc<Node>) {
        // The first silence is counted from the start, so that a restarted node finds the leader first.
        let mut since = boot_ms();
        let mut patience = jitter(ELECTION_MS);
        loop {
            let alone = self.sole_voter();
            let waited = self.leader_silence().unwrap_or(u64::MAX).min(boot_ms().saturating_sub(since));
            let limit = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            if !self.is_member() || (!alone && waited < limit) {
                let rest = Duration::from_millis(limit.saturating_sub(waited).clamp(50, 500));
                sleep(if alone { rest.min(Duration::from_millis(50)) } else { rest }).await;
                continue;
            }
            // Who has no vote asks as well: so it hears that it was removed.
            if self.would_win().await && self.can_stand() && self.raft.trigger().elect().await.is_ok() {
                tracing::info!("{} hears no Raft leader and a majority agrees: calling for an election", self.addr);
            }
            since = boot_ms();
            // Drawn anew every time, so that two candidates do not stay in step.
            patience = jitter(RETRY_MS);
            sleep(patience).await;
            if self.leader_is_near() {
                patience = jitter(ELECTION_MS);
            }
        }
    }

    fn sole_voter(&self) -> bool {
        self.membership().voter_ids().eq([self.id])
    }

    fn is_member(&self) -> bool {
        !self.is_raft_leader() && self.membership().get_node(&self.id).is_some()
    }

    fn can_stand(&self) -> bool {
        !self.is_raft_leader() && self.membership().voter_ids().any(|id| id == self.id)
    }

    /// Would a majority of every voter set vote for this node?
    async fn would_win(&self) -> bool {
        if self.leader_is_near() {
            return false;
        }
        let members = self.membership();
        let vote = self.raft.metrics().borrow().vote;
        let last = self.log.last().map(Position::from);
        let others = members.voter_ids().filter(|id| *id != self.id).collect::<BTreeSet<u64>>();
        let asked = others.iter().filter_map(|id| Some((*id, members.get_node(id)?.addr.clone())));
        let mut answers: FuturesUnordered<_> =
            asked
                .map(|(id, addr)| async move {
                    (id, self.peers.call(&addr, Some(id), Request::PreVote { last }, ASK).await)
                })
                .collect();
        let (mut granted, mut strangers, mut denied) = (BTreeSet::from([self.id]), 0, 0);
        let mut refused = None;
        let enough = |granted: &BTreeSet<u64>| {
            members.get_joint_config().iter().all(|voters| is_majority(voters, |id| granted.contains(id)))
        };
        // Without waiting for those that are dead or frozen.
        while !enough(&granted) {
            match answers.next().await {
                Some((id, Ok(Reply::PreVote { granted: true, .. }))) => _ = granted.insert(id),
                Some((_, Ok(Reply::PreVote { stranger, .. }))) => {
                    denied += 1;
                    strangers += usize::from(stranger);
                }
                // A node of a lost group learns here what became of it.
                Some((_, Err(CallError::Refused(why)))) => refused = Some(why),
                Some(_) => {}
                None => {
                    if let Some(why) = refused {
                        self.wait_for(why);
                    }
                    self.say_if_removed(denied, strangers);
                    return false;
                }
            }
        }
        // What was asked for may have happened meanwhile, with this node's own vote for another.
        !self.leader_is_near() && self.raft.metrics().borrow().vote == vote
    }

    /// Short patience after a lost election must not be turned against a leader found since.
    fn leader_is_near(&self) -> bool {
        self.leader_silence().is_some_and(|ms| ms < LEADER_LEASE_MS)
    }

    fn say_if_removed(&self, denied: usize, strangers: usize) {
        if denied > 0 && denied == strangers {
            self.wait_for(
                "this node was removed from the store group; to bring it back, stop it, move its raft.data_dir away \
                 and start it again, or run `surus store add`"
                    .into(),
            );
        }
    }

    /// Asked by a node that has lost its leader. Answers as [`openraft`] would to a real request for a
    /// vote, without promising anything.
    pub fn would_vote_for(&self, last: Option<Position>) -> bool {
        let leading = self.is_raft_leader() && self.majority_heard(&self.membership());
        !leading && !self.leader_is_near() && last.map(LogId::from) >= self.log.last()
    }
}
