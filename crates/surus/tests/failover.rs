//! The lead changes hands: on request, after deaths of every kind, and never to two at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use surus_testbed::{Builder, Cluster, StoreKind, Writer, wait_for};

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

const LONG: Duration = Duration::from_secs(90);

/// Waits for another leader than `old`, and fails as soon as two members accept writes.
async fn taken_over(cluster: &Cluster, old: usize) -> Result<usize> {
    let mut two = None;
    let new = wait_for("another leader", LONG, async || {
        let writable = cluster.writable().await;
        if writable.len() > 1 {
            two = Some(writable);
            return Ok(old);
        }
        ensure!(writable.iter().any(|node| *node != old), "writable: {writable:?}");
        Ok(writable[0])
    })
    .await?;
    ensure!(two.is_none(), "two members accept writes: {two:?}");
    Ok(new)
}

async fn switch_over(cluster: &Cluster, candidate: Option<usize>) -> Result<usize> {
    let leader = cluster.leader().await?;
    let name = |node: usize| cluster.nodes[node].name.clone();
    let body = match candidate {
        Some(candidate) => json!({"leader": name(leader), "candidate": name(candidate)}),
        None => json!({"leader": name(leader)}),
    };
    let answer = cluster.send(leader, "POST", "/switchover", &body).await?;
    ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
    let new = cluster.wait_leader_other_than(leader).await?;
    ensure!(answer.body == format!("Successfully switched over to \"{}\"", name(new)), "{}", answer.body);
    Ok(new)
}

async fn back_and_forth(store: StoreKind) -> Result<()> {
    let cluster = cluster().store(store).healthy().await?;
    let writer = Writer::start(&cluster).await?;
    let first = cluster.leader().await?;
    let other = cluster.others(first)[1];
    for candidate in [Some(other), None, Some(first), None] {
        let leader = cluster.wait_healthy().await?;
        if candidate == Some(leader) {
            continue;
        }
        let new = switch_over(&cluster, candidate).await?;
        ensure!(candidate.is_none_or(|wanted| wanted == new), "{candidate:?} was asked for, {new} leads");
        writer.writes_to(new).await?;
    }
    cluster.wait_healthy().await?;
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchovers_lose_nothing_embedded() -> Result<()> {
    back_and_forth(StoreKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchovers_lose_nothing_etcd() -> Result<()> {
    back_and_forth(StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postmaster_is_replaced() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    let before = cluster.node(leader).postmaster_pid();
    cluster.kill_postmaster(leader)?;
    wait_for("the postmaster is gone or another", LONG, async || {
        ensure!(!cluster.postmaster_alive(leader) || cluster.node(leader).postmaster_pid() != before, "it lives");
        Ok(())
    })
    .await?;
    writer.goes_on().await?;
    let now = cluster.wait_healthy().await?;
    let written = writer.stop();
    if now == leader {
        written.verify_none_lost(&cluster).await?;
    }

    let replica = cluster.others(now)[0];
    cluster.kill_postmaster(replica)?;
    wait_for("the replica is back", LONG, async || {
        ensure!(cluster.postmaster_alive(replica), "its postmaster is dead");
        ensure!(cluster.healthy().await? == now, "the lead moved");
        Ok(())
    })
    .await?;
    cluster.passed();
    Ok(())
}

async fn a_lost_node(store: StoreKind) -> Result<()> {
    let mut cluster = cluster().store(store).healthy().await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    writer.writes_to(new).await?;
    cluster.start(leader)?;
    let now = cluster.wait_healthy().await?;
    assert_eq!(now, new, "who comes back does not take the lead");
    drop(writer);
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_replaced_and_comes_back_embedded() -> Result<()> {
    a_lost_node(StoreKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_node_is_replaced_and_comes_back_etcd() -> Result<()> {
    a_lost_node(StoreKind::Etcd).await
}

/// The old primary has WAL that nobody else has: it must give that up, not carry it into the new timeline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forked_primary_is_rewound() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    cluster.sql(leader, "create table t (n int)").await?;
    cluster.wait_healthy().await?;
    cluster.freeze_walsenders(leader)?;
    cluster.sql(leader, "insert into t values (1)").await?;
    cluster.kill_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    assert_eq!(cluster.sql(new, "select count(*) from t").await?, "0", "the row never left the old primary");
    cluster.sql(new, "insert into t values (2)").await?;
    cluster.start(leader)?;
    cluster.wait_healthy().await?;
    assert_eq!(cluster.sql(leader, "select string_agg(n::text, ',') from t").await?, "2");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_hands_over() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    let status = cluster.stop(leader).await?;
    assert!(status.success(), "{status}");
    assert!(!cluster.postmaster_alive(leader));
    let new = cluster.wait_leader_other_than(leader).await?;
    writer.writes_to(new).await?;
    cluster.start(leader)?;
    cluster.wait_healthy().await?;
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_dies_is_replaced_without_a_failed_commit() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    let before = (cluster.node(leader).postmaster_pid(), cluster.status(leader).await?["timeline"].clone());
    for _ in 0..3 {
        cluster.restart_agent(leader)?;
        wait_for("the new agent leads", LONG, async || cluster.healthy().await).await?;
        writer.goes_on().await?;
    }
    let after = (cluster.node(leader).postmaster_pid(), cluster.status(leader).await?["timeline"].clone());
    assert_eq!(before, after, "same postmaster, same timeline");
    assert_eq!(cluster.leader().await?, leader);
    let replica = cluster.others(leader)[0];
    let pid = cluster.node(replica).postmaster_pid();
    cluster.restart_agent(replica)?;
    cluster.wait_healthy().await?;
    assert_eq!(cluster.node(replica).postmaster_pid(), pid);
    let written = writer.stop();
    assert!(written.failed.is_empty(), "{:?}", written.failed);
    written.verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}

/// Nobody but the fence can end its PostgreSQL, and that comes before another member leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_loses_the_lead() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    cluster.freeze_agent(leader)?;
    let new = taken_over(&cluster, leader).await?;
    assert!(!cluster.postmaster_alive(leader), "the fence did nothing");
    cluster.thaw(leader);
    assert_eq!(cluster.wait_healthy().await?, new);
    assert_eq!(cluster.writable().await, [new]);
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_comes_back_too_late_does_not_lead() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    cluster.kill_agent(leader)?;
    let new = taken_over(&cluster, leader).await?;
    assert!(!cluster.postmaster_alive(leader), "the fence did nothing");
    cluster.start(leader)?;
    assert_eq!(cluster.wait_healthy().await?, new);
    assert_eq!(cluster.writable().await, [new]);
    let told = cluster.status(leader).await?["surus"]["fence"].clone();
    assert!(told["last_fired"]["processes"].as_u64() > Some(0), "{told}");
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_is_replaced_and_comes_back() -> Result<()> {
    let cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    cluster.freeze_node(leader)?;
    let new = cluster.wait_leader_other_than(leader).await?;
    cluster.thaw(leader);
    let now = cluster.wait_healthy().await?;
    assert_eq!(now, new);
    cluster.passed();
    Ok(())
}

async fn cut_off(store: StoreKind, cut: impl Fn(&Cluster, usize)) -> Result<()> {
    let cluster = cluster().store(store).healthy().await?;
    let leader = cluster.leader().await?;
    cut(&cluster, leader);
    let new = taken_over(&cluster, leader).await?;
    ensure!(!cluster.writable().await.contains(&leader), "the old primary accepts writes without the lead");
    cluster.heal(leader);
    let now = cluster.wait_healthy().await?;
    assert_eq!(now, new);

    // A replica without the store changes nothing for the others.
    let replica = cluster.others(now)[0];
    let timeline = cluster.status(now).await?["timeline"].clone();
    cut(&cluster, replica);
    let writer = Writer::start(&cluster).await?;
    writer.writes_to(now).await?;
    cluster.heal(replica);
    cluster.wait_healthy().await?;
    assert_eq!((cluster.leader().await?, cluster.status(now).await?["timeline"].clone()), (now, timeline));
    assert!(writer.stop().failed.is_empty());
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_cut_off_from_the_store_stops_first_embedded() -> Result<()> {
    cut_off(StoreKind::Embedded, Cluster::cut).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_cut_off_from_the_store_stops_first_etcd() -> Result<()> {
    cut_off(StoreKind::Etcd, Cluster::cut).await
}

/// Connections stay and nothing comes through, as with a dead switch: only time limits tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_with_a_stalled_network_stops_first_embedded() -> Result<()> {
    cut_off(StoreKind::Embedded, Cluster::stall).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_with_a_stalled_network_stops_first_etcd() -> Result<()> {
    cut_off(StoreKind::Etcd, Cluster::stall).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_restarts_within_the_ttl_changes_nothing() -> Result<()> {
    let timing = json!({"ttl": 30, "loop_wait": 2, "retry_timeout": 10});
    let mut cluster = cluster().store(StoreKind::Etcd).dynamic(timing).healthy().await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    let etcd = cluster.etcd.as_mut().expect("built with etcd");
    etcd.kill();
    etcd.start_again().await?;
    let since = cluster.status(leader).await?["dcs_last_seen"].as_i64();
    wait_for("the store is seen again", LONG, async || {
        ensure!(cluster.status(leader).await?["dcs_last_seen"].as_i64() > since, "not yet");
        cluster.healthy().await
    })
    .await?;
    assert_eq!(cluster.leader().await?, leader);
    let written = writer.stop();
    assert!(written.failed.is_empty(), "{:?}", written.failed);
    cluster.passed();
    Ok(())
}

/// Whoever dies, whenever, one or two at a time, also in the middle of what the death before set off.
async fn any_node_any_number_of_times(store: StoreKind) -> Result<()> {
    let mut cluster = cluster().store(store).healthy().await?;
    cluster.sql(cluster.leader().await?, "create table t as select 1 as n").await?;
    cluster.wait_healthy().await?;
    for victims in [&[0][..], &[1], &[2], &[0, 1], &[2, 0], &[1, 2]] {
        for &victim in victims {
            cluster.kill_node(victim)?;
        }
        if victims.len() == 1 {
            cluster.wait_leader_other_than(victims[0]).await?;
        }
        for &victim in victims {
            cluster.start(victim)?;
            // Down again before it has found its place.
            cluster.kill_node(victim)?;
            cluster.start(victim)?;
        }
        let leader = cluster.wait_healthy().await?;
        assert_eq!(cluster.writable().await, [leader]);
        assert_eq!(cluster.sql(leader, "select n from t").await?, "1");
    }
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_any_number_of_times_embedded() -> Result<()> {
    any_node_any_number_of_times(StoreKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_any_number_of_times_etcd() -> Result<()> {
    any_node_any_number_of_times(StoreKind::Etcd).await
}
