//! What a cluster costs that has nothing to do.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use surus_testbed::procs::{self, Usage};
use surus_testbed::{Cluster, StoreKind};

use crate::cluster;
use crate::record::Recorder;

const WINDOW: Duration = Duration::from_secs(60);
const WINDOWS: usize = 3;
/// The log has not moved for that long: autovacuum, which looks at one database a minute and writes a little in the first
/// minutes of a new cluster, is through with all of them. A position that moved is news, and news is published.
const REST: Duration = Duration::from_secs(150);
const PATIENCE: Duration = Duration::from_secs(900);

pub async fn idle(store: StoreKind, recorder: &mut Recorder) -> Result<()> {
    let timing = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10});
    let cluster = cluster(store, Some(timing))?.healthy().await?;
    at_rest(&cluster).await?;
    for _ in 0..WINDOWS {
        let before = look(&cluster).await?;
        tokio::time::sleep(WINDOW).await;
        let after = look(&cluster).await?;
        let leader = cluster.leader().await?;
        let per_minute = 60.0 / WINDOW.as_secs_f64();
        let cpu = |node: usize| (after.agents[node].cpu - before.agents[node].cpu).as_secs_f64() * per_minute;
        let all: Vec<f64> = (0..cluster.nodes.len()).map(cpu).collect();
        let mut values = vec![
            ("leader_rss_mb", after.agents[leader].resident_kib as f64 / 1024.0),
            ("highest_rss_mb", after.agents.iter().map(|a| a.resident_kib).max().unwrap_or(0) as f64 / 1024.0),
            ("fence_rss_mb", after.fences.iter().map(|a| a.resident_kib).max().unwrap_or(0) as f64 / 1024.0),
            ("leader_cpu_s_per_min", cpu(leader)),
            ("mean_cpu_s_per_min", all.iter().sum::<f64>() / all.len() as f64),
        ];
        if let (Some(before), Some(after)) = (before.requests, after.requests) {
            values.push(("requests_per_min", (after - before) * per_minute));
        }
        recorder.run(&values)?;
    }
    cluster.passed();
    Ok(())
}

pub async fn at_rest(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let leader = cluster.leader().await?;
    let mut last = (String::new(), Instant::now());
    while last.1.elapsed() < REST {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "the cluster does not come to rest");
        let position = cluster.sql(leader, "select pg_current_wal_insert_lsn()").await?;
        if position != last.0 {
            last = (position, Instant::now());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    println!("at rest after {} s", begun.elapsed().as_secs());
    Ok(())
}

struct Look {
    /// Of each member: its agent, with the CPU time of its other processes but PostgreSQL.
    agents: Vec<Usage>,
    fences: Vec<Usage>,
    requests: Option<f64>,
}

async fn look(cluster: &Cluster) -> Result<Look> {
    let mut look = Look { agents: Vec::new(), fences: Vec::new(), requests: None };
    for node in &cluster.nodes {
        let agent = node.agent_pid().context("an agent has ended")?;
        let mut usage = procs::usage(agent).context("an agent has ended")?;
        for fence in helpers(&node.dir, agent) {
            let Some(of_fence) = procs::usage(fence) else { continue };
            usage.cpu += of_fence.cpu;
            look.fences.push(of_fence);
        }
        look.agents.push(usage);
    }
    if let Some(etcd) = &cluster.etcd {
        look.requests = Some(requests(&etcd.metrics().await?));
    }
    Ok(look)
}

fn helpers(dir: &Path, agent: i32) -> Vec<i32> {
    let programs = procs::programs(dir).into_iter();
    programs.filter(|(pid, name)| *pid != agent && name.starts_with("surus")).map(|(pid, _)| pid).collect()
}

/// Calls that etcd has answered, and messages that came in on streams (lease keep-alive, watch).
pub fn requests(metrics: &str) -> f64 {
    let counted = |line: &&str| {
        (line.starts_with("grpc_server_handled_total{") && line.contains("grpc_type=\"unary\""))
            || (line.starts_with("grpc_server_msg_received_total{") && line.contains("_stream\""))
    };
    metrics.lines().filter(counted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_calls_and_stream_messages_once() {
        let metrics = "\
grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Txn\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 5
grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 1
grpc_server_msg_received_total{grpc_method=\"LeaseKeepAlive\",grpc_service=\"etcdserverpb.Lease\",grpc_type=\"bidi_stream\"} 7
grpc_server_msg_received_total{grpc_method=\"Txn\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 5
";
        assert!((requests(metrics) - 12.0).abs() < f64::EPSILON);
    }
}
