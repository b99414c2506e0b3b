//! Many clusters on one etcd: the traffic of their members without their servers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use surus_store::cluster::{ClusterStore, TakeLead};
use surus_store::{Follower, Kv, Layout, StoreError};
use surus_store_etcd::{EtcdOptions, EtcdStore};
use surus_testbed::{Etcd, StoreKind, procs};

use crate::record::{Recorder, milliseconds};

const CLUSTERS: usize = 200;
const MEMBERS: usize = 3;
const TTL: Duration = Duration::from_secs(30);
const LOOP_WAIT: Duration = Duration::from_secs(10);
const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
const WINDOW: Duration = Duration::from_secs(60);
const WINDOWS: usize = 3;

#[derive(Default)]
struct Seen {
    renewals: Vec<Duration>,
    /// Answered so late that a primary would have had to stop, or not at all.
    late: usize,
    /// Of a lease, when its renewal was confirmed.
    least_left: Option<Duration>,
}

type Shared = Arc<Mutex<Seen>>;

pub async fn clusters(store: StoreKind, recorder: &mut Recorder) -> Result<()> {
    if store != StoreKind::Etcd {
        println!("  only with etcd: the embedded store serves one cluster");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let etcd = Etcd::start(dir.path()).await?;
    let address = format!("http://127.0.0.1:{}", etcd.port());
    let seen = Shared::default();
    let mut members = tokio::task::JoinSet::new();
    for cluster in 0..CLUSTERS {
        for member in 0..MEMBERS {
            let (address, seen) = (address.clone(), Arc::clone(&seen));
            members.spawn(async move { live(&address, cluster, member, &seen).await });
        }
        // As on any day: they were not all started in one moment.
        tokio::time::sleep(LOOP_WAIT / CLUSTERS as u32).await;
    }
    tokio::time::sleep(2 * LOOP_WAIT).await;
    let pid = procs::named(dir.path(), "etcd").first().copied().context("etcd does not run")?;
    let cpu = || procs::usage(pid).map(|usage| usage.cpu).context("etcd has ended");
    for _ in 0..WINDOWS {
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
        let (begun, before) = (Instant::now(), cpu()?);
        tokio::select! {
            () = tokio::time::sleep(WINDOW) => {}
            Some(ended) = members.join_next() => bail!("a member gave up: {:?}", ended?),
        }
        let spent = cpu()?.saturating_sub(before).as_secs_f64() * 60.0 / begun.elapsed().as_secs_f64();
        let mut now = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        now.renewals.sort();
        let at =
            |share: f64| now.renewals.get((now.renewals.len() as f64 * share) as usize).copied().unwrap_or_default();
        recorder.run(&[
            ("clusters", CLUSTERS as f64),
            ("renewals", now.renewals.len() as f64),
            ("late", now.late as f64),
            ("renewal_p50_ms", milliseconds(at(0.5))),
            ("renewal_p99_ms", milliseconds(at(0.99))),
            ("renewal_max_ms", milliseconds(now.renewals.last().copied().unwrap_or_default())),
            ("least_left_s", now.least_left.unwrap_or_default().as_secs_f64()),
            ("etcd_cpu_s_per_min", spent),
        ])?;
    }
    Ok(())
}

/// A member of a busy cluster: a watch, its key, its lease, and the position of the leader in each round.
async fn live(address: &str, cluster: usize, member: usize, seen: &Shared) -> Result<()> {
    let options = EtcdOptions { endpoints: vec![address.to_owned()], ..EtcdOptions::default() };
    let kv: Arc<dyn Kv> = Arc::new(EtcdStore::connect(options)?);
    let layout = Layout::new("service", &format!("cluster{cluster}"), None);
    let name = format!("node{member}");
    let store = ClusterStore::new(kv, layout, name.as_str().into());
    let _follower = Follower::start(&store);
    store.open_session(TTL, RETRY_TIMEOUT).await?;
    let key = json!({
        "conn_url": format!("postgres://10.0.{cluster}.{member}:5432/postgres"),
        "api_url": format!("http://10.0.{cluster}.{member}:8008/patroni"),
        "state": "running", "role": if member == 0 { "primary" } else { "replica" }, "timeline": 1,
    });
    store.write_member(key.to_string(), RETRY_TIMEOUT).await?;
    if member == 0 && store.take_lead(RETRY_TIMEOUT).await? == TakeLead::Lost {
        bail!("cluster {cluster} has a leader already");
    }
    let mut until = Instant::now() + TTL;
    let mut rounds = tokio::time::interval(LOOP_WAIT);
    let mut position = 0x0300_0000_u64;
    loop {
        rounds.tick().await;
        let sent = Instant::now();
        let renewed = store.renew_session(RETRY_TIMEOUT).await;
        let answered = Instant::now();
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let left = until.saturating_duration_since(answered);
            seen.renewals.push(answered - sent);
            seen.late += usize::from(renewed.is_err() || answered - sent > RETRY_TIMEOUT || left.is_zero());
            seen.least_left = Some(seen.least_left.map_or(left, |least| least.min(left)));
        }
        match renewed {
            Ok(()) => until = sent + TTL,
            Err(StoreError::LeaseGone) => bail!("the lease of {name} in cluster {cluster} is gone"),
            Err(_) => continue,
        }
        position += 0x1000;
        if member == 0 {
            let status = json!({"optime": position, "slots": {"node1": position, "node2": position}});
            let _ = store.write_as_leader("status", status.to_string(), RETRY_TIMEOUT).await;
        }
    }
}
