//! Failures on real clusters: a seeded soak, or scenario files. `cargo xtask chaos` builds surus and runs this.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use surus_scenario::{End, Trouble, parse, run};
use surus_testbed::soak::{Mode, Plan, Stores, soak};
use surus_testbed::{Needs, Stage};

const HELP: &str = "\
usage: cargo xtask chaos [--minutes M] [--seed S] [--store STORE] [--store-leader]
       cargo xtask chaos [--store STORE] --scenario FILE...

  Three members and writing clients; failures in an order that the seed decides: deaths and freezes of agents, fences,
  postmasters, backends, machines and store servers, cut, stalled and slow links, full and hanging disks, stepped
  clocks, switchovers. Ends with what the clients saw and the verdict. The same seed is the same schedule.

  --minutes M       how long (2)
  --seed S          the schedule (from the clock, and printed)
  --store STORE     embedded (default), etcd, zookeeper or consul (three servers each)
  --store-leader    only the leader of the store is killed or frozen, every 30 s: counts needless failovers
  --scenario FILE   plays scenario files instead, and says of each how it ended
";

struct Options {
    minutes: f64,
    seed: Option<u64>,
    store: Stores,
    mode: Mode,
    files: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = async {
        let Some(options) = options()? else {
            print!("{HELP}");
            return Ok(true);
        };
        let binary = std::env::var_os("SURUS_BIN").context("SURUS_BIN names no binary; use cargo xtask chaos")?;
        // Agents work in directories of their own.
        let binary = std::fs::canonicalize(PathBuf::from(&binary))
            .with_context(|| format!("{} is not there", binary.display()))?;
        if options.files.is_empty() { run_soak(binary, &options).await } else { play(&binary, &options).await }
    };
    match done.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run_soak(binary: PathBuf, options: &Options) -> Result<bool> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let seed = options.seed.unwrap_or(clock);
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let store = options.store;
    println!("{store:?} store, seed {seed}, {} minutes", options.minutes);
    let plan = Plan { binary, store, seed, time, mode: options.mode };
    let outcome = soak(&plan, teller()).await?;
    println!("\n{}", outcome.verdict);
    println!(
        "{} rounds, {} failovers, {} acknowledged commits lost within what the settings allow",
        outcome.rounds,
        outcome.verdict.failovers(),
        outcome.verdict.lost()
    );
    for why in &outcome.unavailable {
        println!("not available here: {why}");
    }
    if outcome.good() {
        println!("verdict: GOOD (seed {seed})");
    } else {
        if let Some(dir) = &outcome.dir {
            let story = dir.join("story.surus");
            std::fs::write(&story, &outcome.played).with_context(|| format!("cannot write {}", story.display()))?;
            println!("kept: {}; what was played: {}", dir.display(), story.display());
        }
        println!("failed at: {}", outcome.failure.as_deref().unwrap_or("the verdict"));
        println!("verdict: BAD; again: --seed {seed} with the same options");
    }
    Ok(outcome.good())
}

async fn play(binary: &Path, options: &Options) -> Result<bool> {
    let store = options.store.kind();
    let mut results = Vec::new();
    for file in &options.files {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut scenario = parse(&text).with_context(|| file.display().to_string())?;
        scenario.setup.store.get_or_insert(options.store.named());
        println!("\n{}: {}", file.display(), scenario.about.first().map_or("", String::as_str));
        let mut stage = Stage::new(binary, store, Needs::of(&scenario), teller());
        let end = run(&scenario, &mut stage).await;
        if let Ok(verdict) = stage.verdict().await {
            println!("{verdict}");
        }
        if let Err(End { trouble: Trouble::Failed(_), .. }) = &end
            && let Some(dir) = stage.keep()
        {
            println!("kept: {}", dir.display());
        } else {
            stage.passed();
        }
        results.push((file, end));
    }
    println!();
    let mut good = true;
    for (file, end) in &results {
        match end {
            Ok(()) => println!("passed                {}", file.display()),
            Err(End { trouble: Trouble::NotAvailable(why), line, .. }) => {
                println!("NOT AVAILABLE HERE    {}, line {line}: {why}", file.display());
            }
            Err(end) => {
                good = false;
                println!("FAILED                {}: {end}", file.display());
            }
        }
    }
    Ok(good)
}

fn teller() -> impl FnMut(String) {
    let begin = Instant::now();
    move |line| println!("{:>7.1} s  {line}", begin.elapsed().as_secs_f64())
}

fn options() -> Result<Option<Options>> {
    let mut options =
        Options { minutes: 2.0, seed: None, store: Stores::Embedded, mode: Mode::Everything, files: Vec::new() };
    let mut args = std::env::args().skip(1).peekable();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--minutes" => options.minutes = value()?.parse().context("--minutes needs a number")?,
            "--seed" => options.seed = Some(value()?.parse().context("--seed needs a number")?),
            "--store-leader" => options.mode = Mode::StoreLeader,
            "--store" => {
                let wanted = value()?;
                let found = Stores::ALL.into_iter().find(|store| store.name() == wanted);
                let names = || Stores::ALL.map(Stores::name).join(", ");
                options.store = found.with_context(|| format!("there is no store \"{wanted}\" here; {}", names()))?;
            }
            "--scenario" => {
                options.files.push(value()?.into());
                while let Some(file) = args.next_if(|arg| !arg.starts_with('-')) {
                    options.files.push(file.into());
                }
            }
            other => bail!("unknown option {other}\n\n{HELP}"),
        }
    }
    Ok(Some(options))
}
