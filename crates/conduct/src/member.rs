//! What a member does between its facts and its deeds: what a step is shown, which order comes when, what ends a
//! lead, and how long anything may be waited for.
//!
//! The driver waits for something to happen and tells it here, gathers facts, calls [`Member::decide`], and does what
//! [`Member::next`] hands out, one deed after the other, until there is none left. What became of a deed is told
//! before the next one is asked for.

mod deeds;
mod sync;
mod wait;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use surus_core::cluster::KeyVersion;
use surus_core::facts::{Facts, FinishedTask, Lead, PeerFact, RunningTask};
use surus_core::failsafe::{self, Electors, Promises};
use surus_core::memory::Memory;
use surus_core::order::{Epoch, Order, Request};
use surus_core::report::Report;
use surus_core::rules::stop_reserve;
use surus_core::settings::Timing;
use surus_core::store::{Failing, Followed, Revision, StoreResult, TxnOutcome};
use surus_core::{BootTime, MemberName, Step};

use crate::failsafe::{Adoption, Ledger, Write};
use crate::lease::LeaseState;

pub use deeds::{Deed, PROBE, WRITE};
use sync::Sync;
pub use wait::{Ended, differ, positionless};

/// `Ok`: done, or accepted for later. `Err`: not done, and why.
pub type Said = Result<String, String>;

/// What an earlier process of this member leaves about its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inherited {
    /// Its lead was good until then.
    Until(BootTime),
    /// The cluster was paused, and the store knew that this primary is left alone.
    Unguarded,
}

impl Inherited {
    pub fn until(self) -> Option<BootTime> {
        match self {
            Inherited::Until(until) => Some(until),
            Inherited::Unguarded => None,
        }
    }
}

struct Running {
    task: RunningTask,
    cancelled: bool,
}

/// A request that a step has yet to answer.
struct Asked<T> {
    request: Request,
    /// How long the start may take that it asks for.
    timeout: Option<Duration>,
    whom: T,
}

/// `T` is whom the driver answers a request to.
pub struct Member<T> {
    me: MemberName,
    memory: Memory,
    /// The view of the latest step, to tell changes that matter from those that do not.
    seen: Arc<Followed>,
    inherited: Option<Inherited>,
    running: Option<Running>,
    finished: Option<FinishedTask>,
    peers: BTreeMap<MemberName, PeerFact>,
    asking: BTreeMap<MemberName, BootTime>,
    asked: Option<Asked<T>>,
    /// Who is answered when the task of this epoch ends.
    answering: Option<(Epoch, T)>,
    /// Until when others have consented to me, or why not.
    consents: BTreeMap<MemberName, Result<BootTime, String>>,
    /// The revision on which I took the lead that I hold.
    took_on: Option<Revision>,
    taking_fails: Failing,
    ledger: Ledger,
    adoption: Adoption,
    shutdown: bool,
    sync: Sync,

    /// Of the latest decision, and not carried out yet.
    orders: VecDeque<Order>,
    reply: Option<Said>,
    begun: Option<Epoch>,
    /// A failover request that was met by taking the lead.
    met: Option<KeyVersion>,
    end: Option<Result<(), String>>,
    /// When the latest step looked at everything.
    stepped: BootTime,
    again_at: BootTime,
}

impl<T> Member<T> {
    pub fn new(me: MemberName, seen: Arc<Followed>, inherited: Option<Inherited>, now: BootTime) -> Member<T> {
        Member {
            me,
            memory: Memory::default(),
            seen,
            inherited,
            running: None,
            finished: None,
            peers: BTreeMap::new(),
            asking: BTreeMap::new(),
            asked: None,
            answering: None,
            consents: BTreeMap::new(),
            took_on: None,
            taking_fails: Failing::default(),
            ledger: Ledger::default(),
            adoption: Adoption::default(),
            shutdown: false,
            sync: Sync::default(),
            orders: VecDeque::new(),
            reply: None,
            begun: None,
            met: None,
            end: None,
            stepped: now,
            again_at: now,
        }
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn seen(&self) -> &Arc<Followed> {
        &self.seen
    }

    pub fn inherited(&self) -> Option<BootTime> {
        self.inherited.and_then(Inherited::until)
    }

    /// For [`Facts::unguarded`]. What the store says counts as soon as it has said anything.
    pub fn unguarded(&self) -> bool {
        match self.seen.view.as_deref() {
            Some(view) => view.unguarded.as_ref().is_some_and(|u| u.value == self.me),
            None => self.inherited == Some(Inherited::Unguarded),
        }
    }

    /// What the fence of an earlier process still waits for. It heard of every renewal; what was written about them may
    /// be older, for a disk that hung.
    pub fn inherit(&mut self, armed: Option<BootTime>) {
        if let Some(armed) = armed.filter(|_| self.inherited != Some(Inherited::Unguarded)) {
            let until = self.inherited().map_or(armed, |until| until.max(armed));
            self.inherited = Some(Inherited::Until(until));
        }
    }

    /// For a successor of this process.
    pub fn leaves(&self, lead: Option<Lead>, pause: bool) -> Option<Inherited> {
        if self.seen.view.is_none() {
            // What was found still holds: nothing has been learnt since.
            return self.inherited;
        }
        if pause && self.unguarded() {
            return Some(Inherited::Unguarded);
        }
        // An agent that is replaced twice before it has its lead again still owes what the first one may have ordered.
        lead.map(|l| l.until).or(self.inherited()).map(Inherited::Until)
    }

    pub fn task(&self) -> Option<&RunningTask> {
        self.running.as_ref().map(|r| &r.task)
    }

    /// For the next step, and no other.
    pub fn finished(&self) -> Option<&FinishedTask> {
        self.finished.as_ref()
    }

    pub fn peers(&self) -> &BTreeMap<MemberName, PeerFact> {
        &self.peers
    }

    /// Shown again until a step has answered it.
    pub fn request(&self) -> Option<Request> {
        self.asked.as_ref().map(|a| a.request)
    }

    pub fn shutdown(&self) -> bool {
        self.shutdown
    }

    /// The next step comes then at the latest.
    pub fn again_at(&self) -> BootTime {
        self.again_at
    }

    pub fn sooner(&mut self, at: BootTime) {
        self.again_at = self.again_at.min(at);
    }

    /// The view a step begins with. Returns the revision as of which the lease keeper has lost its lead: the store is
    /// the judge, and a newer view that names somebody else, or nobody (then with `true`), ends my lead.
    pub fn take_in_view(&mut self, seen: Arc<Followed>, lead: Option<Lead>) -> Option<(Revision, bool)> {
        self.seen = seen;
        let view = self.seen.view.as_deref().filter(|_| self.seen.is_current())?;
        if view.leader_name() == Some(&self.me) {
            return None;
        }
        self.inherited = None;
        let nobody = view.leader_name().is_none();
        lead.filter(|lead| view.revision >= lead.version).map(|_| (view.revision, nobody))
    }

    /// For [`Facts::failsafe`].
    pub fn failsafe(&self, promises: &Promises, lease: &LeaseState, now: BootTime) -> failsafe::Fact {
        failsafe::Fact {
            given: promises.in_force(now).cloned(),
            silent_until: promises.silent_until(now),
            consents: self.consents.clone(),
            unbound: lease.unbound,
            list_from: self.took_on.filter(|_| lease.lead.is_some()),
            vouched_by: lease.vouched.as_ref().filter(|v| now < v.until).map(|v| v.by.clone()).unwrap_or_default(),
        }
    }

    /// What one whom I asked for its consent said, and until when that counts. `true`: worth a step.
    pub fn consented(&mut self, name: MemberName, said: Result<BootTime, String>) -> bool {
        self.consents.insert(name, said);
        true
    }

    /// What the leader should write about who may vouch for it; see [`Ledger`].
    pub fn vouching_due(&mut self, facts: &Facts, lease: &LeaseState, now: BootTime) -> Option<Write> {
        let write = self.ledger.next(facts, lease);
        if self.ledger.waits(lease) {
            self.sooner(now + Duration::from_millis(50));
        }
        write
    }

    /// For [`Keeper::electors`](crate::lease::Keeper::electors), told before the next [`Member::vouching_due`].
    pub fn electors_epoch(&self) -> u64 {
        self.ledger.epoch()
    }

    pub fn vouching_written(&mut self, written: StoreResult<TxnOutcome>, lead: Option<Lead>, now: BootTime) {
        self.ledger.written(written, lead.map(|l| l.version), now);
        self.sooner(now + Duration::from_millis(500));
    }

    /// The configuration that the leader should write, over this version, since it says nothing about failsafe mode.
    pub fn failsafe_mode_due(&mut self, facts: &Facts) -> Option<(String, KeyVersion)> {
        self.adoption.due(facts)
    }

    /// Whom I may ask to vouch for me while the store is away.
    pub fn electors(&self, facts: &Facts) -> Option<Electors> {
        self.ledger.electors(facts)
    }

    /// When a primary begins to stop for its lease's sake.
    pub fn stop_at(&self, now: BootTime, lead: Option<Lead>, timing: &Timing) -> Option<BootTime> {
        let held = lead.map(|l| l.until);
        // A deadline that was inherited and has passed says nothing any more.
        let until = held.or_else(|| self.inherited().filter(|until| now < *until));
        until.map(|until| until - stop_reserve(timing))
    }

    /// When the driver wakes for that. One step at that moment is enough, so it counts only until there was one.
    pub fn wake_at(&self, now: BootTime, lead: Option<Lead>, timing: &Timing) -> Option<BootTime> {
        self.stop_at(now, lead, timing).filter(|at| *at > self.stepped)
    }

    /// How long the driver may wait for one answer, `most` at the most: it must be back in time to stop a primary.
    pub fn spare(&self, now: BootTime, lead: Option<Lead>, timing: &Timing, most: Duration) -> Duration {
        let least = Duration::from_millis(100);
        self.stop_at(now, lead, timing).map_or(most, |at| at.since(now)).clamp(least, most.max(least))
    }

    /// Decides on the facts, and takes down what follows for [`Member::next`].
    pub fn decide(&mut self, facts: &Facts, now: BootTime) -> Report {
        let step = self.step(facts);
        self.obey(step, facts, now)
    }

    /// What is decided on the facts, as [`Member::decide`] does: for a driver that looks at it before it is obeyed.
    pub fn step(&self, facts: &Facts) -> Step {
        surus_core::step(&self.memory, facts)
    }

    /// Takes down what follows from a step on these facts.
    pub fn obey(&mut self, step: Step, facts: &Facts, now: BootTime) -> Report {
        self.finished = None;
        self.memory = step.memory;
        self.stepped = facts.now;
        self.again_at = now + step.again_in;
        self.orders = step.orders.into();
        self.reply = step.reply;
        self.begun = None;
        step.report
    }

    /// After all deeds of a decision: whether to decide once more, on `facts` as changed here. The lead was free a
    /// moment ago and is mine now: what follows from that needs no new facts, and every writer is waiting for it.
    pub fn decide_again(&self, facts: &mut Facts, lead: Option<Lead>, now: BootTime) -> bool {
        if self.end.is_some() || facts.lead.is_some() || lead.is_none() {
            return false;
        }
        facts.lead = lead;
        facts.failsafe.list_from = self.took_on;
        facts.now = now;
        facts.finished = None;
        facts.task = self.task().cloned();
        facts.request = self.request();
        true
    }

    /// The process is to end, with this.
    pub fn take_end(&mut self) -> Option<Result<(), String>> {
        self.end.take()
    }
}

#[cfg(test)]
mod tests;
