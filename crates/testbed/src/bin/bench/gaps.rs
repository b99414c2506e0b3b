//! How long something takes, and how long writing clients wait meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use surus_testbed::{Cluster, StoreKind, Writer, wait_for};

use crate::cluster;
use crate::record::{Recorder, milliseconds};

const LONG: Duration = Duration::from_secs(120);

/// The shortest lease that the settings allow.
pub fn fast_timing() -> Value {
    json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 2})
}

pub async fn bootstrap(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    for _ in 0..runs {
        let mut cluster = cluster(store, None)?.prepare().await?;
        let begin = Instant::now();
        for node in 0..cluster.nodes.len() {
            cluster.start(node)?;
        }
        wait_for("a leader", LONG, async || cluster.leader().await).await?;
        let led = begin.elapsed();
        cluster.wait_healthy().await?;
        recorder.run(&[("leader_ms", milliseconds(led)), ("healthy_ms", milliseconds(begin.elapsed()))])?;
        cluster.passed();
    }
    Ok(())
}

pub async fn switchover(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let cluster = cluster(store, None)?.healthy().await?;
    for _ in 0..runs {
        let writer = Writer::start(&cluster).await?;
        let leader = calm(&cluster).await?;
        writer.goes_on().await?;
        let begin = Instant::now();
        let body = json!({"leader": cluster.nodes[leader].name});
        let answer = cluster.send(leader, "POST", "/switchover", &body).await?;
        ensure!(answer.status == 200, "switchover: {} {}", answer.status, answer.body);
        let answered = begin.elapsed();
        wait_for("the old primary streams", LONG, async || {
            let status = cluster.status(leader).await?;
            ensure!(status["replication_state"] == "streaming", "it reports {status}");
            Ok(())
        })
        .await?;
        let streaming = begin.elapsed();
        let new = writer.leaves(leader).await?;
        cluster.wait_healthy().await?;
        let written = writer.stop();
        let lost = written.lost(&cluster, new).await?.len();
        recorder.run(&[
            ("gap_ms", milliseconds(written.longest_gap(begin))),
            ("answer_ms", milliseconds(answered)),
            ("streaming_ms", milliseconds(streaming)),
            ("acknowledged", written.acknowledged.len() as f64),
            ("lost", lost as f64),
        ])?;
    }
    cluster.passed();
    Ok(())
}

pub async fn postmaster(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let cluster = cluster(store, None)?.healthy().await?;
    for _ in 0..runs {
        let writer = Writer::start(&cluster).await?;
        let leader = calm(&cluster).await?;
        writer.goes_on().await?;
        let begin = Instant::now();
        cluster.kill_postmaster(leader)?;
        failed_once(&writer).await?;
        writer.goes_on().await?;
        let now = cluster.wait_healthy().await?;
        let written = writer.stop();
        recorder.run(&[
            ("gap_ms", milliseconds(written.longest_gap(begin))),
            ("leader_changed", f64::from(u8::from(now != leader))),
        ])?;
    }
    cluster.passed();
    Ok(())
}

pub async fn node(store: StoreKind, runs: usize, dynamic: Option<Value>, recorder: &mut Recorder) -> Result<()> {
    let mut cluster = cluster(store, dynamic)?.healthy().await?;
    for _ in 0..runs {
        let writer = Writer::start(&cluster).await?;
        let leader = calm(&cluster).await?;
        match &cluster.dynamic(leader).await?["synchronous_mode"] {
            Value::Bool(true) => _ = cluster.with_role("sync_standby", 1).await?,
            Value::String(_) => _ = cluster.with_role("quorum_standby", 2).await?,
            _ => {}
        }
        writer.goes_on().await?;
        let begin = Instant::now();
        cluster.kill_node(leader)?;
        let new = writer.leaves(leader).await?;
        let written = writer.stop();
        let back = Instant::now();
        cluster.start(leader)?;
        cluster.wait_healthy().await?;
        recorder.run(&[
            ("gap_ms", milliseconds(written.longest_gap(begin))),
            ("rejoin_ms", milliseconds(back.elapsed())),
            ("lost", written.lost(&cluster, new).await?.len() as f64),
        ])?;
    }
    cluster.passed();
    Ok(())
}

/// A primary is lost with commits that nobody received.
pub async fn rewind(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let mut cluster = cluster(store, None)?.healthy().await?;
    cluster.sql(cluster.leader().await?, "create table rewound (n int)").await?;
    for run in 0..runs {
        let leader = calm(&cluster).await?;
        cluster.freeze_walsenders(leader)?;
        cluster.sql(leader, "insert into rewound select generate_series(1, 1000)").await?;
        cluster.kill_node(leader)?;
        let new = cluster.wait_leader_other_than(leader).await?;
        wait_for("its first checkpoint", LONG, async || {
            let sql = "select (select timeline_id from pg_control_checkpoint()) = \
                       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int";
            ensure!(cluster.sql(new, sql).await? == "t", "not yet");
            Ok(())
        })
        .await?;
        let begin = Instant::now();
        cluster.start(leader)?;
        cluster.wait_streaming(leader).await?;
        let took = begin.elapsed();
        cluster.wait_healthy().await?;
        let log = cluster.node(leader).log();
        ensure!(log.contains("pg_rewind from"), "it was not rewound in run {run}:\n{log}");
        recorder.run(&[("rejoin_ms", milliseconds(took))])?;
    }
    cluster.passed();
    Ok(())
}

pub async fn sync_standby(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let mut cluster = cluster(store, Some(json!({"synchronous_mode": true})))?.healthy().await?;
    for _ in 0..runs {
        let writer = Writer::start(&cluster).await?;
        let leader = calm(&cluster).await?;
        let standby = cluster.with_role("sync_standby", 1).await?[0];
        writer.goes_on().await?;
        let begin = Instant::now();
        cluster.kill_node(standby)?;
        writer.goes_on().await?;
        cluster.with_role("sync_standby", 1).await?;
        let written = writer.stop();
        ensure!(cluster.leader().await? == leader, "the lead moved");
        cluster.start(standby)?;
        cluster.wait_healthy().await?;
        recorder.run(&[
            ("gap_ms", milliseconds(written.longest_gap(begin))),
            ("failed_commits", written.failed.len() as f64),
        ])?;
    }
    cluster.passed();
    Ok(())
}

pub async fn sigterm(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let mut cluster = cluster(store, None)?.healthy().await?;
    for _ in 0..runs {
        let writer = Writer::start(&cluster).await?;
        let leader = calm(&cluster).await?;
        writer.goes_on().await?;
        let begin = Instant::now();
        cluster.terminate(leader)?;
        let new = writer.leaves(leader).await?;
        let written = writer.stop();
        let status = cluster.exited(leader).await?;
        ensure!(status.success(), "the agent ended with {status}");
        cluster.start(leader)?;
        cluster.wait_healthy().await?;
        recorder.run(&[
            ("gap_ms", milliseconds(written.longest_gap(begin))),
            ("lost", written.lost(&cluster, new).await?.len() as f64),
        ])?;
    }
    cluster.passed();
    Ok(())
}

pub async fn agent_restart(store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    let mut cluster = cluster(store, None)?.healthy().await?;
    for _ in 0..runs {
        let writer = Writer::start(&cluster).await?;
        let leader = calm(&cluster).await?;
        let before = cluster.node(leader).postmaster_pid();
        let begin = Instant::now();
        cluster.restart_agent(leader)?;
        cluster.wait_healthy().await?;
        writer.goes_on().await?;
        let written = writer.stop();
        let untouched = cluster.node(leader).postmaster_pid() == before && cluster.leader().await? == leader;
        recorder.run(&[
            ("failed_commits", written.failed.len() as f64),
            ("gap_ms", milliseconds(written.longest_gap(begin))),
            ("untouched", f64::from(u8::from(untouched))),
        ])?;
    }
    cluster.passed();
    Ok(())
}

/// A healthy cluster in which nothing was decided for a moment: no run begins in the wake of the one before.
pub async fn calm(cluster: &Cluster) -> Result<usize> {
    let leader = cluster.wait_healthy().await?;
    let since = cluster.status(leader).await?["dcs_last_seen"].as_i64().unwrap_or(0);
    wait_for("two quiet seconds", LONG, async || {
        let now = cluster.status(leader).await?["dcs_last_seen"].as_i64().unwrap_or(0);
        ensure!(now >= since + 2, "the store was last read {} s after", now - since);
        cluster.healthy().await
    })
    .await
}

async fn failed_once(writer: &Writer) -> Result<()> {
    wait_for("a failed commit", LONG, async || {
        ensure!(!writer.seen().failed.is_empty(), "all commits succeed");
        Ok(())
    })
    .await
}
