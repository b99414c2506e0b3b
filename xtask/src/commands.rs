//! The commands: each installs what it needs first, so that nothing fails for a missing package in the middle.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::machine::{self, BUILD, DEMO, DEMO_WITH_ETCD, EVERYTHING};
use crate::{rules, run, shared_memory};

/// Further arguments go to `cargo test`, for example `-p surus --test failover`.
pub fn test(args: &[String]) -> Result<()> {
    machine::install_for_tests()?;
    shared_memory::make_room();
    let built = run::step("build", &mut run::cargo(&["build", "--workspace"]))?;
    let mut tests = run::cargo(&["test"]);
    if args.is_empty() {
        tests.args(["--workspace", "--no-fail-fast"]);
    } else {
        tests.args(args);
    }
    let mut totals = Totals::default();
    let tested = run::step_with("tests", &mut tests, |line| totals.count(line));
    println!("\n{}", totals.line());
    println!("build {}, tests {}", run::minutes(built), run::minutes(tested?));
    Ok(())
}

pub fn check() -> Result<()> {
    machine::install(BUILD)?;
    machine::toolchain(&["fmt", "clippy"])?;
    let rules = rules::look(&run::root())?;
    run::step("formatting", &mut run::cargo(&["fmt", "--all", "--check"]))?;
    run::step("clippy", &mut run::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run::step("unit tests", &mut run::cargo(&["test", "--workspace", "--lib", "--bins", "--quiet"]))?;
    report(&rules)
}

pub fn rules_only() -> Result<()> {
    report(&rules::look(&run::root())?)
}

fn report(found: &rules::Found) -> Result<()> {
    for advice in &found.advice {
        println!("note: {advice}");
    }
    for broken in &found.broken {
        println!("house rule broken: {broken}");
    }
    match found.broken.len() {
        0 => println!("=> house rules: kept"),
        n => bail!("{n} house rules broken"),
    }
    Ok(())
}

/// The reference pages. The test that compares them with the tables of settings is what writes them.
pub fn docs() -> Result<()> {
    let mut write = run::cargo(&["test", "--quiet", "--package", "surus-config", "--test", "reading", "the_pages_say"]);
    run::step("docs/reference", write.env("SURUS_WRITE_REFERENCE", "1"))?;
    Ok(())
}

pub fn bench(args: &[String]) -> Result<()> {
    machine::install(EVERYTHING)?;
    // Only the measured binary needs the optimised build; the measuring program waits for the network.
    run::step("release build", &mut run::cargo(&["build", "--release", "--package", "surus"]))?;
    let mut bench = run::cargo(&["run", "--quiet", "--package", "surus-testbed", "--bin", "bench", "--"]);
    bench.args(args).env("SURUS_BIN", run::root().join("target/release/surus"));
    run::step("measurements", &mut bench)?;
    Ok(())
}

pub fn chaos(args: &[String]) -> Result<()> {
    machine::install(EVERYTHING)?;
    run::step("build", &mut run::cargo(&["build", "--package", "surus"]))?;
    let mut chaos = run::cargo(&["run", "--quiet", "--package", "surus-testbed", "--bin", "chaos", "--"]);
    chaos.args(args).env("SURUS_BIN", run::root().join("target/debug/surus"));
    run::step("chaos", &mut chaos)?;
    Ok(())
}

/// Becomes the simulator: optimised, since simulated time is made of computing time.
pub fn sim(args: &[String]) -> Result<()> {
    if args.first().is_some_and(|a| a == "--embedded-store") {
        return sim_embedded_store(&args[1..]);
    }
    let build = ["build", "--quiet", "--profile", "sim", "--package", "surus-sim"];
    let built = run::cargo(&build).status().context("cannot start cargo")?;
    if !built.success() {
        bail!("the build failed; to repeat it: cargo {}", build.join(" "));
    }
    let binary = run::root().join("target/sim/surus-sim");
    Err(Command::new(&binary).args(args).exec()).with_context(|| format!("cannot run {}", binary.display()))
}

/// The nodes of the embedded store on simulated machines; what runs is a test of its crate, for as long as wanted.
fn sim_embedded_store(args: &[String]) -> Result<()> {
    const TEST: &str = "simulated::tests::long";
    let mut run = run::cargo(&["test", "--quiet", "--profile", "sim", "--package", "surus-store-raft", "--lib", "--"]);
    run.args(["--ignored", "--exact", "--nocapture", TEST]);
    for pair in args.chunks(2) {
        let (variable, value) = match pair {
            [option, value] => match option.as_str() {
                "--hours" => ("STORE_SIM_HOURS", value),
                "--seed" => ("STORE_SIM_SEED", value),
                "--machines" => ("STORE_SIM_MACHINES", value),
                _ => bail!("usage: cargo xtask sim --embedded-store [--hours H] [--seed S] [--machines N]"),
            },
            _ => bail!("{} wants a number", pair[0]),
        };
        let number = value.parse::<f64>();
        number.with_context(|| format!("{} wants a number, not \"{value}\"", pair[0]))?;
        run.env(variable, value);
    }
    run::step("simulated machines", &mut run)?;
    Ok(())
}

/// Becomes the demo: signals and the exit status are its own.
pub fn demo(args: &[String]) -> Result<()> {
    let etcd = args.windows(2).any(|w| w[0] == "--store" && w[1] == "etcd") || args.iter().any(|a| a == "--store=etcd");
    machine::install(if etcd { DEMO_WITH_ETCD } else { DEMO })?;
    let binary = run::root().join("target/debug/surus");
    if !binary.exists() {
        println!("building surus; the first build compiles everything it uses and takes some minutes");
    }
    let built = run::cargo(&["build", "--package", "surus"]).status().context("cannot start cargo")?;
    if !built.success() {
        bail!("the build failed; to repeat it: cargo build --package surus");
    }
    Err(Command::new(&binary).arg("demo").args(args).exec()).with_context(|| format!("cannot run {}", binary.display()))
}

/// Sums of the lines with which each test binary ends.
#[derive(Default)]
struct Totals {
    binaries: u32,
    passed: u32,
    failed: u32,
    ignored: u32,
    failures: Vec<String>,
}

impl Totals {
    fn count(&mut self, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|l| l.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        }
        let Some(counts) = line.strip_prefix("test result: ") else { return };
        self.binaries += 1;
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(n), Some(kind)) = (words.next().and_then(|w| w.parse::<u32>().ok()), words.next()) else {
                continue;
            };
            match kind {
                "passed" => self.passed += n,
                "failed" => self.failed += n,
                "ignored" => self.ignored += n,
                _ => {}
            }
        }
    }

    fn line(&self) -> String {
        let Totals { binaries, passed, failed, ignored, .. } = self;
        let mut text =
            format!("all tests: {passed} passed, {failed} failed, {ignored} ignored in {binaries} test binaries");
        for name in &self.failures {
            text.push_str("\n  failed: ");
            text.push_str(name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_closing_lines() {
        let mut totals = Totals::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s",
        ] {
            totals.count(line);
        }
        assert_eq!(totals.line(), "all tests: 13 passed, 1 failed, 2 ignored in 2 test binaries\n  failed: a::c");
    }
}
