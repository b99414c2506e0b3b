//! The same on ZooKeeper.

use super::*;
use surus_testbed::Writer;

fn on_zookeeper(patroni: &[usize]) -> Builder {
    cluster(patroni, json!({})).store(StoreKind::ZooKeeper)
}

async fn switch(cluster: &Cluster, tool: Tool, from: usize, to: usize) -> Result<()> {
    let [leader, candidate] = [from, to].map(|node| cluster.nodes[node].name.as_str());
    let args = ["switchover", &cluster.scope, "--leader", leader, "--candidate", candidate, "--force"];
    let told = run(cluster, tool, to, &args).await?;
    ensure!(told.contains("Successfully switched over"), "{tool:?}: {told}");
    let leads = cluster.wait_healthy().await?;
    ensure!(leads == to, "{} leads", cluster.nodes[leads].name);
    Ok(())
}

/// Patroni bootstraps, each kind takes over from the other and from its own, on request and after deaths.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patroni_bootstraps_on_zookeeper_and_either_takes_over() -> Result<()> {
    let mut cluster = bootstrapped_by(0, on_zookeeper(&[0])).await?;
    let writer = Writer::start(&cluster).await?;
    agree(&cluster).await?;
    for (tool, from, to) in
        [(Tool::Patronictl, 0, 1), (Tool::Surus, 1, 0), (Tool::Surus, 0, 2), (Tool::Patronictl, 2, 1)]
    {
        switch(&cluster, tool, from, to).await?;
        writer.writes_to(to).await?;
    }
    agree(&cluster).await?;
    // Of ours the agent alone is killed: nothing is given up, the session has to end.
    cluster.kill_node(1)?;
    let heir = cluster.wait_leader_other_than(1).await?;
    cluster.start(1)?;
    cluster.wait_healthy().await?;
    if heir != 0 {
        switch(&cluster, Tool::Patronictl, heir, 0).await?;
    }
    // And now Patroni dies as the leader.
    cluster.kill_node(0)?;
    cluster.wait_leader_other_than(0).await?;
    cluster.start(0)?;
    cluster.wait_healthy().await?;
    agree(&cluster).await?;
    writer.stop().verify_none_lost(&cluster).await?;
    patroni_is_content(&cluster)?;
    cluster.passed();
    Ok(())
}

/// Surus bootstraps; synchronous mode, pause and the stored configuration are one for both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surus_bootstraps_on_zookeeper_and_patroni_agrees() -> Result<()> {
    let cluster = bootstrapped_by(1, on_zookeeper(&[0]).dynamic(json!({"synchronous_mode": true}))).await?;
    cluster.with_role("sync_standby", 1).await?;
    for tool in TOOLS {
        run(&cluster, tool, 0, &["pause", "--wait", &cluster.scope]).await?;
        run(&cluster, tool, 0, &["resume", "--wait", &cluster.scope]).await?;
        let setting = format!("postgresql.parameters.work_mem={}MB", if matches!(tool, Tool::Surus) { 5 } else { 6 });
        run(&cluster, tool, 1, &["edit-config", &cluster.scope, "-s", &setting, "--force"]).await?;
    }
    for node in 0..3 {
        wait_for("the setting", LONG, async || {
            ensure!(cluster.sql(node, "show work_mem").await? == "6MB", "not yet at {node}");
            Ok(())
        })
        .await?;
    }
    let standby = cluster.with_role("sync_standby", 1).await?[0];
    switch(&cluster, Tool::Surus, 1, standby).await?;
    cluster.with_role("sync_standby", 1).await?;
    agree(&cluster).await?;
    patroni_is_content(&cluster)?;
    cluster.passed();
    Ok(())
}
