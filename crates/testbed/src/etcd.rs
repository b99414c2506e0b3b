//! etcd: one server, or a group.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::http;
use crate::machine::Machine;
use crate::network::{Endpoint, Network};
use crate::observe::wait_for;
use crate::ports::Port;
use crate::servers::Servers;

pub struct Etcd {
    pub(crate) servers: Servers,
    clients: Vec<Port>,
    /// Kept: what the servers speak to each other through.
    _peers: Vec<Port>,
}

impl Etcd {
    /// One server.
    pub async fn start(dir: &Path) -> Result<Etcd> {
        Etcd::group(vec![dir.to_owned()], None).await
    }

    /// As many servers as directories; they speak to each other through the network.
    pub(crate) async fn group(dirs: Vec<PathBuf>, network: Option<&Network>) -> Result<Etcd> {
        let mut etcd = Etcd { servers: Servers::none("etcd"), clients: Vec::new(), _peers: Vec::new() };
        let mut servers = Vec::new();
        for (index, dir) in dirs.iter().enumerate() {
            std::fs::create_dir_all(dir)?;
            let [client, peer, public] = [Port::free()?, Port::free()?, Port::free()?];
            if let Some(network) = network {
                network.route(public.number, peer.number, Endpoint::Store(index));
            }
            let url = |port: &Port| format!("http://{}", port.address());
            // As the other servers know it: a proxy stands there. A group of one needs none.
            let known = url(if dirs.len() == 1 { &peer } else { &public });
            servers.push((dir, format!("store{}", index + 1), url(&client), url(&peer), known));
            etcd.clients.push(client);
            etcd._peers.extend([peer, public]);
        }
        let members: Vec<String> = servers.iter().map(|(_, name, _, _, known)| format!("{name}={known}")).collect();
        for (dir, name, client, listen, known) in &servers {
            let mut command = Command::new(Machine::etcd()?);
            command
                .arg("--data-dir")
                .arg(dir.join("data"))
                .args(["--name", name, "--initial-cluster", &members.join(",")])
                .args(["--listen-client-urls", client, "--advertise-client-urls", client])
                .args(["--listen-peer-urls", listen, "--initial-advertise-peer-urls", known])
                .args(["--heartbeat-interval", "100", "--election-timeout", "1000", "--metrics", "extensive"])
                .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"));
            etcd.servers.add(dir, command)?;
        }
        etcd.start_again().await?;
        Ok(etcd)
    }

    /// Of the first server.
    pub fn port(&self) -> u16 {
        self.clients[0].number
    }

    pub fn ports(&self) -> Vec<u16> {
        self.clients.iter().map(|client| client.number).collect()
    }

    /// Every server that does not run; returns when etcd answers.
    pub async fn start_again(&mut self) -> Result<()> {
        self.spawn_all()?;
        let address = self.clients[0].address();
        wait_for("etcd answers", Duration::from_secs(30), async || {
            let health = http::get(&address, "/health").await?;
            anyhow::ensure!(health.body.contains("true"), "health: {}", health.body);
            Ok(())
        })
        .await
    }

    /// The server that leads the group, as the servers that answer see it.
    pub async fn leader(&self) -> Result<usize> {
        let quick = Duration::from_millis(500);
        for index in self.started() {
            let address = self.clients[index].address();
            let ask = http::request(&address, "POST", "/v3/maintenance/status", Some(b"{}"), quick);
            let Ok(answer) = ask.await.and_then(|answer| answer.json()) else { continue };
            let (me, leader) = (answer.pointer("/header/member_id").cloned(), answer.get("leader").cloned());
            if me.is_some() && me == leader {
                return Ok(index);
            }
        }
        bail!("no etcd server that answers leads")
    }

    /// The text of all metrics.
    pub async fn metrics(&self) -> Result<String> {
        Ok(http::get(&self.clients[0].address(), "/metrics").await?.body)
    }

    /// Writes a key through the JSON gateway, past every client of ours.
    pub async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        self.call("/v3/kv/put", &json!({"key": BASE64.encode(key), "value": BASE64.encode(value)})).await.map(drop)
    }

    /// `None`: there is no such key.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let answer = self.call("/v3/kv/range", &json!({"key": BASE64.encode(key)})).await?;
        let Some(value) = answer.pointer("/kvs/0") else { return Ok(None) };
        Ok(Some(BASE64.decode(value.get("value").and_then(Value::as_str).unwrap_or_default())?))
    }

    /// From here on only the user `root` with this password is let in, and none of the methods here works any more.
    pub async fn demand_password(&self, password: &str) -> Result<()> {
        for (path, body) in [
            ("user/add", json!({"name": "root", "password": password})),
            ("role/add", json!({"name": "root"})),
            ("user/grant", json!({"user": "root", "role": "root"})),
            ("enable", json!({})),
        ] {
            self.call(&format!("/v3/auth/{path}"), &body).await?;
        }
        Ok(())
    }

    /// Raises the alarm that etcd raises when its database has reached its quota, or disarms it. Meanwhile it answers,
    /// renews leases and deletes, and refuses every other write.
    pub async fn out_of_space(&self, is: bool) -> Result<()> {
        let status = self.call("/v3/maintenance/status", &json!({})).await?;
        let me = status.pointer("/header/member_id").cloned().unwrap_or_default();
        let action = if is { "ACTIVATE" } else { "DEACTIVATE" };
        self.call("/v3/maintenance/alarm", &json!({"action": action, "memberID": me, "alarm": "NOSPACE"}))
            .await
            .map(drop)
    }

    async fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let text = body.to_string();
        let address = self.clients[0].address();
        let answer = http::request(&address, "POST", path, Some(text.as_bytes()), Duration::from_secs(5)).await?;
        anyhow::ensure!(answer.status == 200, "etcd answered {} to {path}: {}", answer.status, answer.body);
        answer.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn starts_writes_and_reads() {
        let dir = tempfile::tempdir().unwrap();
        let mut etcd = Etcd::start(dir.path()).await.unwrap();
        etcd.put("/a", b"\x00b").await.unwrap();
        assert_eq!(etcd.get("/a").await.unwrap().as_deref(), Some(&b"\x00b"[..]));
        assert_eq!(etcd.get("/b").await.unwrap(), None);
        etcd.kill();
        etcd.start_again().await.unwrap();
        assert!(etcd.get("/a").await.unwrap().is_some());
        assert!(etcd.metrics().await.unwrap().contains("etcd_server_has_leader"));
    }
    #[tokio::test]
    async fn a_group_has_one_leader_and_gets_another() {
        let dir = tempfile::tempdir().unwrap();
        let homes: Vec<_> = (1..=3).map(|n| dir.path().join(format!("etcd{n}"))).collect();
        let ends = homes.iter().enumerate().map(|(n, home)| (Endpoint::Store(n), home.clone())).collect();
        let network = Network::new(ends).unwrap();
        let mut etcd = Etcd::group(homes, Some(&network)).await.unwrap();
        let wait = Duration::from_secs(30);
        let first = wait_for("a leader", wait, async || etcd.leader().await).await.unwrap();
        etcd.kill_one(first);
        let second = wait_for("another leader", wait, async || etcd.leader().await).await.unwrap();
        assert_ne!(first, second);
        etcd.spawn(first).unwrap();
        etcd.freeze_one(second);
        // It may still answer what came in before it was stopped.
        wait_for("a third", wait, async || {
            anyhow::ensure!(etcd.leader().await? != second, "the frozen one");
            Ok(())
        })
        .await
        .unwrap();
    }
}
