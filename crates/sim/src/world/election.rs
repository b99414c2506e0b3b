//! Who leads the embedded store.

use surus_core::store::StoreError;

use super::World;
use super::clock::{MS, True};
use super::group::{NEAR, PATIENCE, Server};
use crate::bug::Bug;

/// After an election that gave no leader.
const PATIENCE_AGAIN: (True, True) = (200 * MS, 900 * MS);

impl World {
    /// Looks who leads the store, now and then.
    pub fn watch_group(&mut self) {
        let Some(group) = &self.group else { return };
        let count = group.servers.len();
        if !group.formed {
            // All have to have been up at the same time once.
            let all = |s: usize| self.server_runs(group, s) && (0..count).all(|o| self.linked(group, s, o));
            if (0..count).all(all) {
                let voters: Vec<usize> = (0..count).filter(|s| group.servers[*s].votes).collect();
                let first = self.random.pick(&voters);
                self.elect(first);
            }
            return self.after(100 * MS, World::watch_group);
        }
        let led = self.led_by(group);
        let follows: Vec<bool> = (0..count).map(|s| led.is_some_and(|l| self.reaches(group, l, s))).collect();
        let candidate = if led.is_some() { None } else { (0..count).find(|s| self.would_win(*s)) };
        let (now, mut changed) = (self.now, vec![]);
        let patience = self.random.between(PATIENCE.0, PATIENCE.1);
        if let Some(group) = &mut self.group {
            for (number, server) in group.servers.iter_mut().enumerate() {
                if follows[number] {
                    (server.heard, server.patience) = (now, patience + number as u64 * 50 * MS);
                }
                if std::mem::replace(&mut group.follows[number], follows[number]) != follows[number] {
                    changed.push(number);
                }
            }
        }
        self.follow(&changed, &follows);
        if let Some(candidate) = candidate {
            self.elect(candidate);
        }
        let fine = led.is_some() && follows.iter().all(|f| *f);
        let wait = self.random.between(if fine { 200 * MS } else { 60 * MS }, if fine { 300 * MS } else { 120 * MS });
        self.after(wait, World::watch_group);
    }

    /// The leader lost sight of these servers, or has them again.
    fn follow(&mut self, changed: &[usize], follows: &[bool]) {
        let members = self.nodes.len();
        for number in changed.iter().copied().filter(|number| *number < members) {
            let wait = self.random.between(MS, if follows[number] { 50 * MS } else { NEAR });
            self.after(wait, move |w| w.watch_settles(number));
            if follows[number] {
                self.deliver(number, false);
            }
        }
        if changed.iter().any(|number| follows[*number])
            && let Some(lead) = self.group.as_ref().map(|g| g.lead)
        {
            self.replicate(lead);
            self.store_goes_on();
        }
    }

    /// A majority would vote for it: nobody of them is near a leader, and nobody has more of the log.
    fn would_win(&self, candidate: usize) -> bool {
        let Some(group) = &self.group else { return false };
        let own = &group.servers[candidate];
        let silent = |s: &Server| self.now.saturating_sub(s.heard) >= NEAR;
        let patient = self.now.saturating_sub(own.heard) < own.patience;
        if !own.votes || patient || !silent(own) || !self.server_runs(group, candidate) {
            return false;
        }
        let votes =
            group.servers.iter().enumerate().filter(|(number, s)| {
                s.votes && silent(s) && s.has <= own.has && self.reaches(group, candidate, *number)
            });
        votes.count() >= group.majority()
    }

    /// What the new leader has is done, whoever asked for it; what it lacks has never been.
    fn elect(&mut self, server: usize) {
        let again = self.random.between(PATIENCE_AGAIN.0, PATIENCE_AGAIN.1);
        let now = self.now;
        let jump = if self.is(Bug::StoreTimeJumps) { self.plan.timing.ttl.as_millis() } else { 0 };
        let Some(group) = &mut self.group else { return };
        let old = group.lead;
        let has = group.servers[server].has;
        let kept = usize::try_from(has.saturating_sub(group.committed)).unwrap_or(0).min(group.pending.len());
        let kept: Vec<u64> = group.pending.drain(..kept).collect();
        group.pending.clear();
        (group.formed, group.leader, group.lead) = (true, Some(server), old + 1);
        group.ahead = group.servers[server].ahead + i64::try_from(jump).unwrap_or(0);
        // An entry of its own begins each leadership.
        group.committed = has + 1;
        for s in &mut group.servers {
            s.has = s.has.min(has);
            s.patience = s.patience.max(again);
        }
        group.servers[server].has = has + 1;
        group.servers[server].heard = now;
        let name = self.nodes.get(server).map_or("the witness".to_owned(), |n| n.name.to_string());
        self.tell_world(|| format!("store: {name} is elected"));
        kept.into_iter().for_each(|id| self.commit(id, None));
        let Some(lead) = self.group.as_ref().map(|g| g.lead) else { return };
        self.replicate(lead);
        let group = self.group.as_ref();
        let reached = group.map(|g| (0..g.servers.len()).map(|s| self.reaches(g, server, s)).collect::<Vec<_>>());
        self.stamp(&reached.unwrap_or_default());
        self.store_goes_on();
        self.tell_of_election(old);
    }

    /// Who waits for an answer of the old leader hears that there is another one.
    fn tell_of_election(&mut self, old: u64) {
        let waiting = self.store.requests.iter().filter(|(_, r)| r.sent_to == Some(old) && r.reply.is_none());
        let waiting: Vec<(u64, bool)> = waiting.map(|(id, r)| (*id, r.once)).collect();
        for (id, once) in waiting {
            let wait = self.random.between(5 * MS, 100 * MS);
            self.after(wait, move |w| {
                if !once {
                    w.submit(id);
                } else if w.store.requests.get(&id).is_some_and(|r| r.reply.is_none()) {
                    w.answer(id, Err(StoreError::OutcomeUnknown("the Raft leader changed".into())));
                }
            });
        }
    }
}
