//! Consul: one server, which is its own agent.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::machine::Machine;
use crate::observe::wait_for;
use crate::ports::Port;
use crate::{http, procs};

pub struct Consul {
    dir: PathBuf,
    http: Port,
    server: Port,
    gossip: Port,
    child: Option<Child>,
}

impl Consul {
    pub async fn start(dir: &Path) -> Result<Consul> {
        std::fs::create_dir_all(dir)?;
        // Sessions as short as the tests' ttl asks for. The fresh services of a test are to be seen at once.
        let config = r#"{"session_ttl_min": "1s", "performance": {"raft_multiplier": 1}, "disable_update_check": true,
                         "telemetry": {"prometheus_retention_time": "1h"},
                         "ports": {"dns": -1, "serf_wan": -1, "grpc": -1}}"#;
        std::fs::write(dir.join("config.json"), config)?;
        let mut consul = Consul {
            dir: dir.to_owned(),
            http: Port::free()?,
            server: Port::free()?,
            gossip: Port::free()?,
            child: None,
        };
        consul.start_again().await?;
        Ok(consul)
    }

    pub fn port(&self) -> u16 {
        self.http.number
    }

    /// Returns when Consul has a leader.
    pub async fn start_again(&mut self) -> Result<()> {
        self.spawn()?;
        wait_for("Consul answers", Duration::from_secs(60), async || self.get("nothing").await.map(drop)).await
    }

    /// Without waiting for it.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        if self.child.is_none() {
            let log = File::options().create(true).append(true).open(self.dir.join("consul.log"))?;
            let child = Command::new(Machine::consul()?)
                .args(["agent", "-server", "-bootstrap-expect=1", "-bind=127.0.0.1", "-node=store1"])
                .arg(format!("-data-dir={}", self.dir.join("data").display()))
                .arg(format!("-config-file={}", self.dir.join("config.json").display()))
                .arg(format!("-http-port={}", self.http.number))
                .arg(format!("-server-port={}", self.server.number))
                .arg(format!("-serf-lan-port={}", self.gossip.number))
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("cannot start Consul")?;
            self.child = Some(child);
        }
        Ok(())
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

    /// `None`: there is no such key. Past every client of ours; keys have no `/` in front.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let answer = http::get(&self.http.address(), &format!("/v1/kv/{key}?raw&consistent")).await?;
        ensure!(answer.status == 200 || answer.status == 404, "Consul answered {}: {}", answer.status, answer.body);
        ensure!(answer.status == 200 || answer.body.is_empty(), "Consul answered {}", answer.body);
        Ok((answer.status == 200).then(|| answer.body.into_bytes()))
    }

    pub async fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let (address, path) = (self.http.address(), format!("/v1/kv/{key}"));
        let answer = http::request(&address, "PUT", &path, Some(value), Duration::from_secs(5)).await?;
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
        Ok(http::get(&self.http.address(), "/v1/agent/metrics?format=prometheus").await?.body)
    }

    /// What any other page answers.
    pub async fn ask(&self, path: &str) -> Result<Value> {
        http::get(&self.http.address(), path).await?.json()
    }
}

impl Drop for Consul {
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
        let mut consul = Consul::start(dir.path()).await.unwrap();
        consul.put("a/b", b"c").await.unwrap();
        assert_eq!(consul.get("a/b").await.unwrap().as_deref(), Some(&b"c"[..]));
        assert_eq!(consul.get("a/c").await.unwrap(), None);
        consul.kill();
        consul.start_again().await.unwrap();
        assert!(consul.get("a/b").await.unwrap().is_some());
        assert_eq!(consul.ask("/v1/session/list").await.unwrap(), serde_json::json!([]));
    }
}
