//! Members that replicate from other members, or from an archive, or late.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use surus_testbed::{Cluster, StoreKind, wait_for};

const LONG: Duration = Duration::from_secs(60);
const SURUS: &str = env!("CARGO_BIN_EXE_surus");

/// The first member leads, whatever the others would.
async fn led_by_the_first(mut cluster: Cluster) -> Result<Cluster> {
    cluster.start(0)?;
    ensure!(cluster.wait_leader().await? == 0, "one member runs and another one leads");
    for node in 1..cluster.nodes.len() {
        cluster.start(node)?;
    }
    Ok(cluster)
}

async fn streams_from(cluster: &Cluster, node: usize, source: usize) -> Result<()> {
    let names = (&cluster.nodes[node].name, &cluster.nodes[source].name);
    wait_for(&format!("{} streams from {}", names.0, names.1), LONG, async || {
        let sender = "select sender_port from pg_stat_wal_receiver where status = 'streaming'";
        let port = cluster.sql(node, sender).await?;
        let address = cluster.nodes[source].config["postgresql"]["connect_address"].as_str().unwrap_or_default();
        ensure!(!port.is_empty() && address.ends_with(&format!(":{port}")), "it streams from port '{port}'");
        Ok(())
    })
    .await
}

async fn reads(cluster: &Cluster, node: usize, value: u32) -> Result<()> {
    wait_for(&format!("row {value} on {}", cluster.nodes[node].name), LONG, async || {
        let found = cluster.sql(node, &format!("select count(*) from t where n = {value}")).await?;
        ensure!(found == "1", "it is not there");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_replicates_from_another_one_and_from_the_leader_while_that_is_away() -> Result<()> {
    // So long that nobody could mistake its end for what is to be seen.
    let timing = json!({"ttl": 60, "loop_wait": 5, "retry_timeout": 5});
    let tags = json!({"tags": {"replicatefrom": "node2", "nofailover": true}});
    let prepared =
        Cluster::builder(SURUS).store(StoreKind::Etcd).dynamic(timing).settings_of(2, tags).prepare().await?;
    let mut cluster = led_by_the_first(prepared).await?;
    assert_eq!(cluster.nodes[1].name, "node2");
    streams_from(&cluster, 1, 0).await?;
    streams_from(&cluster, 2, 1).await?;
    cluster.sql(0, "create table t (n int)").await?;
    cluster.sql(0, "insert into t values (1)").await?;
    reads(&cluster, 2, 1).await?;
    let slot = "select count(*) from pg_replication_slots where slot_name = 'node3' and active";
    assert_eq!(cluster.sql(1, slot).await?, "1", "its slot is where it streams from");
    assert_eq!(cluster.sql(0, slot).await?, "0");
    let started = cluster.status(2).await?["postmaster_start_time"].clone();

    // The source is gone without a word: its key stays for most of a minute.
    cluster.kill_node(1)?;
    let lost = Instant::now();
    streams_from(&cluster, 2, 0).await?;
    assert!(lost.elapsed() < Duration::from_secs(30), "after {:?} only", lost.elapsed());
    eprintln!("the leader was followed {:.1} s after the source was lost", lost.elapsed().as_secs_f64());
    cluster.sql(0, "insert into t values (2)").await?;
    reads(&cluster, 2, 2).await?;
    cluster.start(1)?;
    streams_from(&cluster, 1, 0).await?;
    streams_from(&cluster, 2, 1).await?;

    // Its PostgreSQL stops, and its agent says so.
    let answer = cluster.send(1, "POST", "/restart", &json!({})).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    streams_from(&cluster, 2, 1).await?;

    // The source becomes the leader, and nothing changes for who replicates from it.
    let asked = json!({"leader": "node1", "candidate": "node2"});
    let answer = cluster.send(0, "POST", "/switchover", &asked).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    streams_from(&cluster, 0, 1).await?;
    streams_from(&cluster, 2, 1).await?;
    cluster.sql(1, "insert into t values (3)").await?;
    reads(&cluster, 2, 3).await?;
    assert_eq!(cluster.status(2).await?["postmaster_start_time"], started, "nothing of that needs a restart");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lives_on_the_archive_and_one_that_is_late() -> Result<()> {
    let archive = tempfile::tempdir()?;
    std::fs::set_permissions(archive.path(), std::fs::Permissions::from_mode(0o777))?;
    let path = archive.path().display().to_string();
    let archives = json!({"archive_mode": "on", "archive_command": format!("test -f {path}/%f || cp %p {path}/%f")});
    let restores = json!({"recovery_conf": {"restore_command": format!("cp {path}/%f %p")}});
    let late = json!({"recovery_conf": {"recovery_min_apply_delay": "1h"}});
    let prepared = Cluster::builder(SURUS)
        .store(StoreKind::Etcd)
        .settings(json!({"postgresql": {"parameters": archives}}))
        .settings_of(1, json!({"tags": {"nostream": true, "noloadbalance": true}, "postgresql": restores}))
        .settings_of(2, json!({"postgresql": late}))
        .prepare()
        .await?;
    let cluster = led_by_the_first(prepared).await?;
    streams_from(&cluster, 2, 0).await?;
    wait_for("the archive's member runs", LONG, async || {
        let status = cluster.status(1).await?;
        ensure!(status["state"] == "running" && status["role"] == "replica", "{status}");
        ensure!(status["replication_state"] == "in archive recovery", "{status}");
        Ok(())
    })
    .await?;
    cluster.sql(0, "create table t (n int)").await?;
    cluster.sql(0, "insert into t values (1)").await?;
    cluster.sql(0, "select pg_switch_wal()").await?;
    reads(&cluster, 1, 1).await?;
    assert_eq!(cluster.sql(1, "select count(*) from pg_stat_wal_receiver").await?, "0");
    let slots = "select string_agg(slot_name, ',' order by slot_name) from pg_replication_slots";
    assert_eq!(cluster.sql(0, slots).await?, "node3", "nobody streams as node2");
    for (path, status) in [("/replica", 503), ("/health", 200)] {
        let answer = cluster.get(1, path).await?;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }

    // The late one has received it, does not show it, and has it when it is made the leader.
    assert_eq!(cluster.sql(2, "show recovery_min_apply_delay").await?, "1h");
    let tables = "select count(*) from pg_class where relname = 't'";
    assert_eq!(cluster.sql(2, tables).await?, "0");
    let answer = cluster.send(0, "POST", "/switchover", &json!({"leader": "node1", "candidate": "node3"})).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    reads(&cluster, 2, 1).await?;
    streams_from(&cluster, 0, 2).await?;
    cluster.sql(2, "insert into t values (2)").await?;
    cluster.sql(2, "select pg_switch_wal()").await?;
    reads(&cluster, 1, 2).await?;
    cluster.passed();
    Ok(())
}
