//! What a cluster at rest costs its store, beside a cluster of Patroni at the same settings and in the same minutes.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use surus_testbed::{Cluster, StoreKind};

use crate::cluster;
use crate::idle::{at_rest, requests};
use crate::record::Recorder;

const WINDOW: Duration = Duration::from_secs(60);
const WINDOWS: usize = 3;

struct Side {
    names: [&'static str; 2],
    cluster: Cluster,
}

pub async fn cost(store: StoreKind, recorder: &mut Recorder) -> Result<()> {
    let timing = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10});
    let ours = cluster(store, Some(timing.clone()))?;
    let mut sides = vec![Side { names: ["requests_per_min", "bytes_per_min"], cluster: ours.healthy().await? }];
    // Its embedded store is none that it advises.
    if store != StoreKind::Embedded {
        let theirs = cluster(store, Some(timing))?.patroni(&[0, 1, 2]);
        let names = ["patroni_requests_per_min", "patroni_bytes_per_min"];
        sides.push(Side { names, cluster: theirs.healthy().await? });
    }
    for side in &sides {
        at_rest(&side.cluster).await?;
    }
    for _ in 0..WINDOWS {
        let begun = Instant::now();
        let mut before = Vec::new();
        for side in &sides {
            before.push(spent(&side.cluster).await?);
        }
        tokio::time::sleep(WINDOW).await;
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        let mut values = Vec::new();
        for (side, before) in sides.iter().zip(before) {
            let after = spent(&side.cluster).await?;
            if let (Some(before), Some(after)) = (before.0, after.0) {
                values.push((side.names[0], (after - before) / minutes));
            }
            values.push((side.names[1], (after.1 - before.1) as f64 / minutes));
        }
        recorder.run(&values)?;
    }
    sides.into_iter().for_each(|side| side.cluster.passed());
    Ok(())
}

/// Requests, where the store counts them, and bytes.
async fn spent(cluster: &Cluster) -> Result<(Option<f64>, u64)> {
    let counted = match (&cluster.etcd, &cluster.consul, &cluster.zookeeper) {
        (Some(etcd), _, _) => Some(requests(&etcd.metrics().await?)),
        (_, Some(consul), _) => Some(http_requests(&consul.metrics().await?)),
        (_, _, Some(zookeeper)) => Some(zookeeper.requests().await?),
        _ => None,
    };
    Ok((counted, cluster.store_bytes()))
}

/// Requests for keys and sessions that Consul has answered; one that waits for a change counts when it is.
fn http_requests(metrics: &str) -> f64 {
    let counted = |line: &&str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        name.starts_with("consul_http_") && name.ends_with("_count") && !name.contains("_metrics_")
    };
    metrics.lines().filter(counted).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_requests_of_clients_alone() {
        let metrics = "\
# TYPE consul_http_GET_v1_kv__ summary
consul_http_GET_v1_kv__{quantile=\"0.5\"} 0.1
consul_http_GET_v1_kv___sum 7.5
consul_http_GET_v1_kv___count 12
consul_http_PUT_v1_session_renew___count 6
consul_http_GET_v1_agent_metrics_count 3
consul_raft_apply 99
";
        assert!((http_requests(metrics) - 18.0).abs() < f64::EPSILON);
    }
}
