//! `demote-cluster` and `promote-cluster` (`spec/cli.md §3.16`).

use std::time::Duration;

use serde_json::{Map, Value, json};
use surus_core::MemberName;
use surus_core::cluster::MemberRole;

use crate::cli::{DemoteCluster, PromoteCluster};
use crate::commands::API_LIMIT;
use crate::context::{Cluster, Context, Reading};
use crate::failure::{Outcome, failed};
use crate::listing;
use crate::terminal::{Terminal, say};

const POLL: Duration = Duration::from_millis(500);
/// As often as operators are told what is awaited.
const TOLD: Duration = Duration::from_secs(1);

/// What a cluster is to become.
struct Target {
    role: MemberRole,
    verb: &'static str,
    noun: &'static str,
    done: &'static str,
}

const DEMOTED: Target = Target { role: MemberRole::StandbyLeader, verb: "demote", noun: "demotion", done: "demoted" };
const PROMOTED: Target = Target { role: MemberRole::Primary, verb: "promote", noun: "promotion", done: "promoted" };

pub async fn demote(context: &Context, terminal: &mut Terminal, args: DemoteCluster) -> Outcome {
    let mut section = Map::new();
    for (key, value) in [
        ("host", args.host.map(Value::from)),
        ("port", args.port.map(Value::from)),
        ("restore_command", args.restore_command.map(Value::from)),
        ("primary_slot_name", args.primary_slot_name.map(Value::from)),
    ] {
        section.extend(value.filter(|v| v.as_str() != Some("")).map(|v| (key.to_owned(), v)));
    }
    if !["host", "port", "restore_command"].iter().any(|key| section.contains_key(*key)) {
        return failed("At least --host, --port or --restore-command should be specified");
    }
    change(context, terminal, args.cluster_name.as_deref(), args.force, &DEMOTED, section.into()).await
}

pub async fn promote(context: &Context, terminal: &mut Terminal, args: &PromoteCluster) -> Outcome {
    change(context, terminal, args.cluster_name.as_deref(), args.force, &PROMOTED, Value::Null).await
}

async fn change(
    context: &Context,
    terminal: &mut Terminal,
    name: Option<&str>,
    force: bool,
    target: &Target,
    section: Value,
) -> Outcome {
    let cluster = context.cluster(name, None)?;
    let reading = cluster.read().await?;
    let Some(leader) = reading.view.leader_member() else {
        return failed(format!("Cluster has no leader, {} is not possible", target.noun));
    };
    if leader.role == target.role {
        return failed("Cluster is already in the required state");
    }
    say!(terminal, "Current cluster topology");
    listing::show_topology(terminal, &cluster, &reading)?;
    if !force && !terminal.confirm(&format!("Are you sure you want to {} {} cluster?", target.verb, cluster.name))? {
        return failed(format!("Aborted cluster {}", target.noun));
    }
    let failure = format!("Failed to {} {} cluster", target.verb, cluster.name);
    let Some(url) = leader.api_url.as_deref() else {
        return failed(format!("{failure}: its leader {} publishes no api_url", leader.name));
    };
    match context.api.patch(url, "/config", &json!({"standby_cluster": section}), API_LIMIT).await {
        Ok(answer) if answer.code == 200 => {}
        Ok(answer) => {
            let detail = format!("{failure}: /config PATCH status code={}, ({})", answer.code, answer.body);
            return failed(format!("{failure}: {detail}"));
        }
        Err(error) => return failed(format!("{failure}: {error}")),
    }
    let before = leader.name.clone();
    wait(terminal, &cluster, target, &before).await?;
    let reading = cluster.read().await?;
    listing::show_topology(terminal, &cluster, &reading)
}

/// Without a limit: how long it takes is a matter of what there is to replay, to archive and to rewind.
async fn wait(terminal: &mut Terminal, cluster: &Cluster, target: &Target, before: &MemberName) -> Outcome {
    let mut told = tokio::time::Instant::now();
    loop {
        let reading = cluster.read().await?;
        let time = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S");
        if is(&reading, target, before) {
            say!(terminal, "{time} cluster is successfully {}", target.done);
            return Ok(());
        }
        if told.elapsed() >= TOLD {
            told = tokio::time::Instant::now();
            say!(terminal, "{time} {}", awaited(&reading, target, before));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn is(reading: &Reading, target: &Target, before: &MemberName) -> bool {
    let runs = reading.view.leader_member().is_some_and(|leader| leader.role == target.role && leader.is_running());
    let former = reading.view.members.get(before).is_some_and(|m| m.is_running());
    runs && (target.role == MemberRole::Primary || former)
}

fn awaited(reading: &Reading, target: &Target, before: &MemberName) -> String {
    let leader = reading.view.leader_member();
    let unlocked = if leader.is_none() { "True" } else { "False" };
    let role = leader.map_or("None", |m| m.role.as_str());
    let state = leader.map_or("None", |m| m.state.as_str());
    let mut text = format!("cluster is unlocked: {unlocked}, leader role: {role}, leader state: {state}");
    if target.role == MemberRole::StandbyLeader && leader.is_none_or(|m| m.name != *before) {
        let state = reading.view.members.get(before).map_or("None", |m| m.state.as_str());
        text.push_str(&format!(", previous leader state: '{state}'"));
    }
    text
}
