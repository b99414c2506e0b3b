//! Synchronous and quorum replication on real servers: who is waited for, who may be promoted, and what it costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::history::{Allowed, Clients};
use surus_testbed::{Builder, Cluster, StoreKind, Writer, wait_for};

const LONG: Duration = Duration::from_secs(90);
/// On a machine where everything else is tested at the same time; `cargo xtask bench` measures.
const STALL: Duration = Duration::from_secs(6);

fn cluster(dynamic: Value) -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus")).dynamic(dynamic)
}

async fn names(cluster: &Cluster) -> Result<String> {
    cluster.sql(cluster.leader().await?, "show synchronous_standby_names").await
}

async fn configure(cluster: &Cluster, what: Value) -> Result<()> {
    let answer = cluster.send(cluster.leader().await?, "PATCH", "/config", &what).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok(())
}

async fn lost_standby(store: StoreKind) -> Result<()> {
    let mut cluster = cluster(json!({"synchronous_mode": true})).store(store).healthy().await?;
    let sync = cluster.with_role("sync_standby", 1).await?[0];
    let leader = cluster.leader().await?;
    ensure!(names(&cluster).await? == cluster.nodes[sync].name, "{}", names(&cluster).await?);
    for (node, path, status) in [(sync, "/sync", 200), (sync, "/async", 503), (leader, "/sync", 503)] {
        let answer = cluster.get(node, path).await?;
        ensure!(answer.status == status, "{path}: {}", answer.status);
    }
    let writer = Writer::start(&cluster).await?;
    writer.goes_on().await?;
    let begin = Instant::now();
    cluster.kill_node(sync)?;
    writer.goes_on().await?;
    let other = cluster.with_role("sync_standby", 1).await?[0];
    ensure!(other != sync && cluster.leader().await? == leader);
    let written = writer.stop();
    let gap = written.longest_gap(begin);
    ensure!(gap < STALL, "writers waited for {gap:?}");
    ensure!(written.failed.is_empty(), "{:?}", written.failed);
    cluster.start(sync)?;
    cluster.wait_healthy().await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_standby_takes_over_for_a_lost_one_etcd() -> Result<()> {
    lost_standby(StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_standby_takes_over_for_a_lost_one_embedded() -> Result<()> {
    lost_standby(StoreKind::Embedded).await
}

async fn failovers(mode: &str, role: &str, count: usize) -> Result<()> {
    let mut cluster = cluster(json!({"synchronous_mode": mode})).store(StoreKind::Etcd).healthy().await?;
    cluster.with_role(role, count).await?;
    let clients = Clients::start(&cluster).await?;
    for _ in 0..3 {
        cluster.with_role(role, count).await?;
        let leader = cluster.leader().await?;
        let begin = Instant::now();
        wait_for("commits", LONG, async || clients.acknowledged_after(begin).context("none yet")).await?;
        cluster.kill_node(leader)?;
        cluster.wait_leader_other_than(leader).await?;
        let promoted = Instant::now();
        wait_for("commits of the new primary", LONG, async || clients.acknowledged_after(promoted).context("none yet"))
            .await?;
        cluster.start(leader)?;
        cluster.wait_healthy().await?;
    }
    let allowed = Allowed { synchronous: true, bytes: 0, unpublished: Duration::ZERO };
    let verdict = clients.verdict(&cluster, cluster.leader().await?, &allowed).await?;
    ensure!(verdict.violations.is_empty(), "{verdict}");
    drop(clients);
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failovers_lose_nothing() -> Result<()> {
    failovers("on", "sync_standby", 1).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failovers_lose_nothing_in_quorum_mode() -> Result<()> {
    failovers("quorum", "quorum_standby", 2).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_mode_waits_for_a_standby() -> Result<()> {
    let strict = json!({"synchronous_mode": true, "synchronous_mode_strict": true});
    let mut cluster = cluster(strict).store(StoreKind::Etcd).healthy().await?;
    cluster.with_role("sync_standby", 1).await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    for node in cluster.others(leader) {
        cluster.kill_node(node)?;
    }
    wait_for("a commit that waits", LONG, async || {
        let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        ensure!(cluster.sql(leader, waiting).await? != "0", "nobody waits");
        Ok(())
    })
    .await?;
    cluster.start(cluster.others(leader)[0])?;
    writer.goes_on().await?;
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mode_changes_while_clients_write() -> Result<()> {
    let cluster = cluster(json!({})).store(StoreKind::Embedded).healthy().await?;
    let writer = Writer::start(&cluster).await?;
    for (what, role, count, expected) in [
        (json!({"synchronous_mode": true}), "sync_standby", 1, None),
        (json!({"synchronous_node_count": 2}), "sync_standby", 2, Some("2 (")),
        (json!({"synchronous_mode": "quorum"}), "quorum_standby", 2, Some("ANY 2 (")),
        (json!({"synchronous_node_count": 1}), "quorum_standby", 2, Some("ANY 1 (")),
        (json!({"synchronous_mode": "off"}), "replica", 2, Some("")),
    ] {
        configure(&cluster, what.clone()).await?;
        cluster.with_role(role, count).await?;
        wait_for("the setting", LONG, async || {
            let shown = names(&cluster).await?;
            let right = expected.is_none_or(|e| if e.is_empty() { shown.is_empty() } else { shown.starts_with(e) });
            ensure!(right, "{what}: {shown}");
            Ok(())
        })
        .await?;
        writer.goes_on().await?;
    }
    let written = writer.stop();
    ensure!(written.failed.is_empty(), "{:?}", written.failed);
    written.verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}
