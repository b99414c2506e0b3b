//! Twenty members with PostgreSQL on the embedded store: five voters and fifteen learners.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Cluster, StoreKind, Writer, procs, wait_for};

use crate::gaps::calm;
use crate::record::{Recorder, milliseconds};

const MEMBERS: usize = 20;
const VOTERS: usize = 5;
/// Nineteen copies of a database, made on the machine that runs all of them.
const PATIENCE: Duration = Duration::from_secs(600);
const WINDOW: Duration = Duration::from_secs(60);

pub async fn herd(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    if store != StoreKind::Embedded {
        println!("  only with the embedded store: the others have no voters and learners");
        return Ok(());
    }
    // Each standby takes a sender and a slot, and one more sender while it is copied.
    let parameters = json!({"max_wal_senders": 50, "max_replication_slots": 30, "shared_buffers": "16MB"});
    let dynamic = json!({"postgresql": {"parameters": parameters}});
    let mut cluster = crate::cluster(store, Some(dynamic))?.nodes(MEMBERS).prepare().await?;
    let begin = Instant::now();
    for node in 0..MEMBERS {
        cluster.start(node)?;
    }
    wait_for("a leader", PATIENCE, async || cluster.leader().await).await?;
    let led = begin.elapsed();
    wait_for("nineteen streaming replicas", PATIENCE, async || cluster.healthy().await).await?;
    let healthy = begin.elapsed();
    println!("  a leader after {led:.1?}, all stream after {healthy:.1?}");
    votes(&cluster, MEMBERS).await?;
    for _ in 0..runs {
        let leader = calm(&cluster).await?;
        let writer = Writer::start(&cluster).await?;
        writer.goes_on().await?;
        let begun = Instant::now();
        let body = json!({"leader": cluster.nodes[leader].name});
        let answer = cluster.send(leader, "POST", "/switchover", &body).await?;
        ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
        let new = writer.leaves(leader).await?;
        let written = writer.stop();
        let (switchover, lost_then) = (written.longest_gap(begun), written.lost(&cluster, new).await?.len());

        let leader = calm(&cluster).await?;
        let spent = spent(&cluster).await?;
        let writer = Writer::start(&cluster).await?;
        writer.goes_on().await?;
        let begun = Instant::now();
        cluster.kill_node(leader)?;
        let new = writer.leaves(leader).await?;
        let written = writer.stop();
        let lost = written.lost(&cluster, new).await?.len();
        let back = Instant::now();
        cluster.start(leader)?;
        wait_for("all stream again", PATIENCE, async || cluster.healthy().await).await?;
        recorder.run(&[
            ("leader_ms", milliseconds(led)),
            ("healthy_ms", milliseconds(healthy)),
            ("switchover_gap_ms", milliseconds(switchover)),
            ("node_lost_gap_ms", milliseconds(written.longest_gap(begun))),
            ("rejoin_ms", milliseconds(back.elapsed())),
            ("lost", (lost + lost_then) as f64),
            ("leader_rss_mb", spent.leader_rss_mb),
            ("mean_cpu_s_per_min", spent.mean_cpu),
        ])?;
        votes(&cluster, MEMBERS).await?;
    }
    cluster.passed();
    Ok(())
}

/// As many vote as should, and all are there.
async fn votes(cluster: &Cluster, members: usize) -> Result<()> {
    wait_for("five voters", PATIENCE, async || {
        let output = cluster.surus(cluster.leader().await?, &["store", "members", "--format", "json"]).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let voters = listed.iter().filter(|member| member["Role"] != "learner").count();
        ensure!((listed.len(), voters) == (members, VOTERS), "{voters} of {} vote", listed.len());
        Ok(())
    })
    .await
}

struct Spent {
    leader_rss_mb: f64,
    mean_cpu: f64,
}

/// By the agents, in a minute in which nothing is asked of them.
async fn spent(cluster: &Cluster) -> Result<Spent> {
    let usages =
        || -> Vec<procs::Usage> { cluster.nodes.iter().filter_map(|node| procs::usage(node.agent_pid()?)).collect() };
    let before = usages();
    tokio::time::sleep(WINDOW).await;
    let after = usages();
    ensure!((before.len(), after.len()) == (MEMBERS, MEMBERS), "an agent has ended");
    let used = before.iter().zip(&after).map(|(before, after)| (after.cpu - before.cpu).as_secs_f64());
    let leader = cluster.leader().await?;
    Ok(Spent {
        leader_rss_mb: after[leader].resident_kib as f64 / 1024.0,
        mean_cpu: used.sum::<f64>() / MEMBERS as f64,
    })
}
