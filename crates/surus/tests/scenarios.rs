//! The scenarios in which a peer goes on acknowledging commits on the old primary, against real processes. Every file:
//! `cargo xtask chaos --scenario scenarios/*`.

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
