//! `list` and `topology`.

use std::time::Duration;

use futures_util::future::join_all;
use surus_core::cluster::MemberState;
use surus_core::failsafe::Of;
use tokio::time::Instant;

use crate::cli::{Format, List, Topology, Watch};
use crate::commands::explain::failsafe::failsafe_line;
use crate::commands::without_store;
use crate::context::{Context, Reading};
use crate::failure::{Failure, Outcome};
use crate::listing::{self, Layout, Progresses};
use crate::terminal::{Terminal, say};
use crate::when;

const PROBE_LIMIT: Duration = Duration::from_secs(2);

pub async fn list(context: &Context, terminal: &mut Terminal, args: &List) -> Outcome {
    let layout = Layout { extended: args.extended, topology: false };
    let view =
        View { names: &args.cluster_names, group: args.group, timestamp: args.timestamp, format: args.format, layout };
    watched(context, terminal, &args.watch, &view).await
}

pub async fn topology(context: &Context, terminal: &mut Terminal, args: &Topology) -> Outcome {
    let layout = Layout { extended: false, topology: true };
    let view = View { names: &args.cluster_names, group: args.group, timestamp: false, format: Format::Pretty, layout };
    watched(context, terminal, &args.watch, &view).await
}

struct View<'a> {
    names: &'a [String],
    group: Option<u32>,
    timestamp: bool,
    format: Format,
    layout: Layout,
}

async fn watched(context: &Context, terminal: &mut Terminal, watch: &Watch, view: &View<'_>) -> Outcome {
    let Some(every) = watch.interval() else { return once(context, terminal, view, false).await };
    let mut next = Instant::now();
    loop {
        match once(context, terminal, view, true).await {
            // An outage of the store is what an operator watches for: it is shown, and passes.
            Err(Failure::Message(text)) => say!(terminal, "Error: {text}"),
            other => other?,
        }
        next = (next + every).max(Instant::now());
        tokio::time::sleep_until(next).await;
    }
}

async fn once(context: &Context, terminal: &mut Terminal, view: &View<'_>, clear: bool) -> Outcome {
    let names: Vec<Option<&str>> =
        if view.names.is_empty() { vec![None] } else { view.names.iter().map(|n| Some(n.as_str())).collect() };
    if view.names.is_empty() && context.config.scope.is_none() {
        crate::warn("Listing members: No cluster names were provided");
        return Ok(());
    }
    let mut shown = Vec::new();
    for name in names {
        let cluster = context.cluster(name, view.group)?;
        let reading = cluster.read().await;
        shown.push((cluster, reading));
    }
    if clear && terminal.is_tty {
        terminal.write("\x1b[2J\x1b[H")?;
    }
    if view.timestamp {
        say!(terminal, "{}", when::stamp_seconds());
    }
    for (cluster, reading) in shown {
        let reading = match reading {
            Ok(reading) => reading,
            Err(failure) => {
                if matches!(view.format, Format::Pretty) {
                    without_store::tell(context, terminal).await?;
                }
                return Err(failure);
            }
        };
        for garbage in &reading.view.garbage {
            crate::warn(&format!("the key {} of cluster {} {}", garbage.key, cluster.name, garbage.problem));
        }
        let progresses = progresses(context, &reading).await;
        listing::show(terminal, &cluster, &reading, view.format, view.layout, &progresses)?;
        if matches!(view.format, Format::Pretty) {
            let (without, complaint) = tokio::join!(goes_on_without_the_store(context, &reading), cluster.complaint());
            for line in without.into_iter().chain(complaint) {
                terminal.write(&format!(" {line}\n"))?;
            }
        }
    }
    Ok(())
}

/// Nobody leads in the store, and yet somebody may: who was vouched for last says it.
async fn goes_on_without_the_store(context: &Context, reading: &Reading) -> Option<String> {
    let view = &reading.view;
    let vouching = view.vouching.as_ref().filter(|v| view.leader.is_none() && v.value.of != Of::None)?;
    let leader = &vouching.value.leader;
    let url = view.failsafe.as_ref().and_then(|list| list.get(leader))?;
    let account: serde_json::Value = context.api.get(url, "/explain", PROBE_LIMIT).await.ok()?.json().ok()?;
    Some(format!("{leader}, {}", failsafe_line(account.get("failsafe")?)?))
}

/// How far members are that copy data now. Who does not answer has no progress to show.
pub async fn progresses(context: &Context, reading: &Reading) -> Progresses {
    let busy = reading.view.members.values().filter(|m| m.state == MemberState::CreatingReplica);
    let asked = busy.filter_map(|m| Some((m.name.clone(), m.api_url.clone()?))).map(|(name, url)| async move {
        let answer = context.api.get(&url, "/patroni", PROBE_LIMIT).await.ok()?;
        let status: surus_api::PatroniStatus = answer.json().ok()?;
        Some((name, status.progress?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}
