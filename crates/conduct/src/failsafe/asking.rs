//! When a primary asks members to vouch for it, and what they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_core::failsafe::Electors;
use surus_core::settings::Timing;
use surus_core::{BootTime, MemberName};
use tracing::{info, warn};

use crate::lease::{self, LeaseState};

/// From one question to the next while too few vouch.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

struct Round {
    sent: BootTime,
    electors: Electors,
    by: BTreeSet<MemberName>,
    waiting: BTreeSet<MemberName>,
    enough: bool,
}

/// For people: what came of the questions so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Who vouches, I included; `Err`: who does not, and why.
    pub of: BTreeMap<MemberName, Result<(), String>>,
    /// They are enough.
    pub enough: bool,
}

/// Beside the lease keeper, and as independent of decisions.
#[derive(Default)]
pub struct Asking {
    round: Option<Round>,
    next: BootTime,
    said: bool,
    said_blocked: bool,
    /// The newest answer of each, and to the question of which moment.
    newest: BTreeMap<MemberName, (BootTime, Result<(), String>)>,
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
        self.say_blocked();
        self.newest.retain(|name, _| whom.contains_key(name));
        let mine = if me_too { Ok(()) } else { Err("it has promised another member something".to_owned()) };
        self.newest.insert(me.clone(), (now, mine));
        let by = me_too.then(|| me.clone()).into_iter().collect();
        self.next = now + AGAIN;
        self.round = Some(Round { sent: now, electors, by, waiting: whom.keys().cloned().collect(), enough: false });
        whom
    }

    /// The round before was not enough. Who does not vouch was said of each.
    fn say_blocked(&mut self) {
        let Some(answers) = self.answers().filter(|answers| !answers.enough) else { return };
        if !std::mem::replace(&mut self.said_blocked, true) {
            let vouching = answers.of.values().filter(|said| said.is_ok()).count();
            warn!(
                "the store does not renew the leader lock, and only {vouching} of {} members vouch for me so far: PostgreSQL \
                 stops before the lead ends, unless more do or the store is back",
                answers.of.len()
            );
        }
    }

    /// Who vouches, and since when that was asked for: once for each round, as soon as they are enough.
    /// With the epoch of whom was asked, for [`lease::Keeper::vouched`].
    pub fn enough(&mut self, timing: &Timing) -> Option<(BootTime, BTreeSet<MemberName>, u64)> {
        let round = self.round.as_mut().filter(|r| !r.enough && r.electors.suffice(&r.by))?;
        round.enough = true;
        self.said_blocked = false;
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
        self.note(sent, &name, &vouches);
        let Some(round) = self.round.as_mut().filter(|r| r.sent == sent) else { return };
        round.waiting.remove(&name);
        if vouches.is_ok() {
            round.by.insert(name);
        }
    }

    /// An answer that does not come is known when its round is long over. Said once, until it changes.
    fn note(&mut self, sent: BootTime, name: &MemberName, vouches: &Result<(), String>) {
        let before = self.newest.get(name);
        if before.is_some_and(|(at, _)| sent < *at) {
            return;
        }
        match (before.map(|(_, said)| said), vouches) {
            (None | Some(Ok(())), Err(why)) => warn!("{name} does not vouch for me: {why}"),
            (Some(Err(_)), Ok(())) => info!("{name} vouches for me now"),
            _ => {}
        }
        self.newest.insert(name.clone(), (sent, vouches.clone()));
    }

    /// `None`: nobody is asked.
    pub fn answers(&self) -> Option<Answers> {
        let round = self.round.as_ref()?;
        let unheard = round.waiting.iter().map(|name| (name.clone(), Err("it has not answered yet".to_owned())));
        let known = self.newest.iter().map(|(name, (_, said))| (name.clone(), said.clone()));
        let vouching = self.newest.iter().filter(|(_, (_, said))| said.is_ok()).map(|(name, _)| name.clone()).collect();
        Some(Answers { of: unheard.chain(known).collect(), enough: round.enough || round.electors.suffice(&vouching) })
    }

    /// The store is back, or the lead is over.
    pub fn over(&mut self, lease: &LeaseState) {
        if std::mem::take(&mut self.said) {
            if lease.lead.is_some() {
                info!("the store renews the leader lock again");
            } else {
                info!(
                    "not the leader any more: the store did not renew the leader lock, and nobody is asked to vouch for me now"
                );
            }
        }
        self.said_blocked = false;
        self.round = None;
        self.newest.clear();
    }
}
