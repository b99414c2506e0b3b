//! A cluster on Consul: bring-up, the lead going round, members and the store in trouble, the service catalogue.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Cluster, Endpoint, Link, Signal, StoreKind, Writer, procs, wait_for};

const LONG: Duration = Duration::from_secs(90);

/// Every instance of the service in Consul's catalogue with its tags and whether its check passes, by name.
async fn services(cluster: &Cluster) -> Result<Vec<(String, Vec<String>, bool)>> {
    let consul = cluster.consul.as_ref().context("no Consul")?;
    let health = consul.ask("/v1/health/service/testbed").await?;
    let mut found = Vec::new();
    for entry in health.as_array().context("no list")? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let tags = entry["Service"]["Tags"].as_array().context("no tags")?.iter().map(text).collect();
        let passing = entry["Checks"].as_array().context("no checks")?.iter().all(|check| check["Status"] == "passing");
        found.push((text(&entry["Service"]["ID"]), tags, passing));
    }
    found.sort();
    Ok(found)
}

/// The catalogue knows who leads, everybody's check passes, and nobody is in it who should not be.
async fn catalogue(cluster: &Cluster, leader: usize, gone: &[usize]) -> Result<()> {
    wait_for("the catalogue", LONG, async || {
        let found = services(cluster).await?;
        let expected: Vec<_> = (0..cluster.nodes.len())
            .filter(|node| !gone.contains(node))
            .map(|node| {
                let tags: &[&str] = if node == leader { &["pg", "primary", "master"] } else { &["pg", "replica"] };
                let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
                (format!("testbed/{}", cluster.nodes[node].name), tags, true)
            })
            .collect();
        ensure!(found == expected, "{found:?} instead of {expected:?}");
        Ok(())
    })
    .await
}

async fn switch_over(cluster: &Cluster, to: usize) -> Result<()> {
    let leader = cluster.leader().await?;
    let body = json!({"leader": cluster.nodes[leader].name, "candidate": cluster.nodes[to].name});
    let answer = cluster.send(leader, "POST", "/switchover", &body).await?;
    ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
    ensure!(cluster.wait_healthy().await? == to);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_on_consul() -> Result<()> {
    let mut cluster = Cluster::builder(env!("CARGO_BIN_EXE_surus"))
        .store(StoreKind::Consul)
        .dynamic(json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5}))
        .settings(json!({"consul": {
            "register_service": true, "service_tags": ["pg"], "service_check_interval": "1s",
        }}))
        .healthy()
        .await?;
    let first = cluster.leader().await?;
    let writer = Writer::start(&cluster).await?;
    catalogue(&cluster, first, &[]).await?;

    // What members write is bound to sessions, and the sessions are called after them.
    let consul = cluster.consul.as_ref().context("no Consul")?;
    let leader = consul.ask("/v1/kv/service/testbed/leader").await?[0].clone();
    let sessions = consul.ask("/v1/session/list").await?;
    let sessions = sessions.as_array().context("no list")?;
    ensure!(sessions.len() == 3, "{sessions:?}");
    let mine =
        sessions.iter().find(|session| session["ID"] == leader["Session"]).context("the leader key has no session")?;
    ensure!(mine["Name"] == format!("testbed-{}", cluster.nodes[first].name), "{mine}");
    ensure!((&mine["TTL"], &mine["Behavior"]) == (&json!("10000ms"), &json!("delete")), "{mine}");
    ensure!(mine["NodeChecks"] == json!([]), "{mine}");

    let second = cluster.others(first)[1];
    switch_over(&cluster, second).await?;
    writer.writes_to(second).await?;
    catalogue(&cluster, second, &[]).await?;

    // Frozen for less than the ttl, and killed and started again: nobody is replaced.
    let consul = cluster.consul.as_ref().context("no Consul")?;
    consul.freeze();
    tokio::time::sleep(Duration::from_secs(6)).await;
    consul.thaw();
    ensure!(cluster.wait_healthy().await? == second);
    let consul = cluster.consul.as_mut().context("no Consul")?;
    consul.kill();
    consul.start_again().await?;
    ensure!(cluster.wait_healthy().await? == second);

    // The node dies: its session ends a ttl later, and its service once Consul finds it dead.
    cluster.kill_node(second)?;
    let third = cluster.wait_leader_other_than(second).await?;
    writer.writes_to(third).await?;
    cluster.start(second)?;
    ensure!(cluster.wait_healthy().await? == third);
    catalogue(&cluster, third, &[]).await?;

    // An agent that makes room for its successor leaves the service where it is, and the lead.
    let pid = cluster.nodes[third].agent_pid().context("no agent")?;
    ensure!(procs::signal(pid, Signal::USR1), "no agent any more");
    cluster.exited(third).await?;
    ensure!(services(&cluster).await?.len() == 3, "{:?}", services(&cluster).await?);
    cluster.start(third)?;
    ensure!(cluster.wait_healthy().await? == third);
    catalogue(&cluster, third, &[]).await?;

    // An agent that stops takes its service along, and its session.
    let stopped = cluster.others(third)[0];
    cluster.stop(stopped).await?;
    catalogue(&cluster, third, &[stopped]).await?;
    let consul = cluster.consul.as_ref().context("no Consul")?;
    let sessions = consul.ask("/v1/session/list").await?;
    let own = json!(format!("testbed-{}", cluster.nodes[stopped].name));
    ensure!(!sessions.as_array().context("no list")?.iter().any(|session| session["Name"] == own), "{sessions}");
    cluster.start(stopped)?;
    cluster.wait_healthy().await?;

    // Switched off by a reload, it is gone from the catalogue.
    let node = &mut cluster.nodes[stopped];
    node.config["consul"]["register_service"] = json!(false);
    node.write_config()?;
    catalogue(&cluster, third, &[]).await?;
    cluster.hangup(stopped)?;
    catalogue(&cluster, third, &[stopped]).await?;

    writer.stop().verify_lost_with(&cluster, second).await?;
    cluster.passed();
    Ok(())
}

/// A primary that cannot reach Consul has stopped before another one is promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_cut_off_from_consul_stops_first() -> Result<()> {
    let cluster = Cluster::builder(env!("CARGO_BIN_EXE_surus"))
        .store(StoreKind::Consul)
        .dynamic(json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5}))
        .healthy()
        .await?;
    let old = cluster.leader().await?;
    cluster.stall(old);
    let mut two = None;
    wait_for("another leader", LONG, async || {
        let writable = cluster.writable().await;
        if writable.len() > 1 {
            two = Some(writable);
            return Ok(());
        }
        ensure!(writable.iter().any(|node| *node != old), "writable: {writable:?}");
        Ok(())
    })
    .await?;
    ensure!(two.is_none(), "two members accept writes: {two:?}");
    cluster.heal(old);
    cluster.wait_healthy().await?;
    cluster.passed();
    Ok(())
}

/// Servers of Consul that lead are killed, frozen and cut off from the others: no member minds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_of_consul_are_lost() -> Result<()> {
    let mut cluster = Cluster::builder(env!("CARGO_BIN_EXE_surus"))
        .store(StoreKind::Consul)
        .store_servers(3)
        .dynamic(json!({"ttl": 20, "loop_wait": 2, "retry_timeout": 5}))
        .healthy()
        .await?;
    let writer = Writer::start(&cluster).await?;
    for trouble in ["killed", "frozen", "cut off"] {
        let primary = cluster.leader().await?;
        let timeline = cluster.status(primary).await?["timeline"].clone();
        let old = wait_for("a leader of Consul", LONG, async || cluster.store_leader().await).await?;
        let others: Vec<usize> = (0..3).filter(|server| *server != old).collect();
        let servers = cluster.servers_mut().context("no servers")?;
        match trouble {
            "killed" => servers.kill_one(old),
            "frozen" => servers.freeze_one(old),
            _ => {
                for other in others {
                    cluster.link(Endpoint::Store(old), Endpoint::Store(other), Link::Frozen, false);
                }
            }
        }
        wait_for("another leader of Consul", LONG, async || {
            let leader = cluster.store_leader().await?;
            ensure!(leader != old, "still {leader}");
            Ok(())
        })
        .await?;
        writer.writes_to(primary).await?;
        // What one member asks for is seen by the others, whichever server their watches waited at.
        let begun = Instant::now();
        let next = cluster.others(primary)[0];
        let body = json!({"leader": cluster.nodes[primary].name, "candidate": cluster.nodes[next].name});
        let answer = wait_for("a member that reaches Consul", LONG, async || {
            let answer = cluster.send(next, "POST", "/switchover", &body).await?;
            // Elected is not yet at work. Nothing has been asked of anybody then.
            ensure!(!answer.body.contains("the store could not be reached"), "{}", answer.body);
            Ok(answer)
        })
        .await?;
        ensure!(answer.status == 200, "{trouble}: {} {}", answer.status, answer.body);
        ensure!(cluster.wait_healthy().await? == next);
        eprintln!("{trouble}: the switchover took {:.1?}", begun.elapsed());
        writer.writes_to(next).await?;
        let after = cluster.status(next).await?["timeline"].clone();
        ensure!(after.as_u64() == timeline.as_u64().map(|t| t + 1), "{trouble}: from timeline {timeline} to {after}");
        // It comes back and may believe for a moment that it leads.
        let servers = cluster.servers_mut().context("no servers")?;
        servers.spawn(old)?;
        servers.thaw_one(old);
        cluster.heal_all();
        ensure!(cluster.wait_healthy().await? == next);
        writer.writes_to(next).await?;
    }
    writer.stop().verify_none_lost(&cluster).await?;
    cluster.passed();
    Ok(())
}
