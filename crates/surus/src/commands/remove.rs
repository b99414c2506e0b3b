//! `remove`: always asks.

use surus_store::{Op, Txn};

use crate::cli::Remove;
use crate::connect::STORE_DEADLINE;
use crate::context::Context;
use crate::failure::{Outcome, failed};
use crate::listing::{self, Layout, Progresses};
use crate::terminal::Terminal;

pub async fn remove(context: &Context, terminal: &mut Terminal, args: &Remove) -> Outcome {
    let cluster = context.cluster(Some(&args.cluster_name), args.group)?;
    let reading = cluster.read().await?;
    listing::show(terminal, &cluster, &reading, args.format, Layout::default(), &Progresses::new())?;
    if let Some(moved) = reading.view.moved() {
        return failed(format!(
            "the cluster has moved to {}; what is left here keeps a member with the old configuration from beginning a cluster \
             of its own. `surus store migrate --clean` removes it when there is none any more",
            moved.to
        ));
    }
    if terminal.ask("Please confirm the cluster name to remove", None)? != cluster.name {
        return failed("Cluster names specified do not match");
    }
    let sentence = "Yes I am aware";
    let question =
        format!("You are about to remove all information in DCS for {}, please type: \"{sentence}\"", cluster.name);
    if terminal.ask(&question, None)? != sentence {
        return failed(format!("You did not exactly type \"{sentence}\""));
    }
    if let Some(leader) = reading.leader_name() {
        let answer =
            terminal.ask("This cluster currently is healthy. Please specify the leader name to continue", None)?;
        if answer != leader {
            return failed("You did not specify the current leader of the cluster");
        }
    }
    let everything = Op::DeletePrefix { prefix: cluster.store.layout().prefix().to_owned() };
    let txn = Txn { compare: Vec::new(), then: vec![everything] };
    cluster.store.kv().txn(txn, STORE_DEADLINE).await.map_err(|e| cluster.store_failure(&e))?;
    Ok(())
}
