//! `cargo xtask` and `cargo demo`: installs what building and testing need, and runs the project's checks.
//!
//! Depends on nothing heavy: it has to build on a machine that cannot build the rest yet.

mod commands;
mod consul;
mod deb;
mod foreign;
mod machine;
mod newer;
mod python;
mod rules;
mod run;
mod shared_memory;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test              install what is missing (PostgreSQL, etcd, protoc ...), build, run every test
  check             what to run before a commit: formatting, clippy, unit tests, house rules
  rules             only the house rules
  docs              write docs/reference anew from the tables of settings
  bench [ARG]...    build the release binary and measure it; `cargo xtask bench --help` lists the measurements
  sim [ARG]...      many members' decisions and procedures in a simulated world; `cargo xtask sim --help` lists the options;
                    with --embedded-store first, nodes of the embedded store on simulated machines:
                    [--hours H] [--seed S] [--machines N]
  chaos [ARG]...    failures on a real cluster with writing clients, in an order that a seed decides, or scenario files;
                    `cargo xtask chaos --help` lists the options
  demo [ARG]...     a real cluster on this machine; `cargo demo --help` lists its options
  deb [ARG]...      build the Debian package, target/debian/surus_*.deb, from a release build (or --binary FILE, --out DIR)
  install           only install what is missing
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let done = match (command.as_deref(), rest.is_empty()) {
        (Some("test"), _) => commands::test(&rest),
        (Some("check"), true) => commands::check(),
        (Some("rules"), true) => commands::rules_only(),
        (Some("install"), true) => machine::install_for_tests(),
        (Some("docs"), true) => commands::docs(),
        (Some("bench"), _) => commands::bench(&rest),
        (Some("chaos"), _) => commands::chaos(&rest),
        (Some("sim"), _) => commands::sim(&rest),
        (Some("deb"), _) => deb::deb(&rest),
        (Some("demo"), _) => commands::demo(&rest),
        (None | Some("help" | "-h" | "--help"), _) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        (Some(other), _) => {
            eprint!(
                "cargo xtask has no command \"{}\"\n\n{USAGE}",
                [&[other.to_owned()], &rest[..]].concat().join(" ")
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
