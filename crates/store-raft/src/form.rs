//! How a group comes into being, exactly once, and how a node finds its way into it.
//!
//! **Forming.** A node without a group forms one only if it has heard, in one round, from *every* address
//! of its configuration; all of them are without a group; all of them name the same set of
//! addresses; and its own address is the smallest of those that vote. Then it draws the group's name, writes
//! name and members to its disk, and makes itself the first leader of exactly these nodes.
//!
//! Why everyone, and not a majority? A majority that counts empty nodes counts nodes that may have
//! forgotten. Say A and B formed a group while C was still to be installed; A loses its disk; B is cut
//! off. A and C are a majority, both empty, and would form a second group beside B's data. With everyone
//! required, that round includes B, who has a group, and A joins it. Two groups would need two
//! rounds without a common witness: for overlapping configurations the sets are equal, so the founder is
//! the same node, and it founds once; only if the configurations name disjoint sets are there two
//! groups, and then that is what was asked for. The price: every configured node must be up, once, at
//! the very first start. Who cannot wait leaves the missing address out of `partner_addrs`; the late
//! node names the others and joins.
//!
//! A founder that dies in between finds its own record and goes on founding the same group. A node
//! that finds any configured address in a group never forms one; it asks the leader to be let in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openraft::BasicNode;
use tokio::time::sleep;

use crate::connection::CallError;
use crate::host;
use crate::node::{Leader, Node};
use crate::records::Founding;
use crate::timing::jitter;
use crate::types::{random, to_hex};
use crate::voters::first;
use crate::wire::{Failure, Probed, Reply, Request};

pub const GROUP: &str = "group";
const FOUNDING: &str = "founding";
/// Set once this node was a member of the group: from then on it does not ask to be let in,
/// so that a node taken out by an operator stays out.
pub const SETTLED: &str = "settled";

const PROBE: Duration = Duration::from_secs(2);
/// Catching up and two changes of membership.
const JOIN: Duration = Duration::from_secs(30);

impl Node {
    /// Runs as long as the node.
    pub async fn find_group(self: Arc<Node>) {
        let mut settled = self.disk.meta::<bool>(SETTLED).unwrap_or(false);
        loop {
            let grouped = self.group.borrow().is_some();
            let pause = match grouped {
                false => {
                    self.look_around().await;
                    jitter(150..350)
                }
                true if self.has_its_place() => {
                    if !settled {
                        self.disk.set_meta(SETTLED, &true).await;
                        settled = true;
                    }
                    jitter(2000..4000)
                }
                true if settled && !self.has_moved() => jitter(2000..4000),
                true => {
                    match self.founding_unfinished().await {
                        Some(founding) => self.found(founding).await,
                        None => self.ask_to_join().await,
                    }
                    jitter(300..800)
                }
            };
            sleep(pause).await;
        }
    }

    pub fn probed(&self) -> Probed {
        let leader = match self.leader() {
            Leader::Me => Some(self.addr.clone()),
            Leader::Other { addr, .. } => Some(addr),
            Leader::Unknown(_) => None,
        };
        Probed {
            node: self.id,
            addr: self.addr.clone(),
            voter: self.voter,
            witness: self.witness,
            format: host::newest_format(),
            group: self.group.borrow().clone(),
            initial: self.initial(),
            leader,
        }
    }

    pub async fn probe(&self, addr: &str) -> Result<Probed, CallError> {
        match self.peers.call(addr, None, Request::Probe, PROBE).await? {
            Reply::Probe(probed) => Ok(probed),
            _ => Err(CallError::Refused(format!("{addr} gave a strange answer"))),
        }
    }

    /// Durable before anything is promised to the group. Fails if the node is in another one.
    pub async fn enter_group(&self, group: &str) -> Result<(), String> {
        let _one = self.entering.lock().await;
        let mine = self.group.borrow().clone();
        match mine {
            Some(mine) if mine == group => Ok(()),
            Some(mine) => Err(format!("this node belongs to the store group {mine}, not to {group}")),
            None => {
                self.disk.set_meta(GROUP, &group).await;
                self.peers.set_group(group);
                self.group.send_replace(Some(group.to_owned()));
                tracing::info!("this node now belongs to the store group {group}");
                Ok(())
            }
        }
    }

    /// What operators are told while the node cannot work; logged when it changes.
    pub fn wait_for(&self, what: String) {
        let changed = self.waiting_for.send_if_modified(|now| {
            let changed = *now != what;
            now.clone_from(&what);
            changed
        });
        if changed && !what.is_empty() {
            tracing::warn!("the embedded store waits: {what}");
        }
    }

    fn initial(&self) -> Vec<String> {
        let mut all = self.partners.clone();
        all.push(self.addr.clone());
        all.sort();
        all
    }

    async fn look_around(&self) {
        let probes = self.partners.iter().map(|addr| async move { (addr, self.probe(addr).await) });
        let answers = join_all(probes).await;
        let grouped = answers.iter().find_map(|(addr, a)| Some((addr, a.as_ref().ok()?.group.as_ref()?)));
        if let Some((addr, group)) = grouped {
            tracing::info!("{addr} belongs to the store group {group}: joining it");
            self.ask_to_join().await;
            return;
        }
        let mut present = vec![self.probed()];
        for (addr, answer) in answers {
            match answer {
                Ok(probed) if probed.initial == self.initial() => present.push(probed),
                Ok(probed) => {
                    return self.wait_for(format!(
                        "{addr} is configured with the nodes {}, this one with {}; self_addr and partner_addrs must name \
                         the same addresses on every node",
                        probed.initial.join(", "),
                        self.initial().join(", ")
                    ));
                }
                Err(e) => {
                    return self.wait_for(format!(
                        "every node of partner_addrs must be up once to form the group; not yet: {e}"
                    ));
                }
            }
        }
        let voters = present.iter().filter(|p| p.voter);
        if voters.clone().map(|p| &p.addr).min() != Some(&self.addr) {
            return self.wait_for("all nodes are up; one of them is forming the group".into());
        }
        let group = to_hex(&random::<8>());
        // The rest joins the group as soon as it is there, and follows.
        let first = first(voters.clone().map(|p| (p.node, p.addr.as_str(), p.witness)), self.id);
        let nodes = voters.filter(|p| first.contains(&p.node)).map(|p| (p.node, p.addr.clone())).collect();
        let founding = Founding { group: group.clone(), nodes };
        // Members first: a name without members could never be finished.
        self.disk.set_meta(FOUNDING, &founding).await;
        if self.enter_group(&group).await.is_ok() {
            self.found(founding).await;
        }
    }

    /// The group this node began to form and is in, but that has no log yet.
    async fn founding_unfinished(&self) -> Option<Founding> {
        let founding = self.disk.meta::<Founding>(FOUNDING)?;
        // Another group may have called this node in between: its record then means nothing.
        let mine = self.group.borrow().as_ref() == Some(&founding.group);
        (mine && !self.raft.is_initialized().await.unwrap_or(true)).then_some(founding)
    }

    async fn found(&self, founding: Founding) {
        let nodes: BTreeMap<u64, BasicNode> =
            founding.nodes.iter().map(|(id, addr)| (*id, BasicNode::new(addr))).collect();
        match self.raft.initialize(nodes).await {
            Ok(()) => {
                let addrs: Vec<&str> = founding.nodes.values().map(String::as_str).collect();
                tracing::info!("formed the store group of {}", addrs.join(", "));
                self.wait_for(String::new());
            }
            Err(e) => self.wait_for(format!("the group could not be formed: {e}")),
        }
    }

    /// In the membership, at the right address. Whether it votes is the leader's to decide ([`crate::voters`]).
    fn has_its_place(&self) -> bool {
        self.membership().get_node(&self.id).is_some_and(|n| n.addr == self.addr)
    }

    fn has_moved(&self) -> bool {
        self.membership().get_node(&self.id).is_some_and(|n| n.addr != self.addr)
    }

    async fn ask_to_join(&self) {
        let probes = self.partners.iter().map(|addr| async move { self.probe(addr).await.ok() });
        let leaders: Vec<String> = join_all(probes).await.into_iter().flatten().filter_map(|p| p.leader).collect();
        let Some(leader) = leaders.first() else {
            return self
                .wait_for("the group of the other nodes has no Raft leader at the moment, to let this one in".into());
        };
        let request = Request::Join { node: self.id, addr: self.addr.clone(), voter: self.voter };
        let refused = match self.peers.call(leader, None, request, JOIN).await {
            Ok(Reply::Done) => return,
            Ok(Reply::Failed(Failure::Refused(why) | Failure::Unavailable(why))) => why,
            Ok(_) => "it stopped leading".to_owned(),
            Err(e) => e.to_string(),
        };
        self.wait_for(format!("the Raft leader {leader} did not let this node in yet: {refused}"));
    }
}
