//! A primary that is about to fail, or takes long to come back, hands over before it costs more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use surus_testbed::{Builder, Cluster, Disk, Signal, StoreKind, Writer, procs, wait_for};

const LONG: Duration = Duration::from_secs(90);

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus")).nodes(2).store(StoreKind::Etcd)
}

async fn configure(cluster: &Cluster, what: serde_json::Value) -> Result<()> {
    let answer = cluster.send(0, "PATCH", "/config", &what).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    Ok(())
}

/// Log since the last checkpoint, all of it on the standby as well.
async fn write_much(cluster: &Cluster, leader: usize) -> Result<()> {
    cluster.sql(leader, "checkpoint").await?;
    cluster.sql(leader, "insert into big select i, repeat(md5(i::text), 40) from generate_series(1, 150000) i").await?;
    let end = cluster.sql(leader, "select pg_current_wal_flush_lsn()").await?;
    let replica = cluster.others(leader)[0];
    wait_for("the standby has it all", LONG, async || {
        let has = cluster.sql(replica, &format!("select pg_last_wal_replay_lsn() >= '{end}'::pg_lsn")).await?;
        ensure!(has == "t", "not yet");
        Ok(())
    })
    .await?;
    // What is known of the end of the log has to be in the store, for an agent that did not see it written.
    wait_for("it is published", LONG, async || {
        let known = cluster.stored("status").await?.and_then(|s| s["optime"].as_u64()).context("no position")?;
        let at = cluster.sql(leader, &format!("select '{end}'::pg_lsn - '0/0'::pg_lsn <= {known}")).await?;
        ensure!(at == "t", "not yet");
        Ok(())
    })
    .await
}

/// The postmaster dies, and the recovery that follows stands still at the beginning of its log.
async fn crash_and_hold_recovery(cluster: &Cluster, leader: usize) -> Result<()> {
    let dir = cluster.node(leader).dir.clone();
    cluster.kill_postmaster(leader)?;
    tokio::task::spawn_blocking(move || {
        let end = std::time::Instant::now() + LONG;
        while std::time::Instant::now() < end {
            // From its first breath on it runs in short pieces only: on a busy machine all of the log would have been
            // replayed before this thread looks again.
            if let Some(pid) = procs::named(&dir, "startup").first() {
                procs::signal(*pid, Signal::STOP);
                if procs::argument(*pid, 0).contains(" recovering ") {
                    return Ok(());
                }
                procs::signal(*pid, Signal::CONT);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        anyhow::bail!("recovery was not seen")
    })
    .await?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_that_takes_longer_than_a_failover_costs_the_lead() -> Result<()> {
    let parameters = json!({"max_wal_size": "4GB", "checkpoint_timeout": "1h"});
    let cluster = cluster().dynamic(json!({"postgresql": {"parameters": parameters}})).healthy().await?;
    let first = cluster.leader().await?;
    cluster.sql(first, "create table big (i int, t text)").await?;
    write_much(&cluster, first).await?;

    // Nobody is known to have every commit, so recovery is waited for, and said to be.
    crash_and_hold_recovery(&cluster, first).await?;
    wait_for("it tells what it waits for", LONG, async || {
        let goal = cluster.get(first, "/explain").await?.json()?["goal"].to_string();
        ensure!(goal.contains("s more at least, which is waited for because a failover could lose commits"), "{goal}");
        Ok(())
    })
    .await?;
    ensure!(cluster.leader().await? == first, "the lead was given away");
    // Until it is certain to take longer than it may.
    configure(&cluster, json!({"primary_start_timeout": 100})).await?;
    let second = cluster.wait_leader_other_than(first).await?;
    let log = cluster.node(first).log();
    ensure!(log.contains("s more at least, and primary_start_timeout ends in"), "{log}");
    ensure!(!log.contains("(100 s) has passed"), "it was only the timeout");
    ensure!(cluster.sql(second, "select count(*) from big").await? == "150000");
    cluster.wait_healthy().await?;

    // With a synchronous standby nothing is lost by a failover, so it is not waited for longer than that takes.
    configure(&cluster, json!({"primary_start_timeout": 3600, "synchronous_mode": true})).await?;
    wait_for("the standby is synchronous", LONG, async || {
        ensure!(cluster.get(first, "/sync").await?.status == 200, "not yet");
        Ok(())
    })
    .await?;
    write_much(&cluster, second).await?;
    crash_and_hold_recovery(&cluster, second).await?;
    ensure!(cluster.wait_leader_other_than(second).await? == first);
    let log = cluster.node(second).log();
    ensure!(log.contains("s more at least, and a synchronous standby has every commit"), "{log}");
    ensure!(cluster.sql(first, "select count(*) from big").await? == "300000");
    cluster.wait_healthy().await?;

    // An operator who does not want to wait for it does not have to.
    configure(&cluster, json!({"synchronous_mode": false})).await?;
    write_much(&cluster, first).await?;
    crash_and_hold_recovery(&cluster, first).await?;
    let asked = json!({"leader": cluster.nodes[first].name, "candidate": cluster.nodes[second].name});
    let answer = cluster.send(second, "POST", "/switchover", &asked).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
    ensure!(cluster.wait_leader_other_than(first).await? == second);
    let log = cluster.node(first).log();
    ensure!(log.contains("switchover: stopping PostgreSQL, which is still starting up"), "{log}");
    ensure!(cluster.sql(second, "select count(*) from big").await? == "450000");
    cluster.wait_healthy().await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_nearly_full_costs_the_lead_before_it_ends_the_primary() -> Result<()> {
    if let Err(why) = Disk::available() {
        eprintln!("not available here: {why}");
        return Ok(());
    }
    let guard = json!({"disk_guard": {"warn": "150MB", "switchover": "100MB"}});
    let cluster = cluster().disks(500).dynamic(guard).healthy().await?;
    let first = cluster.leader().await?;
    let second = cluster.others(first)[0];
    let disk = |node: usize| cluster.node(node).disk.as_ref().context("no disk");
    let writer = Writer::start(&cluster).await?;
    writer.goes_on().await?;

    disk(first)?.leave(130)?;
    wait_for("it is told", LONG, async || {
        ensure!(cluster.node(first).log().contains("(disk_guard.warn): PostgreSQL ends when it is full"), "not yet");
        let page = cluster.get(first, "/metrics").await?.body;
        ensure!(page.lines().any(|l| l.starts_with("surus_wal_disk_low{") && l.ends_with(" 1")), "{page}");
        let list = String::from_utf8_lossy(&cluster.surus(second, &["list"]).await?.stdout).into_owned();
        ensure!(list.contains("| low: less than 150 of ") && list.contains("(disk_guard.warn) |"), "{list}");
        Ok(())
    })
    .await?;
    ensure!(cluster.leader().await? == first, "that is not reason enough");
    disk(first)?.leave(90)?;
    ensure!(cluster.wait_leader_other_than(first).await? == second);
    writer.goes_on().await?;
    let log = cluster.node(first).log();
    ensure!(log.contains("and node") && log.contains("has more") && !log.contains("PANIC"), "{log}");
    ensure!(log.contains("handed over to"), "it was a planned one: {log}");
    cluster.wait_healthy().await?;

    // Where nobody has more room, a switchover helps nobody.
    disk(second)?.leave(90)?;
    wait_for("it says what it waits for", LONG, async || {
        let told = cluster.get(second, "/explain").await?.json()?["waiting_for"].to_string();
        ensure!(told.contains("room on the disk of the log") && told.contains("has no more room"), "{told}");
        Ok(())
    })
    .await?;
    ensure!(!cluster.node(second).log().contains("to take over: the disk of the log"), "it asked all the same");
    ensure!(cluster.leader().await? == second);
    writer.goes_on().await?;
    let written = writer.stop();
    let rows: usize = cluster.sql(second, "select count(*) from writes").await?.parse()?;
    ensure!(rows >= written.acknowledged.len(), "{rows} rows of {}", written.acknowledged.len());
    disk(first)?.free();
    disk(second)?.free();
    cluster.passed();
    Ok(())
}
