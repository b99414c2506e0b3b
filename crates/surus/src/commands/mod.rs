//! One file per operator command, or per family of them.

mod check;
mod dsn;
mod edit_config;
pub mod explain;
pub mod fence;
mod flush;
mod generate;
mod handover;
mod history;
mod journal;
pub mod list;
mod loss;
mod migrate;
mod pause;
mod plan;
mod query;
mod reinit;
mod remove;
mod replay;
mod restart;
pub mod run;
mod select;
mod shell;
mod show_config;
mod standby_cluster;
mod store;
mod timeline;
mod version;
mod without_store;

pub use check::check;

use std::time::Duration;

use surus_api::{Answer, ClientError};

use crate::cli::{Command, Global};
use crate::context::Context;
use crate::demo;
use crate::failure::{Failure, Outcome};
use crate::terminal::{Terminal, say};
use crate::top;

/// For requests that are answered at once.
const API_LIMIT: Duration = Duration::from_secs(10);

/// Everything but `run`, `check`, `version` without a cluster, and the voter: what needs an open store.
pub async fn execute(command: Command, global: &Global, terminal: &mut Terminal) -> Outcome {
    if let Command::Version(args) = &command {
        return version::version(args, global, terminal).await;
    }
    let command = match command {
        Command::Store(args) => return store::store(args, global, terminal).await,
        Command::GenerateConfig(args) => return generate::generate(terminal, &args).await,
        Command::Fence(args) => return fence::fence(args, terminal).await,
        Command::Demo(args) => return demo::run(args).await.map_err(|e| Failure::Message(format!("{e:#}"))),
        Command::Top(args) => return top::top(global, &args).await,
        Command::Completions(args) => return shell::completions(terminal, args.shell),
        Command::Man(args) => return shell::man(terminal, &args.dir),
        Command::Replay(args) => return replay::replay(terminal, &args),
        Command::Explain(args) if !args.journal.is_empty() => return explain::offline(terminal, &args),
        Command::Loss(args) if !args.source().dir.is_empty() => return loss::offline(terminal, &args).await,
        Command::Timeline(args) if !args.journal.is_empty() => return timeline::offline(terminal, &args),
        other => other,
    };
    let context = Context::open(global).await?;
    match command {
        Command::List(args) => list::list(&context, terminal, &args).await,
        Command::Topology(args) => list::topology(&context, terminal, &args).await,
        Command::Switchover(args) => handover::switchover(&context, terminal, args).await,
        Command::Failover(args) => handover::failover(&context, terminal, args).await,
        Command::Restart(args) => restart::restart(&context, terminal, &args).await,
        Command::Reload(args) => restart::reload(&context, terminal, &args).await,
        Command::Reinit(args) => reinit::reinit(&context, terminal, &args).await,
        Command::DemoteCluster(args) => standby_cluster::demote(&context, terminal, args).await,
        Command::PromoteCluster(args) => standby_cluster::promote(&context, terminal, &args).await,
        Command::Pause(args) => pause::pause(&context, terminal, &args, true).await,
        Command::Resume(args) => pause::pause(&context, terminal, &args, false).await,
        Command::ShowConfig(args) => show_config::show_config(&context, terminal, &args).await,
        Command::EditConfig(args) => edit_config::edit_config(&context, terminal, &args).await,
        Command::Plan(args) => plan::plan(&context, terminal, &args).await,
        Command::History(args) => history::history(&context, terminal, &args).await,
        Command::Explain(args) => explain::explain(&context, terminal, &args).await,
        Command::Timeline(args) => timeline::timeline(&context, terminal, &args).await,
        Command::Loss(args) => loss::loss(&context, terminal, &args).await,
        Command::Remove(args) => remove::remove(&context, terminal, &args).await,
        Command::Flush(args) => flush::flush(&context, terminal, &args).await,
        Command::Dsn(args) => dsn::dsn(&context, terminal, &args).await,
        Command::Query(args) => query::query(&context, terminal, &args).await,
        Command::Run(_)
        | Command::Check(_)
        | Command::Version(_)
        | Command::GenerateConfig(_)
        | Command::Store(_)
        | Command::Fence(_)
        | Command::Completions(_)
        | Command::Top(_)
        | Command::Man(_)
        | Command::Replay(_)
        | Command::Demo(_) => Err(Failure::Message("this command does not use a store".to_owned())),
    }
}

/// The line for an answer that is no success; the exit code says it too in the end.
fn say_failed(terminal: &mut Terminal, what: &str, answer: &Result<Answer, ClientError>) -> Outcome {
    match answer {
        Ok(answer) => say!(terminal, "Failed: {what}, status code={}, ({})", answer.code, answer.body),
        Err(error) => say!(terminal, "Failed: {what}, {error}"),
    }
    Ok(())
}

/// Ends a command that may have failed for some members.
fn ended(all_well: bool) -> Outcome {
    if all_well { Ok(()) } else { Err(Failure::Said) }
}
