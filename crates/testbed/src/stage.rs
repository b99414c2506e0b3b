//! Real processes as the world of a scenario.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use surus_scenario::{
    Condition, LinkState, Operation, Part, Place, Role, Scenario, Setup, Statement, Step, Store, Trouble, World,
};

use crate::clock::Clock;
use crate::cluster::{Cluster, StoreKind};
use crate::disk::Disk;
use crate::history::{Allowed, Clients, Verdict, check};
use crate::http;
use crate::network::{Endpoint, Link};
use crate::observe::wait_for;
use crate::procs;
use crate::verbs::Job;

/// Room for a cluster and some WAL.
const DISK: u64 = 400;

pub struct Stage {
    binary: PathBuf,
    /// When the scenario leaves it open.
    store: StoreKind,
    needs: Needs,
    cluster: Option<Cluster>,
    clients: Option<Clients>,
    allowed: Allowed,
    begun: Instant,
    /// Where the lead was, on which timeline.
    mark: Option<(usize, String)>,
    tell: Box<dyn FnMut(String)>,
    unavailable: std::cell::RefCell<Vec<String>>,
}

/// What a cluster has to be built with for the statements to work.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    pub links: bool,
    pub disks: bool,
    pub clocks: bool,
}

impl Needs {
    pub fn of(scenario: &Scenario) -> Needs {
        let mut needs = Needs::default();
        for step in &scenario.steps {
            match &step.statement {
                Statement::Link { to: Place::Member(_) | Place::Everything, .. } => needs.links = true,
                Statement::FillDisk(_) | Statement::HangDisk(_) => needs.disks = true,
                Statement::StepClock { .. } => needs.clocks = true,
                _ => {}
            }
        }
        needs
    }
}

impl Stage {
    /// `tell` hears each statement as it begins.
    pub fn new(binary: &Path, store: StoreKind, needs: Needs, tell: impl FnMut(String) + 'static) -> Stage {
        let allowed = Allowed { synchronous: false, bytes: 1024 * 1024, unpublished: Duration::from_secs(10) };
        Stage {
            binary: binary.to_owned(),
            store,
            needs,
            cluster: None,
            clients: None,
            allowed,
            begun: Instant::now(),
            mark: None,
            tell: Box::new(tell),
            unavailable: Default::default(),
        }
    }

    pub fn running(&self) -> Result<&Cluster, Trouble> {
        self.cluster.as_ref().ok_or_else(|| Trouble::Failed("there is no cluster yet".into()))
    }

    /// The end of a run that went well: without it the drop prints the logs.
    pub fn passed(&mut self) {
        self.clients = None;
        if let Some(cluster) = self.cluster.take() {
            cluster.passed();
        }
    }

    /// The end of a run that did not go well: its directory stays, and where it is.
    pub fn keep(&mut self) -> Option<PathBuf> {
        let cluster = self.cluster.as_mut()?;
        cluster.keep();
        Some(cluster.dir().to_owned())
    }

    /// What was asked for and cannot be done on this machine.
    pub fn unavailable(&self) -> Vec<String> {
        self.unavailable.borrow().clone()
    }

    pub fn stop_clients(&mut self) {
        self.clients.iter_mut().for_each(Clients::stop);
    }

    fn not_available(&self, why: String) -> Trouble {
        let mut all = self.unavailable.borrow_mut();
        if !all.contains(&why) {
            all.push(why.clone());
        }
        Trouble::NotAvailable(why)
    }

    /// What clients saw so far, against the content of the primary when there is one.
    pub async fn verdict(&self) -> Result<Verdict> {
        let clients =
            self.clients.as_ref().context("nobody writes; the scenario needs the statement `write` before")?;
        let cluster = self.cluster.as_ref().context("no cluster")?;
        match self.primary().await {
            Ok(primary) => clients.verdict(cluster, primary, &self.allowed).await,
            Err(_) => Ok(check(&clients.history(), None, &self.allowed)),
        }
    }

    /// The member that leads and accepts writes.
    async fn primary(&self) -> Result<usize> {
        let cluster = self.cluster.as_ref().context("no cluster")?;
        let leader = cluster.leader().await?;
        let recovery = cluster.sql(leader, "select pg_is_in_recovery()").await?;
        ensure!(recovery == "f", "{} leads and does not accept writes yet", cluster.nodes[leader].name);
        Ok(leader)
    }

    fn node(&self, name: &str) -> Result<usize, Trouble> {
        self.running()?.index(name).ok_or_else(|| Trouble::Failed(format!("{name} is no member of the cluster")))
    }

    /// Of an outside store.
    fn server(name: &str) -> Option<usize> {
        name.strip_prefix("store")?.parse::<usize>().ok()?.checked_sub(1)
    }

    fn job(part: Part) -> Option<Job> {
        match part {
            Part::Agent => Some(Job::Agent),
            Part::Fence => Some(Job::Fence),
            Part::Postmaster => Some(Job::Postmaster),
            Part::Backend => Some(Job::Backend),
            Part::Walsenders => Some(Job::Walsenders),
            Part::Node | Part::Store => None,
        }
    }

    fn signal(&self, part: Part, of: &str, signal: Signal) -> Result<(), Trouble> {
        let node = self.node(of)?;
        // Part of the embedded store is the agent.
        let job = Stage::job(part).unwrap_or(Job::Agent);
        self.running()?.signal(node, job, signal).map_err(Trouble::failed)
    }

    fn etcd(&mut self, of: &str) -> Option<(&mut crate::etcd::Etcd, usize)> {
        let server = Stage::server(of)?;
        let etcd = self.cluster.as_mut()?.etcd.as_mut()?;
        (server < etcd.servers()).then_some((etcd, server))
    }

    /// The timeline of a member that accepts writes.
    async fn timeline(&self, node: usize) -> Result<String> {
        let cluster = self.cluster.as_ref().context("no cluster")?;
        cluster.sql(node, "select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)").await
    }

    async fn condition(&self, condition: &Condition<String>, since: Duration) -> Result<()> {
        let cluster = self.cluster.as_ref().context("no cluster")?;
        let node = |name: &str| cluster.index(name).with_context(|| format!("{name} is no member"));
        match condition {
            Condition::Primary => self.primary().await.map(drop),
            Condition::PrimaryIs(who) => {
                let leader = self.primary().await?;
                ensure!(leader == node(who)?, "{} leads", cluster.nodes[leader].name);
                Ok(())
            }
            Condition::PrimaryIsNot(who) => {
                let leader = self.primary().await?;
                ensure!(leader != node(who)?, "{who} still leads");
                Ok(())
            }
            Condition::AllStreaming => cluster.healthy().await.map(drop),
            Condition::Streaming(who) => {
                let status = cluster.status(node(who)?).await?;
                ensure!(status["replication_state"] == "streaming", "{who} reports {status}");
                Ok(())
            }
            Condition::Running(who) => cluster.sql(node(who)?, "select 1").await.map(drop),
            Condition::Down(who) => {
                let there = procs::programs(&cluster.nodes[node(who)?].dir);
                let servers = there.iter().filter(|(_, program)| program == "postgres").count();
                ensure!(servers == 0, "{servers} processes of PostgreSQL of {who} live");
                Ok(())
            }
            Condition::ReadOnly(who) => {
                let answer = cluster.sql(node(who)?, "select pg_is_in_recovery()").await;
                ensure!(!answer.is_ok_and(|answer| answer == "f"), "{who} accepts writes");
                Ok(())
            }
            Condition::Writes => {
                let clients = self.clients.as_ref().context("nobody writes")?;
                let seen = clients.acknowledged_after(self.begun + since);
                seen.map(drop).context("no write that was sent since then is acknowledged")
            }
            Condition::NoTwoWriters => {
                let clients = self.clients.as_ref().context("nobody writes")?;
                let verdict = check(&clients.history(), None, &self.allowed);
                ensure!(verdict.violations.is_empty(), "{verdict}");
                Ok(())
            }
            Condition::NothingLost => {
                let verdict = self.verdict().await?;
                ensure!(verdict.violations.is_empty() && verdict.lost() == 0, "{verdict}");
                Ok(())
            }
            Condition::LossWithinSettings => {
                let verdict = self.verdict().await?;
                ensure!(verdict.violations.is_empty(), "{verdict}");
                Ok(())
            }
            Condition::NoFailover => {
                let (node, timeline) = self.mark.as_ref().context("the cluster was not started as a whole")?;
                let name = &cluster.nodes[*node].name;
                let now = self.timeline(*node).await.with_context(|| format!("{name} led, and does not any more"))?;
                ensure!(now == *timeline, "{name} led on timeline {timeline}, and now on {now}");
                Ok(())
            }
        }
    }

    async fn request(
        &mut self,
        node: usize,
        method: &'static str,
        path: &'static str,
        body: Value,
        wait: bool,
    ) -> Result<(), Trouble> {
        let address = self.running()?.nodes[node].rest.address();
        let text = body.to_string();
        let request = async move {
            let patience = Duration::from_secs(120);
            let answer = http::request(&address, method, path, Some(text.as_bytes()), patience).await?;
            ensure!((200..300).contains(&answer.status), "{} {}", answer.status, answer.body);
            Ok(())
        };
        if wait {
            return request.await.map_err(Trouble::failed);
        }
        tokio::spawn(request);
        Ok(())
    }

    async fn operation(&mut self, operation: &Operation<String>, wait: bool) -> Result<(), Trouble> {
        let leader = self.primary().await.map_err(Trouble::failed)?;
        let name = self.running()?.nodes[leader].name.clone();
        match operation {
            Operation::SwitchOver { to } => {
                let mut body = json!({"leader": name});
                if let Some(to) = to {
                    body["candidate"] = json!(to);
                }
                self.request(leader, "POST", "/switchover", body, wait).await?;
                if let (true, Some(clients)) = (wait, &self.clients) {
                    clients.switched_over(leader);
                }
                Ok(())
            }
            Operation::FailOver { to } => {
                self.request(leader, "POST", "/failover", json!({"candidate": to}), wait).await
            }
            Operation::Pause => self.request(leader, "PATCH", "/config", json!({"pause": true}), wait).await,
            Operation::Resume => self.request(leader, "PATCH", "/config", json!({"pause": null}), wait).await,
            Operation::Restart(who) => {
                let node = self.node(who)?;
                self.request(node, "POST", "/restart", json!({}), wait).await
            }
            Operation::Reinit(who) => {
                let node = self.node(who)?;
                self.request(node, "POST", "/reinitialize", json!({"force": true}), wait).await
            }
            Operation::Set { key, value } => {
                let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
                self.request(leader, "PATCH", "/config", json!({ (key.as_str()): value }), wait).await
            }
        }
    }

    fn disk(&self, of: &str) -> Result<&Disk, Trouble> {
        let node = self.node(of)?;
        self.running()?.nodes[node].disk.as_ref().ok_or_else(|| {
            let why = Disk::available().err().unwrap_or_else(|| "the cluster was built without disks".into());
            self.not_available(why)
        })
    }
}

impl World for Stage {
    async fn cluster(&mut self, setup: &Setup) -> Result<(), Trouble> {
        if setup.setting("synchronous_mode").is_some_and(|mode| mode != "off") {
            return Err(Trouble::NotAvailable("this version does not drive synchronous replication".into()));
        }
        let mut builder = Cluster::builder(&self.binary).nodes(setup.members);
        builder = match setup.store {
            None => builder.store(self.store),
            Some(Store::Embedded) => builder.store(StoreKind::Embedded),
            Some(Store::Etcd(servers)) => builder.store(StoreKind::Etcd).etcd_servers(servers),
        };
        let mut dynamic = json!({});
        for (key, value) in &setup.settings {
            dynamic[key] = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        }
        let seconds = |key: &str, default: u64| dynamic[key].as_u64().unwrap_or(default);
        self.allowed.unpublished = Duration::from_secs(seconds("ttl", 8) + 2 * seconds("loop_wait", 2) + 1);
        self.allowed.bytes = dynamic["maximum_lag_on_failover"].as_u64().unwrap_or(1024 * 1024);
        builder = builder.dynamic(dynamic);
        if self.needs.links {
            builder = builder.links();
        }
        // What is not available here is said by the statement that needs it.
        if self.needs.disks && Disk::available().is_ok() {
            builder = builder.disks(DISK);
        }
        if self.needs.clocks && Clock::available().is_ok() {
            builder = builder.clocks();
        }
        self.cluster = Some(builder.prepare().await.map_err(Trouble::failed)?);
        Ok(())
    }

    async fn start_all(&mut self) -> Result<(), Trouble> {
        self.running()?;
        let cluster = self.cluster.as_mut().ok_or_else(|| Trouble::Failed("no cluster".into()))?;
        for node in 0..cluster.nodes.len() {
            cluster.start(node).map_err(Trouble::failed)?;
        }
        cluster.wait_healthy().await.map_err(Trouble::failed)?;
        self.mark().await
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn wait_until(&mut self, time: Duration) -> Result<(), Trouble> {
        tokio::time::sleep_until((self.begun + time).into()).await;
        Ok(())
    }

    async fn pause_looking(&mut self) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    fn begins(&mut self, step: &Step) {
        (self.tell)(step.to_string());
    }

    async fn find(&mut self, role: Role) -> Result<Vec<String>, Trouble> {
        let cluster = self.running()?;
        let all = || cluster.nodes.iter().map(|node| node.name.clone());
        let stores = || match &cluster.etcd {
            Some(etcd) => (1..=etcd.servers()).map(|n| format!("store{n}")).collect(),
            None => all().collect::<Vec<String>>(),
        };
        let nth = |n: usize, all: Vec<String>| {
            let found = all.into_iter().nth(n).map(|name| vec![name]);
            found.ok_or_else(|| Trouble::Failed(format!("there is no {role} now")))
        };
        let replicas = async || -> Result<Vec<String>, Trouble> {
            let leader = cluster.leader().await.map_err(Trouble::failed)?;
            Ok(all().enumerate().filter(|(n, _)| *n != leader).map(|(_, name)| name).collect())
        };
        let store_leader = async || -> Result<String, Trouble> {
            // It may be electing.
            let leader = wait_for("a leader of the store", Duration::from_secs(10), async || match &cluster.etcd {
                Some(etcd) => Ok(format!("store{}", etcd.leader().await? + 1)),
                None => embedded_leader(cluster).await,
            });
            leader.await.map_err(Trouble::failed)
        };
        match role {
            Role::Primary => {
                let leader = cluster.leader().await.map_err(Trouble::failed)?;
                Ok(vec![cluster.nodes[leader].name.clone()])
            }
            Role::Replica => nth(0, replicas().await?),
            Role::AnotherReplica => nth(1, replicas().await?),
            Role::AllReplicas => replicas().await,
            Role::All => Ok(all().collect()),
            Role::AllStores => Ok(stores()),
            Role::StoreLeader => Ok(vec![store_leader().await?]),
            Role::StoreFollower => {
                let leader = store_leader().await?;
                nth(0, stores().into_iter().filter(|name| *name != leader).collect())
            }
        }
    }

    async fn start(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        if let Some((etcd, server)) = self.etcd(of) {
            return etcd.spawn(server).map_err(Trouble::failed);
        }
        if !matches!(part, Part::Node | Part::Agent | Part::Store) {
            return Err(Trouble::Failed(format!("the {part} is started by the agent, not by hand")));
        }
        let node = self.node(of)?;
        let Some(cluster) = &mut self.cluster else { return Ok(()) };
        if cluster.nodes[node].exited().is_ok_and(|status| status.is_some()) {
            // It ended by itself.
            cluster.nodes[node].agent = None;
        }
        if cluster.nodes[node].agent.is_some() {
            return Ok(());
        }
        cluster.start(node).map_err(Trouble::failed)
    }

    async fn stop(&mut self, of: &str) -> Result<(), Trouble> {
        let node = self.node(of)?;
        let Some(cluster) = &mut self.cluster else { return Ok(()) };
        cluster.stop(node).await.map(drop).map_err(Trouble::failed)
    }

    async fn kill(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        if let Some((etcd, server)) = self.etcd(of) {
            etcd.kill_one(server);
            return Ok(());
        }
        let node = self.node(of)?;
        let cluster = self.cluster.as_mut().ok_or_else(|| Trouble::Failed("no cluster".into()))?;
        match part {
            Part::Node => cluster.kill_node(node),
            Part::Agent | Part::Store => cluster.kill_agent(node),
            _ => return self.signal(part, of, Signal::KILL),
        }
        .map_err(Trouble::failed)
    }

    async fn freeze(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        if let Some((etcd, server)) = self.etcd(of) {
            etcd.freeze_one(server);
            return Ok(());
        }
        match part {
            Part::Node => self.running()?.freeze_node(self.node(of)?).map_err(Trouble::failed),
            _ => self.signal(part, of, Signal::STOP),
        }
    }

    async fn thaw(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        if let Some((etcd, server)) = self.etcd(of) {
            etcd.thaw_one(server);
            return Ok(());
        }
        let node = self.node(of)?;
        match Stage::job(part) {
            None => self.running()?.thaw(node),
            // Whoever was stopped may be dead by now; that is no reason to fail.
            Some(job) => {
                let _ = self.running()?.signal(node, job, Signal::CONT);
            }
        }
        Ok(())
    }

    async fn link(&mut self, from: &str, to: &Place<String>, one_way: bool, state: LinkState) -> Result<(), Trouble> {
        let link = match state {
            LinkState::Cut => Link::Cut,
            LinkState::Stalled => Link::Frozen,
            LinkState::Slow(by) => Link::Slow(by),
        };
        let end = |name: &str| match Stage::server(name) {
            Some(server) => Ok(Endpoint::Store(server)),
            None => self.node(name).map(Endpoint::Member),
        };
        let cluster = self.running()?;
        match to {
            Place::Store => cluster.store_link(self.node(from)?, link, one_way),
            Place::Member(to) => cluster.link(end(from)?, end(to)?, link, one_way),
            Place::Everything => {
                let node = self.node(from)?;
                cluster.store_link(node, link, one_way);
                for other in cluster.others(node) {
                    cluster.link(Endpoint::Member(node), Endpoint::Member(other), link, one_way);
                }
            }
        }
        Ok(())
    }

    async fn heal(&mut self) -> Result<(), Trouble> {
        self.running()?.heal_all();
        Ok(())
    }

    async fn fill_disk(&mut self, of: &str) -> Result<(), Trouble> {
        self.disk(of)?.fill().map_err(Trouble::failed)
    }

    async fn hang_disk(&mut self, of: &str) -> Result<(), Trouble> {
        self.disk(of)?.hang().map_err(Trouble::failed)
    }

    async fn free_disk(&mut self, of: &str) -> Result<(), Trouble> {
        self.disk(of)?.free();
        Ok(())
    }

    async fn step_clock(&mut self, of: &str, by: Duration, back: bool) -> Result<(), Trouble> {
        let node = self.node(of)?;
        let Some(clock) = &self.running()?.nodes[node].clock else {
            let why = Clock::available().err().unwrap_or_else(|| "the cluster was built without clocks".into());
            return Err(self.not_available(why));
        };
        clock.step(by, back).map_err(Trouble::failed)
    }

    async fn operate(&mut self, operation: &Operation<String>, wait: bool) -> Result<(), Trouble> {
        self.operation(operation, wait).await
    }

    async fn write(&mut self) -> Result<(), Trouble> {
        self.clients = Some(Clients::start(self.running()?).await.map_err(Trouble::failed)?);
        Ok(())
    }

    async fn stop_writing(&mut self) -> Result<(), Trouble> {
        // Kept: what they saw is still to be judged.
        self.stop_clients();
        Ok(())
    }

    async fn mark(&mut self) -> Result<(), Trouble> {
        let leader = self.primary().await.map_err(Trouble::failed)?;
        self.mark = Some((leader, self.timeline(leader).await.map_err(Trouble::failed)?));
        Ok(())
    }

    async fn look(&mut self, condition: &Condition<String>, since: Duration) -> Result<Result<(), String>, Trouble> {
        Ok(self.condition(condition, since).await.map_err(|why| format!("{why:#}")))
    }
}

/// The member whose part of the embedded store leads: `surus store members` of any member.
async fn embedded_leader(cluster: &Cluster) -> Result<String> {
    for node in (0..cluster.nodes.len()).filter(|node| cluster.nodes[*node].agent.is_some()) {
        let output = cluster.surus(node, &["store", "members"]).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("leader"));
        let found = line.and_then(|line| cluster.nodes.iter().find(|node| names_store_of(line, node)));
        if let Some(found) = found {
            return Ok(found.name.clone());
        }
    }
    bail!("no member's `surus store members` names a leader")
}

/// Whether a line of the status is about the member's part of the store.
fn names_store_of(line: &str, node: &crate::node::Node) -> bool {
    let address = node.config.pointer("/raft/self_addr").and_then(Value::as_str).unwrap_or(&node.name);
    line.split(|c: char| c.is_whitespace() || c == '|').any(|word| word == address || word == node.name)
}
