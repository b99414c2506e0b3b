//! The embedded store: a server in each agent's process, and perhaps a witness, a machine with such a server and no PostgreSQL.
//!
//! What is modelled is what Raft promises, not its messages: one sequence of writes, kept by a majority of voters,
//! that goes on where a majority is alive and reaches the leader. Elections take the times of `surus-store-raft`'s `timing.rs`;
//! the time of leases is carried from one leader to the next as in its `clock.rs`.

use std::collections::VecDeque;

use surus_core::BootTime;
use surus_core::store::StoreError;

use super::World;
use super::clock::{Clock, MS, True};
use super::network::End;
use crate::random::Random;

/// Heard from within this time, a leader is near: nobody votes against it.
pub(super) const NEAR: True = 1500 * MS;
pub(super) const PATIENCE: (True, True) = (1500 * MS, 2300 * MS);
/// Until a request that found no leader looks for one again.
const BREATH: True = 25 * MS;

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) votes: bool,
    /// How many entries of the log it has.
    pub(super) has: u64,
    pub(super) heard: True,
    pub(super) patience: True,
    /// The newest leadership it has an entry of, the greatest time stamped under it, and how far that is ahead of the
    /// clock here at least, in milliseconds.
    lead: u64,
    stamped: i64,
    pub(super) ahead: i64,
}

pub struct Group {
    /// Of each member, by number, and then the witness, if there is one.
    pub(super) servers: Vec<Server>,
    members: usize,
    witness: Clock,
    pub witness_runs: bool,
    /// Of the traffic of the store alone.
    cut: Vec<bool>,
    pub(super) formed: bool,
    pub(super) leader: Option<usize>,
    /// Counts leaderships.
    pub(super) lead: u64,
    /// The leader's count of time is that far ahead of its clock, in milliseconds.
    pub(super) ahead: i64,
    pub(super) committed: u64,
    /// Requests in the leader's log that no majority is known to have.
    pub(super) pending: VecDeque<u64>,
    /// Who is kept up to date by the leader.
    pub(super) follows: Vec<bool>,
}

fn signed(at: BootTime) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

impl Server {
    fn observe(&mut self, lead: u64, stamp: i64, here: i64) {
        let ahead = stamp - here - 1;
        // A bound of an earlier leadership must not outlive it.
        self.ahead = if lead == self.lead { self.ahead.max(ahead) } else { ahead };
        (self.lead, self.stamped) = (lead, stamp);
    }
}

impl Group {
    pub fn new(members: usize, voters: usize, witness: bool, random: &mut Random) -> Group {
        let count = members + usize::from(witness);
        let server = |number: usize, random: &mut Random| Server {
            votes: number < voters || number == members,
            has: 0,
            heard: 0,
            patience: random.between(PATIENCE.0, PATIENCE.1),
            lead: 0,
            stamped: 0,
            ahead: 0,
        };
        Group {
            servers: (0..count).map(|number| server(number, random)).collect(),
            members,
            witness: Clock::new(2_000_000, i64::try_from(random.below(1000)).unwrap_or(0) - 500),
            witness_runs: true,
            cut: vec![false; count * count],
            formed: false,
            leader: None,
            lead: 0,
            ahead: 0,
            committed: 0,
            pending: VecDeque::new(),
            follows: vec![false; count],
        }
    }

    pub(super) fn majority(&self) -> usize {
        self.servers.iter().filter(|s| s.votes).count() / 2 + 1
    }

    /// The member whose server leads, if it is a member's.
    pub fn leads(&self) -> Option<usize> {
        self.leader.filter(|l| *l < self.members)
    }

    pub fn has_witness(&self) -> bool {
        self.servers.len() > self.members
    }

    fn set_cut(&mut self, server: usize, cut: bool) {
        let count = self.servers.len();
        for other in (0..count).filter(|other| *other != server) {
            self.cut[server * count + other] = cut;
        }
    }

    pub fn heal(&mut self) {
        self.cut.fill(false);
        self.witness_runs = true;
    }

    /// Started again, a server knows what is on its disk: time that nobody stamped meanwhile is lost.
    fn started(&mut self, server: usize, now: True, here: BootTime, patience: True) {
        // It remembers what it has, and not that it led.
        self.leader = self.leader.filter(|leader| *leader != server);
        let server = &mut self.servers[server];
        (server.heard, server.patience) = (now, patience);
        server.ahead = server.stamped - signed(here) - 1;
    }
}

impl World {
    fn end_of(&self, server: usize) -> End {
        if server < self.nodes.len() { End::Node(server) } else { End::Store }
    }

    fn server_boot(&self, group: &Group, server: usize) -> BootTime {
        self.nodes.get(server).map_or(group.witness, |n| n.clock).boot(self.now)
    }

    pub(super) fn server_runs(&self, group: &Group, server: usize) -> bool {
        self.nodes.get(server).map_or(group.witness_runs, super::node::Node::agent_runs)
    }

    pub(super) fn linked(&self, group: &Group, a: usize, b: usize) -> bool {
        let count = group.servers.len();
        let open = !group.cut[a * count + b] && !group.cut[b * count + a];
        a == b || (open && self.network.both_ways(self.end_of(a), self.end_of(b)))
    }

    /// It runs, and a connection to it can be had.
    pub(super) fn reaches(&self, group: &Group, from: usize, to: usize) -> bool {
        self.server_runs(group, to) && self.linked(group, from, to)
    }

    /// The leader, if a majority goes with it.
    pub(super) fn led_by(&self, group: &Group) -> Option<usize> {
        let leader = group.leader.filter(|l| self.server_runs(group, *l))?;
        let with = (0..group.servers.len()).filter(|s| group.servers[*s].votes && self.reaches(group, leader, *s));
        (with.count() >= group.majority()).then_some(leader)
    }

    /// Whether anything can be written now, from anywhere.
    pub fn store_available(&self) -> bool {
        match &self.group {
            Some(group) => self.led_by(group).is_some(),
            None => !self.store.down,
        }
    }

    /// Whether this member can work with the store now.
    pub fn reaches_store(&self, node: usize) -> bool {
        match &self.group {
            Some(group) => {
                self.server_runs(group, node) && self.led_by(group).is_some_and(|l| self.linked(group, node, l))
            }
            None => !self.store.down && self.network.both_ways(End::Node(node), End::Store),
        }
    }

    /// From the store, or its leader, to this member's view.
    pub fn store_delay(&self, node: usize) -> True {
        let from = self.group.as_ref().and_then(|g| g.leader).map_or(End::Store, |leader| self.end_of(leader));
        self.network.delay(from, End::Node(node))
    }

    /// The time that leases are counted in.
    pub fn store_time(&self) -> BootTime {
        match &self.group {
            Some(group) => {
                let here = group.leader.map_or(0, |leader| signed(self.server_boot(group, leader)));
                BootTime::from_millis(u64::try_from(here + group.ahead).unwrap_or(0))
            }
            None => self.store.clock.boot(self.now),
        }
    }

    /// When leases will have been counted to there, as it looks now.
    pub fn store_reaches(&self, end: BootTime) -> True {
        match &self.group {
            Some(group) => {
                let here = BootTime::from_millis(u64::try_from(signed(end) - group.ahead).unwrap_or(0));
                let leader = group.leader.and_then(|l| self.nodes.get(l)).map_or(group.witness, |n| n.clock);
                leader.when(here, self.now)
            }
            None => self.store.clock.when(end, self.now),
        }
    }

    /// All servers of the group from each other.
    pub fn cut_group(&mut self, cut: bool) {
        if let Some(group) = &mut self.group {
            group.cut.fill(cut);
        }
    }

    pub fn cut_from_group(&mut self, server: usize, cut: bool) {
        if let Some(group) = &mut self.group {
            group.set_cut(server, cut);
        }
        self.links_changed();
    }

    pub fn store_server_starts(&mut self, node: usize) {
        let patience = self.group.as_ref().map(|_| self.random.between(PATIENCE.0, PATIENCE.1));
        let (now, here) = (self.now, self.boot(node));
        if let (Some(group), Some(patience)) = (&mut self.group, patience) {
            group.started(node, now, here, patience);
        }
    }

    pub fn run_witness(&mut self, runs: bool) {
        let patience = self.random.between(PATIENCE.0, PATIENCE.1);
        let now = self.now;
        if let Some(group) = self.group.as_mut().filter(|g| g.has_witness() && g.witness_runs != runs) {
            group.witness_runs = runs;
            group.started(group.members, now, group.witness.boot(now), patience);
            self.tell_world(|| format!("the witness {}", if runs { "runs" } else { "is gone" }));
        }
    }

    /// A request of this member looks for the leader.
    pub(super) fn submit(&mut self, id: u64) {
        let (now, Some(group)) = (self.now, &self.group) else { return };
        let Some(request) = self.store.requests.get(&id).filter(|r| r.reply.is_none() && now < r.until) else { return };
        let (node, until) = (request.node, request.until);
        let near = now.saturating_sub(group.servers[node].heard) < NEAR && self.server_runs(group, node);
        let Some(leader) = group.leader.filter(|_| near) else { return self.submit_again(id, until) };
        let (lead, linked) = (group.lead, self.linked(group, node, leader));
        let delay = self.network.delay(End::Node(node), self.end_of(leader));
        if !linked && self.random.percent(50) {
            return self.submit_again(id, until);
        }
        if let Some(request) = self.store.requests.get_mut(&id) {
            request.sent_to = Some(lead);
        }
        if linked {
            let hop = if node == leader { self.random.between(50, 300) } else { self.random.between(200, 2 * MS) };
            let travel = hop + delay + self.store.slow / 2;
            self.after(travel, move |w| w.leader_receives(id, lead));
        }
    }

    fn submit_again(&mut self, id: u64, until: True) {
        if self.now + BREATH < until {
            let breath = self.random.between(BREATH, 2 * BREATH);
            return self.after(breath, move |w| w.submit(id));
        }
        let unknown = self.store.requests.get(&id).is_some_and(|r| r.writes && r.sent_to.is_some());
        let why = "there is no Raft leader".to_owned();
        self.answer(id, Err(if unknown { StoreError::OutcomeUnknown(why) } else { StoreError::Unavailable(why) }));
    }

    fn leader_receives(&mut self, id: u64, lead: u64) {
        let Some(group) = self.group.as_ref().filter(|g| g.lead == lead) else { return };
        let Some(leader) = group.leader.filter(|l| self.server_runs(group, *l)) else { return };
        if let Some(group) = &mut self.group {
            group.pending.push_back(id);
            group.servers[leader].has = group.committed + group.pending.len() as u64;
        }
        let takes = self.random.between(200, 3 * MS);
        self.after(takes, move |w| w.replicate(lead));
    }

    /// Everybody whom the leader reaches gets what it has; what a majority has is done.
    pub(super) fn replicate(&mut self, lead: u64) {
        let Some(group) = self.group.as_ref().filter(|g| g.lead == lead) else { return };
        let Some(leader) = group.leader.filter(|l| self.server_runs(group, *l)) else { return };
        let reached: Vec<bool> = (0..group.servers.len()).map(|s| self.reaches(group, leader, s)).collect();
        let Some(group) = &mut self.group else { return };
        let end = group.servers[leader].has;
        group.servers.iter_mut().zip(&reached).filter(|(_, r)| **r).for_each(|(s, _)| s.has = end);
        let mut held: Vec<u64> = group.servers.iter().filter(|s| s.votes).map(|s| s.has).collect();
        held.sort_unstable_by(|a, b| b.cmp(a));
        let safe = held[group.majority() - 1];
        let ready = usize::try_from(safe.saturating_sub(group.committed)).unwrap_or(0).min(group.pending.len());
        let ready: Vec<u64> = group.pending.drain(..ready).collect();
        group.committed += ready.len() as u64;
        if !ready.is_empty() {
            self.stamp(&reached);
        }
        ready.into_iter().for_each(|id| self.commit(id, Some(leader)));
    }

    /// For what is written from outside of all members.
    pub(super) fn log_one(&mut self) {
        let Some(lead) = self.group.as_ref().map(|g| g.lead) else { return };
        // What came before is done before.
        self.replicate(lead);
        if let Some(group) = &mut self.group
            && let Some(leader) = group.leader
        {
            group.servers[leader].has += 1;
            group.committed += 1;
        }
        self.replicate(lead);
    }

    /// Servers that get the leader's entries learn how far its count of time is.
    pub(super) fn stamp(&mut self, reached: &[bool]) {
        let stamp = signed(self.store_time());
        let late = self.random.between(1, 30);
        let Some(group) = &self.group else { return };
        let here: Vec<i64> = (0..reached.len()).map(|s| signed(self.server_boot(group, s))).collect();
        let Some(group) = &mut self.group else { return };
        let (lead, leader) = (group.lead, group.leader);
        for (number, server) in group.servers.iter_mut().enumerate().filter(|(number, _)| reached[*number]) {
            let late = if Some(number) == leader { 0 } else { i64::try_from(late).unwrap_or(0) };
            server.observe(lead, stamp, here[number] + late);
        }
    }

    /// `answers`: the leader who knows whom to answer.
    pub(super) fn commit(&mut self, id: u64, answers: Option<usize>) {
        let Some((node, op)) = self.store.requests.get(&id).and_then(|r| Some((r.node, r.op.clone()?))) else { return };
        let reply = self.store_apply(op);
        let Some(leader) = answers else { return };
        let reached = self.group.as_ref().is_some_and(|g| self.linked(g, leader, node));
        if !reached || (leader != node && self.random.percent(self.store.lose_answers)) {
            return;
        }
        let hop = if node == leader { self.random.between(50, 300) } else { self.random.between(200, 2 * MS) };
        let travel = hop + self.network.delay(self.end_of(leader), End::Node(node)) + self.store.slow / 2;
        self.after(travel, move |w| w.answer(id, reply));
    }
}
