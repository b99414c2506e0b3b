//! The store is frozen for longer than a lease lasts, under primaries of both kinds with replicas of both: who leads goes on,
//! and slots on replicas are moved on with those of the primary.

use std::time::Instant;

use surus_testbed::Writer;

use super::lead::{Ask, switch};
use super::*;

/// Longer than any lease of the cluster.
const AWAY: Duration = Duration::from_secs(27);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_of_either_kind_outlives_the_store() -> Result<()> {
    let dynamic = json!({
        "failsafe_mode": true,
        "postgresql": {"parameters": {"wal_level": "logical"}},
        "slots": {"read": {"type": "logical", "database": "postgres", "plugin": "test_decoding"}},
    });
    let cluster = bootstrapped_by(0, cluster(&[1, 2], dynamic)).await?;
    let writer = Writer::start(&cluster).await?;
    outlives(&cluster, &writer, 0).await?;
    switch(&cluster, 0, 1, Ask::Rest(0)).await?;
    writer.writes_to(1).await?;
    outlives(&cluster, &writer, 1).await?;
    // And who takes over then has everything.
    switch(&cluster, 1, 0, Ask::Rest(2)).await?;
    writer.writes_to(0).await?;
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}

async fn outlives(cluster: &Cluster, writer: &Writer, leader: usize) -> Result<()> {
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    listed(cluster, leader).await?;
    let there = "select count(*) from pg_replication_slots where slot_name = 'read'";
    for node in cluster.others(leader) {
        wait_for("the slot on each member", LONG, async || {
            ensure!(cluster.sql(node, there).await? == "1");
            Ok(())
        })
        .await?;
    }
    // Patroni makes a slot of a copy whose log may be gone already, and sees that when it moves it on.
    slots_move_on(cluster, leader).await?;
    let timeline = cluster.status(leader).await?["timeline"].clone();
    let since = Instant::now();
    etcd.freeze();
    for node in 0..cluster.nodes.len() {
        wait_for("failsafe mode is shown by each member", LONG, async || {
            let status = cluster.status(node).await?;
            ensure!(status["failsafe_mode_is_active"] == true, "{}: {status}", cluster.nodes[node].name);
            Ok(())
        })
        .await?;
    }
    slots_move_on(cluster, leader).await?;
    tokio::time::sleep(AWAY.saturating_sub(since.elapsed())).await;
    writer.goes_on().await?;
    let gap = writer.seen().longest_gap(since);
    eprintln!("{} without the store for {:?}: longest gap {gap:?}", cluster.nodes[leader].name, since.elapsed());
    etcd.thaw();
    wait_for("the lead is taken again", LONG, async || {
        let status = cluster.status(leader).await?;
        ensure!(status.get("cluster_unlocked").is_none(), "{status}");
        ensure!(status.get("failsafe_mode_is_active").is_none(), "{status}");
        Ok(())
    })
    .await?;
    ensure!(cluster.wait_healthy().await? == leader, "another member leads");
    // Patroni writes its key in its own time, and takes whom it vouched for as the leader for a ttl, whatever the store says.
    wait_for("all members are in the store again, and nobody vouches", LONG, async || {
        let shown: Value = cluster.get(leader, "/cluster").await?.json()?;
        ensure!(shown["members"].as_array().is_some_and(|m| m.len() == cluster.nodes.len()), "{shown}");
        for node in 0..cluster.nodes.len() {
            let status = cluster.status(node).await?;
            ensure!(status.get("failsafe_mode_is_active").is_none(), "{}: {status}", cluster.nodes[node].name);
        }
        Ok(())
    })
    .await?;
    writer.goes_on().await?;
    let status = cluster.status(leader).await?;
    ensure!(status["timeline"] == timeline, "somebody was promoted: {status}");
    ensure!(gap < Duration::from_secs(5), "nobody acknowledged anything for {gap:?}");
    Ok(())
}

/// The key that both kinds go by names all members.
async fn listed(cluster: &Cluster, leader: usize) -> Result<()> {
    wait_for("who vouches is in the store", LONG, async || {
        let names = cluster.stored("failsafe").await?.context("no failsafe key")?;
        ensure!(names.as_object().is_some_and(|names| names.len() == cluster.nodes.len()), "{names}");
        if leader == 0 {
            let vouching = cluster.stored("vouching").await?.context("no vouching key")?;
            ensure!(vouching == json!({"leader": cluster.nodes[0].name, "of": "all"}), "{vouching}");
        }
        Ok(())
    })
    .await
}

/// What is read from the primary's slot is not kept for it on replicas either, although the store says nothing.
async fn slots_move_on(cluster: &Cluster, leader: usize) -> Result<()> {
    let confirmed = "select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = 'read'";
    let read = "select count(*) from pg_logical_slot_get_changes('read', null, null)";
    cluster.sql(leader, read).await?;
    let target: u64 = cluster.sql(leader, confirmed).await?.parse()?;
    for node in cluster.others(leader) {
        wait_for("the slot is moved on without the store", LONG, async || {
            let at: u64 = cluster.sql(node, confirmed).await?.parse()?;
            ensure!(at >= target, "{}: {at} of {target}", cluster.nodes[node].name);
            Ok(())
        })
        .await?;
    }
    Ok(())
}
