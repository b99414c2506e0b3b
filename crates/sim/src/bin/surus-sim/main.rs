//! `cargo xtask sim`.

mod many;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
    /// The first of them. A run that was broken off goes on with the seed that its last line of progress names.
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
    /// Do not stop at the first seed that fails; all that did are listed in the end.
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
        None => many::many(args.from, args.seeds, args.keep_going),
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
