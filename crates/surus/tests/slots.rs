//! Replication slots on real servers: permanent ones, and logical ones that survive a failover.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use surus_testbed::{Cluster, wait_for};

const LONG: Duration = Duration::from_secs(90);

async fn slots(cluster: &Cluster, node: usize) -> Result<String> {
    cluster
        .sql(node, "select coalesce(string_agg(slot_name, ',' order by slot_name), '') from pg_replication_slots")
        .await
}

async fn changes(cluster: &Cluster, node: usize) -> Result<String> {
    let read = "select coalesce(string_agg(data, ' '), '') from pg_logical_slot_get_changes('changes', null, null)";
    cluster.sql(node, read).await
}

/// Every member has every slot, and they are safe.
async fn whole(cluster: &Cluster) -> Result<usize> {
    let leader = cluster.leader().await?;
    for node in 0..3 {
        let others: Vec<String> = cluster.names(&cluster.others(node)).iter().map(|n| n.to_string()).collect();
        let here = slots(cluster, node).await?;
        for slot in others.iter().map(String::as_str).chain(["audit", "changes"]) {
            ensure!(here.split(',').any(|s| s == slot), "{} has {here}", cluster.nodes[node].name);
        }
        let safe = cluster.get(node, "/metrics").await?.body;
        let safe = safe.lines().any(|l| l.starts_with("surus_slot_failover_ready{") && l.ends_with(" 1"));
        ensure!(safe || node == leader, "{} does not call its slot safe", cluster.nodes[node].name);
        let told = cluster.get(node, "/explain").await?.json()?["logical_slots"]["changes"] == true;
        ensure!(told == (node != leader), "{} does not explain its slot", cluster.nodes[node].name);
    }
    Ok(leader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_goes_on_where_it_was_after_a_failover() -> Result<()> {
    let permanent = json!({
        "audit": {"type": "physical"},
        "changes": {"type": "logical", "database": "postgres", "plugin": "test_decoding"},
    });
    let parameters = json!({"wal_level": "logical"});
    let dynamic = json!({"slots": permanent, "postgresql": {"parameters": parameters}});
    let mut cluster = Cluster::builder(env!("CARGO_BIN_EXE_surus")).dynamic(dynamic).healthy().await?;
    let old = wait_for("slots on every member", LONG, async || whole(&cluster).await).await?;
    for replica in cluster.others(old) {
        let said = cluster.node(replica).log().contains("Logical slot changes is safe to be used after a failover");
        assert!(said, "{} does not say so in its log", cluster.nodes[replica].name);
    }
    for replica in cluster.others(old) {
        assert_eq!(cluster.sql(replica, "show hot_standby_feedback").await?, "on");
    }

    cluster.sql(old, "create table t (n int)").await?;
    cluster.sql(old, "insert into t values (1)").await?;
    let read = changes(&cluster, old).await?;
    assert!(read.contains("n[integer]:1"), "{read}");
    // What the subscriber has confirmed reaches the copies.
    let position = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = 'changes'";
    let confirmed = cluster.sql(old, position).await?;
    wait_for("the copies have moved on", LONG, async || {
        for replica in cluster.others(old) {
            let at = cluster.sql(replica, position).await?;
            ensure!(at == confirmed, "{} is at {at}, not at {confirmed}", cluster.nodes[replica].name);
        }
        Ok(())
    })
    .await?;

    // A subscription that nobody asked to keep is not ours to drop.
    cluster.sql(old, "select pg_create_logical_replication_slot('subscriber', 'test_decoding')").await?;
    wait_for("a word about it", LONG, async || {
        ensure!(cluster.node(old).log().contains("slot subscriber will be missing after a failover"), "none yet");
        Ok(())
    })
    .await?;

    // Left there, it would keep the copy from being called safe until it is dropped as surplus on the new standby.
    cluster.sql(old, "select pg_drop_replication_slot('subscriber')").await?;

    cluster.sql(old, "insert into t values (2)").await?;
    let written = cluster.sql(old, "select pg_current_wal_lsn()::text").await?;
    wait_for("the copies have it", LONG, async || {
        for replica in cluster.others(old) {
            let there = format!("select pg_last_wal_replay_lsn() >= '{written}'");
            ensure!(cluster.sql(replica, &there).await? == "t", "not yet");
        }
        Ok(())
    })
    .await?;
    let explained = String::from_utf8_lossy(&cluster.surus(old, &["explain"]).await?.stdout).into_owned();
    assert_eq!(explained.matches("logical slots for a failover, ready: changes").count(), 2, "{explained}");
    cluster.kill_agent(old)?;
    cluster.kill_postmaster(old)?;
    let new = cluster.wait_leader_other_than(old).await?;
    cluster.sql(new, "insert into t values (3)").await?;
    let read = changes(&cluster, new).await?;
    assert!(read.contains("n[integer]:2") && read.contains("n[integer]:3"), "{read}");
    assert!(!read.contains("n[integer]:1"), "what was confirmed comes again: {read}");

    cluster.start(old)?;
    cluster.wait_healthy().await?;
    // A copy that is older than what the leader protects becomes safe as its reader moves on, and not in a quiet cluster.
    wait_for("slots on every member again", LONG, async || {
        cluster.sql(new, "insert into t values (4)").await?;
        changes(&cluster, new).await?;
        whole(&cluster).await
    })
    .await?;
    let metrics = cluster.get(new, "/metrics").await?.body;
    assert!(metrics.contains("surus_slot_withheld_bytes{") && metrics.contains("slot=\"changes\""), "{metrics}");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_cannot_be_had_are_told_and_do_no_harm() -> Result<()> {
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_surus")).nodes(2).healthy().await?;
    let leader = cluster.leader().await?;
    let other = cluster.names(&cluster.others(leader))[0].to_owned();
    let permanent = json!({
        "Bad-Name": {"type": "physical"},
        "half": {"type": "logical", "database": "postgres"},
        "nowhere": {"type": "logical", "database": "absent", "plugin": "test_decoding"},
        &other: {"type": "logical", "database": "postgres", "plugin": "test_decoding"},
        "audit": null,
        "audit2": {"type": "physical"},
    });
    let answer = cluster.send(leader, "PATCH", "/config", &json!({"slots": permanent})).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let share = format!("'{other}' is conflicting with slot name for cluster member");
    let words = ["slots.Bad-Name", "a logical slot needs `database` and `plugin`", "database \"absent\"", &share];
    wait_for("what can be had is there, and the rest is told", LONG, async || {
        for node in 0..2 {
            ensure!(slots(&cluster, node).await?.contains("audit2"), "node {node} has no audit2");
        }
        let log = cluster.node(leader).log();
        for word in words {
            ensure!(log.contains(word), "the log does not say {word}");
        }
        Ok(())
    })
    .await?;
    assert_eq!(cluster.wait_healthy().await?, leader);
    assert!(slots(&cluster, leader).await?.contains(&other), "the member's own slot stays");
    cluster.passed();
    Ok(())
}
