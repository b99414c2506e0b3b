//! A cluster moves from store to store while clients write: no server is restarted, nobody else ever leads, nothing acknowledged is lost, and
//! whatever is killed on the way, the move goes on or is given up.

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
    for node in 0..cluster.nodes.len() {
        starts.push(cluster.sql(node, "select pg_postmaster_start_time()").await?);
    }
    let postmasters = cluster.nodes.iter().map(surus_testbed::Node::postmaster_pid).collect();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn round_all_stores_under_load() -> Result<()> {
    let dynamic =
        json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5, "synchronous_mode": true, "failsafe_mode": true});
    let mut cluster = Cluster::builder(SURUS).store(StoreKind::Etcd).dynamic(dynamic).healthy().await?;
    let (file, sections, _ports) = embedded(&cluster)?;
    let raft = Place { name: "raft", file, sections, direct: Value::Null };
    let etcd = Place::new(&cluster, "etcd3", &cluster.node(0).config["etcd3"])?;
    let port = cluster.etcd.as_ref().context("etcd")?.port();
    let etcd = Place { direct: json!({"etcd3": {"host": format!("127.0.0.1:{port}"), "use_proxies": true}}), ..etcd };
    let zookeeper = ZooKeeper::start(&cluster.dir().join("zookeeper")).await?;
    let hosts = json!({"hosts": [format!("127.0.0.1:{}", zookeeper.ports()[0])]});
    let zookeeper_place = Place::new(&cluster, "zookeeper", &hosts)?;
    let consul_server = Consul::start(&cluster.dir().join("consul")).await?;
    let consul = Place::new(&cluster, "consul", &json!({"host": format!("127.0.0.1:{}", consul_server.port())}))?;
    let writer = Writer::start(&cluster).await?;
    let leader = cluster.wait_healthy().await?;
    wait_for("a synchronous standby", LONG, async || {
        let names = cluster.sql(leader, "show synchronous_standby_names").await?;
        ensure!(!names.is_empty(), "none yet");
        Ok(())
    })
    .await?;
    let config = cluster.node(0).config_path();

    // What cannot be moved is told, and stays where it is.
    let paused = surus(&config, &["pause", "--wait"]).await?;
    ensure!(paused.status.success(), "{}", said(&paused));
    refused(&cluster, &consul, &["paused", "resume it first"]).await?;
    let resumed = surus(&config, &["resume", "--wait"]).await?;
    ensure!(resumed.status.success(), "{}", said(&resumed));
    let key = format!("/service/{}/members/old", cluster.scope);
    let patroni = br#"{"conn_url":"postgres://127.0.0.1:1/postgres","api_url":"http://127.0.0.1:1/patroni","state":"running","role":"replica","version":"4.1.1"}"#;
    cluster.etcd.as_ref().context("etcd")?.put(&key, patroni).await?;
    refused(&cluster, &consul, &["old: Patroni 4.1.1 drives it"]).await?;
    ensure!(surus(&config, &["store", "migrate", "--abort"]).await.is_ok_and(|o| !o.status.success()), "nothing began");
    delete(&*look_into(&cluster, &etcd.direct).await?, &key).await?;
    let foreign = format!("service/{}/initialize", cluster.scope);
    consul_server.put(&foreign, b"7000000000000000001").await?;
    refused(&cluster, &consul, &["7000000000000000001", "already holds"]).await?;
    let given_up = surus(&config, &["store", "migrate", "--abort"]).await?;
    ensure!(given_up.status.success() && said(&given_up).contains("has closed the new store"), "{}", said(&given_up));
    delete(&*look_into(&cluster, &consul.direct).await?, &format!("/{foreign}")).await?;

    let tried = surus(&config, &["store", "migrate", "--to", &raft.file.display().to_string(), "--dry-run"]).await?;
    ensure!(tried.status.success() && said(&tried).contains("can be made"), "{}", said(&tried));
    let watch = Watch::only(&cluster, leader);
    let moved = config.clone();
    let kept = hop(&mut cluster, &writer, &etcd, &raft).await?;
    // Commands that still name the old store say so; the keys there go only when nobody names it any more.
    let list = surus(&kept, &["list"]).await?;
    ensure!(said(&list).contains("has moved to another store, raft"), "{}", said(&list));
    std::fs::copy(&kept, &moved)?;
    let early = surus(&kept, &["store", "migrate", "--clean"]).await?;
    ensure!(!early.status.success() && said(&early).contains("still names this store"), "{}", said(&early));
    // A member that is restarted before its configuration was changed goes on with the new store.
    cluster.restart_agent(0)?;
    cluster.wait_healthy().await?;
    ensure!(cluster.node(0).log().contains("moved to another store than the configuration names"), "it says nothing");
    cluster.node(0).write_config()?;
    cluster.restart_agent(0)?;
    cluster.wait_healthy().await?;
    ensure!(!cluster.node(0).data_dir().with_extension("surus.store").exists(), "the section is still kept");
    let clean = surus(&kept, &["store", "migrate", "--clean"]).await?;
    ensure!(clean.status.success(), "{}", said(&clean));

    hop(&mut cluster, &writer, &raft, &zookeeper_place).await?;
    hop(&mut cluster, &writer, &zookeeper_place, &consul).await?;

    // One member is away meanwhile: it reads in the old store that the cluster has left it.
    let before = running(&cluster).await?;
    ensure!(before.leader == leader, "the lead has moved");
    let away = cluster.others(leader)[1];
    cluster.stop(away).await?;
    let config = cluster.node(leader).config_path();
    wait_for("it is gone", LONG, async || {
        let shown: Value = cluster.get(leader, "/cluster").await?.json()?;
        ensure!(shown["members"].as_array().is_some_and(|m| m.len() == 2), "{shown}");
        Ok(())
    })
    .await?;
    let begun = Instant::now();
    println!("{}", migrate(&config, &etcd.file).await?);
    writer.goes_on().await?;
    println!("from consul to etcd3: longest gap of writes {:?}", writer.seen().longest_gap(begun));
    ensure!(cluster.wait_healthy().await? == leader, "the lead has moved");
    ensure!(leader_key(&cluster, &etcd.direct).await? == (cluster.node(leader).name.clone(), true));
    ensure!(leader_key(&cluster, &consul.direct).await? == ("/moved".into(), false));
    cluster.start(away)?;
    wait_for("it says so", LONG, async || {
        ensure!(cluster.node(away).log().contains("while this member was away"), "not yet");
        Ok(())
    })
    .await?;
    // The command tells whoever is in the old store, where this one may not have written its key yet.
    wait_for("it is told", LONG, async || {
        migrate(&config, &etcd.file).await?;
        let part: Value = cluster.get(away, "/migrate").await?.json()?;
        let there: Value = cluster.get(leader, "/migrate").await?.json()?;
        ensure!(part["phase"] == "arrived" && part["id"] == there["id"], "{part}");
        Ok(())
    })
    .await?;
    let after = running(&cluster).await?;
    watch.end().await?;
    ensure!((0..3).all(|node| node == away || after.starts[node] == before.starts[node]), "a server was restarted");
    ensure!(after.leader == leader, "the lead has moved");
    configure(&mut cluster, "consul", "etcd3", &etcd.sections)?;
    // The cluster works as before: somebody else takes over from a leader that is lost.
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    writer.writes_to(new).await?;
    cluster.start(leader)?;
    cluster.wait_healthy().await?;
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}

/// Whether the register in etcd says this.
async fn register(cluster: &Cluster, what: &str) -> Result<Value> {
    let key = format!("/service/{}/migrate", cluster.scope);
    let value = cluster.etcd.as_ref().context("etcd")?.get(&key).await?.unwrap_or_default();
    ensure!(String::from_utf8_lossy(&value).contains(what), "the register does not say {what}");
    Ok(serde_json::from_slice(&value)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_it_goes_on_or_is_given_up() -> Result<()> {
    let dynamic = json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5, "synchronous_mode": true,
                         "synchronous_mode_strict": true});
    let mut cluster = Cluster::builder(SURUS).store(StoreKind::Etcd).dynamic(dynamic).healthy().await?;
    let (to_raft, _, _ports) = embedded(&cluster)?;
    let server = Consul::start(&cluster.dir().join("consul")).await?;
    let consul = Place::new(&cluster, "consul", &json!({"host": format!("127.0.0.1:{}", server.port())}))?;
    let (to_raft, to_consul) = (to_raft.display().to_string(), consul.file.display().to_string());
    let writer = Writer::start(&cluster).await?;
    let before = running(&cluster).await?;
    let config = cluster.node(0).config_path();

    // The new store is dead: the command is killed while it waits for it, and the leader finds out before anything is
    // decided. The same with the old one. Then it is given up.
    server.freeze();
    let mut run = command(&config, &["store", "migrate", "--to", &to_consul, "--force"]).spawn()?;
    let begun = wait_for("the register", LONG, async || register(&cluster, "preparing").await).await?;
    let id = json!({"id": begun["id"]});
    wait_for("everybody is prepared", LONG, async || {
        for node in 0..cluster.nodes.len() {
            // It asks the store, which takes its time to say nothing.
            let part: Value = cluster.send(node, "GET", "/migrate", &json!({})).await?.json()?;
            ensure!(part["phase"] == "prepared" && part["id"] == begun["id"], "{part}");
        }
        Ok(())
    })
    .await?;
    run.kill()?;
    run.wait()?;
    let watch = Watch::only(&cluster, before.leader);
    let tried = cluster.send(before.leader, "PUT", "/migrate", &id).await?;
    ensure!(tried.status == 412 && tried.body.contains("new store"), "{} {}", tried.status, tried.body);
    server.thaw();
    let etcd = cluster.etcd.as_ref().context("etcd")?;
    etcd.freeze();
    let tried = cluster.send(before.leader, "PUT", "/migrate", &id).await;
    etcd.thaw();
    let tried = tried?;
    ensure!(tried.status == 412, "{} {}", tried.status, tried.body);
    let given_up = surus(&config, &["store", "migrate", "--abort"]).await?;
    ensure!(given_up.status.success() && said(&given_up).contains("has closed the new store"), "{}", said(&given_up));
    ensure!(register(&cluster, "preparing").await.is_err(), "it is still there");
    ensure!(running(&cluster).await? == before, "{:?} instead of {before:?}", running(&cluster).await?);
    watch.end().await?;

    // The leader is lost as soon as a move begins; somebody else leads, and it is given up.
    let mut run = command(&config, &["store", "migrate", "--to", &to_raft, "--force"]).spawn()?;
    wait_for("the register", LONG, async || register(&cluster, "preparing").await).await?;
    cluster.kill_node(before.leader)?;
    // It would wait for the one that is lost.
    run.kill()?;
    run.wait()?;
    cluster.start(before.leader)?;
    let leader = cluster.wait_healthy().await?;
    let given_up = surus(&config, &["store", "migrate", "--abort"]).await?;
    ensure!(given_up.status.success(), "{}", said(&given_up));

    // The agent of the leader is killed as soon as it has decided: it goes on in the new store, and so does its server.
    let mut run = command(&config, &["store", "migrate", "--to", &to_consul, "--force"]).spawn()?;
    let server_before = cluster.node(leader).postmaster_pid();
    while register(&cluster, "moved").await.is_err() {
        ensure!(run.try_wait()?.is_none_or(|status| status.success()), "the command failed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.kill_agent(leader)?;
    cluster.start(leader)?;
    ensure!(cluster.wait_healthy().await? == leader, "the lead has moved");
    ensure!(cluster.node(leader).postmaster_pid() == server_before, "the server was restarted");
    ensure!(run.wait()?.success(), "the command failed");
    ensure!(leader_key(&cluster, &consul.direct).await? == (cluster.node(leader).name.clone(), true));
    // And the store that it came to gives the lead to somebody else when it is lost.
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    writer.writes_to(new).await?;
    cluster.start(leader)?;
    ensure!(cluster.wait_healthy().await? == new, "the lead has moved once more");
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}
