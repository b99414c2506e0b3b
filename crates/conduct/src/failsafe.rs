//! A primary without the store: who is asked to vouch for it, and when, and what the store says about it.
//!
//! What members promise, and how many of them are enough, is [`surus_core::failsafe`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_core::cluster::KeyVersion;
use surus_core::facts::Facts;
use surus_core::failsafe::{self, Electors, List, Of, Vouching};
use surus_core::settings::Timing;
use surus_core::store::{StoreResult, TxnOutcome};
use surus_core::{BootTime, MemberName};
use tracing::{info, warn};

use crate::lease::{self, LeaseState};

/// A member that takes longer does not vouch.
pub const ANSWER: Duration = Duration::from_secs(2);
/// From one question to the next while too few vouch.
const AGAIN: Duration = Duration::from_secs(1);
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
    /// Version of the lead under which it was written. A successor cannot know what a process before it still has under
    /// way, so each begins with a write of its own: whatever arrives after that is refused.
    reign: Option<u64>,
    /// Certainly in the store, under this version, unless one of `maybe` is.
    confirmed: Option<(List, KeyVersion)>,
    /// Written with an unknown outcome since.
    maybe: Vec<List>,
    planned: Option<List>,
    under_way: Option<List>,
    epoch: u64,
    not_before: BootTime,
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
            *self = Ledger { reign, epoch, under_way, ..Ledger::default() };
        }
        let lead = facts.lead.filter(|lead| lease.lead.is_some_and(|now| now.version == lead.version))?;
        let view = facts.store.view.as_deref().filter(|_| facts.store.broken.is_none())?;
        let primary = facts.postgres.observed().is_some_and(|o| !o.in_recovery);
        let settled = !Asking::needed(lease) && lease.vouched.is_none() && self.under_way.is_none();
        if !primary || view.revision < lead.version || view.leader_name() != Some(&facts.me) || !settled {
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
        let patience = facts.settings.timing.retry_timeout;
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
                self.maybe.clear();
                self.confirmed = (list.of != Of::None).then_some((list, version));
            }
            // Somebody wrote it who does not lead, or an earlier write of mine arrived: seen by the next view.
            Ok(TxnOutcome::Conflict) => self.not_before = now + RETRY,
            Err(e) => {
                if matches!(e, surus_core::store::StoreError::OutcomeUnknown(_)) {
                    self.maybe.push(list);
                }
                warn!("who may vouch for the leader could not be written, trying again: {e}");
                self.not_before = now + RETRY;
            }
        }
    }

    /// Whom I may ask while the store is away. `None`: nobody.
    pub fn electors(&self, facts: &Facts) -> Option<Electors> {
        let reign = facts.lead.map(|l| l.version);
        let (confirmed, _) = self.confirmed.as_ref().filter(|_| reign.is_some() && reign == self.reign)?;
        if !facts.settings.failsafe_mode || !facts.postgres.is_primary() {
            return None;
        }
        let unsure = self.maybe.iter().chain(&self.planned).chain(&self.under_way);
        let lists = [confirmed].into_iter().chain(unsure).cloned().collect();
        let foreign = facts.store.view.as_deref().map(failsafe::foreign).unwrap_or_default();
        Some(Electors { epoch: self.epoch, lists, foreign })
    }
}

struct Round {
    sent: BootTime,
    electors: Electors,
    by: BTreeSet<MemberName>,
    waiting: BTreeSet<MemberName>,
    enough: bool,
}

/// When a primary asks members to vouch for it. Beside the lease keeper, and as independent of decisions.
#[derive(Default)]
pub struct Asking {
    round: Option<Round>,
    next: BootTime,
    said: bool,
}

impl Asking {
    /// The lead hangs on it, or soon will.
    pub fn needed(lease: &LeaseState) -> bool {
        lease.lead.is_some() && (lease.failing.is_some() || lease.unbound)
    }

    pub fn due(&self) -> BootTime {
        self.next
    }

    /// Begins a round, if one is due: these are to be asked now. `me_too`: I have promised it to myself.
    pub fn begin(
        &mut self,
        me: &MemberName,
        electors: Electors,
        me_too: bool,
        now: BootTime,
    ) -> BTreeMap<MemberName, String> {
        let whom = electors.to_ask(me);
        let by = me_too.then(|| me.clone()).into_iter().collect();
        self.next = now + AGAIN;
        self.round = Some(Round { sent: now, electors, by, waiting: whom.keys().cloned().collect(), enough: false });
        whom
    }

    /// Who vouches, and since when that was asked for: once for each round, as soon as they are enough.
    /// With the epoch of whom was asked, for [`lease::Keeper::vouched`].
    pub fn enough(&mut self, timing: &Timing) -> Option<(BootTime, BTreeSet<MemberName>, u64)> {
        let round = self.round.as_mut().filter(|r| !r.enough && r.electors.suffice(&r.by))?;
        round.enough = true;
        self.next = round.sent + lease::every(timing).min(timing.ttl / 4);
        let by = round.by.clone();
        if !std::mem::replace(&mut self.said, true) {
            let names = by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            info!("the store does not renew the leader lock; going on as the leader, vouched for by {names}");
        }
        Some((round.sent, by, round.electors.epoch))
    }

    /// What one of them answered to the question that was sent at `sent`.
    pub fn answered(&mut self, sent: BootTime, name: MemberName, vouches: Result<(), String>) {
        let Some(round) = self.round.as_mut().filter(|r| r.sent == sent) else { return };
        round.waiting.remove(&name);
        match vouches {
            Ok(()) => _ = round.by.insert(name),
            Err(why) => warn!("{name} does not vouch for me: {why}"),
        }
    }

    /// The store is back.
    pub fn over(&mut self) {
        if std::mem::take(&mut self.said) {
            info!("the store renews the leader lock again");
        }
        self.round = None;
    }
}

#[cfg(test)]
mod tests;
