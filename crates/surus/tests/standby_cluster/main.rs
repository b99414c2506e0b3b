//! A cluster that follows another one: how it begins, who leads it, and how the two change places.

mod same_number;
mod sources;

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Cluster, StoreKind, wait_for};

const LONG: Duration = Duration::from_secs(60);
const SURUS: &str = env!("CARGO_BIN_EXE_surus");

fn port(cluster: &Cluster, node: usize) -> u16 {
    let config = &cluster.nodes[node].config;
    let address = config["postgresql"]["connect_address"].as_str().unwrap_or_default();
    address.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_default()
}

/// What another cluster has to write down to follow this node.
fn following(cluster: &Cluster, node: usize) -> Value {
    json!({"host": "127.0.0.1", "port": port(cluster, node), "primary_slot_name": "Site-2"})
}

async fn standby_leader(cluster: &Cluster) -> Result<usize> {
    let mut leaders = vec![];
    for node in 0..cluster.nodes.len() {
        if cluster.nodes[node].agent_pid().is_none() {
            continue;
        }
        let answers = cluster.get(node, "/standby_leader").await.is_ok_and(|a| a.status == 200);
        if answers && cluster.status(node).await?["role"] == "standby_leader" {
            leaders.push(node);
        }
    }
    ensure!(leaders.len() == 1, "{} members answer as the standby_leader", leaders.len());
    Ok(leaders[0])
}

/// One standby_leader that streams, and everybody else streams from it.
async fn standby_healthy(cluster: &Cluster) -> Result<usize> {
    wait_for("a healthy standby cluster", LONG, async || {
        let leader = standby_leader(cluster).await?;
        for node in 0..cluster.nodes.len() {
            if cluster.nodes[node].agent_pid().is_none() {
                continue;
            }
            let status = cluster.status(node).await?;
            let name = &cluster.nodes[node].name;
            ensure!(status["state"] == "running" && status["replication_state"] == "streaming", "{name}: {status}");
            let from = cluster.sql(node, "select sender_port from pg_stat_wal_receiver").await?;
            let cascades = from == port(cluster, leader).to_string();
            ensure!(cascades == (node != leader), "{name} streams from port {from}");
        }
        ensure!(cluster.writable().await.is_empty(), "a member of a standby cluster accepts writes");
        Ok(leader)
    })
    .await
}

/// What is written at one end is read at the other.
async fn flows(from: (&Cluster, usize), to: &Cluster, value: u32) -> Result<()> {
    from.0.sql(from.1, &format!("insert into t values ({value})")).await?;
    wait_for("the row at the other site", LONG, async || {
        for node in 0..to.nodes.len() {
            if to.nodes[node].agent_pid().is_some() {
                let found = to.sql(node, &format!("select count(*) from t where n = {value}")).await?;
                ensure!(found == "1", "{} does not have it", to.nodes[node].name);
            }
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_change_places() -> Result<()> {
    let slots = json!({"slots": {"site_2": {"type": "physical"}}});
    let main = Cluster::builder(SURUS).nodes(1).dynamic(slots.clone()).healthy().await?;
    main.sql(0, "create table t (n int)").await?;
    let section = json!({"standby_cluster": following(&main, 0), "slots": slots["slots"]});
    // Of two members one can be lost: their store is elsewhere.
    let mut site = Cluster::builder(SURUS).nodes(2).store(StoreKind::Etcd).dynamic(section).start().await?;
    let old = standby_healthy(&site).await?;
    let other = site.others(old)[0];
    flows((&main, 0), &site, 1).await?;
    for (path, status) in [("/primary", 503), ("/leader", 200), ("/replica", 503), ("/health", 200)] {
        assert_eq!(site.get(old, path).await?.status, status, "{path}");
    }
    assert_eq!(site.get(other, "/standby_leader").await?.status, 503);
    assert_eq!(site.get(other, "/replica").await?.status, 200);
    assert!(site.get(old, "/metrics").await?.body.contains("patroni_standby_leader{scope="));
    let used = "select active from pg_replication_slots where slot_name = 'site_2'";
    assert_eq!(main.sql(0, used).await?, "t", "the slot of the section is used");
    let list = site.surus(old, &["list"]).await?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains("Standby Leader"), "{list}");

    // The lead goes to the other one, with nothing stopped.
    let started = site.status(old).await?["postmaster_start_time"].clone();
    let asked = json!({"leader": site.nodes[old].name, "candidate": site.nodes[other].name});
    let answer = site.send(old, "POST", "/switchover", &asked).await?;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(standby_healthy(&site).await?, other);
    assert_eq!(site.status(old).await?["postmaster_start_time"], started, "a switchover stops nothing here");

    // The standby_leader is lost: the other one goes on from the remote node.
    site.kill_node(other)?;
    wait_for("the other member leads", LONG, async || {
        let leader = standby_leader(&site).await?;
        ensure!(leader == old, "it still leads");
        Ok(())
    })
    .await?;
    flows((&main, 0), &site, 2).await?;
    site.start(other)?;
    assert_eq!(standby_healthy(&site).await?, old);

    // The main site is given up, and this one serves.
    let timeline = site.status(old).await?["timeline"].clone();
    let promoted = site.surus(old, &["promote-cluster", "--force"]).await?;
    let said = String::from_utf8_lossy(&promoted.stdout).into_owned();
    assert!(promoted.status.success() && said.contains("cluster is successfully promoted"), "{said}");
    let leader = site.wait_healthy().await?;
    assert_eq!(leader, old, "the standby_leader is promoted");
    assert_ne!(site.status(old).await?["timeline"], timeline);
    site.sql(leader, "insert into t values (3)").await?;
    let again = site.surus(old, &["promote-cluster", "--force"]).await?;
    assert!(String::from_utf8_lossy(&again.stderr).contains("already in the required state"));

    // The former main site follows it: what only it has is written down and rewound.
    main.sql(0, "insert into t values (-1)").await?;
    let to = port(&site, leader).to_string();
    let args = ["demote-cluster", "--force", "--host", "127.0.0.1", "--port", &to, "--primary-slot-name", "site_2"];
    let demoted = main.surus(0, &args).await?;
    let said = String::from_utf8_lossy(&demoted.stdout).into_owned();
    assert!(demoted.status.success() && said.contains("cluster is successfully demoted"), "{said}");
    assert_eq!(standby_healthy(&main).await?, 0);
    flows((&site, leader), &main, 4).await?;
    assert_eq!(main.sql(0, "select string_agg(n::text, ' ' order by n) from t").await?, "1 2 3 4");
    let lost = main.surus(0, &["loss", "list"]).await?;
    let lost = String::from_utf8_lossy(&lost.stdout).into_owned();
    assert!(lost.contains("1 commit") || lost.lines().count() > 1, "what was rewound is written down: {lost}");

    // And back, with nothing lost: both follow each other until one of them is promoted.
    let to = port(&main, 0).to_string();
    let args = ["demote-cluster", "--force", "--host", "127.0.0.1", "--port", &to, "--primary-slot-name", "site_2"];
    let demoted = site.surus(leader, &args).await?;
    assert!(demoted.status.success(), "{}", String::from_utf8_lossy(&demoted.stderr));
    assert_eq!(standby_healthy(&site).await?, leader);
    let promoted = main.surus(0, &["promote-cluster", "--force"]).await?;
    assert!(promoted.status.success(), "{}", String::from_utf8_lossy(&promoted.stderr));
    main.wait_healthy().await?;
    flows((&main, 0), &site, 5).await?;
    assert_eq!(standby_healthy(&site).await?, leader);
    assert!(!site.node(leader).log().contains("running pg_rewind"), "nothing was to be rewound");
    for path in ["/standby_leader", "/leader"] {
        assert_eq!(site.get(leader, path).await?.status, 200, "{path}");
    }
    site.passed();
    main.passed();
    Ok(())
}
