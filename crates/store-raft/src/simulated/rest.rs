//! Rests: everything heals, and the group has to be whole again within bounded time.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::agent;
use super::play::{Group, SECOND};
use crate::form::SETTLED;
use crate::node::Leader;
use crate::store::RaftStore;
use crate::voters::MOST;

/// After the faults: for writes, and for everything.
const BACK_WITHIN: u64 = 20 * SECOND;
const WHOLE_WITHIN: u64 = 180 * SECOND;

impl Group {
    /// Everything heals, and the group has to be whole again.
    pub fn rest(&mut self) -> Result<(), String> {
        let now = self.now();
        let ongoing = std::mem::take(&mut self.ongoing);
        ongoing.into_iter().for_each(|(_, heal)| self.heal(heal));
        for i in 0..self.processes.len() {
            if self.processes[i].is_none() {
                self.starts[i] = Some(self.starts[i].map_or(now, |at| at.min(now + 2 * SECOND)));
            }
        }
        self.tell("rest".to_owned());
        let begin = self.now();
        // The first time the group is formed, which takes everybody.
        let mut wrote = None;
        let mut base = self.world.lock().history.counts.writes;
        loop {
            self.step()?;
            let since = self.now() - begin;
            let contact =
                (0..self.processes.len()).filter(|i| self.store(*i).is_some_and(|s| *s.node.contact.borrow())).count();
            let stranded = self.stranded();
            if let Some(i) = stranded.filter(|_| since > 5 * SECOND) {
                self.tell(format!("{i} was removed: it comes back with an empty disk"));
                self.returning = Some(i);
                self.replace(i);
                base = self.world.lock().history.counts.writes;
            }
            let writes = self.world.lock().history.counts.writes;
            if wrote.is_none() && contact * 2 > self.processes.len() && writes > base {
                wrote = Some(since);
                self.report.back_after = self.report.back_after.max(since / 1000);
            }
            if wrote.is_none() && since > BACK_WITHIN {
                return Err(format!("no write was acknowledged within {} s after all faults", since / SECOND));
            }
            match self.unfinished() {
                None if wrote.is_none() => {}
                None => break self.report.whole_after = self.report.whole_after.max((self.now() - begin) / 1000),
                Some(why) if since > WHOLE_WITHIN => {
                    return Err(format!("{} s after all faults: {why}", since / SECOND));
                }
                Some(_) => {}
            }
        }
        self.returning = None;
        self.report.rests += 1;
        let mut inner = self.world.lock();
        inner.history.walk();
        match inner.history.violations.first() {
            Some(what) => Err(what.clone()),
            None => Ok(()),
        }
    }

    /// Somebody whom the group does not count among its members, and who may not ask to be let in.
    fn stranded(&self) -> Option<usize> {
        let leader = self.leader()?;
        let members = leader.node.membership();
        (0..self.processes.len()).find(|i| {
            self.store(*i).is_some_and(|s| {
                members.get_node(&s.node.id).is_none() && s.node.disk.meta::<bool>(SETTLED) == Some(true)
            })
        })
    }

    fn leader(&self) -> Option<Arc<RaftStore>> {
        let stores = (0..self.processes.len()).filter_map(|i| self.store(i));
        stores.filter(|s| s.node.leader() == Leader::Me).max_by_key(|s| s.node.raft.metrics().borrow().current_term)
    }

    /// What the group still lacks; `None` once it is whole.
    fn unfinished(&self) -> Option<String> {
        let n = self.processes.len();
        let Some(leader) = self.leader() else { return Some("the group has no leader".into()) };
        let members = leader.node.membership();
        let last = leader.node.raft.metrics().borrow().last_log_index;
        let ids: Option<BTreeSet<u64>> = (0..n).map(|i| self.store(i).map(|s| s.node.id)).collect();
        let known: BTreeSet<u64> = members.nodes().map(|(id, _)| *id).collect();
        if ids != Some(known.clone()) {
            return Some(format!("the members are {known:?}, and there are {ids:?}"));
        }
        let right = if n < 3 { n } else { (n - 1 + n % 2).min(MOST) };
        if members.get_joint_config().len() != 1 || members.voter_ids().count() != right {
            return Some(format!("{right} should vote: {:?}", members.get_joint_config()));
        }
        let clocks = agent::clocks(&self.world);
        if !self.world.lock().history.held(&clocks) {
            return Some("nobody holds the lead".into());
        }
        let mut states = Vec::new();
        for i in 0..n {
            let Some(store) = self.store(i) else { return Some(format!("{i} does not run")) };
            let applied = store.node.raft.metrics().borrow().last_applied.map(|id| id.index);
            if !*store.node.contact.borrow() || applied != last {
                return Some(format!("{i} is at {applied:?}, and the log goes to {last:?}"));
            }
            states.push(store.node.machine.view(""));
        }
        if states.windows(2).any(|pair| pair[0] != pair[1]) {
            self.world.lock().history.violations.push(format!("the nodes have different states at {last:?}"));
        }
        None
    }
}
