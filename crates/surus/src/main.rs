//! The command line: `run` is the agent, everything else asks the store or the members' REST API.
//!
//! Called as `patroni` or `patronictl` the program understands their command lines.

mod cli;
mod commands;
mod connect;
mod context;
mod demo;
mod failure;
mod full_screen;
mod init;
mod listing;
mod logging;
mod table;
mod terminal;
mod top;
mod when;
mod yaml;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, Daemon, Global};
use failure::{Failure, Outcome};
use surus_agent::rest::COMPATIBLE_VERSION;
use terminal::{Terminal, say};

fn main() -> ExitCode {
    if let Some(code) = commands::fence::early() {
        return code;
    }
    let outcome = if program_name() == "patroni" {
        daemon(Daemon::parse())
    } else {
        dispatch(cli::read(std::env::args_os()).unwrap_or_else(|e| e.exit()))
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            if let Some(text) = failure.text() {
                complain(&text);
            }
            failure.exit_code(program_name() == "patronictl")
        }
    }
}

/// The name this program was called by.
fn program_name() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&called).file_name().map(|n| n.to_string_lossy().into_owned());
    match name.as_deref() {
        Some(known @ ("patroni" | "patronictl")) => known.to_owned(),
        _ => "surus".to_owned(),
    }
}

fn daemon(args: Daemon) -> Outcome<ExitCode> {
    let mut terminal = Terminal::standard();
    if args.version {
        say!(terminal, "patroni {COMPATIBLE_VERSION} (Surus {})", env!("CARGO_PKG_VERSION"));
        return Ok(ExitCode::SUCCESS);
    }
    if args.validate_config {
        let asked = cli::Check {
            config: args.configfile,
            ignore_listen_port: args.ignore_listen_port,
            print: args.print,
            offline: true,
            schema: false,
        };
        commands::check(&mut terminal, &asked, true)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.generate_config || args.generate_sample_config {
        let command = Command::GenerateConfig(cli::GenerateConfig {
            file: args.configfile,
            dsn: args.dsn,
            sample: args.generate_sample_config,
        });
        return dispatch(Cli { global: Global::default(), init: false, command });
    }
    dispatch(Cli {
        global: Global::default(),
        init: args.init,
        command: Command::Run(cli::Run { config: args.configfile }),
    })
}

fn dispatch(cli: Cli) -> Outcome<ExitCode> {
    let serves = matches!(&cli.command, Command::Run(_) | Command::Store(cli::Store { command: None, .. }));
    if serves {
        // Before any thread exists: the parent waits for signals in the only one it has.
        if cli.init || init::is_first_process() {
            return Ok(init::run());
        }
        init::unblock_signals();
    }
    // Fails only if there is a provider already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut terminal = Terminal::standard();
    match cli.command {
        Command::Run(args) => commands::run::run(args.config),
        Command::Check(args) => {
            commands::check(&mut terminal, &args, false)?;
            Ok(ExitCode::SUCCESS)
        }
        command => {
            let runtime = if serves || matches!(command, Command::Demo(_)) {
                commands::run::runtime()
            } else {
                tokio::runtime::Builder::new_current_thread().enable_all().build()
            };
            let runtime = runtime.map_err(|e| Failure::Message(format!("the runtime cannot be started: {e}")))?;
            let done = runtime.block_on(commands::execute(command, &cli.global, &mut terminal));
            runtime.shutdown_background();
            done.map(|()| ExitCode::SUCCESS)
        }
    }
}

/// A line on standard error. If even that cannot be written there is nobody to tell.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn warn(text: &str) {
    complain(&format!("Warning: {text}"));
}
