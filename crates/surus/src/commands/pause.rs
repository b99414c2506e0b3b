//! `pause` and `resume`.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::cli::Pause;
use crate::commands::{API_LIMIT, select};
use crate::context::{Cluster, Context, Reading};
use crate::failure::{Failure, Outcome, failed};
use crate::terminal::{Terminal, say};

const POLL: Duration = Duration::from_millis(200);

pub async fn pause(context: &Context, terminal: &mut Terminal, args: &Pause, paused: bool) -> Outcome {
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = cluster.read().await?;
    if reading.settings.pause == paused {
        return failed(if paused { "Cluster is already paused" } else { "Cluster is not paused" });
    }
    let word = if paused { "pause" } else { "resume" };
    let body = if paused { json!({"pause": true}) } else { json!({"pause": null}) };
    for (member, url) in reading.askable() {
        let answer = match context.api.patch(url, "/config", &body, API_LIMIT).await {
            Ok(answer) => answer,
            Err(error) => {
                crate::warn(&format!("Failure to access member {}: {error}", member.name));
                continue;
            }
        };
        if answer.code != 200 {
            say!(terminal, "Failed: {word} cluster management status code={}, ({})", answer.code, answer.body);
            return Err(Failure::Said);
        }
        if args.wait {
            say!(terminal, "'{word}' request sent, waiting until it is recognized by all nodes");
            wait(terminal, &cluster, paused, &reading).await?;
        }
        say!(terminal, "Success: cluster management is {word}d");
        if !paused {
            warn_of_unguarded(&reading);
        }
        return Ok(());
    }
    failed("Can not find accessible cluster member")
}

/// It was not the leader any more when the pause ended.
fn warn_of_unguarded(before: &Reading) {
    let Some(name) = before.view.unguarded.as_ref().map(|u| &u.value) else { return };
    if before.view.leader_name() != Some(name) {
        crate::warn(&format!(
            "{name} was left alone while the cluster was paused and has lost its lead since; it may still accept writes, and \
             nobody takes over from it before its agent is back. If it certainly does not run: surus failover --candidate NAME"
        ));
    }
}

async fn wait(terminal: &mut Terminal, cluster: &Cluster, paused: bool, before: &Reading) -> Outcome {
    let loop_wait = before.settings.timing.loop_wait;
    let until = Instant::now() + loop_wait + Duration::from_secs(1);
    let mut told = before.view.members.len();
    loop {
        let reading = cluster.read().await?;
        let missing: Vec<_> = reading.view.members.values().filter(|m| m.pause != paused).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        if missing.len() < told {
            told = missing.len();
            say!(terminal, "{} waiting for {}", crate::when::stamp(), select::names(&missing));
        }
        if Instant::now() >= until {
            return failed(format!(
                "{} members didn't recognized {} state after {} seconds",
                select::names(&missing),
                if paused { "pause" } else { "resume" },
                loop_wait.as_secs()
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}
