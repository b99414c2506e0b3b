//! A small world for `step`: members with a pretended PostgreSQL, a store with leases, all on one clock.
//!
//! Orders of a step are carried out before the next facts are gathered; tasks take a while. A log is its list of
//! timelines, each with the position and the promotion it began with, and an end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use surus_core::cluster::{
    ClusterView, FailoverRequest, History, HistoryEntry, Initialize, Leader, Member, MemberRole, MemberState, Versioned,
};
use surus_core::facts::{
    Answer, Facts, FinishedTask, Lead, PeerAnswer, PeerFact, PostgresFact, RunningTask, StoreFact, TaskDone,
};
use surus_core::memory::Memory;
use surus_core::order::{Demote, Order, Task};
use surus_core::postgres::{ControlState, DataDir, ProcessState};
use surus_core::settings::{ClusterSettings, Timing};
use surus_core::{BootTime, Lsn, MemberName, Timeline};

use crate::combinations::violations;
use crate::scenario::{data, primary_at, standby_at};

pub const TICK: u64 = 100;
const TTL: u64 = 8000;
const MARGIN: u64 = 500;

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub timelines: Vec<(u64, u64)>,
    pub end: u64,
}

impl Log {
    /// `self` is a beginning of `other`, or equal.
    fn continues_into(&self, other: &Log) -> bool {
        let shared = self.timelines.iter().zip(&other.timelines).take_while(|(a, b)| a == b).count();
        let fork = other.timelines.get(shared).map_or(other.end, |(start, _)| *start);
        shared == self.timelines.len() && self.end <= fork
    }

    fn timeline(&self) -> u32 {
        u32::try_from(self.timelines.len()).expect("few timelines")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    Down,
    Primary,
    Standby { of: Option<MemberName> },
}

pub struct Node {
    pub name: MemberName,
    /// The machine is on. When it goes off, so does its server.
    pub up: bool,
    pub exited: bool,
    pub cut: bool,
    pub shutdown: bool,
    pub log: Option<Log>,
    pub server: Server,
    pub clean: bool,
    pub standby_signal: bool,
    pub streaming: bool,
    pub promotion_fails: bool,
    pub handover_fails: bool,
    /// A primary whose lease ended while the cluster was paused: hands are off it, and a member whose agent
    /// was restarted meanwhile cannot know of it.
    outlived: bool,
    pub memory: Memory,
    pub lead: Option<Lead>,
    session: Option<u64>,
    state_since: u64,
    task: Option<(RunningTask, u64, u8)>,
    finished: Option<FinishedTask>,
    view: Option<ClusterView>,
    readings: Vec<(u64, ClusterView)>,
    broken: Option<u64>,
    peers: BTreeMap<MemberName, PeerFact>,
    asked: BTreeMap<MemberName, (u64, u64)>,
    next: u64,
}

impl Node {
    fn new(name: &str) -> Node {
        Node {
            name: name.into(),
            up: true,
            exited: false,
            cut: false,
            shutdown: false,
            log: None,
            server: Server::Down,
            clean: true,
            standby_signal: false,
            streaming: false,
            promotion_fails: false,
            handover_fails: false,
            outlived: false,
            memory: Memory::default(),
            lead: None,
            session: None,
            state_since: 0,
            task: None,
            finished: None,
            view: None,
            readings: vec![],
            broken: None,
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: 0,
        }
    }

    fn end(&self) -> u64 {
        self.log.as_ref().map_or(0, |l| l.end)
    }

    pub fn serve(&mut self, server: Server, now: u64) {
        if server == Server::Down {
            self.streaming = false;
        }
        self.standby_signal = match server {
            Server::Primary => false,
            Server::Standby { .. } => true,
            Server::Down => self.standby_signal,
        };
        self.clean = server == Server::Down;
        self.server = server;
        self.state_since = now;
    }

    fn postgres(&self) -> PostgresFact {
        let state = match (&self.server, self.standby_signal, self.clean) {
            (Server::Primary, ..) | (_, false, false) => ControlState::InProduction,
            (Server::Down, false, true) => ControlState::ShutDown,
            (Server::Down, true, true) => ControlState::ShutDownInRecovery,
            _ => ControlState::InArchiveRecovery,
        };
        let at = BootTime::from_millis(self.state_since);
        let timeline = self.log.as_ref().map_or(1, Log::timeline);
        PostgresFact {
            data_dir: if self.log.is_some() { data(state, self.standby_signal) } else { DataDir::Empty },
            process: if self.server == Server::Down { ProcessState::NotRunning } else { ProcessState::Accepting },
            since: at,
            orphans: false,
            answer: match &self.server {
                Server::Down => Answer::Unknown(at, "down".into()),
                Server::Primary => Answer::Known(Arc::new(primary_at(self.end(), timeline))),
                Server::Standby { of } => {
                    let from = of.as_ref().map(MemberName::as_str);
                    Answer::Known(Arc::new(standby_at(self.end(), timeline, self.name.as_str(), from, self.streaming)))
                }
            },
        }
    }
}

pub struct World {
    pub now: u64,
    pub nodes: Vec<Node>,
    pub store: ClusterView,
    pub store_down: bool,
    pub settings: ClusterSettings,
    pub trace: Vec<String>,
    /// Everything that was ever promoted or bootstrapped, in order.
    pub reigns: Vec<MemberName>,
    /// Session -> its end; keys of an ended session are gone.
    sessions: BTreeMap<u64, (MemberName, u64)>,
    changed: bool,
    random: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        let settings = ClusterSettings { timing: Timing::NEW_CLUSTER, use_pg_rewind: true, ..Default::default() };
        let config = Some(Versioned { value: serde_json::json!({}), version: 1 });
        World {
            now: 1000,
            nodes: ["a", "b", "c"].map(Node::new).into(),
            store: ClusterView { revision: 1, config, ..ClusterView::default() },
            store_down: false,
            settings,
            trace: vec![],
            reigns: vec![],
            sessions: BTreeMap::new(),
            changed: true,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    fn random(&mut self, from: u64, to: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        from + self.random % (to - from)
    }

    fn time(&self) -> BootTime {
        BootTime::from_millis(self.now)
    }

    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.name.as_str() == name).expect("a node of that name")
    }

    pub fn at(&self, name: &MemberName) -> &Node {
        self.nodes.iter().find(|n| n.name == *name).expect("a node of that name")
    }

    pub fn primary(&self) -> Option<&Node> {
        self.nodes.iter().find(|n| n.server == Server::Primary)
    }

    pub fn ask_failover(&mut self, leader: Option<MemberName>, candidate: Option<MemberName>) {
        self.put(|store, version| {
            let value = FailoverRequest { leader, candidate, scheduled_at: None };
            store.failover = Some(Versioned { value, version });
        });
    }

    /// The machine goes off.
    pub fn kill(&mut self, name: &str) {
        let now = self.now;
        let node = self.node(name);
        node.serve(Server::Down, now);
        (node.up, node.clean) = (false, false);
    }

    /// The machine, or only the agent, comes up again and remembers nothing.
    pub fn boot(&mut self, name: &str) {
        let now = self.now;
        let old = self.node(name);
        let mut new = Node::new(name);
        (new.log, new.clean, new.standby_signal) = (old.log.clone(), old.clean, old.standby_signal);
        new.server = if old.up { old.server.clone() } else { Server::Down };
        (new.state_since, new.next) = (now, now);
        (new.promotion_fails, new.handover_fails) = (old.promotion_fails, old.handover_fails);
        *old = new;
    }

    pub fn pick(&mut self, n: u64) -> usize {
        usize::try_from(self.random(0, n)).expect("small")
    }

    /// The server process dies under its agent.
    pub fn crash_server(&mut self, name: &str) {
        let now = self.now;
        let node = self.node(name);
        if node.server != Server::Down {
            node.serve(Server::Down, now);
            (node.clean, node.next) = (false, now);
        }
    }

    /// No more faults: all machines, agents and networks work.
    pub fn heal(&mut self) {
        (self.store_down, self.settings.pause) = (false, false);
        for name in ["a", "b", "c"] {
            if !self.node(name).up || self.node(name).exited || self.node(name).shutdown {
                self.boot(name);
            }
            let node = self.node(name);
            (node.cut, node.promotion_fails, node.handover_fails) = (false, false, false);
        }
    }

    /// One writer, and everybody else streams from it.
    pub fn well(&self) -> bool {
        let Some(primary) = self.primary() else { return false };
        let led = self.store.leader_name() == Some(&primary.name) && primary.lead.is_some();
        let rest = self.nodes.iter().filter(|n| n.up && !n.exited && n.name != primary.name);
        let mut rest = rest.map(|n| n.streaming && n.server == Server::Standby { of: Some(primary.name.clone()) });
        led && rest.all(|ok| ok) && self.store.failover.is_none() && self.nodes.iter().all(|n| n.task.is_none())
    }

    pub fn until(&mut self, limit_ms: u64, what: &str, done: impl Fn(&World) -> bool) {
        let end = self.now + limit_ms;
        while !done(self) {
            assert!(self.now < end, "not within {limit_ms} ms: {what}\n{}", self.story());
            self.tick();
        }
    }

    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / TICK {
            self.tick();
        }
    }

    pub fn story(&self) -> String {
        self.trace[self.trace.len().saturating_sub(80)..].join("\n")
    }

    fn put(&mut self, change: impl FnOnce(&mut ClusterView, u64)) -> u64 {
        self.store.revision += 1;
        let revision = self.store.revision;
        change(&mut self.store, revision);
        self.changed = true;
        revision
    }

    fn reaches(&self, i: usize) -> bool {
        !self.store_down && !self.nodes[i].cut && self.nodes[i].up && !self.nodes[i].exited
    }

    fn tick(&mut self) {
        self.now += TICK;
        self.expire();
        for i in 0..self.nodes.len() {
            if self.nodes[i].up {
                self.replicate(i);
            }
            if self.nodes[i].up && !self.nodes[i].exited {
                self.keep_lease(i);
                self.publish(i);
                self.hear(i);
                self.work(i);
                self.decide(i);
            }
        }
        self.deliver();
        for node in &mut self.nodes {
            let led = node.server != Server::Primary || node.lead.is_some();
            node.outlived = !led && (node.outlived || self.settings.pause);
        }
        let writers = self.nodes.iter().filter(|n| n.server == Server::Primary && !n.outlived);
        let writers: Vec<_> = writers.map(|n| &n.name).collect();
        assert!(writers.len() <= 1, "two primaries {writers:?} at {}\n{}", self.now, self.story());
    }

    fn expire(&mut self) {
        let ended: Vec<_> = self.sessions.iter().filter(|(_, (_, end))| *end <= self.now).map(|(id, _)| *id).collect();
        // A store that is away does not end sessions either; it does so when it is back.
        if self.store_down {
            return;
        }
        for id in ended {
            let Some((name, _)) = self.sessions.remove(&id) else { continue };
            self.put(|store, _| {
                store.members.remove(&name);
                store.leader.take_if(|l| l.lease == Some(id));
            });
        }
    }

    fn keep_lease(&mut self, i: usize) {
        let now = self.now;
        if self.reaches(i) {
            let session = self.nodes[i].session.filter(|id| self.sessions.contains_key(id));
            let id = session.unwrap_or(self.store.revision * 10 + u64::try_from(i).expect("small") + now * 1000);
            self.sessions.insert(id, (self.nodes[i].name.clone(), now + TTL));
            let mine = self.store.leader.as_ref().filter(|l| l.lease == Some(id)).is_some();
            let node = &mut self.nodes[i];
            node.session = Some(id);
            node.lead = node.lead.filter(|_| mine).map(|l| Lead { until: after(now, TTL - MARGIN), ..l });
        }
        let time = self.time();
        let node = &mut self.nodes[i];
        node.lead = node.lead.filter(|l| time < l.until);
    }

    fn publish(&mut self, i: usize) {
        if !self.reaches(i) {
            return;
        }
        let node = &self.nodes[i];
        let (role, state) = match node.server {
            Server::Primary => (MemberRole::Primary, MemberState::Running),
            Server::Standby { .. } => (MemberRole::Replica, MemberState::Running),
            Server::Down => (MemberRole::Replica, MemberState::Stopped),
        };
        let name = node.name.clone();
        let member = Member {
            conn_url: Some(format!("postgres://{name}:5432/postgres")),
            api_url: Some(format!("http://{name}:8008/patroni")),
            timeline: node.log.as_ref().map(|l| Timeline(l.timeline())),
            role,
            state,
            ..Member::unknown(name.clone())
        };
        if self.store.members.get(&name) != Some(&member) {
            self.put(|store, _| _ = store.members.insert(name, member));
        }
        if node_leads(&self.nodes[i]) && self.nodes[i].server == Server::Primary {
            self.store.status.optime = Lsn(self.nodes[i].end());
        }
    }

    /// Changes reach members after a moment, each at its own pace, in order.
    fn deliver(&mut self) {
        let changed = std::mem::take(&mut self.changed) && !self.store_down;
        for i in 0..self.nodes.len() {
            let reaches = self.reaches(i);
            let delay = self.random(0, 400);
            let (now, store) = (self.now, &self.store);
            let node = &mut self.nodes[i];
            if !reaches {
                node.readings.clear();
                let since = *node.broken.get_or_insert(now);
                if now - since == 1000 {
                    node.next = now;
                }
                continue;
            }
            if changed || node.view.is_none() || node.broken.is_some() {
                let due = node.readings.last().map_or(0, |r| r.0).max(now + delay);
                node.readings.push((due, store.clone()));
            }
            node.broken = None;
            while node.readings.first().is_some_and(|r| r.0 <= now) {
                node.view = Some(node.readings.remove(0).1);
                node.next = now;
            }
        }
    }

    fn replicate(&mut self, i: usize) {
        let node = &self.nodes[i];
        match &node.server {
            Server::Primary => {
                let more = self.random(0, 30);
                self.nodes[i].log.as_mut().expect("a primary has data").end += more;
            }
            Server::Standby { of } => {
                let from = of.as_ref().map(|name| self.at(name)).filter(|n| n.server != Server::Down && n.up);
                let theirs = from.and_then(|n| n.log.clone());
                let mine = node.log.clone().expect("a standby has data");
                let lag = self.random(0, 20);
                let node = &mut self.nodes[i];
                node.streaming = theirs.as_ref().is_some_and(|t| mine.continues_into(t));
                if let Some(theirs) = theirs.filter(|_| node.streaming) {
                    let end = theirs.end.saturating_sub(lag).max(mine.end);
                    let timelines = theirs.timelines.into_iter().filter(|(start, _)| *start <= end).collect();
                    node.log = Some(Log { timelines, end });
                }
            }
            Server::Down => {}
        }
    }

    fn hear(&mut self, i: usize) {
        let (now, asked) = (self.now, self.nodes[i].asked.clone());
        for (name, (sent, _)) in asked.into_iter().filter(|(_, (_, due))| *due <= now) {
            let peer = self.at(&name);
            let answer = if !peer.up || peer.exited {
                Err("timeout".to_owned())
            } else if peer.server == Server::Down {
                Err("PostgreSQL does not run".to_owned())
            } else {
                Ok(PeerAnswer {
                    in_recovery: peer.server != Server::Primary,
                    position: Lsn(peer.end()),
                    timeline: peer.log.as_ref().map(|l| Timeline(l.timeline())),
                    tags: Default::default(),
                    watchdog_failed: false,
                })
            };
            let node = &mut self.nodes[i];
            node.asked.remove(&name);
            node.peers.insert(name, PeerFact { asked: BootTime::from_millis(sent), answer });
            node.next = now;
        }
    }

    fn decide(&mut self, i: usize) {
        let now = self.now;
        let node = &mut self.nodes[i];
        if now < node.next && node.finished.is_none() {
            return;
        }
        let facts = Facts {
            now: BootTime::from_millis(now),
            unix_ms: 0,
            me: node.name.clone(),
            tags: Default::default(),
            settings: self.settings.clone(),
            may_bootstrap: true,
            store: StoreFact {
                view: node.view.clone().map(Arc::new),
                broken: node.broken.filter(|t| now - t >= 1000).map(|t| (BootTime::from_millis(t), "away".into())),
                session: node.session.is_some(),
            },
            lead: node.lead,
            postgres: node.postgres(),
            task: node.task.as_ref().map(|t| t.0.clone()),
            finished: node.finished.take(),
            peers: node.peers.clone(),
            request: None,
            shutdown: node.shutdown,
            failover_due: None,
        };
        let step = surus_core::step(&node.memory, &facts);
        let bad = violations(&facts, &step);
        let ms = u64::try_from(step.again_in.as_millis()).expect("short");
        node.next = now + ms.max(TICK);
        let orders: Vec<_> = step.orders.iter().map(crate::scenario::brief).collect();
        let line = format!("{} {} {:?} {}", node.name, step.report.rule, orders, step.report.goal);
        if !self
            .trace
            .iter()
            .rev()
            .find(|t| t.contains(&format!(" {} ", node.name)))
            .is_some_and(|t| t.ends_with(&line))
        {
            self.trace.push(format!("{now:>7} {line}"));
        }
        node.memory = step.memory;
        assert!(bad.is_empty(), "{bad:?}\n{}", self.story());
        for order in step.orders {
            self.carry_out(i, order);
        }
    }

    fn carry_out(&mut self, i: usize, order: Order) {
        let (now, reaches) = (self.now, self.reaches(i));
        let name = self.nodes[i].name.clone();
        match order {
            Order::Begin { task, epoch } => {
                assert!(self.nodes[i].task.is_none(), "{task:?} beside another task");
                let ms = self.random(100, 900);
                self.nodes[i].task = Some((RunningTask { task, epoch, since: self.time() }, now + ms, 0));
            }
            Order::Cancel { why, .. } => match &self.nodes[i].task {
                // Past the point of no return there is nothing to leave.
                Some((running, ..)) if matches!(running.task, Task::Promote) => self.finish(i, Err(why)),
                Some((running, _, 0)) if matches!(running.task, Task::Demote(_) | Task::StartPrimary) => {
                    self.finish(i, Err(why));
                }
                Some((running, ..)) if running.task == Task::Restart => self.finish(i, Err(why)),
                _ => {}
            },
            Order::TakeLead => self.take_lead(i),
            Order::ReleaseLead => self.release(i),
            Order::Probe { members } => {
                for member in members.into_iter().filter(|m| *m != name) {
                    let delay = if self.at(&member).up { self.random(50, 300) } else { 2000 };
                    self.nodes[i].asked.entry(member).or_insert((now, now + delay));
                }
            }
            Order::WriteSystemId { id } if reaches => {
                self.put(|store, _| store.initialize = Initialize::Done(id));
            }
            Order::WriteHistory if reaches => {
                let log = self.nodes[i].log.clone().expect("a primary has data");
                let entry = |(i, (start, _)): (usize, &(u64, u64))| HistoryEntry {
                    timeline: Timeline(u32::try_from(i).expect("few") + 1),
                    switch_lsn: Lsn(*start),
                    reason: "promoted".into(),
                    timestamp: None,
                    new_leader: None,
                };
                let rows = log.timelines.iter().skip(1).enumerate().map(entry).collect();
                self.put(|store, _| store.history = Some(History(rows)));
            }
            Order::ClearFailover { version } if reaches => {
                self.put(|store, _| _ = store.failover.take_if(|f| f.version == version));
            }
            Order::NameCandidate { version, request }
                if reaches && self.store.failover.as_ref().is_some_and(|f| f.version == version) =>
            {
                self.put(|store, version| store.failover = Some(Versioned { value: request, version }));
            }
            Order::Exit(Ok(())) => (self.nodes[i].exited, self.nodes[i].lead) = (true, None),
            Order::Exit(Err(why)) => panic!("{name} ends: {why}\n{}", self.story()),
            _ => {}
        }
    }

    /// Whoever wins the lead clears the request with it; while paused it keeps naming the candidate.
    fn take_lead(&mut self, i: usize) {
        let name = self.nodes[i].name.clone();
        let free = self.store.leader.as_ref().is_none_or(|l| l.name == name);
        if !self.reaches(i) || !free {
            return;
        }
        let lease = self.nodes[i].session;
        let version = self.put(|store, version| {
            store.leader = Some(Leader { name: name.clone(), version, lease });
            store.failover = None;
        });
        self.nodes[i].lead = Some(Lead { until: after(self.now, TTL - MARGIN), version });
        self.nodes[i].next = self.now + TICK;
    }

    fn release(&mut self, i: usize) {
        if self.reaches(i) && self.store.leader_name() == Some(&self.nodes[i].name) {
            self.put(|store, _| store.leader = None);
        }
        self.nodes[i].lead = None;
    }

    fn finish(&mut self, i: usize, outcome: Result<TaskDone, String>) {
        let at = self.time();
        if let Some((running, ..)) = self.nodes[i].task.take() {
            self.nodes[i].finished = Some(FinishedTask { task: running.task, epoch: running.epoch, at, outcome });
        }
    }

    /// The running task's next stage, when its time has come.
    fn work(&mut self, i: usize) {
        let now = self.now;
        let Some((running, due, stage)) = self.nodes[i].task.clone() else { return };
        if now < due {
            return;
        }
        let from = |w: &World, name: &MemberName| w.at(name).log.clone().filter(|_| w.at(name).server != Server::Down);
        let outcome = match (&running.task, stage) {
            (Task::Bootstrap, 0) if !self.reaches(i) || self.store.initialize != Initialize::Absent => {
                Ok(TaskDone::LostRace)
            }
            (Task::Bootstrap, 0) => {
                self.put(|store, _| store.initialize = Initialize::InProgress);
                return self.later(i, 2000);
            }
            (Task::Bootstrap, _) => {
                self.nodes[i].log = Some(Log { timelines: vec![(0, 0)], end: 100 });
                self.nodes[i].serve(Server::Primary, now);
                self.reigns.push(self.nodes[i].name.clone());
                let id = crate::scenario::system_id(crate::scenario::OURS);
                self.put(|store, _| store.initialize = Initialize::Done(id));
                self.take_lead(i);
                Ok(TaskDone::Done)
            }
            (Task::Clone { from: up } | Task::Reinitialize { from: up } | Task::Rewind { from: up }, 0) => {
                self.nodes[i].serve(Server::Down, now);
                match from(self, &up.name) {
                    Some(_) => return self.later(i, 1500),
                    None => Err("upstream does not answer".to_owned()),
                }
            }
            (Task::Clone { from: up } | Task::Reinitialize { from: up } | Task::Rewind { from: up }, _) => {
                match from(self, &up.name) {
                    Some(log) => {
                        self.nodes[i].log = Some(log);
                        self.nodes[i].standby_signal = true;
                        Ok(TaskDone::Done)
                    }
                    None => Err("upstream went away".to_owned()),
                }
            }
            (Task::StartPrimary, _) => {
                self.nodes[i].serve(Server::Primary, now);
                Ok(TaskDone::Done)
            }
            (Task::StartStandby { upstream } | Task::Follow { upstream }, _) => {
                self.nodes[i].serve(Server::Standby { of: upstream.as_ref().map(|u| u.name.clone()) }, now);
                Ok(TaskDone::Done)
            }
            (Task::Promote, _) if self.nodes[i].promotion_fails => Err("pre_promote".to_owned()),
            (Task::Promote, _) => {
                let id = self.random(1, u64::MAX);
                let log = self.nodes[i].log.as_mut().expect("a standby has data");
                log.timelines.push((log.end, id));
                self.nodes[i].serve(Server::Primary, now);
                self.reigns.push(self.nodes[i].name.clone());
                Ok(TaskDone::Done)
            }
            (Task::CheckDivergence { from: up }, _) => {
                let mine = self.nodes[i].log.clone().expect("data to compare");
                match from(self, &up.name) {
                    None => Ok(TaskDone::Undecided("no answer".into())),
                    Some(theirs) if mine.continues_into(&theirs) => Ok(TaskDone::NotDiverged),
                    Some(_) => Ok(TaskDone::Diverged("fork".into())),
                }
            }
            (Task::Demote(Demote::Handover { .. }), 0) if self.nodes[i].handover_fails => {
                Ok(TaskDone::GivenUp("the checkpoint takes too long".into()))
            }
            (Task::Demote(Demote::Handover { to, .. }), _) => match self.stop_and_wait(i, stage, Some(to)) {
                true => Ok(TaskDone::Released),
                false => return,
            },
            (Task::Shutdown { to }, _) => match self.stop_and_wait(i, stage, to.as_ref()) {
                true => Ok(TaskDone::Done),
                false => return,
            },
            (Task::Demote(kind), _) => {
                self.nodes[i].serve(Server::Down, now);
                if *kind == Demote::Release {
                    self.release(i);
                }
                Ok(TaskDone::Done)
            }
            (Task::Restart | Task::KillOrphans, _) => Ok(TaskDone::Done),
        };
        self.finish(i, outcome);
    }

    /// Stops, then gives the lead up once the successor has everything, or has had time for it.
    fn stop_and_wait(&mut self, i: usize, stage: u8, to: Option<&MemberName>) -> bool {
        self.nodes[i].serve(Server::Down, self.now);
        // While the walsenders finish, the successor receives what is left.
        let log = self.nodes[i].log.clone();
        if let Some(name) = to.cloned() {
            let streams = self.at(&name).streaming && self.at(&name).up;
            if streams && stage < 20 {
                self.node(name.as_str()).log = log;
            } else if stage < 20 {
                self.later(i, 100);
                return false;
            }
        }
        self.release(i);
        true
    }

    fn later(&mut self, i: usize, ms: u64) {
        if let Some((_, due, stage)) = &mut self.nodes[i].task {
            (*due, *stage) = (self.now + ms, *stage + 1);
        }
    }
}

fn node_leads(node: &Node) -> bool {
    node.lead.is_some()
}

fn after(now: u64, ms: u64) -> BootTime {
    BootTime::from_millis(now) + Duration::from_millis(ms)
}
