//! The verbs of the language, each by the verb of the testbed.

use std::time::Duration;

use anyhow::{Result, bail};
use rustix::process::Signal;
use serde_json::{Value, json};
use surus_scenario::{Condition, LinkState, Operation, Part, Place, Role, Setup, Step, Store, Trouble, World};

use super::{DISK, Stage};
use crate::clock::Clock;
use crate::cluster::{Cluster, StoreKind};
use crate::disk::Disk;
use crate::history::Clients;
use crate::network::{Endpoint, Link};
use crate::observe::wait_for;

impl World for Stage {
    async fn cluster(&mut self, setup: &Setup) -> Result<(), Trouble> {
        self.allowed.synchronous = setup.setting("synchronous_mode").is_some_and(|mode| mode != "off");
        let mut builder = Cluster::builder(&self.binary).nodes(setup.members);
        builder = match setup.store {
            None => builder.store(self.store),
            Some(Store::Embedded) => builder.store(StoreKind::Embedded),
            Some(Store::Etcd(servers)) => builder.store(StoreKind::Etcd).store_servers(servers),
            Some(Store::ZooKeeper(servers)) => builder.store(StoreKind::ZooKeeper).store_servers(servers),
            Some(Store::Consul(servers)) => builder.store(StoreKind::Consul).store_servers(servers),
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
        if self.needs.small_segments {
            let initdb = json!([{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums", {"wal-segsize": "1"}]);
            builder = builder.settings(json!({"bootstrap": {"initdb": initdb}}));
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
        let stores = || match cluster.servers() {
            None => all().collect::<Vec<String>>(),
            Some(outside) => (1..=outside.servers()).map(|n| format!("store{n}")).collect(),
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
            let leader = wait_for("a leader of the store", Duration::from_secs(10), async || match cluster.servers() {
                None => embedded_leader(cluster).await,
                Some(_) => Ok(format!("store{}", cluster.store_leader().await? + 1)),
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
        if let Some((servers, index)) = self.store_server(of) {
            return servers.spawn(index).map_err(Trouble::failed);
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
        if let Some((servers, index)) = self.store_server(of) {
            servers.kill_one(index);
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
        if let Some((servers, index)) = self.store_server(of) {
            servers.freeze_one(index);
            return Ok(());
        }
        match part {
            Part::Node => {
                let node = self.node(of)?;
                self.running()?.freeze_node(node).map_err(Trouble::failed)?;
                self.clients.iter().for_each(|clients| clients.suspended(node));
                Ok(())
            }
            _ => self.signal(part, of, Signal::STOP),
        }
    }

    async fn thaw(&mut self, part: Part, of: &str) -> Result<(), Trouble> {
        if let Some((servers, index)) = self.store_server(of) {
            servers.thaw_one(index);
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
            LinkState::Flaky => Link::Flaky,
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
