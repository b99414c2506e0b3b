//! The same on Consul and on ZooKeeper: one cluster for each way to have every commit, and everything else in passing.

use super::*;
use surus_testbed::history::{Allowed, Clients};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_slots_and_losses_on_consul() -> Result<()> {
    quorum_slots_and_losses(StoreKind::Consul).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_slots_and_losses_on_zookeeper() -> Result<()> {
    quorum_slots_and_losses(StoreKind::ZooKeeper).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_patroni_and_commands_on_consul() -> Result<()> {
    two_patroni_and_commands(StoreKind::Consul).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_patroni_and_commands_on_zookeeper() -> Result<()> {
    two_patroni_and_commands(StoreKind::ZooKeeper).await
}

/// One of three is Patroni and bootstraps; the lead goes every way, by request and by the death of a leader of either kind.
async fn quorum_slots_and_losses(store: StoreKind) -> Result<()> {
    let dynamic = json!({
        "synchronous_mode": "quorum",
        "postgresql": {"parameters": {"wal_level": "logical"}},
        "slots": lead::permanent_slots(),
    });
    let mut cluster = bootstrapped_by(0, cluster(&[0], dynamic).store(store)).await?;
    settled(&cluster).await?;
    let clients = Clients::start(&cluster).await?;
    for (tool, from, to) in
        [(Tool::Patronictl, 0, 1), (Tool::Surus, 1, 0), (Tool::Surus, 0, 2), (Tool::Patronictl, 2, 1)]
    {
        switch(&cluster, tool, from, to).await?;
        synchronous(&cluster, "quorum_standby", 2).await?;
    }
    agree(&cluster).await?;
    settled(&cluster).await?;
    lose_and_return(&mut cluster, 1, "quorum_standby", 2).await?;
    settled(&cluster).await?;
    if cluster.leader().await? != 0 {
        switch(&cluster, Tool::Patronictl, cluster.leader().await?, 0).await?;
    }
    settled(&cluster).await?;
    lose_and_return(&mut cluster, 0, "quorum_standby", 2).await?;
    agree(&cluster).await?;
    nothing_lost(cluster, clients, 6).await
}

/// Two of three are Patroni, Surus bootstraps; settings, pause and commands of both kinds, whoever leads.
async fn two_patroni_and_commands(store: StoreKind) -> Result<()> {
    let builder = cluster(&[0, 2], json!({"synchronous_mode": true})).store(store);
    let mut cluster = bootstrapped_by(1, builder).await?;
    let clients = Clients::start(&cluster).await?;
    synchronous(&cluster, "sync_standby", 1).await?;
    commands(&cluster, 1, TOOLS).await?;
    same_texts(&cluster, Texts::OfTheStore).await?;
    // To a Patroni, and from there to the other one, which was there before ours was back.
    for n in 0..2 {
        let (leader, heir) = (cluster.leader().await?, synchronous(&cluster, "sync_standby", 1).await?[0]);
        lose_and_return(&mut cluster, leader, "sync_standby", 1).await?;
        ensure!(cluster.leader().await? == heir, "{} was synchronous", cluster.nodes[heir].name);
        if n == 0 {
            commands(&cluster, heir, [Tool::Patronictl, Tool::Surus]).await?;
        }
    }
    synchronous(&cluster, "sync_standby", 1).await?;
    agree(&cluster).await?;
    nothing_lost(cluster, clients, 2).await
}

/// Everybody has every slot and counts for the quorum. Slots that are copied restart the server they are copied to.
async fn settled(cluster: &Cluster) -> Result<()> {
    lead::slots(cluster, cluster.leader().await?).await?;
    synchronous(cluster, "quorum_standby", 2).await.map(drop)
}

async fn nothing_lost(cluster: Cluster, mut clients: Clients, changes: usize) -> Result<()> {
    let allowed = Allowed { synchronous: true, bytes: 0, unpublished: Duration::ZERO };
    let verdict = clients.verdict(&cluster, cluster.leader().await?, &allowed).await?;
    ensure!(verdict.violations.is_empty() && verdict.failovers() >= changes, "{verdict}");
    clients.stop();
    patroni_is_content(&cluster)?;
    cluster.passed();
    Ok(())
}

async fn switch(cluster: &Cluster, tool: Tool, from: usize, to: usize) -> Result<()> {
    let [leader, candidate] = [from, to].map(|node| cluster.nodes[node].name.as_str());
    let args = ["switchover", &cluster.scope, "--leader", leader, "--candidate", candidate, "--force"];
    match run(cluster, tool, to, &args).await {
        Ok(told) if told.contains("Successfully switched over") => {}
        // Patroni reads one key of ZooKeeper after the other: that the request is done with, and before that, that nobody
        // leads. `patronictl` repeats what it is told; ours looks itself.
        Ok(told) if told.contains("503, Switchover failed") && matches!(tool, Tool::Patronictl) => {
            ensure!(cluster.store == StoreKind::ZooKeeper, "{told}");
        }
        other => anyhow::bail!("{tool:?}: {other:?}"),
    }
    let leads = cluster.wait_healthy().await?;
    ensure!(leads == to, "{} leads", cluster.nodes[leads].name);
    Ok(())
}

/// The node of the leader dies, another takes over, and it comes back.
async fn lose_and_return(cluster: &mut Cluster, leader: usize, role: &str, count: usize) -> Result<()> {
    cluster.kill_node(leader)?;
    cluster.wait_leader_other_than(leader).await?;
    cluster.start(leader)?;
    cluster.wait_healthy().await?;
    synchronous(cluster, role, count).await.map(drop)
}

/// So many members are synchronous, and what the store says of it is what PostgreSQL waits for.
async fn synchronous(cluster: &Cluster, role: &str, count: usize) -> Result<Vec<usize>> {
    let standbys = cluster.with_role(role, count).await?;
    wait_for("one truth about who is synchronous", LONG, async || {
        let leader = cluster.leader().await?;
        let sync = cluster.stored("sync").await?.context("no sync key")?;
        ensure!(sync["leader"] == cluster.nodes[leader].name.as_str(), "{sync}");
        let mut trusted: Vec<usize> =
            sync["sync_standby"].as_str().unwrap_or_default().split(',').filter_map(|n| cluster.index(n)).collect();
        trusted.sort_unstable();
        let state = if role == "quorum_standby" { "quorum" } else { "sync" };
        let select =
            format!("select application_name from pg_stat_replication where sync_state = '{state}' order by 1");
        let rows = cluster.connect(leader).await?.rows(&select).await?;
        let waited: Vec<usize> = rows.into_iter().flatten().filter_map(|name| cluster.index(&name)).collect();
        ensure!(trusted == standbys && waited == standbys, "{sync}, PostgreSQL waits for {waited:?}, not {standbys:?}");
        Ok(())
    })
    .await?;
    Ok(standbys)
}

/// What changes something: the first tool pauses and restarts, the second sets and makes a member anew.
async fn commands(cluster: &Cluster, leader: usize, [first, second]: [Tool; 2]) -> Result<()> {
    lead::history_is_the_same(cluster).await?;
    lead::pause(cluster, first).await?;
    lead::edit(cluster, second, leader).await?;
    for (tool, verb) in [(first, "restart"), (second, "reinit")] {
        // A member of the other kind than the command, unless that leads.
        let wanted = |node: &usize| (*node == 1) == matches!(tool, Tool::Patronictl);
        let others = cluster.others(leader);
        let node = others.iter().copied().find(wanted).unwrap_or(others[0]);
        let name = cluster.nodes[node].name.as_str();
        let postmaster = cluster.nodes[node].postmaster_pid();
        run(cluster, tool, node, &[verb, &cluster.scope, name, "--force"]).await?;
        wait_for("another postmaster", LONG, async || {
            let now = cluster.nodes[node].postmaster_pid();
            ensure!(now.is_some() && now != postmaster, "{name}: {now:?}");
            Ok(())
        })
        .await?;
        cluster.wait_healthy().await?;
    }
    Ok(())
}
