//! One agent process: the shipped decisions, lease keeper and procedures, driven by a simulated machine.

mod carry;
mod failsafe;
mod gather;
mod hands;
pub mod histories;
pub mod lease;
mod publish;
pub mod wait;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use surus_conduct::lease::Keeper;
use surus_conduct::member::Member as Conduct;
use surus_conduct::task::Outcome;
use surus_config::DynamicConfig;
use surus_core::facts::{Answer, Facts, PeerAnswer, PeerFact, TaskDone};
use surus_core::failsafe::Promises;
use surus_core::order::{Order, Request};
use surus_core::postgres::{DataDir, ProcessState};
use surus_core::settings::Timing;
use surus_core::store::{Followed, StoreResult, TxnOutcome};
use surus_core::{BootTime, Lsn, MemberName};
use surus_store::cluster::ClusterStore;

use crate::bug::Bug;
use crate::exec::Pid;
use crate::history::Happened;
use crate::world::clock::{MS, SECOND};
use crate::world::network::End;
use crate::world::node::Agent;
use crate::world::store::Client;
use crate::world::{Sim, World};
use lease::Desk;
pub use publish::Desired;
use wait::{sleep, until};

/// Reasons for a step.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    pub view: bool,
    pub lease: bool,
    pub exited: bool,
    pub fence: bool,
    pub wake: bool,
    pub shutdown: bool,
    pub request: Option<Request>,
    pub ended: Option<Outcome>,
    pub answers: Vec<(MemberName, PeerFact)>,
    pub consents: Vec<(MemberName, Result<BootTime, String>)>,
    pub vouching: Option<StoreResult<TxnOutcome>>,
    pub synced: Vec<Synced>,
}

/// What came of a step of synchronous replication.
#[derive(Clone, Debug)]
pub enum Synced {
    Names(Result<Lsn, String>),
    Written(StoreResult<(TxnOutcome, u64)>),
}

impl Inbox {
    fn has_news(&self) -> bool {
        self.view
            || self.lease
            || self.exited
            || self.fence
            || self.wake
            || self.shutdown
            || self.request.is_some()
            || self.ended.is_some()
            || !self.answers.is_empty()
            || !self.consents.is_empty()
            || self.vouching.is_some()
            || !self.synced.is_empty()
    }
}

pub struct Member {
    pub sim: Sim,
    pub node: usize,
    pub pid: Pid,
    pub me: MemberName,
    pub store: Arc<ClusterStore>,
    mind: Mutex<Mind>,
}

/// What the agent knows from one step to the next.
struct Mind {
    conduct: Conduct<()>,
    settings: Arc<DynamicConfig>,
    settings_version: Option<u64>,
    process: (ProcessState, BootTime),
    server: Option<Pid>,
    data_dir: DataDir,
    data_dir_read: Option<BootTime>,
    stalls: surus_core::stall::Stalls,
    answer: Answer,
    cancel: Arc<AtomicBool>,
    crashed: bool,
    checkpoint_pending: bool,
    busy: [bool; 5],
}

impl World {
    /// Starts the agent of this machine, if it is not running.
    pub fn start_agent(&mut self, node: usize) {
        if self.nodes[node].agent.is_some() || !self.nodes[node].powered {
            return;
        }
        let Some(sim) = self.sim() else { return };
        let (pid, me) = (self.new_pid(), self.nodes[node].name.clone());
        let settings = self.founding.clone();
        let timing = settings.settings.timing;
        let now = self.boot(node);
        let followed = Followed {
            broken_since: Some(now),
            reason: Some("no answer from the store yet".into()),
            ..Followed::default()
        };
        let followed = Arc::new(followed);
        let inherited = self.nodes[node].left;
        let mut conduct = Conduct::new(me.clone(), followed.clone(), inherited, now);
        conduct.inherit(self.nodes[node].fence.armed);
        let mut keeper = Keeper::new(me.clone(), timing);
        if let Some(until) = conduct.inherited() {
            keeper.promised(until);
        }
        let forgets = self.is(Bug::PromisesForgotten) || self.nodes[node].promises_last.is_zero();
        let silent_until = (!forgets).then(|| now + self.nodes[node].promises_last);
        let left = conduct.inherited().filter(|_| !self.is(Bug::NewFenceNotTold));
        self.nodes[node].agent = Some(Agent {
            pid,
            frozen: false,
            inbox: Inbox::default(),
            followed,
            watch: 0,
            connected: false,
            watch_due: 0,
            desk: Desk::new(keeper),
            lease_told: (false, 0),
            paused: false,
            left_alone: false,
            guard: None,
            guarded_until: left.max(self.nodes[node].fence.armed),
            fence_told: None,
            promises: Promises::new(silent_until),
            failsafe_mode: false,
            electors: None,
            asking: Default::default(),
            forked: None,
            said: None,
        });
        let clock = {
            let sim = sim.clone();
            move || sim.with(|w| w.boot(node))
        };
        let kv = Arc::new(Client { sim: sim.clone(), node });
        let store = ClusterStore::new(kv, self.store.layout.clone(), me.clone()).on_clock(clock);
        let member = Arc::new(Member {
            sim: sim.clone(),
            node,
            pid,
            me,
            store: Arc::new(store),
            mind: Mutex::new(Mind::new(conduct, settings, now)),
        });
        self.store_server_starts(node);
        self.tell(node, || "agent: starts".into());
        self.spawn(pid, Box::pin(member.clone().keep_lease()));
        self.spawn(pid, Box::pin(member.clone().keep_keys()));
        self.spawn(pid, Box::pin(member.clone().keep_vouched()));
        self.spawn(pid, Box::pin(member.run()));
        let wait = self.random.between(5 * MS, 50 * MS);
        self.after(wait, move |w| w.watch_settles(node));
    }
}

impl Mind {
    fn new(conduct: Conduct<()>, settings: Arc<DynamicConfig>, now: BootTime) -> Mind {
        Mind {
            conduct,
            settings,
            settings_version: None,
            process: (ProcessState::NotRunning, now),
            server: None,
            data_dir: DataDir::Empty,
            data_dir_read: None,
            stalls: Default::default(),
            answer: Answer::Unknown(now, "not asked yet".into()),
            cancel: Arc::default(),
            crashed: false,
            checkpoint_pending: false,
            busy: [false; 5],
        }
    }

    fn timing(&self) -> Timing {
        self.settings.settings.timing
    }
}

impl Member {
    pub fn now(&self) -> BootTime {
        self.sim.with(|w| w.boot(self.node))
    }

    fn mind(&self) -> MutexGuard<'_, Mind> {
        self.mind.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it is told to end, or must.
    async fn run(self: Arc<Member>) {
        loop {
            if let Some(end) = self.step().await {
                self.leave(end.is_ok()).await;
                self.sim.with(|w| w.agent_ended(self.node, self.pid, end));
                return;
            }
            self.wait().await;
        }
    }

    async fn step(self: &Arc<Member>) -> Option<Result<(), String>> {
        self.take_in_view();
        let mut facts = self.gather().await;
        self.guard(&facts);
        let end = loop {
            self.decide(&facts);
            self.note_clearance(&facts);
            self.carry_out(&facts).await;
            let (lead, now) = self.sim.with(|w| (w.lease(self.node).lead, w.boot(self.node)));
            let mut mind = self.mind();
            if !mind.conduct.decide_again(&mut facts, lead, now) {
                break mind.conduct.take_end();
            }
        };
        if end.is_none() {
            self.upkeep(&facts);
        }
        self.publish(&facts);
        end
    }

    /// Has the fence guard this server while it may accept writes.
    fn guard(&self, facts: &Facts) {
        self.sim.with(|w| {
            let mut facts = std::borrow::Cow::Borrowed(facts);
            if w.is(Bug::PausedFenceStaysArmed) {
                facts.to_mut().settings.pause = false;
            }
            if let Some(agent) = &mut w.nodes[self.node].agent {
                agent.left_alone = surus_conduct::pause::left_alone(&facts);
            }
            let Some(guard) = surus_conduct::fence::guard(&facts) else { return };
            if let Some(agent) = &mut w.nodes[self.node].agent {
                agent.guard = Some(guard);
            }
            w.keep_fence(self.node);
        });
    }

    fn decide(&self, facts: &Facts) {
        // What the step decides is looked at as a whole, before any of it is done.
        let (now, bug) = self.sim.with(|w| (w.boot(self.node), w.bug));
        let mut facts = std::borrow::Cow::Borrowed(facts);
        if bug == Some(Bug::ForksNotSeen)
            && let Some(finished) = &mut facts.to_mut().finished
            && matches!(finished.outcome, Ok(TaskDone::Diverged(_)))
        {
            finished.outcome = Err("no answer in time".into());
        }
        if bug == Some(Bug::RemoteUnknownWithoutALeader)
            && facts.store.view.as_ref().is_some_and(|view| view.leader.is_none())
        {
            facts.to_mut().settings.remote = None;
        }
        let facts = &*facts;
        let mut step = self.mind().conduct.step(facts);
        if bug == Some(Bug::RuleNotNamed) && step.orders.iter().any(|o| matches!(o, Order::Begin { .. })) {
            step.report.rule = 0;
        }
        self.sim.with(|w| {
            w.history.decisions += 1;
            if bug != Some(Bug::DecisionNotRecorded) {
                w.happened(Happened::Decided { node: self.node, facts, step: &step });
            }
            let now = w.now;
            w.trace.changed(now, self.me.as_str(), || format!("{} [rule {}]", step.report.goal, step.report.rule));
        });
        self.mind().conduct.obey(step, facts, now);
    }

    /// Ends the session, so that nobody waits for the ttl. While paused everything stays as it is.
    async fn leave(&self, orderly: bool) {
        if orderly && self.mind().settings.settings.pause {
            return;
        }
        self.sim.with(|w| {
            if let Some(agent) = &mut w.nodes[self.node].agent {
                agent.said = None;
            }
        });
        self.close_session().await;
    }

    fn seen(&self) -> Arc<Followed> {
        self.sim.with(|w| w.nodes[self.node].agent.as_ref().map(|a| a.followed.clone())).unwrap_or_default()
    }

    fn take_in_view(&self) {
        let seen = self.seen();
        let lead = self.sim.with(|w| w.lease(self.node).lead);
        let lost = {
            let mut mind = self.mind();
            let config = seen.view.as_deref().and_then(|v| v.config.as_ref());
            if let Some(config) = config.filter(|c| Some(c.version) != mind.settings_version) {
                mind.settings_version = Some(config.version);
                mind.settings = Arc::new(DynamicConfig::read(&config.value).0);
                let (timing, pause) = (mind.timing(), mind.settings.settings.pause);
                let failsafe = mind.settings.settings.failsafe_mode;
                self.sim.with(|w| {
                    if let Some(agent) = &mut w.nodes[self.node].agent {
                        agent.paused = pause;
                        agent.failsafe_mode = failsafe;
                        agent.desk.keeper.set_timing(timing);
                        agent.desk.poke();
                    }
                    if failsafe {
                        let n = &mut w.nodes[self.node];
                        n.promises_last = n.promises_last.max(timing.ttl);
                    }
                    w.lease_moved(self.node);
                });
            }
            mind.conduct.take_in_view(seen, lead)
        };
        if let Some((revision, nobody)) = lost {
            self.sim.with(|w| w.lead_lost(self.node, revision, nobody));
        }
    }

    fn spare(&self, most: Duration) -> Duration {
        let (lead, now) = self.sim.with(|w| (w.lease(self.node).lead, w.boot(self.node)));
        let mind = self.mind();
        mind.conduct.spare(now, lead, &mind.timing(), most)
    }

    /// Returns when there is a reason for another step.
    async fn wait(self: &Arc<Member>) {
        loop {
            let (lead, now) = self.sim.with(|w| (w.lease(self.node).lead, w.boot(self.node)));
            let next = {
                let mind = self.mind();
                let stop_at = mind.conduct.wake_at(now, lead, &mind.timing());
                stop_at.map_or(mind.conduct.again_at(), |at| at.min(mind.conduct.again_at()))
            };
            self.sim.with(|w| {
                let at = w.nodes[self.node].clock.when(next, w.now) + 1;
                let node = self.node;
                w.at(at, move |w| w.nodes[node].stir());
            });
            let inbox = until(&self.sim, self.node, |w| {
                let due = w.boot(self.node) >= next;
                let inbox = &mut w.nodes[self.node].agent.as_mut()?.inbox;
                (due || inbox.has_news()).then(|| std::mem::take(inbox))
            })
            .await;
            let due = self.now() >= next;
            if self.hear(inbox) || due {
                return;
            }
        }
    }

    fn hear(&self, inbox: Inbox) -> bool {
        let mut step = inbox.lease || inbox.wake || inbox.fence;
        let (now, forgets) = self.sim.with(|w| (w.boot(self.node), w.is(Bug::EndOfTaskForgotten)));
        let seen = inbox.view.then(|| self.seen());
        let mut mind = self.mind();
        if inbox.shutdown {
            step |= mind.conduct.shut_down();
        }
        if inbox.exited {
            mind.data_dir_read = None;
            mind.crashed |= mind.conduct.task().is_none();
            step = true;
        }
        if let Some(outcome) = inbox.ended.filter(|_| !forgets) {
            mind.conduct.ended(outcome, now);
            mind.data_dir_read = None;
            mind.crashed = false;
            step = true;
        }
        if let Some(request) = inbox.request {
            step |= mind.conduct.ask(request, None, ()).is_ok();
        }
        for (name, fact) in inbox.answers {
            step |= mind.conduct.answered(name, fact);
        }
        for (name, said) in inbox.consents {
            step |= mind.conduct.consented(name, said);
        }
        let lead = self.sim.with(|w| w.lease(self.node).lead);
        if let Some(written) = inbox.vouching {
            mind.conduct.vouching_written(written, lead, now);
            step = true;
        }
        for synced in inbox.synced {
            match synced {
                Synced::Names(set) => mind.conduct.names_set(set, lead, now),
                Synced::Written(written) => mind.conduct.sync_written(written, lead, now),
            }
            step = true;
        }
        if let Some(seen) = seen {
            step |= mind.conduct.view_changed(seen);
        }
        step
    }

    /// Asks another member's agent how it is.
    pub async fn ask(&self, api_url: &str, limit: Duration) -> Result<PeerAnswer, String> {
        self.call(api_url, limit, World::peer_answer).await
    }

    /// Calls another member's agent, which does this and answers.
    pub async fn call<T>(
        &self,
        api_url: &str,
        limit: Duration,
        mut work: impl FnMut(&mut World, usize) -> Result<T, String>,
    ) -> Result<T, String> {
        let peer = self.sim.with(|w| w.nodes.iter().position(|n| api_url == publish::api_url(&n.name)));
        let Some(peer) = peer else { return Err("no such host".into()) };
        let us =
            self.sim.with(|w| w.random.between(MS, 8 * MS) + w.network.delay(End::Node(self.node), End::Node(peer)));
        let asked = async {
            wait::pause(&self.sim, us).await;
            // A machine or process that is frozen takes the question and answers when it goes on.
            until(&self.sim, peer, |w| {
                let n = &w.nodes[peer];
                let reached = w.network.both_ways(End::Node(self.node), End::Node(peer)) && n.powered;
                let there = n.agent.is_some();
                match (reached, there, n.agent_runs()) {
                    (false, ..) => None,
                    (true, false, _) => Some(Err("connection refused".to_owned())),
                    (true, true, false) => None,
                    (true, true, true) => Some(work(w, peer)),
                }
            })
            .await
        };
        match surus_conduct::race::first(asked, sleep(&self.sim, self.node, limit)).await {
            futures_util::future::Either::Left(answer) => answer,
            futures_util::future::Either::Right(()) => Err("timeout".into()),
        }
    }

    pub async fn checkpoint(&self, limit: Duration) -> Result<(), String> {
        let begun = self.sim.with(|w| w.now);
        let Some(pid) = self.sim.with(|w| w.begin_checkpoint(self.node)) else { return Err("no connection".into()) };
        let done = until(&self.sim, self.node, |w| match w.checkpointed_since(self.node, pid, begun) {
            None => Some(Err("the connection was lost".to_owned())),
            Some(true) => Some(Ok(())),
            Some(false) => None,
        });
        match surus_conduct::race::first(done, sleep(&self.sim, self.node, limit)).await {
            futures_util::future::Either::Left(done) => done,
            futures_util::future::Either::Right(()) => Err("the checkpoint takes too long".into()),
        }
    }
}

impl World {
    fn peer_answer(&mut self, peer: usize) -> Result<PeerAnswer, String> {
        let observed = self.observed(peer).filter(|_| self.nodes[peer].postgres.serves());
        let Some(o) = observed else { return Err("its PostgreSQL does not answer".into()) };
        let behind = self.is(Bug::PeersLookBehind);
        let position = if o.in_recovery && !behind { o.position() } else { surus_core::Lsn(0) };
        Ok(PeerAnswer {
            in_recovery: o.in_recovery,
            position,
            timeline: o.timeline.filter(|_| !behind),
            tags: Default::default(),
            watchdog_failed: false,
            room: None,
            unready_slots: vec![],
            forked: self.nodes[peer].agent.as_ref().and_then(|agent| agent.forked.clone()),
        })
    }

    fn agent_ended(&mut self, node: usize, pid: Pid, end: Result<(), String>) {
        if self.nodes[node].agent.as_ref().is_none_or(|a| a.pid != pid) {
            return;
        }
        self.tell(node, || match &end {
            Ok(()) => "agent: ends".into(),
            Err(why) => format!("agent: ends: {why}"),
        });
        // Its fence goes with it when all is in order.
        if end.is_ok() && !self.nodes[node].postgres.writes() {
            self.disarm_fence(node);
        }
        self.kill_agent(node);
        // Whoever supervises it starts it again.
        if self.supervised {
            self.after(2 * SECOND, move |w| w.start_agent(node));
        }
    }
}
