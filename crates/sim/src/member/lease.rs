//! Drives the shipped lease keeper: makes the requests it asks for, as the agent does.

use std::sync::Arc;
use std::time::Duration;

use surus_conduct::lease::{Answer, Command, Keeper, LeaseState, Moment, Next, Reply, Request, Ticket};
use surus_core::BootTime;
use surus_core::store::{Beside, StoreError, StoreResult};
use surus_store::cluster::ClusterStore;

use super::Member;
use super::wait::{sleep_until, until};
use crate::bug::Bug;
use crate::world::World;
use crate::world::node::Node;

pub struct Desk {
    pub keeper: Keeper,
    replies: Vec<(Ticket, Reply)>,
    tickets: Ticket,
    /// Something was put in.
    poked: bool,
}

impl Desk {
    pub fn new(keeper: Keeper) -> Desk {
        Desk { keeper, replies: vec![], tickets: 0, poked: false }
    }

    pub fn poke(&mut self) {
        self.poked = true;
    }
}

impl World {
    pub fn desk(&mut self, node: usize) -> Option<&mut Desk> {
        self.nodes[node].agent.as_mut().map(|a| &mut a.desk)
    }

    pub fn lease(&self, node: usize) -> LeaseState {
        let mut state = self.nodes[node].agent.as_ref().map(|a| a.desk.keeper.state().clone()).unwrap_or_default();
        if self.is(Bug::RenewalCountedFromTheAnswer)
            && let (Some(lead), Some((_, took))) = (&mut state.lead, state.renewed)
        {
            lead.until = lead.until + took;
        }
        if self.is(Bug::OneFailureEndsTheLease)
            && let (Some(lead), Some((since, _))) = (&mut state.lead, &state.failing)
        {
            lead.until = lead.until.min(*since);
        }
        state
    }

    /// The lead is lost, as of this revision of the store.
    pub fn lead_lost(&mut self, node: usize, revision: u64, nobody: bool) {
        let now = self.boot(node);
        if let Some(desk) = self.desk(node) {
            desk.keeper.lost(now, revision, nobody);
            desk.poked = true;
        }
        self.lease_moved(node);
    }

    /// Tells the loop and the fence what the keeper knows.
    pub fn lease_moved(&mut self, node: usize) {
        let state = self.lease(node);
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let told = (state.lead.is_some(), state.session_number);
        if agent.lease_told != told {
            agent.lease_told = told;
            agent.inbox.lease = true;
        }
        self.keep_fence(node);
        self.nodes[node].stir();
    }

    /// Tells the fence the end of the lead, for as long as there is a primary to guard.
    pub fn keep_fence(&mut self, node: usize) {
        let lead = self.lease(node).lead.map(|l| l.until);
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let Some(guard) = agent.guard else { return };
        agent.guarded_until = if guard { lead.or(agent.guarded_until) } else { None };
        let until = agent.guarded_until;
        if !self.nodes[node].fence.alive || agent_told(&mut self.nodes[node]).replace(until) == Some(until) {
            return;
        }
        match until {
            Some(until) => _ = self.arm_fence(node, until),
            None => self.disarm_fence(node),
        }
    }
}

fn agent_told(node: &mut Node) -> &mut Option<Option<BootTime>> {
    &mut node.agent.as_mut().expect("asked for it just now").fence_told
}

impl Member {
    pub(super) fn moment(&self) -> Moment {
        Moment { now: self.now(), session: self.store.lease() }
    }

    pub async fn keep_lease(self: Arc<Member>) {
        loop {
            let moment = self.moment();
            let next = self.sim.with(|w| {
                let next = w.desk(self.node).map(|d| d.keeper.next(moment));
                w.lease_moved(self.node);
                next
            });
            match next {
                Some(Next::Ask { request, limit }) => {
                    let answer = self.misheard(ask(&self.store, request, limit).await);
                    let moment = self.moment();
                    self.sim.with(|w| {
                        if let Some(desk) = w.desk(self.node) {
                            desk.keeper.answered(moment, answer);
                        }
                    });
                }
                Some(Next::Reply { ticket, reply }) => self.sim.with(|w| {
                    if let Some(desk) = w.desk(self.node) {
                        desk.replies.push((ticket, reply));
                    }
                    w.nodes[self.node].stir();
                }),
                Some(Next::Wait { until: at }) => {
                    let late =
                        self.sim.with(|w| if w.is(Bug::LateRenewal) { w.plan.timing.ttl / 2 } else { Duration::ZERO });
                    let at = at + late;
                    let poked = until(&self.sim, self.node, |w| {
                        w.desk(self.node).and_then(|d| std::mem::take(&mut d.poked).then_some(()))
                    });
                    surus_conduct::race::first(poked, sleep_until(&self.sim, self.node, at)).await;
                }
                Some(Next::Busy) => unreachable!("the answer to a request is always waited for"),
                Some(Next::Ended) | None => return,
            }
        }
    }

    /// As a planted bug lets the keeper hear it.
    fn misheard(&self, answer: Answer) -> Answer {
        let lost = || StoreError::Unavailable("it was not heard".into());
        match (self.sim.with(|w| w.bug), answer) {
            (Some(Bug::NoNewSession), Answer::Opened(_))
                if self.sim.with(|w| w.lease(self.node).session_number > 0) =>
            {
                Answer::Opened(Err(lost()))
            }
            (Some(Bug::RefusalTakenForRenewal), Answer::Renewed(Err(StoreError::Refused(_)))) => {
                Answer::Renewed(Ok(()))
            }
            (_, answer) => answer,
        }
    }

    /// Asks the keeper. Given up by its caller, a take that has not begun is not made.
    async fn command(&self, command: Command) -> Reply {
        let ticket = self.sim.with(|w| {
            let desk = w.desk(self.node)?;
            desk.tickets += 1;
            desk.keeper.command(desk.tickets, command);
            desk.poked = true;
            let ticket = desk.tickets;
            w.nodes[self.node].stir();
            Some(ticket)
        });
        let withdraw = Withdraw { member: self, ticket };
        let reply = until(&self.sim, self.node, |w| {
            let desk = w.desk(self.node)?;
            let at = desk.replies.iter().position(|(t, _)| Some(*t) == ticket)?;
            Some(desk.replies.remove(at).1)
        })
        .await;
        std::mem::forget(withdraw);
        reply
    }

    pub async fn take_lead(&self, again: bool, beside: Beside) -> StoreResult<bool> {
        let again = again && !self.sim.with(|w| w.is(Bug::LeadRetakenBlindly));
        let mut beside = beside;
        if self.sim.with(|w| w.is(Bug::TimelineNotAnnounced)) {
            beside.announce = None;
        }
        match self.command(if again { Command::Retake } else { Command::Take { beside } }).await {
            Reply::Taken(taken) => taken,
            _ => Err(StoreError::Unavailable("the agent is ending".into())),
        }
    }

    pub async fn release_lead(&self, status: Option<String>) -> StoreResult<()> {
        match self.command(Command::Release { status }).await {
            Reply::Released(released) => released,
            _ => Err(StoreError::Unavailable("the agent is ending".into())),
        }
    }

    pub async fn close_session(&self) {
        self.command(Command::Close).await;
    }
}

/// Nobody waits any more.
struct Withdraw<'a> {
    member: &'a Member,
    ticket: Option<Ticket>,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        // A process that is killed drops everything; its keeper is gone by then.
        self.member.sim.with(|w| {
            if w.nodes[self.member.node].agent.as_ref().is_some_and(|a| a.pid == self.member.pid)
                && let (Some(desk), Some(ticket)) = (w.desk(self.member.node), self.ticket)
            {
                desk.keeper.withdraw(ticket);
            }
        });
    }
}

async fn ask(store: &ClusterStore, request: Request, limit: Duration) -> Answer {
    match request {
        Request::Open { ttl } => Answer::Opened(store.open_session(ttl, limit).await),
        Request::Renew => Answer::Renewed(store.renew_session(limit).await),
        Request::Take { beside } => Answer::Taken(store.take_lead_beside(beside, limit).await),
        Request::Retake => Answer::Taken(store.retake_lead(limit).await),
        Request::Look => Answer::Looked(store.read(limit).await.map(|v| v.leader)),
        Request::Release { status, unvouch } => {
            Answer::Released(store.release_lead_beside(status, unvouch, limit).await.map(drop))
        }
        Request::Close => {
            let _ = store.close_session(limit).await;
            Answer::Closed
        }
    }
}
