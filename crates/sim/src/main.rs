//! `cargo xtask sim`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use surus_sim::plan::Plan;
use surus_sim::run::run;
use surus_sim::world::clock::SECOND;
use surus_sim::{play, shrink, story};

/// Runs members' shipped code in a simulated world.
#[derive(Parser)]
#[command(name = "cargo xtask sim")]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// One seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Every line of that one.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Plays this scenario file instead, on every seed.
    #[arg(long)]
    scenario: Option<PathBuf>,
    /// Do not stop at the first seed that fails.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(file) = &args.scenario {
        return scenario(file, &args);
    }
    match args.seed {
        Some(seed) => one(seed, args.trace),
        None => many(&args),
    }
}

fn scenario(file: &Path, args: &Args) -> ExitCode {
    let read = std::fs::read_to_string(file).map_err(|e| e.to_string());
    let parsed = read.and_then(|text| surus_scenario::parse(&text).map_err(|e| e.to_string()));
    let parsed = match parsed {
        Ok(parsed) => parsed,
        Err(e) => {
            eprintln!("{}: {e}", file.display());
            return ExitCode::FAILURE;
        }
    };
    let seeds = args.seed.map_or(args.from..args.from + args.seeds, |seed| seed..seed + 1);
    let count = seeds.end - seeds.start;
    for seed in seeds {
        let (ended, lines) = play::play(&parsed, seed, args.trace);
        lines.iter().for_each(|line| println!("{line}"));
        if let Err(e) = ended {
            println!("{}, seed {seed}: {e}", file.display());
            return ExitCode::FAILURE;
        }
    }
    println!("{}: as expected on {count} seeds", file.display());
    ExitCode::SUCCESS
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let plan = Plan::of(seed);
    let ended = run(&plan, None, trace);
    for line in &ended.trace.lines {
        println!("{line}");
    }
    match ended.violation {
        None => {
            println!("seed {seed}: all promises held for {} s", ended.simulated / SECOND);
            ExitCode::SUCCESS
        }
        Some(violation) => {
            let (plan, violation) = shrink::shrink(&plan, &violation, None);
            println!("{}", story::tell(&plan, &violation, None));
            ExitCode::FAILURE
        }
    }
}

fn many(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let next = AtomicU64::new(args.from);
    let end = args.from + args.seeds;
    let stop = AtomicBool::new(false);
    let totals = Mutex::new((0_u64, 0_u64, 0_u64, 0_u64, 0_u64));
    let failed = Mutex::new(vec![]);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let ended = run(&Plan::of(seed), None, false);
                    if let Ok(mut t) = totals.lock() {
                        t.0 += 1;
                        t.1 += ended.simulated;
                        t.2 += ended.promotions;
                        t.3 += ended.acknowledged;
                        t.4 += ended.decisions;
                    }
                    if let Some(violation) = ended.violation {
                        println!("seed {seed}: {}: {}", violation.invariant, violation.what);
                        if let Ok(mut failed) = failed.lock() {
                            failed.push((seed, violation));
                        }
                        if !args.keep_going {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let took = begun.elapsed().as_secs_f64();
    let (seeds, simulated, promotions, acknowledged, decisions) = totals.into_inner().unwrap_or_default();
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let hours = simulated as f64 / SECOND as f64 / 3600.0;
    println!(
        "{seeds} seeds, {hours:.1} simulated hours in {took:.1} s ({:.2} hours a second), {promotions} promotions, \
         {decisions} decisions, {acknowledged} acknowledged commits",
        hours / took
    );
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_by_key(|(seed, _)| *seed);
    let Some((seed, violation)) = failed.first() else {
        println!("all promises held");
        return ExitCode::SUCCESS;
    };
    println!("{} of them failed; the first, made small:", failed.len());
    let (plan, violation) = shrink::shrink(&Plan::of(*seed), violation, None);
    println!("{}", story::tell(&plan, &violation, None));
    ExitCode::FAILURE
}
