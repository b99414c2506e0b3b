//! A cluster moves to another store and back while clients write: no server is restarted, nothing acknowledged is lost, and
//! whatever is killed on the way, the move goes on or is given up.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Cluster, Port, StoreKind, Writer, wait_for};

const SURUS: &str = env!("CARGO_BIN_EXE_surus");
const LONG: Duration = Duration::from_secs(90);

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

async fn starts(cluster: &Cluster) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for node in 0..cluster.nodes.len() {
        all.push(cluster.sql(node, "select pg_postmaster_start_time()").await?);
    }
    Ok(all)
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_the_embedded_store_and_back_under_load() -> Result<()> {
    let mut cluster =
        Cluster::builder(SURUS).store(StoreKind::Etcd).dynamic(json!({"synchronous_mode": true})).healthy().await?;
    let etcd = cluster.node(0).config["etcd3"].clone();
    let (to_raft, raft, _ports) = embedded(&cluster)?;
    let to_etcd = cluster.dir().join("to-etcd.yml");
    std::fs::write(&to_etcd, json!({"etcd3": etcd}).to_string())?;
    let writer = Writer::start(&cluster).await?;
    let leader = cluster.wait_healthy().await?;
    wait_for("a synchronous standby", LONG, async || {
        let names = cluster.sql(leader, "show synchronous_standby_names").await?;
        ensure!(!names.is_empty(), "none yet");
        Ok(())
    })
    .await?;
    let before = starts(&cluster).await?;
    let names = cluster.sql(leader, "show synchronous_standby_names").await?;

    let config = cluster.node(0).config_path();
    let tried = surus(&config, &["store", "migrate", "--to", &to_raft.display().to_string(), "--dry-run"]).await?;
    ensure!(tried.status.success() && said(&tried).contains("can be made"), "{}", said(&tried));
    let begun = Instant::now();
    let text = migrate(&config, &to_raft).await?;
    println!("{text}");
    writer.goes_on().await?;
    println!("to the embedded store: longest gap {:?}", writer.seen().longest_gap(begun));
    ensure!(cluster.wait_healthy().await? == leader, "the lead has moved");
    ensure!(starts(&cluster).await? == before, "a server was restarted");
    ensure!(cluster.sql(leader, "show synchronous_standby_names").await? == names, "other standbys are waited for");

    // Commands that still name the old store say so; the keys there go only when nobody names it any more.
    let list = surus(&config, &["list"]).await?;
    ensure!(said(&list).contains("has moved to another store, raft"), "{}", said(&list));
    let early = surus(&config, &["store", "migrate", "--clean"]).await?;
    ensure!(!early.status.success() && said(&early).contains("still names this store"), "{}", said(&early));
    // A member that is restarted before its configuration was changed goes on with the new store.
    let replica = cluster.others(leader)[0];
    cluster.restart_agent(replica)?;
    cluster.wait_healthy().await?;
    ensure!(
        cluster.node(replica).log().contains("moved to another store than the configuration names"),
        "it says nothing"
    );

    let old = configure(&mut cluster, "etcd3", "raft", &raft)?;
    cluster.restart_agent(replica)?;
    cluster.wait_healthy().await?;
    ensure!(!cluster.node(replica).data_dir().with_extension("surus.store").exists(), "the section is still kept");
    let clean = surus(&old, &["store", "migrate", "--clean"]).await?;
    ensure!(clean.status.success(), "{}", said(&clean));

    // One member is away meanwhile: it reads in the old store, which goes on in the others' agents, that it was left.
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
    println!("{}", migrate(&config, &to_etcd).await?);
    writer.goes_on().await?;
    println!("to etcd: longest gap {:?}", writer.seen().longest_gap(begun));
    ensure!(cluster.wait_healthy().await? == leader, "the lead has moved");
    cluster.start(away)?;
    wait_for("it says so", LONG, async || {
        ensure!(cluster.node(away).log().contains("while this member was away"), "not yet");
        Ok(())
    })
    .await?;
    ensure!(cluster.writable().await == [leader], "it accepts writes");
    migrate(&config, &to_etcd).await?;
    ensure!(cluster.wait_healthy().await? == leader, "the lead has moved");
    let after = starts(&cluster).await?;
    ensure!((0..3).all(|node| node == away || after[node] == before[node]), "a server was restarted");
    configure(&mut cluster, "raft", "etcd3", &vec![etcd; 3])?;
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
async fn register(cluster: &Cluster, what: &str) -> Result<()> {
    let key = format!("/service/{}/migrate", cluster.scope);
    let value = cluster.etcd.as_ref().context("etcd")?.get(&key).await?.unwrap_or_default();
    ensure!(String::from_utf8_lossy(&value).contains(what), "the register does not say {what}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_it_goes_on_or_is_given_up() -> Result<()> {
    let synchronous = json!({"synchronous_mode": true, "synchronous_mode_strict": true});
    let mut cluster = Cluster::builder(SURUS).store(StoreKind::Etcd).dynamic(synchronous).healthy().await?;
    let (to_raft, _, _ports) = embedded(&cluster)?;
    let to = to_raft.display().to_string();
    let writer = Writer::start(&cluster).await?;
    let leader = cluster.wait_healthy().await?;
    let config = cluster.node(0).config_path();

    // The command is killed while members prepare: one of them does not answer meanwhile.
    let frozen = cluster.others(leader)[1];
    let mut run = command(&config, &["store", "migrate", "--to", &to, "--force"]).spawn()?;
    let prepared = wait_for("the register", LONG, async || register(&cluster, "preparing").await).await;
    cluster.freeze_agent(frozen)?;
    run.kill()?;
    run.wait()?;
    cluster.thaw(frozen);
    prepared?;
    let decided = register(&cluster, "moved").await.is_ok();
    if !decided {
        let given_up = surus(&config, &["store", "migrate", "--abort"]).await?;
        ensure!(given_up.status.success(), "{}", said(&given_up));
        ensure!(register(&cluster, "preparing").await.is_err(), "it is still there");
        cluster.wait_healthy().await?;

        // The leader is lost as soon as a move begins; it comes back, and the command is run again.
        let mut run = command(&config, &["store", "migrate", "--to", &to, "--force"]).spawn()?;
        wait_for("the register", LONG, async || register(&cluster, "preparing").await).await?;
        let lost = cluster.leader().await?;
        cluster.kill_node(lost)?;
        run.wait()?;
        cluster.start(lost)?;
        cluster.wait_healthy().await?;
    }
    // Run again, it goes on with whatever it finds; and the leader is lost as soon as it has decided.
    let leader = cluster.wait_healthy().await?;
    let mut run = command(&config, &["store", "migrate", "--to", &to, "--force"]).spawn()?;
    while register(&cluster, "moved").await.is_err() {
        ensure!(run.try_wait()?.is_none_or(|status| status.success()), "the command failed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    writer.writes_to(new).await?;
    run.wait()?;
    cluster.start(leader)?;
    ensure!(cluster.wait_healthy().await? == new, "the lead has moved once more");
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}
