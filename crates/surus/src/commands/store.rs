//! `store`: a voter of the embedded store without PostgreSQL, the membership of the group, and what is done to the
//! content of a store.

mod recover;
mod snapshot;

use std::time::Duration;

use serde_json::Value;
use surus_config::{ClientConfig, RaftConfig, StoreConfig};
use surus_store_raft::{RaftOptions, RaftStore, Role};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Global, Store, StoreCommand};
use crate::connect;
use crate::context::{Context, load_config, store_of};
use crate::failure::{Failure, OrFail, Outcome, failed};
use crate::logging;
use crate::table;
use crate::terminal::{Terminal, say};

/// A new voter copies the log before it counts.
const MEMBERSHIP_DEADLINE: Duration = Duration::from_secs(60);
const COLUMNS: [&str; 5] = ["Address", "Role", "Reachable", "Last contact", "Log index"];

pub async fn store(args: Store, global: &Global, terminal: &mut Terminal) -> Outcome {
    let Some(command) = args.command else {
        let config = ClientConfig::load(args.config.as_deref(), &surus_config::environment()).or_fail()?;
        return voter(&config, terminal).await;
    };
    let config = load_config(global, &surus_config::environment())?;
    let store_config = store_of(&config)?;
    match &command {
        StoreCommand::Snapshot(args) => {
            return snapshot::snapshot(&Context::of(config, false).await?, terminal, args).await;
        }
        StoreCommand::Restore(args) => {
            return snapshot::restore(&Context::of(config, false).await?, terminal, args).await;
        }
        StoreCommand::Migrate(args) => {
            return super::migrate::migrate(&Context::of(config, global.insecure).await?, terminal, args).await;
        }
        StoreCommand::Recover(args) => return recover::recover(&config, raft(&store_config)?, args, terminal).await,
        StoreCommand::Members { .. } | StoreCommand::Add { .. } | StoreCommand::Remove { .. } => {}
    }
    let client = connect::raft_client(raft(&store_config)?).await?;
    let explained = |e| connect::store_failure(&store_config, &e);
    match command {
        StoreCommand::Members { format } => {
            let members = client.members(connect::STORE_DEADLINE).await.map_err(explained)?;
            let rows: Vec<Vec<Value>> = members
                .into_iter()
                .map(|member| {
                    vec![
                        member.addr.into(),
                        match member.role {
                            Role::Leader => "leader",
                            Role::Voter => "voter",
                            Role::Learner => "learner",
                        }
                        .into(),
                        member.reachable.into(),
                        member.last_contact.map_or(Value::Null, |d| format!("{:.1} s ago", d.as_secs_f64()).into()),
                        member.log_index.map_or(Value::Null, Value::from),
                    ]
                })
                .collect();
            table::print(terminal, format, &COLUMNS, &rows, false)
        }
        StoreCommand::Add { address } => {
            client.add_member(&address, MEMBERSHIP_DEADLINE).await.map_err(explained)?;
            say!(terminal, "{address} is a member of the store");
            Ok(())
        }
        StoreCommand::Remove { address } => {
            client.remove_member(&address, MEMBERSHIP_DEADLINE).await.map_err(explained)?;
            say!(terminal, "{address} is no longer a member of the store");
            Ok(())
        }
        // Done above, without a client of the group.
        StoreCommand::Snapshot(_) | StoreCommand::Restore(_) | StoreCommand::Recover(_) | StoreCommand::Migrate(_) => {
            Ok(())
        }
    }
}

fn raft(config: &StoreConfig) -> Outcome<&RaftConfig> {
    match config {
        StoreConfig::Raft(raft) => Ok(raft),
        StoreConfig::Consul(_) => failed(
            "the configuration names Consul as the store; this command is about the embedded store, the `raft` section",
        ),
        StoreConfig::Etcd3(_) => failed(
            "the configuration names etcd as the store; this command is about the embedded store, the `raft` section",
        ),
        StoreConfig::ZooKeeper(_) => failed(
            "the configuration names ZooKeeper as the store; this command is about the embedded store, the `raft` section",
        ),
    }
}

async fn voter(config: &ClientConfig, terminal: &mut Terminal) -> Outcome {
    let store_config = store_of(config)?;
    let options = surus_agent::stores::raft_options(raft(&store_config)?).or_fail()?;
    let options = RaftOptions { witness: true, ..options };
    let logs = logging::start(&config.log).or_fail()?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut terminate = signal(SignalKind::terminate()).or_fail_with("signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).or_fail_with("signals")?;
    let store = RaftStore::start(options).await.or_fail()?;
    say!(terminal, "voter of the embedded store listens on {}", store.local_addr());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    store.shutdown().await;
    drop(logs);
    Ok::<(), Failure>(())
}
