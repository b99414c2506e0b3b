//! The Raft leader sees to it that the right members vote ([`crate::voters`] says which).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::membership::CLOSE;
use crate::node::{Leader, Node};
use crate::timing::LEADER_LEASE;
use crate::voters::{Standing, choose};

const LOOK: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);
/// After a change that failed.
const REST: Duration = Duration::from_secs(3);

/// What a member said about itself: is it configured to vote, is it a witness.
type Wishes = BTreeMap<u64, (bool, bool)>;

impl Node {
    pub async fn keep_voters(self: Arc<Node>) {
        let mut leading: Option<Instant> = None;
        let mut wishes = Wishes::new();
        loop {
            sleep(LOOK).await;
            let leads = self.leader() == Leader::Me;
            leading = leads.then(|| leading.unwrap_or_else(Instant::now));
            let Some(since) = leading else {
                // They may be other ones when this node leads again.
                wishes.clear();
                continue;
            };
            self.finish_joins().await;
            self.ask_wishes(&mut wishes, false).await;
            if choose(&self.standings(&wishes, since), self.id, self.replace_after).is_none() {
                continue;
            }
            // A change that somebody asked for goes first; what it leaves is looked at afterwards.
            let Ok(_one) = self.changing.try_lock() else { continue };
            // In the middle of a change; or this node leads only until its own removal is known.
            let members = self.membership();
            if members.get_joint_config().len() > 1 || !members.voter_ids().any(|id| id == self.id) {
                continue;
            }
            self.ask_wishes(&mut wishes, true).await;
            let Some(change) = choose(&self.standings(&wishes, since), self.id, self.replace_after) else { continue };
            tracing::info!("the store group changes its voters: {}", change.why);
            match timeout(LONGEST, self.change_voters(change.voters)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    tracing::warn!("the voters of the store group were not changed: {e}");
                    sleep(REST).await;
                }
                Err(_) => {
                    tracing::warn!("the change of voters is not confirmed yet; it is looked at again");
                    sleep(REST).await;
                }
            }
        }
    }

    /// Two members have one address where the join of a node that had lost its directory was cut short after it became a
    /// member: it does not ask again. Its predecessor never comes back, and would vote for ever, since its address answers.
    async fn finish_joins(&self) {
        let members = self.membership();
        let mut seen = BTreeSet::new();
        let mut addrs = members.nodes().map(|(_, node)| node.addr.as_str());
        let Some(addr) = addrs.find(|addr| !seen.insert(*addr)) else { return };
        let Ok(probed) = self.probe(addr).await else { return };
        if members.get_node(&probed.node).is_none_or(|node| node.addr != addr) {
            return;
        }
        let Ok(_one) = self.changing.try_lock() else { return };
        tracing::info!("finishing what was left of the join of {addr} (node {})", probed.node);
        let why = match timeout(LONGEST, self.join(probed.node, addr, probed.voter)).await {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e.to_string(),
            Err(_) => "it takes long".to_owned(),
        };
        tracing::warn!("the join of {addr} is not finished yet: {why}");
        sleep(REST).await;
    }

    fn standings(&self, wishes: &Wishes, leading_since: Instant) -> Vec<Standing> {
        let members = self.membership();
        let metrics = self.raft.metrics().borrow().clone();
        let last = metrics.last_log_index.unwrap_or(0);
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        let describe = |(id, node): (&u64, &openraft::BasicNode)| {
            // Who was never heard in this process is away since this node leads: not longer, as far as it knows.
            let silence = self.peers.heard(&node.addr).unwrap_or(Duration::MAX).min(leading_since.elapsed());
            let heard = self.peers.heard(&node.addr).is_some_and(|ago| ago < LEADER_LEASE);
            let at = metrics.replication.as_ref().and_then(|r| r.get(id).copied().flatten());
            let (wants, witness) = wishes.get(id).copied().unwrap_or_default();
            Standing {
                id: *id,
                addr: node.addr.clone(),
                voter: voters.contains(id),
                wants,
                witness,
                away: if *id == self.id || heard { Duration::ZERO } else { silence.max(Duration::from_millis(1)) },
                current: at.is_some_and(|p| p.index + CLOSE >= last),
            }
        };
        members.nodes().map(describe).collect()
    }

    /// Asks those that have not said it, or everybody `anew`: a directory may have gone from a witness to an agent.
    async fn ask_wishes(&self, wishes: &mut Wishes, anew: bool) {
        wishes.insert(self.id, (self.voter, self.witness));
        let members = self.membership();
        let unasked = members.nodes().filter(|(id, node)| {
            let there = self.peers.heard(&node.addr).is_some_and(|ago| ago < LEADER_LEASE);
            **id != self.id && there && (anew || !wishes.contains_key(id))
        });
        let asked = unasked.map(|(id, node)| async move { (*id, self.probe(&node.addr).await) });
        for (id, answer) in join_all(asked).await {
            match answer {
                Ok(probed) if probed.node == id => _ = wishes.insert(id, (probed.voter, probed.witness)),
                // Somebody else answers at its address, or nobody: it is given nothing.
                _ => _ = wishes.remove(&id),
            }
        }
    }
}
