//! A primary without the store: it goes on while enough members vouch for it, and not longer.

#[path = "failsafe/half_alive.rs"]
mod half_alive;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use surus_testbed::{Cluster, Job, StoreKind, Writer, wait_for};

const TTL: Duration = Duration::from_secs(5);
const LONG: Duration = Duration::from_secs(90);

/// The store's keys say that a majority of so many may vouch for this leader.
async fn listed(cluster: &Cluster, leader: usize, members: usize) -> Result<()> {
    wait_for("who may vouch is in the store", LONG, async || {
        let names = cluster.stored("failsafe").await?.context("no failsafe key")?;
        ensure!(names.as_object().is_some_and(|n| n.len() == members), "{names}");
        let vouching = cluster.stored("vouching").await?.context("no vouching key")?;
        ensure!(vouching == json!({"leader": cluster.nodes[leader].name, "of": "majority"}), "{vouching}");
        Ok(())
    })
    .await
}

/// How often this member has come to know that a list of who may vouch for it is in the store. Under each lead it does so
/// anew, whether it has to write it again or not, and relies on nobody before.
fn lists_written(cluster: &Cluster, node: usize) -> usize {
    cluster.node(node).log().matches("without the store the leader needs").count()
}

/// It has the lead again, and has said anew who may vouch for it.
async fn leads_again(cluster: &Cluster, leader: usize, written: usize) -> Result<()> {
    wait_for("the lead is taken again", LONG, async || {
        let status = cluster.status(leader).await?;
        ensure!(
            status.get("failsafe_mode_is_active").is_none() && status.get("cluster_unlocked").is_none(),
            "{status}"
        );
        ensure!(cluster.get(leader, "/primary").await?.status == 200, "it is no primary any more");
        ensure!(lists_written(cluster, leader) > written, "it has not said who may vouch for it");
        Ok(())
    })
    .await
}

/// The store does not answer for so long, and the primary goes on.
async fn goes_on_without_the_store(cluster: &Cluster, writer: &Writer, leader: usize, long: Duration) -> Result<()> {
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    let (since, written) = (Instant::now(), lists_written(cluster, leader));
    etcd.freeze();
    wait_for("failsafe mode is shown", LONG, async || {
        let status = cluster.status(leader).await?;
        ensure!(status["failsafe_mode_is_active"] == Value::Bool(true), "{status}");
        Ok(())
    })
    .await?;
    let metrics = cluster.get(leader, "/metrics").await?.body;
    let active = |l: &str| l.starts_with("patroni_failsafe_mode_is_active{") && l.ends_with(" 1");
    ensure!(metrics.lines().any(active), "{metrics}");
    let name = &cluster.nodes[leader].name;
    let vouches = format!("member=\"{name}\"}} 1");
    let told = |l: &str| l.starts_with("surus_failsafe_vouches{") && l.ends_with(&vouches);
    ensure!(metrics.lines().any(told), "{metrics}");
    for command in ["list", "explain"] {
        let told = cluster.surus(leader, &[command]).await?;
        let out = String::from_utf8_lossy(&told.stdout);
        ensure!(out.contains("failsafe mode: goes on without the store, vouched for by"), "{command}: {told:?}");
        ensure!(out.contains(&format!("failsafe mode: vouches for {name} for another")), "{command}: {out}");
        ensure!(!told.status.success(), "{command}: the store was not read, and it is no error");
    }
    tokio::time::sleep(long.saturating_sub(since.elapsed())).await;
    writer.goes_on().await?;
    let gap = writer.seen().longest_gap(since);
    eprintln!(
        "without the store for {:?}: the longest time without an acknowledged commit was {gap:?}",
        since.elapsed()
    );
    ensure!(cluster.get(leader, "/primary").await?.status == 200, "it is no primary any more");
    etcd.thaw();
    leads_again(cluster, leader, written).await?;
    ensure!(gap < Duration::from_secs(1), "nobody acknowledged anything for {gap:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_goes_on_while_a_majority_vouches_for_it() -> Result<()> {
    let dynamic = json!({"ttl": TTL.as_secs(), "loop_wait": 1, "retry_timeout": 1, "failsafe_mode": null});
    let mut cluster =
        Cluster::builder(env!("CARGO_BIN_EXE_surus")).store(StoreKind::Etcd).links().dynamic(dynamic).healthy().await?;
    let leader = cluster.leader().await?;
    let config = cluster.dynamic(leader).await?;
    ensure!(config["failsafe_mode"] == true, "it is not on by default: {config}");
    listed(&cluster, leader, 3).await?;
    // What a member may have promised before it was started is over.
    tokio::time::sleep(TTL).await;
    let writer = Writer::start(&cluster).await?;
    writer.goes_on().await?;
    goes_on_without_the_store(&cluster, &writer, leader, TTL * 4).await?;

    // One of three does not answer while the store is away.
    let [one, other] = *cluster.others(leader) else { anyhow::bail!("not three members") };
    listed(&cluster, leader, 3).await?;
    cluster.signal(one, Job::Agent, Signal::STOP)?;
    goes_on_without_the_store(&cluster, &writer, leader, TTL * 3).await?;
    cluster.signal(one, Job::Agent, Signal::CONT)?;
    cluster.wait_healthy().await?;

    // Cut off from the store alone it goes on, too, and nobody takes the lead that is free there: a failover would cost
    // writers a gap and perhaps commits, and brings them nothing.
    listed(&cluster, leader, 3).await?;
    let (since, told) = (Instant::now(), lists_written(&cluster, leader));
    cluster.cut(leader);
    tokio::time::sleep(TTL * 3).await;
    writer.goes_on().await?;
    let gap = writer.seen().longest_gap(since);
    ensure!(cluster.get(other, "/replica").await?.status == 200, "another member was promoted");
    cluster.heal(leader);
    leads_again(&cluster, leader, told).await?;
    ensure!(cluster.wait_healthy().await? == leader, "another member leads");
    ensure!(gap < Duration::from_secs(1), "nobody acknowledged anything for {gap:?}");

    // Two of three: it stops before its lease is over.
    listed(&cluster, leader, 3).await?;
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    for node in [one, other] {
        cluster.signal(node, Job::Agent, Signal::STOP)?;
    }
    etcd.freeze();
    wait_for("who does not vouch is shown", TTL, async || {
        let status = cluster.status(leader).await?;
        let shown = &status["surus"]["failsafe"];
        ensure!(
            shown["state"] == "blocked" && shown["not_vouching"].as_object().is_some_and(|n| n.len() == 2),
            "{status}"
        );
        Ok(())
    })
    .await?;
    wait_for("the primary stops", TTL + Duration::from_secs(3), async || {
        ensure!(cluster.get(leader, "/primary").await?.status == 503, "it goes on");
        Ok(())
    })
    .await?;
    etcd.thaw();
    for node in [one, other] {
        cluster.signal(node, Job::Agent, Signal::CONT)?;
    }
    cluster.wait_healthy().await?;

    // The primary's machine is lost: the others consent that one of them leads.
    let leader = cluster.leader().await?;
    listed(&cluster, leader, 3).await?;
    writer.goes_on().await?;
    let since = Instant::now();
    cluster.kill_node(leader)?;
    let new = writer.leaves(leader).await?;
    eprintln!("another member acknowledges {:?} after the node was lost", since.elapsed());
    ensure!(since.elapsed() < TTL * 3, "it took {:?}", since.elapsed());
    // Whoever is gone is not asked any more, soon.
    listed(&cluster, new, 2).await?;
    cluster.start(leader)?;
    cluster.wait_healthy().await?;
    let written = writer.stop();
    ensure!(!written.acknowledged.is_empty(), "nothing was written");
    cluster.passed();
    Ok(())
}
