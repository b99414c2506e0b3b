//! The store: linearisable, with leases whose time it keeps itself. Its data and rules are those of `surus-store`'s
//! in-memory store; what is modelled here is the way there and back, and its bad days.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use surus_core::cluster::ClusterView;
use surus_core::store::{Followed, LeaseId, StoreError, StoreResult, TxnOutcome};
use surus_store::kv::{Fut, Health, Kv, Snapshot, Txn, Watch};
use surus_store::layout::Layout;
use surus_store::memory::State;

use super::clock::{Clock, MS, True};
use super::half::Half;
use super::network::End;
use super::{Sim, World};
use crate::bug::Bug;
use crate::random::Random;

/// A store may take this long to notice that a lease is over, and a client that its connection is dead.
const NOTICE: True = 600 * MS;
const DEAD_CONNECTION: True = 2000 * MS;

#[derive(Clone, Debug)]
pub enum Op {
    Read,
    Txn(Txn),
    Grant(Duration),
    Renew(LeaseId),
    Revoke(LeaseId),
}

impl Op {
    pub(super) fn writes(&self) -> bool {
        !matches!(self, Op::Read)
    }
}

#[derive(Clone, Debug)]
pub enum Reply {
    Snapshot(Snapshot),
    Txn(TxnOutcome),
    Lease(LeaseId),
    Done,
}

pub(super) struct Request {
    pub(super) node: usize,
    pub(super) op: Option<Op>,
    pub(super) writes: bool,
    pub(super) until: True,
    slow_after: True,
    /// Of the embedded store: under whose leadership it was sent last, and that it must not be sent again.
    pub(super) sent_to: Option<u64>,
    pub(super) once: bool,
    pub(super) reply: Option<StoreResult<Reply>>,
    waker: Option<Waker>,
}

pub struct Store {
    pub layout: Layout,
    state: State,
    pub(super) clock: Clock,
    pub down: bool,
    /// Extra time for each request, and how many answers of a hundred get lost.
    pub slow: True,
    pub lose_answers: u64,
    pub half: Half,
    /// Watches of these machines are silent, and nobody notices.
    pub stalled: Vec<bool>,
    pub watch_broken: Vec<bool>,
    pub(super) requests: BTreeMap<u64, Request>,
    view: Arc<ClusterView>,
    tick: Option<True>,
}

impl Store {
    pub fn new(nodes: usize, random: &mut Random) -> Store {
        Store {
            layout: Layout::new("service", "sim", None),
            state: State::default(),
            clock: Clock::new(1_000_000, i64::try_from(random.below(1000)).unwrap_or(0) - 500),
            down: false,
            slow: 0,
            lose_answers: 0,
            half: Half::new(nodes),
            stalled: vec![false; nodes],
            watch_broken: vec![false; nodes],
            requests: BTreeMap::new(),
            view: Arc::default(),
            tick: None,
        }
    }

    /// What it holds now; the truth, which no member sees before its watch says so.
    pub fn view(&self) -> &ClusterView {
        &self.view
    }

    pub fn shared_view(&self) -> Arc<ClusterView> {
        self.view.clone()
    }
}

impl World {
    fn store_request(&mut self, node: usize, op: Op, limit: Duration) -> u64 {
        let id = self.new_id();
        let until = self.now + self.nodes[node].clock.true_span(limit);
        let (writes, once) = (op.writes(), matches!(op, Op::Txn(_)));
        let request =
            Request { node, op: Some(op), writes, until, slow_after: 0, sent_to: None, once, reply: None, waker: None };
        self.store.requests.insert(id, request);
        self.at(until + 1, move |w| w.wake_request(id));
        if self.group.is_some() {
            self.submit(id);
            return id;
        }
        // A slow store takes its time before or after it has done what it was asked.
        let slow = if self.random.percent(50) { self.store.slow } else { 0 };
        let travel = self.random.between(200, 2 * MS) + self.network.delay(End::Node(node), End::Store) + slow;
        if let Some(request) = self.store.requests.get_mut(&id) {
            request.slow_after = self.store.slow - slow;
        }
        if self.network.passes(End::Node(node), End::Store) {
            self.after(travel, move |w| w.store_receives(id));
        } else if self.random.percent(50) {
            // The connection is known to be dead: nothing was sent.
            self.after(travel, move |w| w.answer(id, Err(StoreError::Unavailable("no connection".into()))));
        }
        id
    }

    fn wake_request(&mut self, id: u64) {
        if let Some(waker) = self.store.requests.get_mut(&id).and_then(|r| r.waker.take()) {
            waker.wake();
        }
    }

    pub(super) fn answer(&mut self, id: u64, reply: StoreResult<Reply>) {
        if let Some(request) = self.store.requests.get_mut(&id) {
            request.reply = Some(reply);
        }
        self.wake_request(id);
    }

    fn store_receives(&mut self, id: u64) {
        let Some((node, slow, op)) =
            self.store.requests.get_mut(&id).and_then(|r| Some((r.node, r.slow_after, r.op.take()?)))
        else {
            return;
        };
        if self.store.down {
            if self.random.percent(50) {
                self.after(MS, move |w| w.answer(id, Err(StoreError::Unavailable("no leader".into()))));
            }
            return;
        }
        let Some(reply) = self.store_does(node, op) else { return };
        let lost = self.random.percent(self.store.lose_answers) || !self.network.passes(End::Store, End::Node(node));
        if !lost {
            let travel = self.random.between(200, 2 * MS) + self.network.delay(End::Store, End::Node(node)) + slow;
            self.after(travel, move |w| w.answer(id, reply));
        }
    }

    pub(super) fn store_apply(&mut self, op: Op) -> StoreResult<Reply> {
        let now = self.store_time();
        let twice = self.is(Bug::LeadGivenTwice);
        let state = &mut self.store.state;
        let before = state.revision();
        let reply = match op {
            Op::Read => Ok(Reply::Snapshot(state.snapshot(self.store.layout.prefix()))),
            Op::Txn(mut txn) => {
                if twice
                    && txn
                        .then
                        .iter()
                        .any(|op| matches!(op, surus_store::kv::Op::Put { key, .. } if key.ends_with("/leader")))
                {
                    txn.compare.clear();
                }
                state.txn(&txn).map(|(outcome, _)| Reply::Txn(outcome))
            }
            Op::Grant(ttl) => Ok(Reply::Lease(state.grant(ttl, now))),
            Op::Renew(lease) => state.renew(lease, now).map(|()| Reply::Done),
            Op::Revoke(lease) => {
                state.revoke(lease);
                Ok(Reply::Done)
            }
        };
        self.store_moved(before);
        reply
    }

    fn store_moved(&mut self, before: u64) {
        if self.store.state.revision() != before {
            let snapshot = self.store.state.snapshot(self.store.layout.prefix());
            let old = std::mem::replace(&mut self.store.view, Arc::new(self.store.layout.view(&snapshot)));
            self.leader_key_moved(&old);
            for node in 0..self.nodes.len() {
                self.deliver(node, false);
            }
        }
        self.plan_expiry();
    }

    fn plan_expiry(&mut self) {
        let Some(end) = self.store.state.next_end() else { return };
        let at = self.store_reaches(end) + 1;
        if self.store.tick.is_some_and(|t| t > self.now && t <= at + NOTICE) {
            return;
        }
        // A Raft leader proposes the end of a lease when it is due.
        let notice = if self.random.percent(50) || self.group.is_some() { 0 } else { self.random.below(NOTICE) };
        let at = at + notice;
        self.store.tick = Some(at);
        self.at(at, |w| {
            if w.store.tick.is_some_and(|t| t <= w.now) {
                w.store.tick = None;
                w.expire();
            }
        });
    }

    fn expire(&mut self) {
        // A store without a leader ends no lease; it does so when it has one again.
        if !self.store_available() || !self.store.half.ends_leases() {
            return;
        }
        let before = self.store.state.revision();
        let now = self.store_time();
        self.store.state.expire(now);
        self.store_moved(before);
    }

    /// A new leader of the store either knows how long each lease has been good for, or starts their time again.
    pub fn store_back(&mut self, again: bool) {
        if !std::mem::take(&mut self.store.down) {
            return;
        }
        // The embedded one always knows.
        if again && self.group.is_none() {
            let now = self.store.clock.boot(self.now);
            self.store.state.restart_leases(now);
        }
        self.store_goes_on();
        self.links_changed();
    }

    /// There is a leader again, or another one: leases that ended meanwhile are over, and time may be counted anew.
    pub(super) fn store_goes_on(&mut self) {
        self.store.tick = None;
        self.expire();
        self.plan_expiry();
    }

    /// What an operator, or another program, writes.
    pub fn store_txn(&mut self, txn: Txn) -> Option<TxnOutcome> {
        if !self.store_available() || self.store.half.refuses_operators() {
            return None;
        }
        self.log_one();
        match self.store_apply(Op::Txn(txn)) {
            Ok(Reply::Txn(outcome)) => Some(outcome),
            _ => None,
        }
    }

    /// Sends the present state to a watch, after what is under way.
    pub(super) fn deliver(&mut self, node: usize, first: bool) {
        if self.group.is_some() && !self.reaches_store(node) {
            return;
        }
        let view = self.store.shared_view();
        let Some(agent) = self.nodes[node].agent.as_ref().filter(|a| a.connected) else { return };
        let (pid, watch) = (agent.pid, agent.watch);
        let travel = self.random.between(300, if first { 60 * MS } else { 6 * MS })
            + self.store_delay(node)
            + self.store.slow / 2;
        let due = agent.watch_due.max(self.now + travel);
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.watch_due = due;
        }
        self.at(due, move |w| w.arrive(node, pid, watch, view, first));
    }

    fn arrive(&mut self, node: usize, pid: u64, watch: u64, view: Arc<ClusterView>, first: bool) {
        let current = |w: &World| w.nodes[node].agent.as_ref().is_some_and(|a| a.pid == pid && a.watch == watch);
        if !current(self) {
            return;
        }
        if !self.nodes[node].agent_runs() || self.store.stalled[node] {
            return self.defer(node, Box::new(move |w| w.arrive(node, pid, watch, view, first)));
        }
        let now = self.boot(node);
        let Some(agent) = &mut self.nodes[node].agent else { return };
        // Deferred deliveries may overtake each other; a stream does not go back.
        if agent.followed.is_current() && view.revision < agent.followed.revision() {
            return;
        }
        if !first && agent.followed.broken_since.is_some() {
            // What waited for the machine goes on in any order, a stream in its own: what it begins with is still to come.
            return self.after(MS, move |w| w.arrive(node, pid, watch, view, first));
        }
        agent.followed = Arc::new(Followed { view: Some(view), confirmed_at: now, broken_since: None, reason: None });
        agent.inbox.view = true;
        self.nodes[node].stir();
    }

    /// Some link, or the store, went or came back: watches break and start over after a while.
    pub fn links_changed(&mut self) {
        for node in 0..self.nodes.len() {
            let wait = self.random.between(10 * MS, DEAD_CONNECTION);
            self.after(wait, move |w| w.watch_settles(node));
        }
    }

    pub fn watch_settles(&mut self, node: usize) {
        let reaches = !self.store.watch_broken[node] && self.reaches_store(node);
        let now = self.boot(node);
        let id = self.new_id();
        let Some(agent) = self.nodes[node].agent.as_mut().filter(|a| a.connected != reaches) else { return };
        agent.connected = reaches;
        agent.watch = id;
        if reaches {
            self.deliver(node, true);
            return;
        }
        let reason = Some("the connection was cut".to_owned());
        let broken_since = agent.followed.broken_since.or(Some(now));
        agent.followed = Arc::new(Followed { broken_since, reason, ..Followed::clone(&agent.followed) });
        agent.inbox.view = true;
        self.nodes[node].stir();
    }
}

/// The store as one agent sees it.
#[derive(Clone)]
pub struct Client {
    pub sim: Sim,
    pub node: usize,
}

impl Client {
    async fn call(&self, op: Op, limit: Duration) -> StoreResult<Reply> {
        let id = self.sim.with(|w| w.store_request(self.node, op, limit));
        std::future::poll_fn(|cx| self.sim.with(|w| poll(w, id, cx))).await
    }
}

fn poll(w: &mut World, id: u64, cx: &mut Context<'_>) -> Poll<StoreResult<Reply>> {
    let now = w.now;
    let Some(request) = w.store.requests.get_mut(&id) else {
        return Poll::Ready(Err(StoreError::Unavailable("asked twice".into())));
    };
    if let Some(reply) = request.reply.take() {
        w.store.requests.remove(&id);
        return Poll::Ready(reply);
    }
    if now >= request.until {
        let late = "no answer in time".to_owned();
        let error = if request.writes { StoreError::OutcomeUnknown(late) } else { StoreError::Unavailable(late) };
        // Once on its way it is applied all the same.
        request.waker = None;
        return Poll::Ready(Err(error));
    }
    request.waker = Some(cx.waker().clone());
    Poll::Pending
}

impl Kv for Client {
    fn read<'a>(&'a self, _prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        Box::pin(async move {
            match self.call(Op::Read, deadline).await? {
                Reply::Snapshot(snapshot) => Ok(snapshot),
                other => Err(StoreError::Refused(format!("{other:?}"))),
            }
        })
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(async move {
            match self.call(Op::Txn(txn), deadline).await? {
                Reply::Txn(outcome) => Ok(outcome),
                other => Err(StoreError::Refused(format!("{other:?}"))),
            }
        })
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        Box::pin(async move {
            match self.call(Op::Grant(ttl), deadline).await? {
                Reply::Lease(lease) => Ok(lease),
                other => Err(StoreError::Refused(format!("{other:?}"))),
            }
        })
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(async move { self.call(Op::Renew(lease), deadline).await.map(drop) })
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(async move { self.call(Op::Revoke(lease), deadline).await.map(drop) })
    }

    /// Members follow by [`World::watch_settles`]; this one is silent.
    fn watch(&self, _prefix: &str) -> Watch {
        Watch { events: tokio::sync::mpsc::channel(1).1 }
    }

    fn health(&self) -> Health {
        Health { kind: "simulated", summary: String::new() }
    }
}
