//! A cluster on ZooKeeper: bring-up, the lead going round, members and the store in trouble.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use surus_testbed::{Builder, Cluster, StoreKind, Writer, wait_for};

const LONG: Duration = Duration::from_secs(90);

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
        .store(StoreKind::ZooKeeper)
        .dynamic(json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_on_zookeeper() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let first = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;

    let second = cluster.others(first)[1];
    let body = json!({"leader": cluster.nodes[first].name, "candidate": cluster.nodes[second].name});
    let answer = cluster.send(first, "POST", "/switchover", &body).await?;
    ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
    ensure!(cluster.wait_healthy().await? == second);
    writer.writes_to(second).await?;

    // Frozen for less than the ttl, and killed and started again: nobody is replaced.
    let zookeeper = cluster.zookeeper.as_ref().context("no ZooKeeper")?;
    zookeeper.freeze();
    tokio::time::sleep(Duration::from_secs(6)).await;
    zookeeper.thaw();
    ensure!(cluster.wait_healthy().await? == second);
    let zookeeper = cluster.zookeeper.as_mut().context("no ZooKeeper")?;
    zookeeper.kill();
    zookeeper.start_again().await?;
    ensure!(cluster.wait_healthy().await? == second);

    // The node dies: its session ends a ttl later.
    cluster.kill_node(second)?;
    let third = cluster.wait_leader_other_than(second).await?;
    writer.writes_to(third).await?;
    cluster.start(second)?;
    ensure!(cluster.wait_healthy().await? == third);

    // An agent that stops takes its session along: its member key is gone at once.
    let stopped = cluster.others(third)[0];
    let key = format!("members/{}", cluster.nodes[stopped].name);
    ensure!(cluster.stored(&key).await?.is_some());
    cluster.stop(stopped).await?;
    ensure!(cluster.stored(&key).await?.is_none());
    cluster.start(stopped)?;
    cluster.wait_healthy().await?;

    writer.stop().verify_lost_with(&cluster, second).await?;
    cluster.passed();
    Ok(())
}

/// A primary that cannot reach ZooKeeper has stopped before another one is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_cut_off_from_zookeeper_stops_first() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let old = cluster.leader().await?;
    cluster.stall(old);
    let mut two = None;
    wait_for("another leader", LONG, async || {
        let writable = cluster.writable().await;
        if writable.len() > 1 {
            two = Some(writable);
            return Ok(());
        }
        ensure!(writable.iter().any(|node| *node != old), "writable: {writable:?}");
        Ok(())
    })
    .await?;
    ensure!(two.is_none(), "two members accept writes: {two:?}");
    cluster.heal(old);
    cluster.wait_healthy().await?;
    cluster.passed();
    Ok(())
}
