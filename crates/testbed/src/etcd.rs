//! One etcd server.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::observe::wait_for;
use crate::ports::Port;
use crate::{http, procs};

pub struct Etcd {
    dir: PathBuf,
    client: Port,
    peer: Port,
    child: Option<Child>,
}

impl Etcd {
    pub async fn start(dir: &Path) -> Result<Etcd> {
        std::fs::create_dir_all(dir)?;
        let mut etcd = Etcd { dir: dir.to_owned(), client: Port::free()?, peer: Port::free()?, child: None };
        etcd.start_again().await?;
        Ok(etcd)
    }

    pub fn port(&self) -> u16 {
        self.client.number
    }

    pub async fn start_again(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("etcd.log"))?;
        let client = format!("http://{}", self.client.address());
        let peer = format!("http://{}", self.peer.address());
        let child = Command::new(Machine::etcd()?)
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .args(["--name", "etcd", "--initial-cluster", &format!("etcd={peer}")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000", "--metrics", "extensive"])
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start etcd")?;
        self.child = Some(child);
        wait_for("etcd answers", Duration::from_secs(30), async || {
            let health = http::get(&self.client.address(), "/health").await?;
            anyhow::ensure!(health.body.contains("true"), "health: {}", health.body);
            Ok(())
        })
        .await
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            procs::signal(child.id().cast_signed(), signal);
        }
    }

    /// The text of all metrics.
    pub async fn metrics(&self) -> Result<String> {
        Ok(http::get(&self.client.address(), "/metrics").await?.body)
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

    async fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let text = body.to_string();
        let address = self.client.address();
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
}
