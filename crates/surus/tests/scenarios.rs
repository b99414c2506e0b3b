//! Scenario files against real processes. All of them: `cargo xtask chaos --scenario FILE`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use surus_scenario::{End, Trouble, parse, run};
use surus_testbed::{Needs, Stage, StoreKind};

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
async fn agent_and_store_cut_off() -> Result<()> {
    play("agent-and-store-cut-off", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_dies_during_switchover() -> Result<()> {
    play("agent-dies-during-switchover", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_frozen() -> Result<()> {
    play("agent-frozen", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_killed() -> Result<()> {
    play("agent-killed", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_stepped() -> Result<()> {
    play("clock-stepped", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_full() -> Result<()> {
    play("disk-full", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disk_hangs() -> Result<()> {
    play("disk-hangs", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_store_leader_dies() -> Result<()> {
    play("embedded-store-leader-dies", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fence_killed() -> Result<()> {
    play("fence-killed", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolated_primary() -> Result<()> {
    play("isolated-primary", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_frozen() -> Result<()> {
    play("machine-frozen", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_lost() -> Result<()> {
    play("machine-lost", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused() -> Result<()> {
    play("paused", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postmaster_and_agent_frozen() -> Result<()> {
    play("postmaster-and-agent-frozen", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postmaster_frozen() -> Result<()> {
    play("postmaster-frozen", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_network() -> Result<()> {
    play("stalled-network", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_and_replica_lost() -> Result<()> {
    play("store-and-replica-lost", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_leader_dies_again_and_again() -> Result<()> {
    play("store-leader-dies-again-and-again", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switchovers() -> Result<()> {
    play("switchovers", StoreKind::Etcd).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronous_failovers() -> Result<()> {
    play("synchronous-failovers", StoreKind::Etcd).await
}
