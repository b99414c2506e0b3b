//! A primary without the store: who is asked to vouch for it, and when, and what the store says about it.
//!
//! What members promise, and how many of them are enough, is [`surus_core::failsafe`]'s.

mod adopt;
mod asking;

use std::collections::BTreeMap;
use std::time::Duration;

use surus_core::cluster::KeyVersion;
use surus_core::facts::Facts;
use surus_core::failsafe::{self, Electors, List, Of, Vouching};
use surus_core::store::{Failing, StoreResult, TxnOutcome};
use surus_core::{BootTime, MemberName};
use tracing::{info, warn};

pub use self::adopt::Adoption;
pub use self::asking::{Answers, Asking};
use crate::lease::LeaseState;

/// A member that takes longer does not vouch.
pub const ANSWER: Duration = Duration::from_secs(2);
/// Pause after a write that failed.
const RETRY: Duration = Duration::from_millis(500);

/// A write of the list and of whom members may vouch for (`ClusterStore::write_vouching`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub failsafe: Option<String>,
    pub vouching: String,
    pub over: Option<KeyVersion>,
}

/// What the leader has written about it, as far as is certain.
///
/// Before a list is written, whoever asks has to go by it: [`Ledger::electors`] has it at once under a new epoch, and it is
/// written when the lease keeper takes nothing else any more and nothing rests on an older one. So a right to go on that
/// was won by one list is over, or covered by the lease, before another list is in the store.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Version of the lead under which it counts. A successor cannot know what a process before it still has under way, so
    /// each process begins with a write of its own: whatever arrives after that is refused.
    reign: Option<u64>,
    /// Certainly in the store, under this version, unless one of `maybe` is.
    confirmed: Option<(List, KeyVersion)>,
    /// Written with an unknown outcome since.
    maybe: Vec<List>,
    /// Confirmed under an earlier lead of this process, with nothing else under way.
    earlier: Option<(List, KeyVersion)>,
    planned: Option<List>,
    under_way: Option<List>,
    epoch: u64,
    not_before: BootTime,
    failing: Failing,
    /// Since when members of the list have no key in the store.
    absent: BTreeMap<MemberName, BootTime>,
}

impl Ledger {
    /// What to write now, in the background; what became of it is told by [`Ledger::written`]. Asked after each step; if
    /// the epoch is another one afterwards, asked again once the lease keeper knows that.
    pub fn next(&mut self, facts: &Facts, lease: &LeaseState) -> Option<Write> {
        let reign = facts.lead.map(|l| l.version);
        if reign != self.reign {
            let (epoch, under_way) = (self.epoch + 1, self.under_way.take());
            let certain = under_way.is_none() && self.maybe.is_empty();
            let earlier = self.confirmed.take().or(self.earlier.take()).filter(|_| certain);
            *self = Ledger { reign, epoch, under_way, earlier, ..Ledger::default() };
        }
        let lead = facts.lead.filter(|lead| lease.lead.is_some_and(|now| now.version == lead.version))?;
        let view = facts.store.view.as_deref().filter(|_| facts.store.broken.is_none())?;
        let primary = facts.postgres.observed().is_some_and(|o| !o.in_recovery);
        if !primary || view.revision < lead.version || view.leader_name() != Some(&facts.me) {
            return None;
        }
        if let Some((list, version)) = self.earlier.take()
            && view.vouching_version == Some(version)
            && view.failsafe.as_ref() == Some(&list.names)
        {
            // Nobody has written it since, and nobody but this process could do it now. A store that is there for moments
            // may be gone before it could be written once more. Patroni writes the names without the other key.
            tell(&list);
            self.confirmed = Some((list, version));
            self.epoch += 1;
        }
        if Asking::needed(lease) || lease.vouched.is_some() || self.under_way.is_some() {
            return None;
        }
        let wanted = self.wanted(facts);
        let none_there =
            view.vouching_version.is_none() || view.vouching.as_ref().is_some_and(|v| v.value.of == Of::None);
        let there = match &self.confirmed {
            Some((list, _)) => *list == wanted,
            None => wanted.of == Of::None && none_there,
        };
        if there && self.maybe.is_empty() || facts.task.is_some() || facts.now < self.not_before {
            return None;
        }
        if self.planned.as_ref() != Some(&wanted) {
            self.planned = Some(wanted);
            self.epoch += 1;
            return None;
        }
        let wanted = self.planned.take_if(|_| lease.electors == self.epoch)?;
        // What I wrote may not have been seen yet.
        let over = self.confirmed.as_ref().map(|c| c.1).max(view.vouching_version);
        let vouching = Vouching { leader: facts.me.clone(), of: wanted.of }.to_text();
        let names = (wanted.of != Of::None).then(|| wanted.to_text());
        self.under_way = Some(wanted);
        Some(Write { failsafe: names, vouching, over })
    }

    /// A write waits for the lease keeper to know of it.
    pub fn waits(&self, lease: &LeaseState) -> bool {
        self.planned.is_some() && lease.electors != self.epoch
    }

    /// Changes with whom I may ask.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whoever is gone for a moment only, stays: a store that lost its sessions must not leave the leader alone in the list.
    fn wanted(&mut self, facts: &Facts) -> List {
        let Some(view) = facts.store.view.as_deref() else { return List { names: BTreeMap::new(), of: Of::None } };
        let mut wanted = failsafe::wanted(facts, view);
        // After an outage of the store all keys are gone, and each comes back when its member finds that out. While another
        // list is being written both count, and the store may go away again just then.
        let patience = facts.settings.timing.retry_timeout + facts.settings.timing.ttl / 2;
        let before = view.failsafe.iter().flatten();
        for (name, url) in before {
            if wanted.names.contains_key(name) {
                self.absent.remove(name);
            } else if facts.now.since(*self.absent.entry(name.clone()).or_insert(facts.now)) < patience {
                wanted.names.insert(name.clone(), url.clone());
            }
        }
        wanted
    }

    pub fn written(&mut self, written: StoreResult<TxnOutcome>, lead: Option<u64>, now: BootTime) {
        let Some(list) = self.under_way.take() else { return };
        if lead.is_none() || lead != self.reign {
            return;
        }
        match written {
            Ok(TxnOutcome::Applied(version)) => {
                tell(&list);
                self.failing.over();
                self.maybe.clear();
                self.confirmed = (list.of != Of::None).then_some((list, version));
            }
            // Somebody wrote it who does not lead, or an earlier write of mine arrived: seen by the next view.
            Ok(TxnOutcome::Conflict) => self.not_before = now + RETRY,
            Err(e) => {
                if matches!(e, surus_core::store::StoreError::OutcomeUnknown(_)) {
                    self.maybe.push(list);
                }
                if self.failing.is_news(&e) {
                    warn!("who may vouch for the leader could not be written, trying again: {e}");
                }
                self.not_before = now + RETRY;
            }
        }
    }

    /// Whom I may ask while the store is away. `None`: nobody.
    pub fn electors(&self, facts: &Facts) -> Option<Electors> {
        let reign = facts.lead.map(|l| l.version);
        let (confirmed, _) = self.confirmed.as_ref().filter(|_| reign.is_some() && reign == self.reign)?;
        let on = facts.store.view.as_deref().is_some_and(|view| failsafe::switched(facts, view));
        if !on || !facts.postgres.is_primary() {
            return None;
        }
        let unsure = self.maybe.iter().chain(&self.planned).chain(&self.under_way);
        let lists = [confirmed].into_iter().chain(unsure).cloned().collect();
        let foreign = facts.store.view.as_deref().map(failsafe::foreign).unwrap_or_default();
        Some(Electors { epoch: self.epoch, lists, foreign })
    }
}

fn tell(list: &List) {
    match list.of {
        Of::None => info!("members do not vouch for a leader without the store any more"),
        of => info!(
            "without the store the leader needs {} of {} to vouch for it ({}){}",
            list.vouchers(),
            list.names.len(),
            list.names.keys().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            if of == Of::All { ", as Patroni members ask nobody" } else { "" },
        ),
    }
}

#[cfg(test)]
mod tests;
