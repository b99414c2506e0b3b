//! What the members' journals tell about real clusters, and whether it can be relied on.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, wait_for};

fn cluster() -> Builder {
    Cluster::builder(env!("CARGO_BIN_EXE_surus"))
}

fn journal(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.node(node).dir.join("data.surus.journal")
}

/// Standard output of a command that succeeds.
async fn surus(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let output = cluster.surus(0, args).await?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "surus {args:?}: {}\n{out}\n{err}", output.status);
    Ok(out.into_owned())
}

/// Every journal replays to what was recorded, and holds decisions at all.
async fn replays(cluster: &Cluster) -> Result<()> {
    for node in 0..cluster.nodes.len() {
        let path = journal(cluster, node);
        let out = surus(cluster, &["replay", &path.to_string_lossy()]).await?;
        ensure!(out.contains(" 0 come out differently"), "{out}");
        ensure!(!out.contains(": 0 decisions"), "{out}");
    }
    Ok(())
}

async fn timeline(cluster: &Cluster, offline: bool) -> Result<Value> {
    let dirs: Vec<String> =
        (0..cluster.nodes.len()).map(|n| journal(cluster, n).to_string_lossy().into_owned()).collect();
    let mut args = vec!["timeline", "-f", "json"];
    if offline {
        dirs.iter().for_each(|dir| args.extend(["--journal", dir]));
    }
    Ok(serde_json::from_str(&surus(cluster, &args).await?)?)
}

/// The last change of the lead to this member, as its phases.
fn change_to(timeline: &Value, kind: &str, from: &str, to: &str) -> Result<Vec<(String, i64)>> {
    let changes = timeline["changes"].as_array().context("no changes")?;
    let found = changes.iter().rfind(|c| c["kind"] == kind && c["from"] == from && c["to"] == to);
    let found = found.with_context(|| format!("no {kind} from {from} to {to} in {changes:#?}"))?;
    let phases = found["phases"].as_array().context("no phases")?;
    phases
        .iter()
        .map(|p| Ok((p["name"].as_str().context("a name")?.to_owned(), p["at"].as_i64().context("a time")?)))
        .collect()
}

/// These phases are there, and in this order.
fn in_order(phases: &[(String, i64)], names: &[&str]) -> Result<()> {
    let mut rest = phases.iter();
    for name in names {
        ensure!(rest.any(|(n, _)| n == name), "{name} is not in its place: {phases:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_and_a_switchover_are_told_in_order_and_replay_without_a_difference() -> Result<()> {
    let mut cluster = with_secrets(cluster()).healthy().await?;
    let name = |cluster: &Cluster, node: usize| cluster.node(node).name.clone();
    let first = cluster.leader().await?;
    cluster.kill_node(first)?;
    let second = cluster.wait_leader_other_than(first).await?;
    let silent = timeline(&cluster, false).await?;
    ensure!(silent["silent"][0]["member"].as_str() == Some(&name(&cluster, first)), "{:#}", silent["silent"]);
    cluster.start(first)?;
    cluster.wait_healthy().await?;

    let body = json!({"leader": name(&cluster, second), "candidate": name(&cluster, first)});
    let answer = cluster.send(second, "POST", "/switchover", &body).await?;
    ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
    cluster.wait_healthy().await?;

    let live = timeline(&cluster, false).await?;
    for told in [&live, &timeline(&cluster, true).await?] {
        let (first, second) = (name(&cluster, first), name(&cluster, second));
        let failover = change_to(told, "failover", &first, &second)?;
        in_order(&failover, &["trigger", "lead ends", "race", "reach", "lead taken", "promote", "writes", "follows"])?;
        let switchover = change_to(told, "switchover", &second, &first)?;
        in_order(&switchover, &["trigger", "stop", "reach", "lead taken", "promote", "writes", "follows"])?;
        let follows = switchover.iter().filter(|(n, _)| n == "follows").count();
        ensure!(follows == 2, "{follows} follow the new leader");
        ensure!(told["clocks"] == json!([]), "one machine has one clock: {:#}", told["clocks"]);
        let times: Vec<i64> =
            told["lines"].as_array().context("lines")?.iter().filter_map(|l| l["at"].as_i64()).collect();
        ensure!(times.is_sorted() && times.len() > 30, "{} lines", times.len());
    }
    ensure!(live["silent"] == json!([]), "{:#}", live["silent"]);

    let told = surus(&cluster, &["explain", "--since", "10m"]).await?;
    for part in ["the agent starts", "[rule 715]", "because ", "orders TakeLead", "orders task"] {
        ensure!(told.contains(part), "{part:?} is not in\n{told}");
    }
    let text = surus(&cluster, &["timeline", "--since", "10m"]).await?;
    ensure!(text.contains("ended without a word"), "{text}");
    if std::env::var_os("SURUS_SHOW").is_some() {
        eprintln!("{text}");
    }
    replays(&cluster).await?;
    no_secrets(&cluster)?;
    cluster.passed();
    Ok(())
}

/// Wherever a password may be written in a configuration.
fn with_secrets(cluster: Builder) -> Builder {
    let credentials = json!({"password": SECRET});
    let authentication = json!({"replication": credentials});
    let parameters = json!({"app.key": SECRET, "restore_command": format!("KEY={SECRET} false %f %p")});
    cluster
        .settings(json!({"postgresql": {"authentication": authentication}}))
        .dynamic(json!({"postgresql": {"parameters": parameters}}))
}

const SECRET: &str = "s3cr3t-of-the-house";

fn no_secrets(cluster: &Cluster) -> Result<()> {
    for node in 0..cluster.nodes.len() {
        let configured = std::fs::read_to_string(cluster.node(node).data_dir().join("postgresql.conf"))?;
        ensure!(configured.contains(SECRET), "there was none to be written");
        for file in std::fs::read_dir(journal(cluster, node))? {
            let text = std::fs::read_to_string(file?.path())?;
            ensure!(!text.contains(SECRET), "a password is in the journal of node {node}");
        }
    }
    Ok(())
}

/// SIGKILL at whatever instruction: what was recorded is there, and the successor goes on behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_leaves_a_journal_that_can_be_read() -> Result<()> {
    let mut cluster = cluster().nodes(1).healthy().await?;
    for round in 0..10 {
        cluster.restart_agent(0)?;
        // Some are killed while they start, some while they work.
        if round % 2 == 0 {
            cluster.wait_healthy().await?;
        }
    }
    cluster.wait_healthy().await?;
    let rounds = wait_for("every agent that came so far is in the journal", Duration::from_secs(30), async || {
        let told = surus(&cluster, &["explain", "--since", "1h", "-f", "json"]).await?;
        let told: Value = serde_json::from_str(&told)?;
        ensure!(
            told[0]["problems"].as_array().context("problems")?.iter().all(|p| p.to_string().contains("not whole"))
        );
        let events = told[0]["events"].as_array().context("events")?;
        let started = events.iter().filter(|e| e.get("started").is_some()).count();
        ensure!(started >= 6, "{started} starts");
        Ok(started)
    })
    .await?;
    ensure!(rounds <= 11, "{rounds} starts");
    replays(&cluster).await?;
    let metrics = cluster.get(0, "/metrics").await?.body;
    for metric in ["surus_journal_records_total", "surus_journal_failing", "surus_journal_bytes"] {
        ensure!(metrics.contains(metric), "{metric} is not in\n{metrics}");
    }
    cluster.passed();
    Ok(())
}

/// It cannot be written: everything goes on, and it is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_written_changes_nothing() -> Result<()> {
    let cluster = cluster().nodes(1).settings(json!({"recorder": {"directory": "/proc/surus"}})).healthy().await?;
    wait_for("it says so", Duration::from_secs(30), async || {
        let metrics = cluster.get(0, "/metrics").await?.body;
        let failing = metrics.lines().find(|l| l.starts_with("surus_journal_failing{")).context("no such metric")?;
        ensure!(failing.ends_with(" 1"), "{failing}");
        Ok(())
    })
    .await?;
    ensure!(cluster.node(0).log().contains("decisions are not recorded for now"));
    let output = cluster.surus(0, &["timeline"]).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("/proc/surus cannot be read"), "{said}");
    cluster.healthy().await?;
    cluster.passed();
    Ok(())
}
