//! A cluster moves from store to store while clients write: no server is restarted, nobody else ever leads, nothing acknowledged is lost, and
//! whatever is killed on the way, the move goes on or is given up.

mod killed;
mod round;
mod witness;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_store::{Kv, Op, Txn};
use surus_testbed::{Cluster, Connection, Consul, Port, SUPERUSER, StoreKind, Writer, ZooKeeper, http, wait_for};

const SURUS: &str = env!("CARGO_BIN_EXE_surus");
const LONG: Duration = Duration::from_secs(90);
const LIMIT: Duration = Duration::from_secs(5);

/// The embedded store on free ports, as the file that `--to` names and as the section of each member.
fn embedded(cluster: &Cluster) -> Result<(PathBuf, Vec<Value>, Vec<Port>)> {
    let ports: Vec<Port> = cluster.nodes.iter().map(|_| Port::free()).collect::<Result<_>>()?;
    let addresses: Vec<String> = ports.iter().map(Port::address).collect();
    let mut sections = Vec::new();
    let mut members = serde_json::Map::new();
    for (node, member) in cluster.nodes.iter().enumerate() {
        let own = json!({"self_addr": addresses[node], "data_dir": member.dir.join("moved-raft")});
        let others: Vec<&String> = addresses.iter().filter(|a| **a != addresses[node]).collect();
        sections.push(json!({"self_addr": addresses[node], "data_dir": member.dir.join("moved-raft"),
                             "partner_addrs": others, "password": "secret"}));
        members.insert(member.name.clone(), json!({"raft": own}));
    }
    let file = cluster.dir().join("to-raft.yml");
    std::fs::write(&file, json!({"raft": {"password": "secret"}, "members": members}).to_string())?;
    Ok((file, sections, ports))
}

fn command(config: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(SURUS);
    command.arg("-c").arg(config).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn surus(config: &Path, args: &[&str]) -> Result<Output> {
    let mut command = command(config, args);
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn migrate(config: &Path, to: &Path) -> Result<String> {
    let output = surus(config, &["store", "migrate", "--to", &to.display().to_string(), "--force"]).await?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(said(&output))
}

/// What a move must leave alone.
#[derive(Debug, PartialEq)]
struct Running {
    postmasters: Vec<Option<i32>>,
    starts: Vec<String>,
    leader: usize,
    waited_for: String,
}

async fn running(cluster: &Cluster) -> Result<Running> {
    let leader = cluster.wait_healthy().await?;
    let mut starts = Vec::new();
    let started = (0..cluster.nodes.len()).filter(|node| cluster.node(*node).agent_pid().is_some());
    for node in started.clone() {
        starts.push(cluster.sql(node, "select pg_postmaster_start_time()").await?);
    }
    let postmasters = started.map(|node| cluster.node(node).postmaster_pid()).collect();
    let waited_for = cluster.sql(leader, "show synchronous_standby_names").await?;
    Ok(Running { postmasters, starts, leader, waited_for })
}

/// Asks every member all the time who leads and who accepts writes.
struct Watch {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(usize, Vec<String>)>,
}

impl Watch {
    /// Nobody but this member may ever say so.
    fn only(cluster: &Cluster, leader: usize) -> Watch {
        let members: Vec<(String, u16)> =
            cluster.nodes.iter().map(|node| (node.rest.address(), node.postgres.number)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut looks, mut others) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let asked =
                    members.iter().enumerate().filter(|(node, _)| *node != leader).map(async |(node, member)| {
                        let (leads, writes) = (http::get(&member.0, "/primary"), async {
                            let connection = Connection::open(member.1, SUPERUSER, Duration::from_secs(3)).await?;
                            connection.rows("select pg_is_in_recovery()").await
                        });
                        let (leads, writes) = futures_util::join!(leads, writes);
                        let leads = leads.is_ok_and(|answer| answer.status == 200);
                        let writes = writes.is_ok_and(|rows| rows == [["f"]]);
                        (leads || writes).then(|| format!("node{}: leads {leads}, writes {writes}", node + 1))
                    });
                others.extend(futures_util::future::join_all(asked).await.into_iter().flatten());
                looks += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (looks, others)
        });
        Watch { stop, task }
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let (looks, others) = self.task.await?;
        ensure!(looks > 5 && others.is_empty(), "{looks} looks: {others:?}");
        Ok(())
    }
}

/// The store of this section, beside the members.
async fn look_into(cluster: &Cluster, section: &Value) -> Result<Arc<dyn Kv>> {
    let store = surus_config::StoreConfig::read("the store", &section.to_string())?;
    let local = surus_config::LocalConfig::load(Some(&cluster.node(0).config_path()), &BTreeMap::new())?;
    Ok(surus_agent::stores::OpenStore::open(&local.on(store)).await?.kv)
}

async fn delete(kv: &dyn Kv, key: &str) -> Result<()> {
    let then = vec![Op::Delete { key: key.to_owned() }];
    kv.txn(Txn { compare: Vec::new(), then }, LIMIT).await?;
    Ok(())
}

/// The leader key as the store of this section has it: its value, and whether it ends with a session.
async fn leader_key(cluster: &Cluster, section: &Value) -> Result<(String, bool)> {
    let prefix = format!("/service/{}/leader", cluster.scope);
    let snapshot = look_into(cluster, section).await?.read(&prefix, LIMIT).await?;
    let key = snapshot.keys.first().context("no leader key")?;
    Ok((String::from_utf8_lossy(&key.value).into_owned(), key.lease.is_some()))
}

/// A move under load, and everything that has to be as it was. Then the configurations follow; what they were is returned.
async fn hop(cluster: &mut Cluster, writer: &Writer, from: &Place, to: &Place) -> Result<PathBuf> {
    let before = running(cluster).await?;
    let leader = before.leader;
    let begun = Instant::now();
    let text = migrate(&cluster.node(leader).config_path(), &to.file).await?;
    let took = begun.elapsed();
    writer.goes_on().await?;
    let gap = writer.seen().longest_gap(begun);
    println!("{text}from {} to {}: {took:?}, longest gap of writes {gap:?}", from.name, to.name);
    ensure!(gap < Duration::from_secs(10), "nobody could write for {gap:?}");
    ensure!(running(cluster).await? == before, "{:?} instead of {before:?}", running(cluster).await?);
    // The lead here ends with its session; there it never ends, and is nobody's.
    if to.name != "raft" {
        ensure!(leader_key(cluster, &to.direct).await? == (cluster.node(leader).name.clone(), true));
    }
    if from.name != "raft" {
        ensure!(leader_key(cluster, &from.direct).await? == ("/moved".into(), false));
    }
    configure(cluster, from.name, to.name, &to.sections)
}

/// Names the store of each member anew in its configuration, and keeps the old one beside it.
fn configure(cluster: &mut Cluster, old: &str, new: &str, sections: &[Value]) -> Result<PathBuf> {
    let kept = cluster.dir().join(format!("{old}.yml"));
    std::fs::copy(cluster.node(0).config_path(), &kept)?;
    for (node, section) in cluster.nodes.iter_mut().zip(sections) {
        let config = node.config.as_object_mut().context("a mapping")?;
        config.remove(old);
        config.insert(new.to_owned(), section.clone());
        node.write_config()?;
    }
    Ok(kept)
}

/// A store that a cluster may move to.
struct Place {
    name: &'static str,
    file: PathBuf,
    /// For each member.
    sections: Vec<Value>,
    /// For whoever is no member: past the network that only members may use.
    direct: Value,
}

impl Place {
    fn new(cluster: &Cluster, name: &'static str, section: &Value) -> Result<Place> {
        let file = cluster.dir().join(format!("to-{name}.yml"));
        let direct = json!({name: section});
        std::fs::write(&file, direct.to_string())?;
        Ok(Place { name, file, sections: vec![section.clone(); cluster.nodes.len()], direct })
    }
}

async fn refused(cluster: &Cluster, to: &Place, why: &[&str]) -> Result<()> {
    let config = cluster.node(0).config_path();
    let tried = surus(&config, &["store", "migrate", "--to", &to.file.display().to_string(), "--force"]).await?;
    let said = said(&tried);
    ensure!(!tried.status.success() && why.iter().all(|why| said.contains(why)), "instead of {why:?}: {said}");
    Ok(())
}

/// Whether the register in etcd says this.
async fn register(cluster: &Cluster, what: &str) -> Result<Value> {
    let key = format!("/service/{}/migrate", cluster.scope);
    let value = cluster.etcd.as_ref().context("etcd")?.get(&key).await?.unwrap_or_default();
    ensure!(String::from_utf8_lossy(&value).contains(what), "the register does not say {what}");
    Ok(serde_json::from_slice(&value)?)
}
