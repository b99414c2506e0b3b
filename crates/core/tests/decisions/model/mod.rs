//! A small world for `step`: members with a pretended PostgreSQL, a store with leases, all on one clock.
//!
//! Orders of a step are carried out before the next facts are gathered; tasks take a while. A log is its list of
//! timelines, each with the position and the promotion it began with, and an end.

mod node;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use surus_core::cluster::{ClusterView, FailoverRequest, Member, MemberRole, MemberState, Upstream, Versioned};
use surus_core::facts::{Facts, Lead, PeerAnswer, PeerFact, StoreFact};
use surus_core::settings::{ClusterSettings, Timing};
use surus_core::{BootTime, Lsn, MemberName, Timeline};

use crate::combinations::violations;

pub use node::{Log, Node, Server};

pub const TICK: u64 = 100;
/// What a standby cluster follows.
pub const FAR: &str = "far:5432";
const TTL: u64 = 8000;
const MARGIN: u64 = 500;

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

    /// Members of a standby cluster, and the server that it is to follow.
    pub fn following(seed: u64) -> World {
        let mut w = World::new(seed);
        let mut far = Node::new(FAR);
        far.log = Some(Log { timelines: vec![(0, 0)], end: 100 });
        far.serve(Server::Primary, w.now);
        w.nodes.push(far);
        w.follow(true);
        w
    }

    /// The whole cluster is demoted, or promoted.
    pub fn follow(&mut self, remote: bool) {
        self.settings.standby_cluster = remote;
        self.settings.remote = remote.then(|| Upstream::remote(FAR.trim_end_matches(":5432"), 5432));
        self.put(|store, version| store.config = Some(Versioned { value: serde_json::json!({}), version }));
    }

    /// The remote node serves again.
    pub fn come_back(&mut self) {
        let now = self.now;
        self.node(FAR).serve(Server::Primary, now);
    }

    /// The remote node goes on from a little before its end, on a timeline of its own.
    pub fn fail_over(&mut self, lost: u64, salt: u64) {
        let id = self.random(1, u64::MAX) ^ salt;
        let log = self.node(FAR).log.as_mut().expect("it has data");
        let begun = log.timelines.last().map_or(0, |(start, _)| *start);
        log.end = log.end.saturating_sub(lost).max(begun + 1);
        log.timelines.push((log.end, id));
    }

    pub fn members(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|n| n.name.as_str() != FAR)
    }

    /// Nobody accepts writes, one follows the remote node, and everybody else streams from that one.
    pub fn follows(&self) -> bool {
        let Some(leader) = self.members().find(|n| n.lead.is_some()) else { return false };
        let of = |name: &str| Server::Standby { of: Some(name.into()) };
        let good = |n: &Node| {
            let source = if n.name == leader.name { FAR } else { leader.name.as_str() };
            n.streaming && n.server == of(source) && n.task.is_none()
        };
        let led = self.store.leader_name() == Some(&leader.name) && self.store.failover.is_none();
        led && self.members().filter(|n| n.up && !n.exited).all(good)
    }

    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.name.as_str() == name).expect("a node of that name")
    }

    pub fn at(&self, name: &MemberName) -> &Node {
        self.nodes.iter().find(|n| n.name == *name).expect("a node of that name")
    }

    pub fn primary(&self) -> Option<&Node> {
        self.members().find(|n| n.server == Server::Primary)
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
        let rest = self.members().filter(|n| n.up && !n.exited && n.name != primary.name);
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
            if self.nodes[i].up && !self.nodes[i].exited && self.nodes[i].name.as_str() != FAR {
                self.keep_lease(i);
                self.publish(i);
                self.hear(i);
                self.work(i);
                self.decide(i);
            }
        }
        self.deliver();
        let writers = self.members().filter(|n| n.server == Server::Primary);
        let writers: Vec<_> = writers.map(|n| &n.name).collect();
        assert!(writers.len() <= 1, "two primaries {writers:?} at {}\n{}", self.now, self.story());
    }

    /// As `conduct::pause` has it.
    fn note_pause(&mut self, i: usize, facts: &Facts) {
        let node = &self.nodes[i];
        let name = node.name.clone();
        let mine = self.store.unguarded.as_ref().is_some_and(|u| u.value == name);
        let leads = self.store.leader_name() == Some(&name) && facts.lead.is_some();
        let primary = node.server == Server::Primary;
        if !self.reaches(i) || facts.task.is_some() || facts.store.broken.is_some() {
            return;
        }
        if facts.settings.pause && !mine && leads && primary {
            self.put(|store, version| store.unguarded = Some(Versioned { value: name, version }));
        } else if !facts.settings.pause && mine && (leads || !primary) {
            self.put(|store, _| store.unguarded = None);
        }
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
        let leads = self.nodes[i].server == Server::Primary || self.settings.standby_cluster;
        if node_leads(&self.nodes[i]) && leads {
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
                    room: None,
                    unready_slots: vec![],
                    forked: None,
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
            inherited: None,
            unguarded: node.view.as_ref().and_then(|v| v.unguarded.as_ref()).is_some_and(|u| u.value == node.name),
            failsafe: Default::default(),
            fence: Default::default(),
            watchdog: Default::default(),
            stalls: Default::default(),
            room: None,
            missing_slots: vec![],
            unready_slots: vec![],
            synchronous: Default::default(),
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
        self.note_pause(i, &facts);
    }
}

fn node_leads(node: &Node) -> bool {
    node.lead.is_some()
}

fn after(now: u64, ms: u64) -> BootTime {
    BootTime::from_millis(now) + Duration::from_millis(ms)
}
