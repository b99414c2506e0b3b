//! What stands still is seen, told and dealt with: a frozen postmaster, a hanging disk, an agent that does not run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, Disk, Job, StoreKind, Writer, Written, procs, wait_for};

const LONG: Duration = Duration::from_secs(90);
/// The bound for a node that is lost, and what a busy machine takes on top for promoting and noticing.
const TTL: Duration = Duration::from_secs(12);
const BOUND: Duration = Duration::from_secs(TTL.as_secs() + 3);

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
        .store(StoreKind::Etcd)
        .dynamic(json!({"ttl": TTL.as_secs(), "loop_wait": 3, "retry_timeout": 3}))
}

async fn stalls(cluster: &Cluster, node: usize) -> Result<Value> {
    Ok(cluster.status(node).await?["surus"]["stalls"].clone())
}

/// Waits until another member acknowledges commits, and fails if that takes longer than it may.
async fn leaves_in_time(writer: &Writer, old: usize) -> Result<usize> {
    let begun = Instant::now();
    let new = writer.leaves(old).await?;
    let took = begun.elapsed();
    eprintln!("another member acknowledges after {took:?}");
    ensure!(took < BOUND, "it took {took:?}");
    Ok(new)
}

/// The old primary acknowledged nothing after the new one had begun.
fn one_side(written: &Written, old: usize, new: usize) -> Result<()> {
    let first = written.acknowledged.iter().filter(|ack| ack.node == new).map(|ack| ack.acknowledged).min();
    let first = first.context("the new primary acknowledged nothing")?;
    let late = written.acknowledged.iter().filter(|ack| ack.node == old && ack.acknowledged > first).count();
    ensure!(late == 0, "{late} commits were acknowledged by the old primary after the new one's first");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_postmaster_costs_the_lead() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    let session = cluster.connect(leader).await?;
    cluster.signal(leader, Job::Postmaster, Signal::STOP)?;
    session.rows("select 1").await.context("sessions go on")?;
    let new = leaves_in_time(&writer, leader).await?;
    ensure!(session.rows("select 1").await.is_err(), "a session of the old primary goes on");

    // A frozen process can be killed: it comes back by itself.
    assert_eq!(cluster.wait_healthy().await?, new);
    one_side(&writer.stop(), leader, new)?;
    let metrics = cluster.get(leader, "/metrics").await?.body;
    let told = |l: &str| l.starts_with("surus_stall_postmaster_total{") && !l.ends_with(" 0");
    ensure!(metrics.lines().any(told), "{metrics}");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_freeze_is_told_and_costs_nothing() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    cluster.signal(leader, Job::Postmaster, Signal::STOP)?;
    wait_for("it is told", LONG, async || {
        let stalls = stalls(&cluster, leader).await?;
        ensure!(stalls["postmaster"]["seconds"].as_f64().is_some_and(|s| s >= 1.0), "{stalls}");
        Ok(())
    })
    .await?;
    cluster.signal(leader, Job::Postmaster, Signal::CONT)?;
    wait_for("it is over", LONG, async || {
        let stalls = stalls(&cluster, leader).await?;
        ensure!(stalls.get("postmaster").is_none(), "{stalls}");
        Ok(())
    })
    .await?;
    assert_eq!(cluster.wait_healthy().await?, leader);

    // The agent itself, for less than its lease.
    cluster.signal(leader, Job::Agent, Signal::STOP)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.signal(leader, Job::Agent, Signal::CONT)?;
    wait_for("it is told", LONG, async || {
        let stalls = stalls(&cluster, leader).await?;
        let seconds = stalls["unscheduled"]["seconds"].as_f64().context("not told")?;
        // It sleeps up to a second between two looks.
        ensure!((1.0..4.0).contains(&seconds), "{stalls}");
        Ok(())
    })
    .await?;
    let told = cluster.surus(leader, &["explain"]).await?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains("this agent was not scheduled for"), "{told}");
    assert_eq!(cluster.wait_healthy().await?, leader);
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_disk_costs_the_lead() -> Result<()> {
    if let Err(why) = Disk::available() {
        eprintln!("NOT AVAILABLE HERE, not tested: {why}");
        return Ok(());
    }
    let cluster = cluster().disks(400).healthy().await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    let disk = cluster.node(leader).disk.as_ref().context("no disk")?;
    disk.hang()?;
    let new = leaves_in_time(&writer, leader).await?;
    // What waits for the disk cannot be killed, and the agent goes on all the same.
    let stuck = procs::programs(&cluster.node(leader).data_dir());
    ensure!(!stuck.is_empty(), "nothing waits for the disk");
    let answers = Instant::now();
    let told = stalls(&cluster, leader).await?;
    ensure!(told["disk"]["seconds"].as_f64().is_some(), "{told}");
    ensure!(answers.elapsed() < Duration::from_secs(2), "REST took {:?}", answers.elapsed());
    wait_for("it does not call itself the primary", Duration::from_secs(2), async || {
        let answer = cluster.get(leader, "/primary").await?;
        ensure!(answer.status == 503, "{} {}", answer.status, answer.body);
        Ok(())
    })
    .await?;
    disk.free();
    assert_eq!(cluster.wait_healthy().await?, new);
    one_side(&writer.stop(), leader, new)?;
    cluster.passed();
    Ok(())
}
