//! The rules, as one table. The first rule whose condition holds decides.
//!
//! Sections are tried in the order of [`table`]; within a section, rules are tried from top to bottom.
//! A number never changes its meaning: operators and recorded decisions refer to it.

mod disk;
mod operator;
mod primary;
mod race;
mod replica;
mod shutdown;
mod stall;
mod standby_cluster;
mod startup;
mod stopped;
mod store;
mod task;

pub(crate) use stopped::repair_for;

use std::time::Duration;

use crate::cluster::{ClusterView, Member, MemberRole, Upstream};
use crate::facts::Facts;
use crate::follow;
use crate::ids::MemberName;
use crate::memory::Memory;
use crate::order::{Order, Task};
use crate::report::{Candidate, Section};
use crate::settings::Timing;

pub struct Rule {
    pub id: u16,
    pub section: Section,
    pub name: &'static str,
    pub when: fn(&Ctx) -> bool,
    pub then: fn(&mut Work),
    pub why: &'static str,
}

/// All rules in the order in which they are tried.
pub fn table() -> impl Iterator<Item = &'static Rule> {
    [
        shutdown::RULES,
        operator::RULES,
        task::RULES,
        store::RULES,
        stall::RULES,
        startup::RULES,
        stopped::RULES,
        disk::RULES,
        race::RULES,
        standby_cluster::RULES,
        primary::RULES,
        replica::RULES,
    ]
    .into_iter()
    .flatten()
}

/// Who leads, as far as I can rely on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leads {
    /// I hold the lease.
    Me,
    /// The key carries my name and I hold no lease: an earlier run of this agent took it.
    MeBefore,
    Other(MemberName),
    Nobody,
}

/// Facts with the few conclusions that many rules share.
pub struct Ctx<'a> {
    pub facts: &'a Facts,
    pub memory: &'a Memory,
    pub view: Option<&'a ClusterView>,
    pub leads: Leads,
    pub paused: bool,
    /// Paused, and the store says of me that I am left alone: my lease may end, and nobody follows me.
    pub left_alone: bool,
}

impl<'a> Ctx<'a> {
    pub fn new(facts: &'a Facts, memory: &'a Memory) -> Ctx<'a> {
        let view = facts.store.view.as_deref();
        let paused = facts.settings.pause;
        // An agent that has never seen the store goes by what its earlier run left.
        let left_alone = facts.unguarded && (paused || view.is_none());
        Ctx { facts, memory, view, leads: leads(facts, memory, view), paused, left_alone }
    }

    pub fn i_lead(&self) -> bool {
        self.leads == Leads::Me
    }

    pub fn other_leads(&self) -> bool {
        matches!(self.leads, Leads::Other(_))
    }

    /// I hold the lead of a cluster that has no primary of its own.
    pub fn leads_standbys(&self) -> bool {
        self.i_lead() && self.facts.settings.standby_cluster
    }

    pub fn upstream(&self) -> Option<Upstream> {
        upstream(self.facts, self.memory, self.view, &self.leads)
    }

    pub fn authority(&self) -> Option<Upstream> {
        authority(self.facts, self.view, &self.leads)
    }

    /// Time is up for the lease: a primary must have stopped before it ends, and stopping takes a moment.
    pub fn lease_ends(&self) -> bool {
        self.facts.lead.is_some_and(|l| self.facts.now + stop_reserve(&self.facts.settings.timing) >= l.until)
    }

    /// Neither the end of a lease nor the want of one ends anything here: left alone, or an operator's own doing.
    pub fn unleased(&self) -> bool {
        self.left_alone || self.paused && self.facts.lead.is_none()
    }

    /// A server that an operator started and that has not been taken over: nothing here may stop it.
    pub fn stands_alone(&self) -> bool {
        let me = Some(&self.facts.me);
        let led = self.facts.lead.is_some() || self.facts.inherited.is_some() || self.memory.last_leader.as_ref() == me;
        self.facts.postgres.stand_alone && self.facts.postgres.running() && !led
    }

    /// A primary runs here that has no right to, or not for long: nothing else comes before that.
    pub fn unled_primary(&self) -> bool {
        !self.unleased()
            && !self.stands_alone()
            && self.facts.postgres.is_primary()
            && (!self.i_lead() || self.lease_ends())
    }

    /// The lease of an earlier run of this agent is still good, with time left to stop before it ends.
    pub fn inherited_lease_holds(&self) -> bool {
        let reserve = stop_reserve(&self.facts.settings.timing);
        self.facts.inherited.is_some_and(|until| self.facts.now + reserve < until)
    }

    /// Nobody else can go on as a primary while I hold this lead.
    pub fn cleared(&self) -> bool {
        self.facts.lead.is_some_and(|lead| self.memory.cleared == Some(lead.version))
    }

    pub fn backing_off(&self) -> bool {
        self.backoff_left().is_some()
    }

    /// What is left of the pause after failures to bring the server up: 1, 2, 4 ... 16 seconds.
    pub fn backoff_left(&self) -> Option<Duration> {
        let failed = self.memory.last_failure?;
        let pause = Duration::from_secs(1 << self.memory.start_failures.saturating_sub(1).min(4));
        pause.checked_sub(self.facts.now.since(failed)).filter(|d| !d.is_zero() && self.memory.start_failures > 0)
    }
}

/// How long before the end of its lease a primary begins to stop.
pub fn stop_reserve(timing: &Timing) -> Duration {
    (timing.ttl / 5).clamp(Duration::from_secs(1), Duration::from_secs(3))
}

fn leads(facts: &Facts, memory: &Memory, view: Option<&ClusterView>) -> Leads {
    let Some(view) = view else {
        return if facts.lead.is_some() { Leads::Me } else { Leads::Nobody };
    };
    // A view from before I took the lead knows nothing about it.
    if facts.lead.is_some_and(|lead| view.revision < lead.version) {
        return Leads::Me;
    }
    match view.leader_name() {
        Some(name) if *name == facts.me => {
            let current = facts.store.broken.is_none();
            if facts.lead.is_some() && !(facts.failsafe.unbound && current) {
                Leads::Me
            } else if memory.released {
                // Taken for an earlier run's key, it would undo the release that is on its way.
                Leads::Nobody
            } else {
                Leads::MeBefore
            }
        }
        Some(name) => Leads::Other(name.clone()),
        None => Leads::Nobody,
    }
}

/// Whom this server is to stream from.
fn upstream(facts: &Facts, memory: &Memory, view: Option<&ClusterView>, leads: &Leads) -> Option<Upstream> {
    if memory.divergence.same_number() {
        return None;
    }
    let (leads, away) = (*leads == Leads::Me, memory.away.as_ref());
    view.and_then(|v| follow::upstream(v, &facts.me, leads, away, &facts.tags, &facts.settings))
}

/// The server whose history decides what is a fork: the leader, once it certainly runs as a primary, or the remote node
/// that a standby cluster follows, whoever leads that: where a rewind broke off everywhere, nobody could lead before it is
/// done again. Else none while nobody leads: what is compared with could change.
fn authority(facts: &Facts, view: Option<&ClusterView>, leads: &Leads) -> Option<Upstream> {
    match leads {
        Leads::Me | Leads::Other(_) if facts.settings.standby_cluster => facts.settings.remote.clone(),
        Leads::Nobody if view.is_some() && facts.settings.standby_cluster => facts.settings.remote.clone(),
        Leads::Other(_) => {
            view?.leader_member().filter(|m| m.role == MemberRole::Primary && m.is_running()).and_then(Member::upstream)
        }
        _ => None,
    }
}

/// What a rule writes its consequences into.
pub struct Work<'a> {
    pub facts: &'a Facts,
    pub view: Option<&'a ClusterView>,
    pub leads: Leads,
    pub memory: Memory,
    pub orders: Vec<Order>,
    pub goal: String,
    pub candidates: Vec<Candidate>,
    pub waiting_for: Vec<String>,
    pub steady: bool,
    /// Answer to the operator's request.
    pub reply: Option<Result<String, String>>,
    /// The next step is due then even if nothing happens.
    pub again_in: Duration,
}

impl Work<'_> {
    pub fn upstream(&self) -> Option<Upstream> {
        upstream(self.facts, &self.memory, self.view, &self.leads)
    }

    pub fn authority(&self) -> Option<Upstream> {
        authority(self.facts, self.view, &self.leads)
    }

    pub fn goal(&mut self, text: impl Into<String>) {
        self.goal = text.into();
    }

    pub fn order(&mut self, order: Order) {
        self.memory.released |= order == Order::ReleaseLead;
        self.orders.push(order);
    }

    pub fn begin(&mut self, task: Task) {
        self.memory.epoch += 1;
        let epoch = self.memory.epoch;
        self.orders.push(Order::Begin { task, epoch });
    }

    pub fn cancel(&mut self, why: &str) {
        if let Some(running) = &self.facts.task {
            self.orders.push(Order::Cancel { epoch: running.epoch, why: why.to_owned() });
        }
    }

    pub fn wait_for(&mut self, what: impl Into<String>) {
        self.waiting_for.push(what.into());
    }

    pub fn again_in(&mut self, d: Duration) {
        self.again_in = self.again_in.min(d.max(Duration::from_millis(10)));
    }

    pub fn abstain(&mut self, d: Duration) {
        self.memory.abstain_until = Some(self.facts.now + d);
    }
}
