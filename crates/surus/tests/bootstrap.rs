//! Clusters come into being exactly once, and come back whole.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, StoreKind, wait_for};

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

const SOON: Duration = Duration::from_secs(60);

/// The one system identifier that all members report.
async fn system_id(cluster: &Cluster) -> Result<String> {
    let mut ids = Vec::new();
    for node in 0..cluster.nodes.len() {
        let status = cluster.status(node).await?;
        ids.push(status["database_system_identifier"].as_str().context("no system identifier")?.to_owned());
    }
    ids.dedup();
    ensure!(ids.len() == 1, "the members are of different clusters: {ids:?}");
    Ok(ids.remove(0))
}

async fn three_from_nothing(store: StoreKind) -> Result<()> {
    let cluster = cluster().store(store).healthy().await?;
    let leader = cluster.leader().await?;
    system_id(&cluster).await?;
    assert_eq!(cluster.writable().await, [leader]);

    cluster.sql(leader, "create table t as select generate_series(1, 1000) as n").await?;
    for node in cluster.others(leader) {
        wait_for("the rows arrive", SOON, async || {
            let count = cluster.sql(node, "select count(*) from t").await?;
            ensure!(count == "1000", "{count} rows");
            Ok(())
        })
        .await?;
        assert_eq!(cluster.sql(node, "select slot_name from pg_stat_wal_receiver").await?, cluster.nodes[node].name);
    }

    let document = wait_for("all members in /cluster", SOON, async || {
        let document = cluster.get(leader, "/cluster").await?.json()?;
        let streaming = document["members"].as_array().context("no members")?.iter();
        ensure!(streaming.filter(|m| m["state"] == "streaming").count() == 2, "{document}");
        Ok(document)
    })
    .await?;
    let roles: Vec<&Value> = document["members"].as_array().context("no members")?.iter().map(|m| &m["role"]).collect();
    assert_eq!(roles.iter().filter(|role| **role == "leader").count(), 1, "{document}");
    let config = cluster.dynamic(leader).await?;
    assert_eq!(config["postgresql"]["use_pg_rewind"], true, "{config}");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_from_nothing_embedded() -> Result<()> {
    three_from_nothing(StoreKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_from_nothing_etcd() -> Result<()> {
    three_from_nothing(StoreKind::Etcd).await
}

/// The voters of the embedded store are named in the configuration: until all of them have met once, nobody founds a
/// cluster, so that members started apart never found two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_one_after_another_form_one_cluster() -> Result<()> {
    let mut cluster = cluster().prepare().await?;
    for node in [2, 0] {
        cluster.start(node)?;
        wait_for("the log says that someone is missing", SOON, async || {
            ensure!(cluster.node(node).log().contains("partner_addrs must be up"), "not yet");
            Ok(())
        })
        .await?;
        assert_ne!(cluster.get(node, "/primary").await?.status, 200);
        assert!(!cluster.node(node).data_dir().join("PG_VERSION").exists(), "it must not initialise");
    }
    cluster.start(1)?;
    cluster.wait_healthy().await?;
    system_id(&cluster).await?;
    cluster.passed();
    Ok(())
}

/// With a store outside, the first to come founds the cluster and the others join it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn later_members_join() -> Result<()> {
    let mut cluster = cluster().store(StoreKind::Etcd).prepare().await?;
    for node in [2, 0, 1] {
        cluster.start(node)?;
        assert_eq!(cluster.wait_healthy().await?, 2);
    }
    system_id(&cluster).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_is_a_cluster() -> Result<()> {
    let cluster = cluster().nodes(1).healthy().await?;
    assert_eq!(cluster.writable().await, [0]);
    cluster.passed();
    Ok(())
}

async fn everything_at_once(store: StoreKind) -> Result<()> {
    let mut cluster = cluster().store(store).healthy().await?;
    let leader = cluster.leader().await?;
    let id = system_id(&cluster).await?;
    cluster.sql(leader, "create table t as select 1 as n").await?;
    cluster.wait_healthy().await?;
    for node in 0..3 {
        cluster.kill_node(node)?;
    }
    for node in 0..3 {
        cluster.start(node)?;
    }
    let leader = cluster.wait_healthy().await?;
    assert_eq!(system_id(&cluster).await?, id);
    assert_eq!(cluster.sql(leader, "select n from t").await?, "1");

    for node in 0..3 {
        cluster.terminate(node)?;
    }
    for node in 0..3 {
        assert!(cluster.exited(node).await?.success());
        assert!(!cluster.postmaster_alive(node), "an agent that stops stops its PostgreSQL");
    }
    for node in 0..3 {
        cluster.start(node)?;
    }
    let leader = cluster.wait_healthy().await?;
    assert_eq!(cluster.sql(leader, "select n from t").await?, "1");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_restarts_at_once_embedded() -> Result<()> {
    everything_at_once(StoreKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_restarts_at_once_etcd() -> Result<()> {
    everything_at_once(StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_data_directory_is_cloned_again() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    cluster.sql(leader, "create table t as select 1 as n").await?;

    let replica = cluster.others(leader)[0];
    assert!(cluster.stop(replica).await?.success());
    cluster.wipe(replica)?;
    cluster.start(replica)?;
    cluster.wait_healthy().await?;
    assert_eq!(cluster.sql(replica, "select n from t").await?, "1");

    cluster.kill_node(leader)?;
    cluster.wipe(leader)?;
    cluster.wait_leader_other_than(leader).await?;
    cluster.start(leader)?;
    cluster.wait_healthy().await?;
    assert_eq!(cluster.sql(leader, "select n from t").await?, "1");
    cluster.passed();
    Ok(())
}

/// The agents of the tests may be root, and `postgres` cannot read what is in the home of root.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn standbys_log_in_with_a_password_file_that_nobody_named() -> Result<()> {
    // One file for every cluster of this user: two of these tests at once would take it from each other.
    let one = fs::File::create(std::env::temp_dir().join("surus-test-pgpass.lock"))?;
    rustix::fs::flock(&one, rustix::fs::FlockOperation::LockExclusive)?;
    let unnamed = json!({"postgresql": {"pgpass": null}});
    let cluster = cluster().nodes(2).store(StoreKind::Etcd).settings(unnamed).healthy().await?;
    let standby = cluster.others(cluster.leader().await?)[0];
    let conninfo = cluster.sql(standby, "show primary_conninfo").await?;
    let file = conninfo.split("passfile=").nth(1).and_then(|rest| rest.split(' ').next()).context("no passfile")?;
    let file = PathBuf::from(file.trim_matches('\''));
    ensure!(file.ends_with("pgpass") && !file.starts_with("/root"), "{conninfo}");
    ensure!(fs::metadata(&file)?.uid() == fs::metadata(cluster.node(standby).data_dir())?.uid(), "{conninfo}");
    cluster.passed();
    fs::remove_file(file)?;
    Ok(())
}
