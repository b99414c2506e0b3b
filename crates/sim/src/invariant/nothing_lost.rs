//! **Nothing acknowledged is lost** in synchronous or quorum mode, over any sequence of failovers.
//!
//! In simulation, as far as it is built:
//!
//! - A planned switchover loses nothing, in any mode: when a handover ended with the lead released to a member and that
//!   member is promoted next, its log has every commit that was ever acknowledged on the log it continues.
//! - An asynchronous failover loses at most what the settings allow: whoever takes the lead without having been named by an
//!   operator is at most `maximum_lag_on_failover` behind the position last published in the store. What it lacks counts,
//!   where it forked from the log in which that position is, and not the difference of two numbers.
//! - A member whose log left that of the last leader, by the history in the store, does not take the lead unless an operator
//!   named it.
//! - It also loses no more than it must: of members that could be asked and could lead, one that has less than
//!   another does not take the lead, unless the other had most of a `ttl` to come forward. One whose log left that of the
//!   last leader could not.
//! - In synchronous and quorum mode nothing that was ever acknowledged is lost, from when the `sync` key was first written,
//!   whoever is promoted, unless an operator named a member without regard to it (`surus failover`). That counts until
//!   it is promoted, also when that takes several attempts, if the first got as far as naming it in the key.
//! - No server runs on what a rewind left that broke off: blocks of a history that it leaves would stay in its tables.
//! - In mode `on` only a member that the key names takes the lead without an operator's word.

use std::collections::BTreeMap;

use super::Invariant;
use super::excuse::Excuses;
use crate::history::Happened;
use crate::plan::us;
use crate::world::World;
use crate::world::clock::{SECOND, True};
use crate::world::network::End;
use crate::world::node::Node;
use crate::world::wal::{Log, Place};
use surus_core::facts::TaskDone;
use surus_core::order::{Demote, Task};
use surus_core::settings::SynchronousMode;

const HAD: usize = 3;

#[derive(Default)]
pub struct NothingLost {
    /// Acknowledged positions of each stretch of log.
    acknowledged: BTreeMap<u64, Vec<u64>>,
    /// A handover was done: to whom.
    planned: Option<usize>,
    leaderless: Option<True>,
    reign: u64,
    /// Since when each member has been one, could be asked and could come forward.
    there: [Option<True>; 8],
    /// How far the log of each went at the last looks. What came after the question was asked nobody could know: a
    /// former leader that wakes up, or is reached again, still sends what it has.
    had: [[u64; HAD]; 8],
    /// When a server last could send log.
    sent: True,
    lost_now: u64,
    /// An operator named it as the leader, whatever it lacks, and it was not promoted since.
    forced: Option<usize>,
    /// The log of the last leader, as of the end of its lead.
    last: Option<Log>,
    excuses: Excuses,
    /// The sync key was there when the last leader took the lead, and has been since.
    promised: bool,
}

impl NothingLost {
    /// How many acknowledged commits a log lacks; they are not counted again.
    fn lost(&mut self, log: &Log) -> usize {
        let mut lost = 0;
        for (stretch, places) in &mut self.acknowledged {
            let before = places.len();
            places.retain(|lsn| log.contains(Place { stretch: *stretch, lsn: *lsn }));
            lost += before - places.len();
        }
        lost
    }

    /// Another was to lead by now, and nobody could stop this one in time.
    fn usurps(&self, w: &World, node: usize) -> bool {
        self.excuses.excused(w, node) && w.store.view().leader_name() != Some(&w.nodes[node].name)
    }

    fn look_who_is_there(&mut self, w: &World) {
        for node in 0..w.nodes.len() {
            self.there[node] = if is_there(w, node) { self.there[node].or(Some(w.now)) } else { None };
            self.had[node].rotate_left(1);
            self.had[node][HAD - 1] = w.nodes[node].postgres.log().map_or(0, |l| l.end);
        }
    }

    fn takes_the_lead(&self, w: &World, node: usize) -> Option<String> {
        let view = w.store.view();
        let server = w.nodes[node].postgres.server.as_ref()?;
        let log = w.nodes[node].postgres.log()?;
        if server.primary || view.failover.is_some() {
            return None;
        }
        let name = &w.nodes[node].name;
        let document = view.config.as_ref().map(|c| c.value.clone()).unwrap_or_default();
        let settings = surus_config::DynamicConfig::read(&document).0.settings;
        let behind = log.lsn().behind(view.status.optime);
        if behind > settings.maximum_lag_on_failover {
            return Some(format!("{name} took the lead {behind} bytes behind the last leader"));
        }
        // Of what was published under a timeline that it lacks, how much that is in truth.
        if let Some(last) = self.last.as_ref().filter(|_| !settings.standby_cluster) {
            let published = view.status.optime.0;
            let lacks = last.beyond(log).saturating_sub(last.end.saturating_sub(published));
            if published > last.stretches.last().map_or(0, |s| s.start)
                && published <= last.end
                && lacks > settings.maximum_lag_on_failover
            {
                return Some(format!(
                    "{name} took the lead and lacks {lacks} bytes that the last leader had published"
                ));
            }
        }
        let knows = self.there[node].is_some_and(|since| w.now > since + 5 * SECOND);
        if let Some(at) = forked(w, node).filter(|_| knows && !settings.standby_cluster) {
            return Some(format!(
                "{name} took the lead although its log left the cluster's at {}",
                surus_core::Lsn(at)
            ));
        }
        let named = view.sync.as_ref().filter(|_| settings.synchronous_mode == SynchronousMode::On);
        if let Some(sync) = named
            && !sync.value.lists(name)
            && !sync.value.is_leader(name)
        {
            return Some(format!("{name} took the lead and is no synchronous standby"));
        }
        // Who was better placed had time to be asked, and time to come forward.
        let asked = self.leaderless.is_some_and(|at| w.now > at + 500_000 && w.now < at + us(settings.timing.ttl) / 2)
            && w.now > self.sent + 3 * SECOND;
        let better = (0..w.nodes.len()).find(|other| {
            let n = &w.nodes[*other];
            // In synchronous and quorum mode one may have more than was ever acknowledged, and not be asked.
            let listed = view.sync.as_ref().filter(|_| settings.synchronous_mode != SynchronousMode::Off);
            let counts = listed.is_none_or(|s| s.value.lists(&n.name));
            *other != node
                && asked
                && counts
                && is_there(w, *other)
                && self.there[*other].is_some_and(|since| w.now > since + 5 * SECOND)
                && w.network.both_ways(End::Node(node), End::Node(*other))
                && n.postgres.log().is_some_and(|theirs| log.continues_into(theirs) && theirs.end > log.end)
                && self.had[*other][0] > log.end
                && forked(w, *other).is_none()
        });
        better.map(|other| format!("{name} took the lead although n{} has more of the log", other + 1))
    }
}

/// Where the log here left that of the last leader, by the history that one has written.
fn forked(w: &World, node: usize) -> Option<u64> {
    let (view, log) = (w.store.view(), w.nodes[node].postgres.log()?);
    let left = view.history.as_ref()?.0.iter().find(|row| row.timeline == log.timeline())?;
    (log.end > left.switch_lsn.0).then_some(left.switch_lsn.0)
}

/// A member that could be asked and could come forward.
fn is_there(w: &World, node: usize) -> bool {
    let n = &w.nodes[node];
    let key = w.store.view().members.get(&n.name).is_some_and(|m| m.api_url.is_some());
    let watches = n.agent.as_ref().is_some_and(|a| a.connected) && !w.store.stalled[node];
    let quick = w.store.slow == 0 && w.store.lose_answers == 0 && w.store.half.is_whole(node);
    let reaches = w.reaches_store(node) && w.store_delay(node) == 0;
    key && watches && quick && reaches && n.agent_runs() && n.fence.alive && n.postgres.serves()
}

impl Invariant for NothingLost {
    fn name(&self) -> &'static str {
        "nothing acknowledged is lost"
    }

    fn lost_now(&mut self) -> u64 {
        std::mem::take(&mut self.lost_now)
    }

    fn sees(&mut self, w: &World, what: &Happened) -> Option<String> {
        self.excuses.sees(w, what);
        match what {
            // What a primary that was left alone acknowledges is for the first promise to judge.
            Happened::Acknowledged(ack) if ack.place.stretch >= self.reign && !self.usurps(w, ack.node) => {
                self.acknowledged.entry(ack.place.stretch).or_default().push(ack.place.lsn);
                self.sent = w.now;
            }
            Happened::Tick => {
                self.look_who_is_there(w);
                // What the other site did not get is lost when this one follows it.
                self.planned = self.planned.filter(|_| !w.follows_remote());
                let torn = |n: &Node| {
                    n.postgres.server.is_some() && n.postgres.data.as_ref().is_some_and(|d| d.torn.is_some())
                };
                let torn = w.nodes.iter().find(|n| torn(n))?;
                return Some(format!("{} runs on what a rewind left that broke off", torn.name));
            }
            Happened::TaskEnded {
                node,
                task: Task::Demote(Demote::Handover { to, .. }),
                outcome: Ok(TaskDone::Released),
            } => {
                // Heard late, where answers get lost: somebody may have been promoted meanwhile, and this is over.
                let primary = |n: usize| w.nodes[n].postgres.server.as_ref().is_some_and(|s| s.primary);
                let leads = w.store.view().leader_name().and_then(|name| w.number(name));
                let open = |to: &usize| leads.is_none_or(|leads| leads == *to && !primary(leads));
                self.planned = w.number(to).filter(|to| to != node).filter(open);
            }
            Happened::Leader { from, to } => {
                if let Some(from) = from.filter(|from| Some(*from) != *to) {
                    let n = &w.nodes[from];
                    self.last = n.postgres.log().cloned();
                }
                let before = self.leaderless;
                self.leaderless = if to.is_none() { before.or(Some(w.now)) } else { None };
                if to.is_some() {
                    let view = w.store.view();
                    let manual = view.failover.as_ref().is_some_and(|f| f.value.leader.is_none());
                    let in_key = |name| view.sync.as_ref().is_some_and(|s| s.value.is_leader(name));
                    let again = self.forced.filter(|node| to == &Some(*node) && in_key(&w.nodes[*node].name));
                    self.forced = if manual { *to } else { again };
                    // What is not known by the key was acknowledged under no promise.
                    self.promised = view.sync.is_some();
                }
                if let (None, Some(node)) = (from, to) {
                    let last = self.last.clone();
                    let found = NothingLost { leaderless: before, acknowledged: BTreeMap::new(), last, ..*self };
                    return found.takes_the_lead(w, *node);
                }
            }
            Happened::Promoted { node, .. } if !self.usurps(w, *node) => {
                let forced = self.forced.take() == Some(*node);
                let log = w.nodes[*node].postgres.log()?;
                self.reign = log.place().stretch;
                let lost = self.lost(log);
                self.lost_now += lost as u64;
                if lost > 0 && self.promised && !forced {
                    return Some(format!(
                        "n{} was promoted without {lost} commits acknowledged in synchronous mode",
                        node + 1
                    ));
                }
                let planned = self.planned.take();
                if planned == Some(*node) && lost > 0 {
                    return Some(format!("a planned switchover to n{} lost {lost} acknowledged commits", node + 1));
                }
            }
            Happened::BeganToWrite { .. } => self.planned = None,
            _ => {}
        }
        None
    }
}
