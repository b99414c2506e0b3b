//! `docs/migrate-from-patroni.md` as it is written, and back.

use super::*;
use surus_testbed::history::{Allowed, Clients};

/// The agent is stopped while the cluster is paused and the other kind is started with the same file.
async fn swap(cluster: &mut Cluster, node: usize, to: Agent) -> Result<()> {
    let postmaster = cluster.nodes[node].postmaster_pid().context("no postmaster")?;
    cluster.stop(node).await?;
    ensure!(cluster.postmaster_alive(node), "PostgreSQL ended with its agent");
    cluster.set_agent(node, to);
    cluster.start(node)?;
    wait_for("the new agent is at work", LONG, async || {
        let status = cluster.status(node).await?;
        let ours = status.get("surus").is_some();
        ensure!(ours == (to == Agent::Surus) && status["state"] == "running" && status["pause"] == true, "{status}");
        Ok(())
    })
    .await?;
    cluster.wait_healthy().await?;
    ensure!(cluster.nodes[node].postmaster_pid() == Some(postmaster), "PostgreSQL was restarted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_replaced_under_load_and_back() -> Result<()> {
    replaced_and_back(StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_replaced_under_load_and_back_on_consul() -> Result<()> {
    replaced_and_back(StoreKind::Consul).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_replaced_under_load_and_back_on_zookeeper() -> Result<()> {
    replaced_and_back(StoreKind::ZooKeeper).await
}

async fn replaced_and_back(store: StoreKind) -> Result<()> {
    let builder = cluster(&[0, 1, 2], json!({"synchronous_mode": true})).store(store);
    let mut cluster = bootstrapped_by(0, builder).await?;
    cluster.with_role("sync_standby", 1).await?;
    let postmasters: Vec<_> = cluster.nodes.iter().map(|node| node.postmaster_pid()).collect();
    let mut clients = Clients::start(&cluster).await?;

    run(&cluster, Tool::Patronictl, 0, &["pause", "--wait", &cluster.scope]).await?;
    for node in [1, 2, 0] {
        swap(&mut cluster, node, Agent::Surus).await?;
    }
    run(&cluster, Tool::Surus, 0, &["resume", "--wait"]).await?;
    cluster.with_role("sync_standby", 1).await?;
    agree(&cluster).await?;

    run(&cluster, Tool::Surus, 0, &["pause", "--wait"]).await?;
    swap(&mut cluster, 0, Agent::Patroni).await?;
    run(&cluster, Tool::Patronictl, 0, &["resume", "--wait", &cluster.scope]).await?;
    // That Surus left the primary alone must not keep anybody from taking over from Patroni.
    wait_for("nobody is left alone any more", LONG, async || {
        let note = cluster.stored_text("unguarded").await?;
        ensure!(note.is_none(), "{note:?}");
        Ok(())
    })
    .await?;
    agree(&cluster).await?;
    run(&cluster, Tool::Patronictl, 1, &["pause", "--wait", &cluster.scope]).await?;
    for node in [1, 2] {
        swap(&mut cluster, node, Agent::Patroni).await?;
    }
    run(&cluster, Tool::Patronictl, 0, &["resume", "--wait", &cluster.scope]).await?;
    cluster.wait_healthy().await?;
    cluster.with_role("sync_standby", 1).await?;

    // Without a pause, the leader first.
    for node in [0, 1] {
        cluster.kill_agent(node)?;
        cluster.set_agent(node, Agent::Surus);
        cluster.start(node)?;
        cluster.wait_healthy().await?;
    }
    cluster.with_role("sync_standby", 1).await?;

    let now: Vec<_> = cluster.nodes.iter().map(|node| node.postmaster_pid()).collect();
    ensure!(now == postmasters, "{now:?} instead of {postmasters:?}");
    let leader = cluster.leader().await?;
    let allowed = Allowed { synchronous: true, bytes: 0, unpublished: Duration::ZERO };
    let verdict = clients.verdict(&cluster, leader, &allowed).await?;
    ensure!(verdict.violations.is_empty() && verdict.failovers() == 0, "{verdict}");
    clients.stop();
    patroni_is_content(&cluster)?;
    cluster.passed();
    Ok(())
}
