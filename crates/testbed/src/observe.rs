//! What can be seen of a cluster from outside: REST, SQL and files.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::cluster::Cluster;
use crate::http::{self, Response};
use crate::procs;
use crate::template::{PASSWORD, SUPERUSER};

/// Long enough for anything on a busy two-core machine; nothing waits that long when it works.
const PATIENCE: Duration = Duration::from_secs(90);

/// Looks again and again until it is `Ok`. When time is over, says what was seen last.
pub async fn wait_for<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let pause = tokio::time::sleep(Duration::from_millis(20));
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(last) if Instant::now() >= end => bail!("{what}: not within {limit:?}; last seen: {last:#}"),
            Err(_) => pause.await,
        }
    }
}

/// A connection to one member's PostgreSQL.
pub struct Connection(tokio_postgres::Client);

impl Connection {
    pub async fn open(port: u16, user: &str, patience: Duration) -> Result<Connection> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(port).user(user).password(PASSWORD).dbname("postgres");
        config.application_name("testbed");
        // The library's own limit covers the connection, not the greeting: a frozen server never sends one.
        let Ok(connected) = tokio::time::timeout(patience, config.connect(NoTls)).await else {
            bail!("PostgreSQL at port {port} does not answer within {patience:?}");
        };
        let (client, connection) = connected.with_context(|| format!("PostgreSQL at port {port}"))?;
        tokio::spawn(connection);
        Ok(Connection(client))
    }

    /// All rows, each column as text, NULL as the empty string.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let messages = self.0.simple_query(sql).await.with_context(|| sql.to_owned())?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
                }
                _ => None,
            })
            .collect())
    }

    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.0.batch_execute(sql).await.with_context(|| sql.to_owned())
    }

    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl Cluster {
    /// The members with this role that serve, once there are as many.
    pub async fn with_role(&self, role: &str, count: usize) -> Result<Vec<usize>> {
        wait_for(&format!("{count} members with the role {role}"), PATIENCE, async || {
            let shown: Value = self.get(self.leader().await?, "/cluster").await?.json()?;
            let members = shown["members"].as_array().context("no members")?;
            let serve = |m: &&Value| m["role"] == role && (m["state"] == "streaming" || m["state"] == "running");
            let names = members.iter().filter(serve).filter_map(|m| m["name"].as_str());
            let found: Vec<usize> = names.filter_map(|name| self.index(name)).collect();
            ensure!(found.len() == count, "{shown}");
            Ok(found)
        })
        .await
    }

    pub async fn get(&self, node: usize, path: &str) -> Result<Response> {
        http::get(&self.nodes[node].rest.address(), path).await
    }

    /// Calls that wait for their result (switchover, restart) get two minutes.
    pub async fn send(&self, node: usize, method: &str, path: &str, body: &Value) -> Result<Response> {
        self.send_raw(node, method, path, body.to_string().as_bytes()).await
    }

    pub async fn send_raw(&self, node: usize, method: &str, path: &str, body: &[u8]) -> Result<Response> {
        let address = self.nodes[node].rest.address();
        http::request(&address, method, path, Some(body), Duration::from_secs(120)).await
    }

    /// `GET /patroni`.
    pub async fn status(&self, node: usize) -> Result<Value> {
        let answer = self.get(node, "/patroni").await?;
        ensure!(answer.status == 200, "{} answers {} to /patroni", self.nodes[node].name, answer.status);
        answer.json()
    }

    /// One key of the cluster as it is in the store, unless that is the embedded one.
    pub async fn stored(&self, key: &str) -> Result<Option<Value>> {
        let text = self.stored_text(key).await?;
        text.map(|text| serde_json::from_slice(&text).context("no JSON")).transpose()
    }

    pub async fn stored_text(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let key = format!("service/{}/{key}", self.scope);
        if let Some(etcd) = &self.etcd {
            etcd.get(&format!("/{key}")).await
        } else if let Some(consul) = &self.consul {
            consul.get(&key).await
        } else if let Some(zookeeper) = &self.zookeeper {
            zookeeper.get(&format!("/{key}")).await
        } else {
            anyhow::bail!("the store cannot be looked into")
        }
    }

    pub async fn connect(&self, node: usize) -> Result<Connection> {
        Connection::open(self.nodes[node].postgres.number, SUPERUSER, Duration::from_secs(3)).await
    }

    /// First column of the first row; the empty string when there is none.
    pub async fn sql(&self, node: usize, sql: &str) -> Result<String> {
        let rows = self.connect(node).await?.rows(sql).await?;
        Ok(rows.into_iter().next().and_then(|row| row.into_iter().next()).unwrap_or_default())
    }

    /// Members whose PostgreSQL accepts writes, by asking each PostgreSQL.
    pub async fn writable(&self) -> Vec<usize> {
        let looks = (0..self.nodes.len()).map(async |node| {
            let answer = self.sql(node, "select pg_is_in_recovery()").await;
            answer.is_ok_and(|answer| answer == "f").then_some(node)
        });
        futures_util::future::join_all(looks).await.into_iter().flatten().collect()
    }

    /// The one member whose agent says it leads.
    pub async fn leader(&self) -> Result<usize> {
        let mut leaders = Vec::new();
        for node in 0..self.nodes.len() {
            if self.nodes[node].agent.is_some() && self.get(node, "/primary").await.is_ok_and(|a| a.status == 200) {
                leaders.push(node);
            }
        }
        match leaders[..] {
            [leader] => Ok(leader),
            [] => bail!("no member answers 200 to /primary"),
            _ => bail!("several members answer 200 to /primary: {:?}", self.names(&leaders)),
        }
    }

    /// Waits until a member leads and accepts writes.
    pub async fn wait_leader(&self) -> Result<usize> {
        wait_for("a leader", PATIENCE, async || self.writing_leader().await).await
    }

    /// Waits until another member than `old` leads and accepts writes.
    pub async fn wait_leader_other_than(&self, old: usize) -> Result<usize> {
        wait_for("another leader", PATIENCE, async || {
            let leader = self.writing_leader().await?;
            ensure!(leader != old, "{} still leads", self.nodes[old].name);
            Ok(leader)
        })
        .await
    }

    /// `/primary` says 200 from the moment the lead is taken, while the promotion is under way.
    async fn writing_leader(&self) -> Result<usize> {
        let leader = self.leader().await?;
        ensure!(self.sql(leader, "select pg_is_in_recovery()").await? == "f", "the new leader is read-only yet");
        Ok(leader)
    }

    pub async fn wait_healthy(&self) -> Result<usize> {
        wait_for("a healthy cluster", PATIENCE, async || self.healthy().await).await
    }

    /// The leader, when there is one and every other started member streams from it on its timeline and has all of
    /// what it had written a moment before.
    pub async fn healthy(&self) -> Result<usize> {
        let leader = self.leader().await?;
        let status = self.status(leader).await?;
        let timeline = status["timeline"].clone();
        ensure!(status["role"] == "primary" && status["state"] == "running", "the leader reports {status}");
        let written = status["xlog"]["location"].as_u64().context("the leader reports no WAL position")?;
        let others: Vec<usize> =
            self.others(leader).into_iter().filter(|node| self.nodes[*node].agent.is_some()).collect();
        for &node in &others {
            let name = &self.nodes[node].name;
            let status = self.status(node).await?;
            ensure!(status["role"] == "replica" && status["state"] == "running", "{name} reports {status}");
            ensure!(status["replication_state"] == "streaming", "{name} does not stream: {status}");
            ensure!(status["timeline"] == timeline, "{name} is not on timeline {timeline}: {status}");
            let replayed = status["xlog"]["replayed_location"].as_u64().unwrap_or(0);
            ensure!(replayed >= written, "{name} has replayed {replayed} of {written}");
        }
        let senders = "select application_name from pg_stat_replication where state = 'streaming'";
        let streaming: BTreeSet<String> =
            self.connect(leader).await?.rows(senders).await?.into_iter().flatten().collect();
        for &node in &others {
            let name = &self.nodes[node].name;
            ensure!(streaming.contains(name), "{name} does not stream from the leader, only {streaming:?}");
        }
        Ok(leader)
    }

    /// Waits until a member streams from the leader.
    pub async fn wait_streaming(&self, node: usize) -> Result<()> {
        let name = &self.nodes[node].name;
        wait_for(&format!("{name} streams"), PATIENCE, async || {
            let status = self.status(node).await?;
            ensure!(status["replication_state"] == "streaming", "it reports {status}");
            Ok(())
        })
        .await
    }

    /// Waits until no postmaster of this member lives.
    pub async fn wait_postgres_down(&self, node: usize, limit: Duration) -> Result<()> {
        let node = &self.nodes[node];
        wait_for(&format!("PostgreSQL of {} is down", node.name), limit, async || match node.postmaster_pid() {
            Some(pid) if procs::alive(pid) => bail!("postmaster {pid} lives"),
            _ => Ok(()),
        })
        .await
    }

    pub fn postmaster_alive(&self, node: usize) -> bool {
        self.nodes[node].postmaster_pid().is_some_and(procs::alive)
    }

    /// The dynamic configuration as the cluster has it.
    pub async fn dynamic(&self, node: usize) -> Result<Value> {
        self.get(node, "/config").await?.json()
    }

    pub fn names(&self, nodes: &[usize]) -> Vec<&str> {
        nodes.iter().map(|node| self.nodes[*node].name.as_str()).collect()
    }
}
