//! etcd: one server, or a group.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::network::{Endpoint, Network};
use crate::observe::wait_for;
use crate::ports::Port;
use crate::{http, procs};

pub struct Etcd {
    servers: Vec<Server>,
}

struct Server {
    name: String,
    dir: PathBuf,
    client: Port,
    peer: Port,
    /// As the other servers know it: a proxy stands there.
    public: Port,
    child: Option<Child>,
}

impl Etcd {
    /// One server.
    pub async fn start(dir: &Path) -> Result<Etcd> {
        Etcd::group(vec![dir.to_owned()], None).await
    }

    /// As many servers as directories; they speak to each other through the network.
    pub(crate) async fn group(dirs: Vec<PathBuf>, network: Option<&Network>) -> Result<Etcd> {
        let mut servers = Vec::new();
        for (index, dir) in dirs.into_iter().enumerate() {
            std::fs::create_dir_all(&dir)?;
            let [client, peer, public] = [Port::free()?, Port::free()?, Port::free()?];
            if let Some(network) = network {
                network.route(public.number, peer.number, Endpoint::Store(index));
            }
            servers.push(Server { name: format!("store{}", index + 1), dir, client, peer, public, child: None });
        }
        let mut etcd = Etcd { servers };
        etcd.start_again().await?;
        Ok(etcd)
    }

    /// Of the first server.
    pub fn port(&self) -> u16 {
        self.servers[0].client.number
    }

    pub fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.client.number).collect()
    }

    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Every server that does not run; returns when etcd answers.
    pub async fn start_again(&mut self) -> Result<()> {
        for index in 0..self.servers.len() {
            self.spawn(index)?;
        }
        let address = self.servers[0].client.address();
        wait_for("etcd answers", Duration::from_secs(30), async || {
            let health = http::get(&address, "/health").await?;
            anyhow::ensure!(health.body.contains("true"), "health: {}", health.body);
            Ok(())
        })
        .await
    }

    /// Starts one server, if it does not run, without waiting for it.
    pub fn spawn(&mut self, index: usize) -> Result<()> {
        // A group of one needs no proxy.
        let alone = self.servers.len() == 1;
        let known = |server: &Server| {
            let port = if alone { &server.peer } else { &server.public };
            format!("http://{}", port.address())
        };
        let members: Vec<String> = self.servers.iter().map(|s| format!("{}={}", s.name, known(s))).collect();
        let advertised = known(&self.servers[index]);
        let server = &mut self.servers[index];
        if let Some(child) = &mut server.child
            && child.try_wait()?.is_none()
        {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(server.dir.join("etcd.log"))?;
        let client = format!("http://{}", server.client.address());
        let listen = format!("http://{}", server.peer.address());
        let child = Command::new(Machine::etcd()?)
            .arg("--data-dir")
            .arg(server.dir.join("data"))
            .args(["--name", &server.name, "--initial-cluster", &members.join(",")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &listen, "--initial-advertise-peer-urls", &advertised])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000", "--metrics", "extensive"])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start etcd")?;
        server.child = Some(child);
        Ok(())
    }

    pub fn kill(&mut self) {
        (0..self.servers.len()).for_each(|index| self.kill_one(index));
    }

    pub fn kill_one(&mut self, index: usize) {
        if let Some(mut child) = self.servers[index].child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn freeze(&self) {
        (0..self.servers.len()).for_each(|index| self.freeze_one(index));
    }

    pub fn freeze_one(&self, index: usize) {
        self.signal(index, Signal::STOP);
    }

    pub fn thaw(&self) {
        (0..self.servers.len()).for_each(|index| self.thaw_one(index));
    }

    pub fn thaw_one(&self, index: usize) {
        self.signal(index, Signal::CONT);
    }

    fn signal(&self, index: usize, signal: Signal) {
        if let Some(child) = &self.servers[index].child {
            procs::signal(child.id().cast_signed(), signal);
        }
    }

    /// The server that leads the group, as the servers that answer see it.
    pub async fn leader(&self) -> Result<usize> {
        let quick = Duration::from_millis(500);
        for (index, server) in self.servers.iter().enumerate().filter(|(_, server)| server.child.is_some()) {
            let address = server.client.address();
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
        Ok(http::get(&self.servers[0].client.address(), "/metrics").await?.body)
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

    async fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let text = body.to_string();
        let address = self.servers[0].client.address();
        let answer = http::request(&address, "POST", path, Some(text.as_bytes()), Duration::from_secs(5)).await?;
        anyhow::ensure!(answer.status == 200, "etcd answered {} to {path}: {}", answer.status, answer.body);
        answer.json()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.thaw();
        self.kill();
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
