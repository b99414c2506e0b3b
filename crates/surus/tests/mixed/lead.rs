//! Who leads, and what is told to whom: switchovers in every direction, pause, settings, slots.

use super::*;
use surus_testbed::Writer;

#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    Rest(usize),
    Command(Tool, usize),
}

pub(super) async fn switch(cluster: &Cluster, from: usize, to: usize, ask: Ask) -> Result<()> {
    let [leader, candidate] = [from, to].map(|node| cluster.nodes[node].name.as_str());
    match ask {
        Ask::Rest(node) => {
            let body = json!({"leader": leader, "candidate": candidate});
            let answer = cluster.send(node, "POST", "/switchover", &body).await?;
            let expected = format!("Successfully switched over to \"{candidate}\"");
            ensure!(answer.status == 200 && answer.body == expected, "{ask:?}: {} {}", answer.status, answer.body);
        }
        Ask::Command(tool, node) => {
            let args = ["switchover", &cluster.scope, "--leader", leader, "--candidate", candidate, "--force"];
            let told = run(cluster, tool, node, &args).await?;
            ensure!(told.contains("Successfully switched over"), "{ask:?}: {told}");
        }
    }
    let leads = cluster.wait_healthy().await?;
    ensure!(leads == to, "{ask:?}: {} leads", cluster.nodes[leads].name);
    // Who leads only for a moment may not come to it, and nobody else can.
    wait_for("an entry in the history", LONG, async || {
        let history = cluster.stored("history").await?.context("no history")?;
        let last = history.as_array().and_then(|entries| entries.last()).context("empty")?;
        ensure!(last[4] == candidate, "{history}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patroni_bootstraps_and_the_lead_goes_round() -> Result<()> {
    let dynamic = json!({
        "postgresql": {"parameters": {"wal_level": "logical"}},
        "slots": permanent_slots(),
    });
    let cluster = bootstrapped_by(0, cluster(&[0], dynamic)).await?;
    slots(&cluster, 0).await?;
    let writer = Writer::start(&cluster).await?;
    for (from, to, ask) in [
        (0, 1, Ask::Rest(0)),
        (1, 0, Ask::Rest(1)),
        (0, 2, Ask::Rest(1)),
        (2, 1, Ask::Rest(0)),
        (1, 0, Ask::Command(Tool::Patronictl, 2)),
        (0, 2, Ask::Command(Tool::Surus, 0)),
    ] {
        switch(&cluster, from, to, ask).await?;
        writer.writes_to(to).await?;
        if to == 2 {
            leave_numbers_out(&cluster).await?;
        }
    }
    agree(&cluster).await?;
    same_texts(&cluster, Texts::All).await?;
    for leader in [2, 0] {
        if leader == 0 {
            switch(&cluster, 2, 0, Ask::Command(Tool::Surus, 1)).await?;
        }
        slots(&cluster, leader).await?;
        for tool in TOOLS {
            pause(&cluster, tool).await?;
            edit(&cluster, tool, leader).await?;
        }
    }
    history(&cluster).await?;
    let explained = run(&cluster, Tool::Surus, 1, &["explain"]).await?;
    ensure!(explained.contains("node1: does not explain itself: Patroni 4.1"), "{explained}");
    writer.stop().verify_none_lost(&cluster).await?;
    patroni_is_content(&cluster)?;
    cluster.passed();
    Ok(())
}

/// As if a promotion had been announced of which nobody has heard since: the next of ours leaves numbers out, and Patroni
/// is to follow it, and to lead after it.
async fn leave_numbers_out(cluster: &Cluster) -> Result<()> {
    let etcd = cluster.etcd.as_ref().context("no etcd")?;
    let timeline = cluster.status(cluster.leader().await?).await?["timeline"].as_u64().context("no timeline")?;
    let announced = json!({"timeline": timeline + 3, "leader": "node9"}).to_string();
    etcd.put(&format!("/service/{}/timeline", cluster.scope), announced.as_bytes()).await
}

pub fn permanent_slots() -> Value {
    json!({
        "kept": {"type": "physical"},
        "read": {"type": "logical", "database": "postgres", "plugin": "test_decoding"},
    })
}

/// Every member has a slot for each of the others, and the permanent ones.
pub async fn slots(cluster: &Cluster, leader: usize) -> Result<()> {
    let select = "select slot_name from pg_replication_slots order by 1";
    for node in 0..cluster.nodes.len() {
        let others: Vec<String> = cluster.others(node).iter().map(|n| cluster.nodes[*n].name.clone()).collect();
        let mut expected = [others, vec!["kept".into(), "read".into()]].concat();
        expected.sort();
        wait_for("the slots", LONG, async || {
            let rows = cluster.connect(node).await?.rows(select).await?;
            let there: Vec<String> = rows.into_iter().flatten().collect();
            ensure!(there == expected, "{}: {there:?}", cluster.nodes[node].name);
            Ok(())
        })
        .await?;
    }
    wait_for("slots in the status key", LONG, async || {
        let status = cluster.stored("status").await?.context("no status")?;
        let names: Vec<&String> = status["slots"].as_object().context("no slots")?.keys().collect();
        ensure!(names.len() == cluster.nodes.len() + 2, "{status}");
        let own = &cluster.nodes[leader].name;
        ensure!(status["slots"][own].as_u64() >= status["slots"]["read"].as_u64(), "{status}");
        Ok(())
    })
    .await
}

pub async fn pause(cluster: &Cluster, tool: Tool) -> Result<()> {
    for (command, paused) in [("pause", true), ("resume", false)] {
        run(cluster, tool, 0, &[command, "--wait", &cluster.scope]).await?;
        for node in 0..cluster.nodes.len() {
            let status = cluster.status(node).await?;
            ensure!(status["pause"].as_bool().unwrap_or(false) == paused, "after {command}: {status}");
        }
    }
    Ok(())
}

pub async fn edit(cluster: &Cluster, tool: Tool, leader: usize) -> Result<()> {
    let value = match tool {
        Tool::Surus => 5 + leader,
        Tool::Patronictl => 15 + leader,
    };
    let setting = format!("postgresql.parameters.work_mem={value}MB");
    run(cluster, tool, 1, &["edit-config", &cluster.scope, "-s", &setting, "--force"]).await?;
    for node in 0..cluster.nodes.len() {
        wait_for("the setting", LONG, async || {
            let shown = cluster.sql(node, "show work_mem").await?;
            ensure!(shown == format!("{value}MB"), "{}: {shown}", cluster.nodes[node].name);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The history of the cluster, which both commands tell the same.
pub async fn history_is_the_same(cluster: &Cluster) -> Result<Value> {
    let [ours, theirs] = [
        run(cluster, Tool::Surus, 0, &["history", "-f", "json"]).await?,
        run(cluster, Tool::Patronictl, 0, &["history", "-f", "json"]).await?,
    ];
    let [ours, theirs]: [Value; 2] = [serde_json::from_str(&ours)?, serde_json::from_str(&theirs)?];
    ensure!(ours == theirs, "{ours} here, {theirs} there");
    Ok(ours)
}

async fn history(cluster: &Cluster) -> Result<()> {
    let ours = history_is_the_same(cluster).await?;
    let leaders: Vec<&str> =
        ours.as_array().context("no list")?.iter().filter_map(|e| e["New Leader"].as_str()).collect();
    let timelines: Vec<u64> = ours.as_array().into_iter().flatten().filter_map(|e| e["TL"].as_u64()).collect();
    ensure!(timelines == [1, 2, 3, 4, 8, 9, 10], "{ours}");
    ensure!(leaders == ["node2", "node1", "node3", "node2", "node1", "node3", "node1"], "{ours}");
    Ok(())
}
