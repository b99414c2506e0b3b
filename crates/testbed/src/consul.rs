//! Consul: one server, which is its own agent, or a group.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::{self, Response};
use crate::machine::Machine;
use crate::network::{Endpoint, Network};
use crate::observe::wait_for;
use crate::ports::Port;
use crate::servers::Servers;

pub struct Consul {
    pub(crate) servers: Servers,
    agents: Vec<Port>,
    peers: Vec<[Port; 2]>,
}

/// Where the servers of a group know each other: what they say there goes through the network. An address of its own, since
/// Consul tells the others of one port only, which is the one it listens on. Gossip by UDP gets lost there, and goes by TCP
/// then.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

impl Consul {
    pub async fn start(dir: &Path) -> Result<Consul> {
        Consul::group(vec![dir.to_owned()], None).await
    }

    /// As many servers as directories, each its own agent; they speak to each other through the network.
    pub(crate) async fn group(dirs: Vec<PathBuf>, network: Option<&Network>) -> Result<Consul> {
        let ports = |_| Ok((Port::free()?, [Port::free()?, Port::free()?]));
        let (agents, peers): (Vec<Port>, Vec<_>) =
            dirs.iter().map(ports).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let network = network.filter(|_| dirs.len() > 1);
        let mut servers = Servers::none("consul");
        for (index, (dir, [server, gossip])) in dirs.iter().zip(&peers).enumerate() {
            std::fs::create_dir_all(dir)?;
            // Sessions as short as the tests' ttl asks for. The fresh services of a test are to be seen at once.
            let config = r#"{"session_ttl_min": "1s", "performance": {"raft_multiplier": 1}, "disable_update_check": true,
                             "telemetry": {"prometheus_retention_time": "1h"}, "retry_interval": "300ms",
                             "autopilot": {"cleanup_dead_servers": false},
                             "ports": {"dns": -1, "serf_wan": -1, "grpc": -1}}"#;
            std::fs::write(dir.join("config.json"), config)?;
            let mut command = Command::new(Machine::consul()?);
            command
                .args(["agent", "-server", "-bind=127.0.0.1"])
                .arg(format!("-bootstrap-expect={}", dirs.len()))
                .arg(format!("-node=store{}", index + 1))
                .arg(format!("-data-dir={}", dir.join("data").display()))
                .arg(format!("-config-file={}", dir.join("config.json").display()))
                .arg(format!("-http-port={}", agents[index].number))
                .arg(format!("-server-port={}", server.number))
                .arg(format!("-serf-lan-port={}", gossip.number));
            if let Some(network) = network {
                for port in [server, gossip] {
                    network.route_from((PUBLIC, port.number).into(), port.number, Endpoint::Store(index));
                }
                command.arg(format!("-advertise={PUBLIC}"));
                command.args(peers.iter().map(|[_, gossip]| format!("-retry-join={PUBLIC}:{}", gossip.number)));
            }
            servers.add(dir, command)?;
        }
        let mut consul = Consul { servers, agents, peers };
        consul.start_again().await?;
        Ok(consul)
    }

    /// Of the first agent.
    pub fn port(&self) -> u16 {
        self.agents[0].number
    }

    pub fn ports(&self) -> Vec<u16> {
        self.agents.iter().map(|agent| agent.number).collect()
    }

    /// Every server that does not run; returns when Consul has a leader.
    pub async fn start_again(&mut self) -> Result<()> {
        self.spawn_all()?;
        wait_for("Consul answers", Duration::from_secs(60), async || self.get("nothing").await.map(drop)).await
    }

    /// The server that leads, as most of those that answer see it.
    pub async fn leader(&self) -> Result<usize> {
        let mut named = vec![0; self.agents.len()];
        for index in self.started() {
            let (address, quick) = (self.agents[index].address(), Duration::from_millis(500));
            let Ok(said) = http::request(&address, "GET", "/v1/status/leader", None, quick).await else { continue };
            let port = said.body.trim().trim_matches('"').rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            let leader = self.peers.iter().position(|[server, _]| Some(server.number) == port);
            leader.into_iter().for_each(|leader| named[leader] += 1);
        }
        let most = (0..named.len()).max_by_key(|index| named[*index]).filter(|index| named[*index] > named.len() / 2);
        most.context("no leader that a majority of Consul's servers names")
    }

    /// `None`: there is no such key. Past every client of ours; keys have no `/` in front.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let path = format!("/v1/kv/{key}?raw&consistent");
        let answer = self.any("GET", &path, None).await?;
        ensure!(answer.status == 200 || answer.status == 404, "Consul answered {}: {}", answer.status, answer.body);
        ensure!(answer.status == 200 || answer.body.is_empty(), "Consul answered {}", answer.body);
        Ok((answer.status == 200).then(|| answer.body.into_bytes()))
    }

    /// What the first agent answers that does.
    async fn any(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Response> {
        let mut last = None;
        for agent in &self.agents {
            last = Some(http::request(&agent.address(), method, path, body, Duration::from_secs(5)).await);
            if matches!(&last, Some(Ok(answer)) if answer.status < 500) {
                break;
            }
        }
        last.context("there is no server")?
    }

    pub async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let answer = self.any("PUT", &format!("/v1/kv/{key}"), Some(value)).await?;
        ensure!(
            answer.status == 200 && answer.body.trim() == "true",
            "Consul answered {}: {}",
            answer.status,
            answer.body
        );
        Ok(())
    }

    /// Its own counters, as Prometheus reads them.
    pub async fn metrics(&self) -> Result<String> {
        Ok(http::get(&self.agents[0].address(), "/v1/agent/metrics?format=prometheus").await?.body)
    }

    /// What any other page answers.
    pub async fn ask(&self, path: &str) -> Result<Value> {
        http::get(&self.agents[0].address(), path).await?.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Link;

    #[tokio::test]
    async fn starts_writes_and_reads() {
        let dir = tempfile::tempdir().unwrap();
        let mut consul = Consul::start(dir.path()).await.unwrap();
        consul.put("a/b", b"c").await.unwrap();
        assert_eq!(consul.get("a/b").await.unwrap().as_deref(), Some(&b"c"[..]));
        assert_eq!(consul.get("a/c").await.unwrap(), None);
        consul.kill();
        consul.start_again().await.unwrap();
        assert!(consul.get("a/b").await.unwrap().is_some());
        assert_eq!(consul.ask("/v1/session/list").await.unwrap(), serde_json::json!([]));
    }

    #[tokio::test]
    async fn a_group_elects_another_leader_when_one_is_cut_off_or_killed() {
        let dir = tempfile::tempdir().unwrap();
        let homes: Vec<_> = (1..=3).map(|n| dir.path().join(format!("consul{n}"))).collect();
        let ends = homes.iter().enumerate().map(|(n, home)| (Endpoint::Store(n), home.clone())).collect();
        let network = Network::new(ends).unwrap();
        let mut consul = Consul::group(homes, Some(&network)).await.unwrap();
        let wait = Duration::from_secs(30);
        let first = wait_for("a leader", wait, async || consul.leader().await).await.unwrap();
        for other in (0..3).filter(|other| *other != first) {
            let ends = [Endpoint::Store(first), Endpoint::Store(other)];
            network.set(ends[0], ends[1], Link::Frozen);
            network.set(ends[1], ends[0], Link::Frozen);
        }
        let second = another(&consul, first).await;
        network.heal(|_, _| true);
        consul.kill_one(second);
        another(&consul, second).await;
        consul.start_again().await.unwrap();
    }

    async fn another(consul: &Consul, than: usize) -> usize {
        let leader = wait_for("another leader", Duration::from_secs(30), async || {
            let leader = consul.leader().await?;
            ensure!(leader != than, "still {leader}");
            Ok(leader)
        });
        leader.await.unwrap()
    }
}
