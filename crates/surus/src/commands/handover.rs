//! `switchover` and `failover` (`spec/cli.md §3.10`).

use std::time::Duration;

use surus_api::{ClientError, SwitchoverRequest};
use surus_core::MemberName;
use surus_core::cluster::{FailoverRequest, Member, MemberRole};
use surus_core::settings::SynchronousMode;

use crate::cli::{Failover, Switchover};
use crate::commands::handover::phases::Phases;
use crate::connect::STORE_DEADLINE;
use crate::context::{Cluster, Context, Reading};
use crate::failure::{Failure, Outcome, failed};
use crate::listing;
use crate::terminal::{Terminal, say};
use crate::when::{self, Scheduled};

mod phases;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Switchover,
    Failover,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Action::Switchover => "switchover",
            Action::Failover => "failover",
        }
    }

    fn past(self) -> &'static str {
        match self {
            Action::Switchover => "switched",
            Action::Failover => "failed",
        }
    }
}

pub async fn switchover(context: &Context, terminal: &mut Terminal, args: Switchover) -> Outcome {
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = cluster.read().await?;
    say!(terminal, "Current cluster topology");
    listing::show_topology(terminal, &cluster, &reading)?;
    let Some(current) = reading.leader_name() else { return failed("This cluster has no leader") };
    let leader = match args.leader {
        Some(leader) => leader,
        None if args.force => current.to_owned(),
        None => {
            let word = if reading.settings.standby_cluster { "Standby Leader" } else { "Primary" };
            terminal.ask(word, Some(current))?
        }
    };
    if leader != current {
        return failed(format!("Member {leader} is not the leader of cluster {}", cluster.name));
    }
    let candidate = candidate(terminal, &cluster, &reading, Action::Switchover, args.candidate, args.force)?;
    let scheduled = match args.scheduled {
        Some(text) => text,
        None if args.force => "now".to_owned(),
        None => {
            let question = format!("When should the switchover take place (e.g. {} ) ", when::example());
            terminal.ask(&question, Some("now"))?
        }
    };
    let scheduled = when::parse_scheduled(&scheduled)?;
    if scheduled.is_some() && reading.settings.pause {
        return failed("Can't schedule switchover in the paused state");
    }
    confirm(terminal, &cluster, &reading, Action::Switchover, scheduled.as_ref(), args.force)?;
    let request = SwitchoverRequest {
        leader: Some(leader),
        candidate,
        member: None,
        scheduled_at: scheduled.as_ref().map(Scheduled::iso),
        force: false,
    };
    hand_over(context, terminal, &cluster, &reading, Action::Switchover, request).await
}

pub async fn failover(context: &Context, terminal: &mut Terminal, args: Failover) -> Outcome {
    let cluster = context.cluster(args.cluster.cluster_name.as_deref(), args.cluster.group)?;
    let reading = cluster.read().await?;
    say!(terminal, "Current cluster topology");
    listing::show_topology(terminal, &cluster, &reading)?;
    let candidate = candidate(terminal, &cluster, &reading, Action::Failover, args.candidate, args.force)?;
    if let Some(name) = candidate.as_deref().filter(|_| !args.force)
        && reading.settings.synchronous_mode != SynchronousMode::Off
        && let Some(sync) = reading.view.sync.as_ref().map(|s| &s.value)
        && !sync.lists(&name.into())
        && !sync.is_leader(&name.into())
        && !terminal.confirm(&format!("Are you sure you want to failover to the asynchronous node {name}?"))?
    {
        return failed("Aborting failover");
    }
    let named = candidate.as_ref().and_then(|name| reading.view.members.get(&MemberName::from(name.as_str())));
    if let Some((name, what)) = named.and_then(|m| Some((&m.name, m.forked.as_ref()?))) {
        say!(terminal, "What was acknowledged since {name} parted from the others is given up: {what}");
        say!(terminal, "If a member that has it comes back later, it is written down there first (surus loss list).");
    }
    confirm(terminal, &cluster, &reading, Action::Failover, None, args.force)?;
    let force = args.force && reading.view.leader.is_none();
    let request = SwitchoverRequest { candidate, force, ..SwitchoverRequest::default() };
    hand_over(context, terminal, &cluster, &reading, Action::Failover, request).await
}

fn candidate(
    terminal: &mut Terminal,
    cluster: &Cluster,
    reading: &Reading,
    action: Action,
    given: Option<String>,
    force: bool,
) -> Outcome<Option<String>> {
    let leader = reading.view.leader_name();
    let fit = |m: &&Member| Some(&m.name) != leader && !m.tags.nofailover();
    let names: Vec<&str> = reading.view.members.values().filter(fit).map(|m| m.name.as_str()).collect();
    if names.is_empty() {
        return failed(format!("No candidates found to {} to", action.word()));
    }
    let candidate = match given {
        Some(name) => name,
        None if force => String::new(),
        None => {
            let list = names.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ");
            terminal.ask(&format!("Candidate [{list}]"), Some(""))?
        }
    };
    if candidate.is_empty() {
        return match action {
            Action::Switchover => Ok(None),
            Action::Failover => failed("Failover could be performed only to a specific candidate"),
        };
    }
    if leader.is_some_and(|l| l.as_str() == candidate) {
        return failed(format!("Member {candidate} is already the leader of cluster {}", cluster.name));
    }
    if !names.contains(&candidate.as_str()) {
        return failed(format!(
            "Member {candidate} does not exist in cluster {} or is tagged as nofailover",
            cluster.name
        ));
    }
    Ok(Some(candidate))
}

fn confirm(
    terminal: &mut Terminal,
    cluster: &Cluster,
    reading: &Reading,
    action: Action,
    scheduled: Option<&Scheduled>,
    force: bool,
) -> Outcome {
    if force {
        return Ok(());
    }
    let what = match scheduled {
        Some(at) => format!("schedule switchover of cluster {} at {}", cluster.name, at.iso()),
        None => format!("{} cluster {}", action.word(), cluster.name),
    };
    let demoting = reading.leader_name().map_or(String::new(), |l| format!(", demoting current leader {l}"));
    if terminal.confirm(&format!("Are you sure you want to {what}{demoting}?"))? {
        return Ok(());
    }
    failed(match scheduled {
        Some(_) => "Aborting scheduled switchover".to_owned(),
        None => format!("Aborting {}", action.word()),
    })
}

async fn hand_over(
    context: &Context,
    terminal: &mut Terminal,
    cluster: &Cluster,
    reading: &Reading,
    action: Action,
    request: SwitchoverRequest,
) -> Outcome {
    // The server watches for twice the longer of ten seconds and the loop.
    let limit = 2 * reading.settings.timing.loop_wait.max(Duration::from_secs(10)) + Duration::from_secs(10);
    let asked = reading.view.leader_name().cloned().or_else(|| request.candidate());
    let url = asked.as_ref().and_then(|name| reading.view.members.get(name)?.api_url.clone());
    let Some(url) = url else {
        let name = asked.map_or_else(String::new, |n| n.0);
        return by_store(terminal, cluster, action, &request, &format!("{name} has no REST API")).await;
    };
    let scheduled = request.scheduled_at.is_some();
    let answer = {
        let call = async {
            let answer = context.api.post(&url, &format!("/{}", action.word()), &request, limit).await?;
            // Members of before switchovers had a name of their own.
            let old = action == Action::Switchover
                && answer.code == 501
                && answer.body.contains("Server does not support this operation");
            if old { context.api.post(&url, "/failover", &request, limit).await } else { Ok(answer) }
        };
        if scheduled { call.await } else { Phases::new(reading).during(terminal, cluster, call).await? }
    };
    let answer = match answer {
        Ok(answer) => answer,
        Err(error @ ClientError::Unreachable { .. }) => {
            return by_store(terminal, cluster, action, &request, &error.to_string()).await;
        }
        // The request may be at work: a second one by another way could undo the first.
        Err(error) => {
            say!(terminal, "{} result unknown, details: {error}", capital(action.word()));
            return Err(Failure::Said);
        }
    };
    if answer.code == 503
        && let Some(new) = took_over(cluster, reading, &request).await
    {
        say!(terminal, "{} {new} leads, though the answer was {}, {}", when::stamp(), answer.code, answer.body);
        say!(terminal, "{} Successfully {} over to \"{new}\"", when::stamp(), action.past());
        let after = cluster.read().await?;
        return listing::show_topology(terminal, cluster, &after);
    }
    if !matches!(answer.code, 200 | 202) {
        let result = if answer.body.contains("status unknown") { "result unknown" } else { "failed" };
        say!(terminal, "{} {result}, details: {}, {}", capital(action.word()), answer.code, answer.body);
        return Err(Failure::Said);
    }
    say!(terminal, "{} {}", when::stamp(), answer.body);
    let after = cluster.read().await?;
    listing::show_topology(terminal, cluster, &after)
}

/// Who leads now as was asked for. Patroni on ZooKeeper reads one key after the other, and may see that the request is done
/// with before it sees who took the lead: then it says that the switchover failed.
async fn took_over(cluster: &Cluster, before: &Reading, request: &SwitchoverRequest) -> Option<MemberName> {
    let now = cluster.read().await.ok()?;
    let leader = now.view.leader_name().filter(|leader| Some(*leader) != before.view.leader_name())?;
    (request.scheduled_at.is_none() && request.candidate().is_none_or(|wanted| wanted == *leader))
        .then(|| leader.clone())
}

async fn by_store(
    terminal: &mut Terminal,
    cluster: &Cluster,
    action: Action,
    request: &SwitchoverRequest,
    why: &str,
) -> Outcome {
    crate::warn(&format!("{why}. Failing over to DCS"));
    say!(terminal, "{} Could not {} using Patroni api, falling back to DCS", when::stamp(), action.word());
    let order = FailoverRequest {
        leader: request.leader(),
        candidate: request.candidate(),
        scheduled_at: request.scheduled_at.clone(),
    };
    cluster.store.put("failover", order.to_text(), STORE_DEADLINE).await.map_err(|e| cluster.store_failure(&e))?;
    let after = cluster.read().await?;
    listing::show_topology(terminal, cluster, &after)
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// Whether this member acts as the primary of the cluster, or of a standby cluster.
fn leads(reading: &Reading, name: &MemberName) -> bool {
    let role = reading.view.members.get(name).map(|m| m.role);
    reading.view.leader_name() == Some(name) && matches!(role, Some(MemberRole::Primary | MemberRole::StandbyLeader))
}
