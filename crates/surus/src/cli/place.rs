//! Where the global options may stand: before the verb, as operators of `patronictl` write them, and behind it.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches};

use super::{Cli, Global};

/// The whole definition. The parser's own global options would not do: `query` has another `-c` and another `-d`.
pub fn definition() -> Command {
    everywhere(Cli::command())
}

fn everywhere(command: Command) -> Command {
    command.mut_subcommands(|sub| {
        let short = sub.get_name() != "query";
        let mut sub = Global::augment_args(sub);
        if !short {
            sub = sub.mut_arg("config_file", |arg| arg.short(None)).mut_arg("dcs_url", |arg| arg.short(None));
        }
        everywhere(sub)
    })
}

pub fn read(args: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>) -> Result<Cli, clap::Error> {
    let matches = definition().try_get_matches_from(args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    let mut at = &matches;
    while let Some((_, below)) = at.subcommand() {
        overlay(&mut cli.global, below)?;
        at = below;
    }
    Ok(cli)
}

/// What is typed behind the verb wins; the environment has been looked at before.
fn overlay(global: &mut Global, matches: &ArgMatches) -> Result<(), clap::Error> {
    let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let behind = Global::from_arg_matches(matches)?;
    if typed("config_file") {
        global.config_file = behind.config_file;
    }
    if typed("dcs_url") {
        global.dcs_url = behind.dcs_url;
    }
    global.insecure |= behind.insecure;
    Ok(())
}
