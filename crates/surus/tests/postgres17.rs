//! PostgreSQL 17.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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

/// Reads what the slot has for it, as a subscriber would, and confirms it.
async fn read(cluster: &Cluster, node: usize) -> Result<Vec<u32>> {
    let sql = "select coalesce(string_agg(data, ' '), '') from pg_logical_slot_get_changes('changes', null, null)";
    let text = cluster.sql(node, sql).await?;
    let numbers = text.split("n[integer]:").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<u32>().with_context(|| format!("unexpected change: {text}"))
    });
    numbers.collect()
}

/// A subscriber that reads a number for each that was written, in order. It may get again what it has read.
#[derive(Default)]
struct Reader {
    written: u32,
    seen: BTreeSet<u32>,
}

impl Reader {
    async fn write(&mut self, cluster: &Cluster, leader: usize) -> Result<()> {
        self.written += 1;
        cluster.sql(leader, &format!("insert into t values ({})", self.written)).await?;
        Ok(())
    }

    async fn read(&mut self, cluster: &Cluster, leader: usize) -> Result<()> {
        self.seen.extend(read(cluster, leader).await?);
        let missing: Vec<u32> = (1..=self.written).filter(|n| !self.seen.contains(n)).collect();
        ensure!(missing.is_empty(), "the subscriber has not got {missing:?} of {}", self.written);
        Ok(())
    }

    /// Until both slots are synchronised on both standbys. It reads all the time: a slot that stands still cannot always
    /// be synchronised.
    async fn settled(&mut self, cluster: &Cluster) -> Result<usize> {
        let leader = cluster.wait_healthy().await?;
        let synced = "select coalesce(string_agg(slot_name, ',' order by slot_name), '') from pg_replication_slots \
                      where synced and failover and not temporary and invalidation_reason is null";
        wait_for("every standby has the slots", LONG, async || {
            self.write(cluster, leader).await?;
            self.read(cluster, leader).await?;
            cluster.sql(leader, "select count(*) from pg_logical_slot_get_changes('own', null, null)").await?;
            for node in cluster.others(leader) {
                let name = &cluster.nodes[node].name;
                let here = cluster.sql(node, synced).await?;
                ensure!(here == "changes,own", "{name} has {here:?}");
                let metrics = cluster.get(node, "/metrics").await?.body;
                let ready = metrics.lines().find(|l| l.starts_with("surus_slot_failover_ready{"));
                ensure!(ready.is_some_and(|l| l.contains("changes") && l.ends_with(" 1")), "{name} says {ready:?}");
            }
            Ok(())
        })
        .await?;
        Ok(leader)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_goes_on_through_failover_slots() -> Result<()> {
    let Some(bin_dir) = bin_dir()? else { return Ok(()) };
    let parameters = json!({"wal_level": "logical"});
    let permanent = json!({"changes": {"type": "logical", "database": "postgres", "plugin": "test_decoding"}});
    let dynamic = json!({"slots": permanent, "postgresql": {"parameters": parameters}});
    let mut cluster = cluster(bin_dir).dynamic(dynamic).healthy().await?;
    let first = cluster.leader().await?;
    let mut reader = Reader::default();
    cluster.sql(first, "create table t (n int)").await?;
    wait_for("the slots are copied", LONG, async || {
        for node in 0..3 {
            let copied = "select count(*) from pg_replication_slots where slot_name = 'changes' and not failover";
            ensure!(cluster.sql(node, copied).await? == "1", "{} has none", cluster.nodes[node].name);
        }
        Ok(())
    })
    .await?;
    let postmasters: Vec<Option<i32>> = (0..3).map(|node| cluster.node(node).postmaster_pid()).collect();

    // From copies to failover slots, while it runs. One more belongs to somebody else.
    let patch = json!({"postgresql": {"parameters": {"sync_replication_slots": true}}});
    let answer = cluster.send(first, "PATCH", "/config", &patch).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    cluster.sql(first, "select pg_create_logical_replication_slot('own', 'test_decoding', failover => true)").await?;
    assert_eq!(reader.settled(&cluster).await?, first);
    assert!(cluster.node(first).log().contains("replication slot changes is a failover slot now"));
    for node in cluster.others(first) {
        assert_eq!(cluster.sql(node, "show hot_standby_feedback").await?, "on");
        let log = cluster.node(node).log();
        assert!(log.contains("slot changes dropped: the leader's slot of that name is synchronised instead"));
    }

    // The former primary's own slots are in the way of the new one's.
    let second = switch_over(&cluster).await?;
    assert_eq!(reader.settled(&cluster).await?, second);
    let log = cluster.node(first).log();
    for slot in ["changes", "own"] {
        assert!(log.contains(&format!("slot {slot} dropped: the leader's slot of that name")), "{slot} stayed");
    }

    reader.write(&cluster, second).await?;
    let written = cluster.sql(second, "select pg_current_wal_lsn()::text").await?;
    wait_for("the standbys have it", LONG, async || {
        for node in cluster.others(second) {
            let there = format!("select pg_last_wal_replay_lsn() >= '{written}'");
            ensure!(cluster.sql(node, &there).await? == "t", "not yet");
        }
        Ok(())
    })
    .await?;
    cluster.kill_node(second)?;
    let third = cluster.wait_leader_other_than(second).await?;
    reader.write(&cluster, third).await?;
    reader.read(&cluster, third).await?;
    cluster.start(second)?;
    assert_eq!(reader.settled(&cluster).await?, third);
    reader.read(&cluster, third).await?;
    let logs: Vec<String> = (0..3).map(|node| cluster.node(node).log()).collect();
    for unexpected in ["might be unsafe to use after promote", "own will be missing after a failover"] {
        assert!(logs.iter().all(|log| !log.contains(unexpected)), "somebody says {unexpected}");
    }
    // Who was neither the leader nor killed has not been restarted since the copies were made.
    for node in (0..3).filter(|node| *node != first && *node != second) {
        assert_eq!(
            cluster.node(node).postmaster_pid(),
            postmasters[node],
            "{} was restarted",
            cluster.nodes[node].name
        );
    }
    cluster.passed();
    Ok(())
}
