//! The scenarios in which a peer goes on acknowledging commits on the old primary, against real processes. Every file:
//! `cargo xtask chaos --scenario scenarios/*`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use surus_scenario::{End, Trouble, parse, run};
use surus_testbed::history::{Allowed, Clients, check};
use surus_testbed::{Cluster, Needs, Stage, StoreKind, wait_for};

async fn play(name: &str, store: StoreKind) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../scenarios/{name}.surus"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let scenario = parse(&text)?;
    let tell = |line| eprintln!("{line}");
    let mut stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_surus")), store, Needs::of(&scenario), tell);
    match run(&scenario, &mut stage).await {
        Ok(()) => {}
        Err(End { trouble: Trouble::NotAvailable(why), line, .. }) => {
            eprintln!("{name}, line {line}: NOT AVAILABLE HERE, not tested: {why}");
        }
        Err(end) => bail!("{name}: {end}"),
    }
    if let Ok(verdict) = stage.verdict().await {
        eprintln!("{name}: {verdict}");
    }
    stage.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_killed() -> Result<()> {
    play("agent-killed", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_frozen() -> Result<()> {
    play("agent-frozen", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_and_store_cut_off() -> Result<()> {
    play("agent-and-store-cut-off", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postmaster_and_agent_frozen() -> Result<()> {
    play("postmaster-and-agent-frozen", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postmaster_frozen() -> Result<()> {
    play("postmaster-frozen", StoreKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_hangs() -> Result<()> {
    play("disk-hangs", StoreKind::Embedded).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_failovers_etcd() -> Result<()> {
    play("synchronous-failovers", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_failovers_embedded() -> Result<()> {
    play("synchronous-failovers", StoreKind::Embedded).await
}

/// What these tests look for can be seen: without the fence it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_fence_two_writers_are_seen() -> Result<()> {
    let timing = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 2});
    let builder = Cluster::builder(env!("CARGO_BIN_EXE_surus")).settings(json!({"fence": "off"})).dynamic(timing);
    let mut cluster = builder.store(StoreKind::Etcd).healthy().await?;
    let leader = cluster.leader().await?;
    let clients = Clients::start(&cluster).await?;
    cluster.kill_agent(leader)?;
    let allowed = Allowed { synchronous: false, bytes: 1024 * 1024, unpublished: Duration::from_secs(8) };
    wait_for("commits of two primaries", Duration::from_secs(60), async || {
        let verdict = check(&clients.history(), None, &allowed);
        ensure!(verdict.overlapping() > 0, "{verdict}");
        Ok(())
    })
    .await?;
    cluster.passed();
    Ok(())
}
