//! PostgreSQL 17.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use surus_testbed::{Builder, Cluster, Machine, Writer, wait_for};

const LONG: Duration = Duration::from_secs(90);

fn bin_dir() -> Result<Option<PathBuf>> {
    match Machine::look()?.postgres(17) {
        Ok(dir) => Ok(Some(dir)),
        Err(why) => {
            eprintln!("NOT AVAILABLE HERE, not tested: {why:#}");
            Ok(None)
        }
    }
}

fn cluster(bin_dir: PathBuf) -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus")).bin_dir(bin_dir)
}

/// Waits until it is done.
async fn switch_over(cluster: &Cluster) -> Result<usize> {
    let old = cluster.leader().await?;
    let body = json!({"leader": cluster.nodes[old].name});
    let answer = cluster.send(old, "POST", "/switchover", &body).await?;
    ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
    let new = cluster.wait_healthy().await?;
    ensure!(new != old, "{} still leads", cluster.nodes[old].name);
    Ok(new)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrap_switchover_failover_and_rewind() -> Result<()> {
    let Some(bin_dir) = bin_dir()? else { return Ok(()) };
    let mut cluster = cluster(bin_dir).healthy().await?;
    let writer = Writer::start(&cluster).await?;
    let leader = switch_over(&cluster).await?;
    writer.writes_to(leader).await?;
    writer.stop().verify_none_lost(&cluster).await?;

    let version = cluster.sql(leader, "show server_version_num").await?;
    assert!(version.parse::<u32>()? >= 170_000, "{version}");
    cluster.sql(leader, "create table t (n int)").await?;
    let written = cluster.sql(leader, "select pg_current_wal_flush_lsn()::text").await?;
    wait_for("the table is everywhere", LONG, async || {
        for node in cluster.others(leader) {
            let there = format!("select pg_last_wal_receive_lsn() >= '{written}'");
            ensure!(cluster.sql(node, &there).await? == "t", "not on {}", cluster.nodes[node].name);
        }
        Ok(())
    })
    .await?;
    cluster.freeze_walsenders(leader)?;
    cluster.sql(leader, "insert into t values (1)").await?;
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    assert_eq!(cluster.sql(new, "select count(*) from t").await?, "0", "the row never left the old primary");
    cluster.sql(new, "insert into t values (2)").await?;
    cluster.start(leader)?;
    cluster.wait_healthy().await?;
    assert_eq!(cluster.sql(leader, "select string_agg(n::text, ',') from t").await?, "2");
    assert!(cluster.node(leader).log().contains("running pg_rewind from"), "it came back by another way");
    cluster.passed();
    Ok(())
}
