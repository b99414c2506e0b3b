//! Two minutes of failures; for longer ones see `cargo xtask chaos`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use surus_testbed::soak::{Mode, Plan, Stores, soak};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_minutes_of_failures() -> Result<()> {
    let plan = Plan {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_surus")),
        store: Stores::Embedded,
        seed: 1,
        time: Duration::from_secs(120),
        mode: Mode::Everything,
    };
    let outcome = soak(&plan, |line| eprintln!("{line}")).await?;
    for why in &outcome.unavailable {
        eprintln!("NOT AVAILABLE HERE, not tested: {why}");
    }
    eprintln!("{} rounds: {}", outcome.rounds, outcome.verdict);
    let (failure, played) = (outcome.failure.as_deref().unwrap_or("the verdict"), &outcome.played);
    ensure!(outcome.good(), "seed {}: {failure}\n{}\n\nplayed:\n{played}", plan.seed, outcome.verdict);
    ensure!(outcome.rounds > 0 && outcome.verdict.acknowledged > 100, "nothing was tested");
    Ok(())
}
