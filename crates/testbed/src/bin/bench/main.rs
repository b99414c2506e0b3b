//! Measures what a user of a cluster feels. `cargo xtask bench` builds the release binary and runs this.

mod clusters;
mod commands;
mod cost;
mod fence;
mod gaps;
mod herd;
mod idle;
mod record;
mod rest;
mod table;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use surus_testbed::{Builder, Cluster, StoreKind};

use fence::Fault;
use record::Recorder;

const HELP: &str = "\
usage: cargo xtask bench [NAME]... [--runs N] [--store etcd|embedded|zookeeper|consul] [--out DIR]

  bootstrap       three nodes from nothing to a leader and two streaming replicas
  switchover      write gap of a planned switchover, when the old primary streams again, what was lost
  postmaster      write gap when the primary's postmaster is killed
  node            write gap when a node is lost, with the defaults of a new cluster
  node-fast       the same at the shortest timing allowed
  rewind          a lost primary with commits that nobody else has, from its start to streaming
  sigterm         write gap when the primary's agent is stopped
  agent-restart   failed commits when the primary's agent is killed and started again
  fence-agent-killed, fence-agent-frozen, fence-cut-off, fence-both-frozen
                  commits acknowledged by the old primary after another was promoted
  sync-standby-lost
                  write stall when the only synchronous standby is lost and another exists
  sync-node-lost, quorum-node-lost
                  write gap when a node is lost in synchronous mode, and what was lost of what was acknowledged
  rest            GET /primary from 16 connections: requests a second, latency, the agent's CPU time for each
  list, plan      how long `surus list` and `surus plan -s key=value` take with three members
  idle            memory, CPU time and store requests of a cluster at rest
  cost            requests and bytes a minute that a cluster at rest costs its store, beside a cluster of Patroni in the
                  same run
  herd            20 members with PostgreSQL on the embedded store: from nothing, switchover, node lost, agents at rest
  clusters        200 busy clusters on one etcd: how long renewals of their leases take

Without names all of them; 10 runs each, against etcd and the embedded store; raw data and summary.md go to bench/.
";

pub struct Options {
    pub runs: usize,
    pub stores: Vec<StoreKind>,
    pub out: PathBuf,
    names: Vec<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Some(options) = options()? else {
        print!("{HELP}");
        return Ok(());
    };
    std::fs::create_dir_all(&options.out)?;
    for name in &options.names {
        for &store in &options.stores {
            println!("\n{name}, {}", record::store_name(store));
            let mut recorder = Recorder::create(&options.out, name, store)?;
            let measured = measure(name, store, options.runs, &mut recorder).await;
            measured.with_context(|| format!("{name}, {}", record::store_name(store)))?;
        }
    }
    let summary = table::summary(&options.out)?;
    std::fs::write(options.out.join("summary.md"), &summary)?;
    println!("\n{summary}");
    Ok(())
}

async fn measure(name: &str, store: StoreKind, runs: usize, recorder: &mut Recorder) -> Result<()> {
    match name {
        "bootstrap" => gaps::bootstrap(store, runs, recorder).await,
        "switchover" => gaps::switchover(store, runs, recorder).await,
        "postmaster" => gaps::postmaster(store, runs, recorder).await,
        "node" => gaps::node(store, runs, None, recorder).await,
        "node-fast" => gaps::node(store, runs, Some(gaps::fast_timing()), recorder).await,
        "rewind" => gaps::rewind(store, runs, recorder).await,
        "sigterm" => gaps::sigterm(store, runs, recorder).await,
        "agent-restart" => gaps::agent_restart(store, runs, recorder).await,
        "fence-agent-killed" => fence::fence(Fault::AgentKilled, store, runs, recorder).await,
        "fence-agent-frozen" => fence::fence(Fault::AgentFrozen, store, runs, recorder).await,
        "fence-cut-off" => fence::fence(Fault::CutOff, store, runs, recorder).await,
        "fence-both-frozen" => fence::fence(Fault::BothFrozen, store, runs, recorder).await,
        "sync-standby-lost" => gaps::sync_standby(store, runs, recorder).await,
        "sync-node-lost" => gaps::node(store, runs, Some(json!({"synchronous_mode": true})), recorder).await,
        "quorum-node-lost" => gaps::node(store, runs, Some(json!({"synchronous_mode": "quorum"})), recorder).await,
        "rest" => rest::rest(store, runs, recorder).await,
        "list" => commands::command(&["list"], store, runs, recorder).await,
        "plan" => commands::command(&["plan", "-s", "postgresql.parameters.work_mem=5MB"], store, runs, recorder).await,
        "idle" => idle::idle(store, recorder).await,
        "cost" => cost::cost(store, recorder).await,
        "herd" => herd::herd(store, runs, recorder).await,
        "clusters" => clusters::clusters(store, recorder).await,
        _ => bail!("no measurement is called \"{name}\"\n\n{HELP}"),
    }
}

fn options() -> Result<Option<Options>> {
    let mut options = Options {
        runs: 10,
        stores: vec![StoreKind::Etcd, StoreKind::Embedded],
        out: PathBuf::from("bench"),
        names: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "-h" | "--help" => return Ok(None),
            "--runs" => options.runs = value()?.parse().context("--runs needs a number")?,
            "--out" => options.out = value()?.into(),
            "--store" => {
                let wanted = value()?;
                let found = record::STORES.into_iter().find(|store| record::store_name(*store) == wanted);
                options.stores =
                    vec![found.with_context(|| format!("there is no store \"{wanted}\" to measure with"))?];
            }
            name => {
                ensure!(!name.starts_with('-'), "unknown option {name}\n\n{HELP}");
                options.names.push(name.to_owned());
            }
        }
    }
    if options.names.is_empty() {
        let all = [
            "bootstrap",
            "switchover",
            "postmaster",
            "node",
            "node-fast",
            "rewind",
            "sigterm",
            "agent-restart",
            "fence-agent-killed",
            "fence-agent-frozen",
            "fence-cut-off",
            "fence-both-frozen",
            "sync-standby-lost",
            "sync-node-lost",
            "quorum-node-lost",
            "rest",
            "list",
            "plan",
            "idle",
            "cost",
            "herd",
            "clusters",
        ];
        options.names = all.map(str::to_owned).to_vec();
    }
    Ok(Some(options))
}

/// Three members; the binary comes from `SURUS_BIN`.
pub fn cluster(store: StoreKind, dynamic: Option<Value>) -> Result<Builder> {
    let binary =
        std::env::var_os("SURUS_BIN").context("SURUS_BIN names no binary to measure; use cargo xtask bench")?;
    let builder = Cluster::builder(PathBuf::from(binary)).store(store);
    Ok(match dynamic {
        Some(dynamic) => builder.dynamic(dynamic),
        None => builder,
    })
}
