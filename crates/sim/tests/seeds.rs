//! What is run with every `cargo test`: a thousand seeds, and that a seed is a seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use surus_sim::plan::Plan;
use surus_sim::run::run;
use surus_sim::{shrink, story};

#[test]
fn one_seed_is_one_run_byte_for_byte() {
    for seed in [1, 7, 23, 42, 1001] {
        let plan = Plan::of(seed);
        let (first, second) = (run(&plan, None, true), run(&plan, None, true));
        assert!(first.trace.lines.len() > 50, "seed {seed} tells {} lines", first.trace.lines.len());
        let differs = first.trace.lines.iter().zip(&second.trace.lines).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.trace.lines.len(), second.trace.lines.len(), "seed {seed}");
        assert_eq!((first.simulated, first.acknowledged), (second.simulated, second.acknowledged), "seed {seed}");
        // A run is the same whether it is told or not.
        let untold = run(&plan, None, false);
        assert_eq!(
            (untold.simulated, untold.acknowledged, untold.decisions),
            (first.simulated, first.acknowledged, first.decisions)
        );
    }
}

/// `SURUS_SIM_SEEDS` asks for more.
#[test]
fn a_thousand_seeds_keep_every_promise() {
    let seeds = std::env::var("SURUS_SIM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    let next = AtomicU64::new(1);
    let failed = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        return;
                    }
                    if let Some(violation) = run(&Plan::of(seed), None, false).violation {
                        failed.lock().expect("nobody panics with it").push((seed, violation));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().expect("nobody panics with it");
    failed.sort_by_key(|(seed, _)| *seed);
    if let Some((seed, violation)) = failed.first() {
        let (plan, violation) = shrink::shrink(&Plan::of(*seed), violation, None);
        panic!("{} of {seeds} seeds failed; the first:\n{}", failed.len(), story::tell(&plan, &violation, None));
    }
}
