//! `reinit`.

use std::time::Duration;

use surus_api::{PatroniStatus, ReinitRequest};
use surus_core::cluster::{Member, MemberState};

use crate::cli::{Reinit, Role};
use crate::commands::{API_LIMIT, ended, say_failed, select};
use crate::context::Context;
use crate::failure::{Outcome, failed};
use crate::listing::describe;
use crate::terminal::{Terminal, say};

const POLL: Duration = Duration::from_millis(500);
const PROBE_LIMIT: Duration = Duration::from_secs(2);

pub async fn reinit(context: &Context, terminal: &mut Terminal, args: &Reinit) -> Outcome {
    let cluster = context.cluster(Some(&args.members.cluster_name), args.members.group)?;
    let reading = cluster.read().await?;
    let mut members = select::members(terminal, &cluster, &reading, Role::Replica, &args.members.member_names)?;
    if args.members.member_names.is_empty() {
        // Data is thrown away: never "all of them" by leaving the names out.
        if args.force {
            return failed("name the members to reinitialize: with --force nothing is asked");
        }
        let question = format!("Which member do you want to reinitialize [{}]?", select::names(&members));
        let answer = terminal.ask(&question, Some(""))?;
        members.retain(|m| m.name.as_str() == answer);
        if members.is_empty() {
            return failed(format!("{answer} is not a member of cluster"));
        }
    }
    select::confirm(terminal, args.force, "reinitialize", &members)?;
    let mut waiting = Vec::new();
    let mut all_well = true;
    for member in members {
        if reinit_one(context, terminal, &member, args).await? {
            waiting.push(member);
        } else {
            all_well = false;
        }
    }
    if args.wait {
        wait(context, terminal, waiting).await?;
    }
    ended(all_well)
}

async fn reinit_one(context: &Context, terminal: &mut Terminal, member: &Member, args: &Reinit) -> Outcome<bool> {
    let name = &member.name;
    let Some(url) = &member.api_url else {
        say!(terminal, "Failed: reinitialize for member {name}, it has not said where its REST API is");
        return Ok(false);
    };
    let mut request = ReinitRequest { force: args.force, from_leader: args.from_leader };
    loop {
        let answer = context.api.post(url, "/reinitialize", &request, API_LIMIT).await;
        if let Ok(answer) = &answer
            && answer.code < 400
        {
            say!(terminal, "Success: reinitialize for member {name}");
            return Ok(true);
        }
        say_failed(terminal, &format!("reinitialize for member {name}"), &answer)?;
        let busy = answer.is_ok_and(|a| a.body.ends_with(" already in progress"));
        if !busy || request.force || !terminal.confirm("Do you want to cancel it and reinitialize anyway?")? {
            return Ok(false);
        }
        request.force = true;
    }
}

/// Until no member is busy with it any more. A copy that failed leaves the member neither busy nor
/// running for a moment before it is tried again: that ends the wait only after it was seen busy.
async fn wait(context: &Context, terminal: &mut Terminal, mut members: Vec<Member>) -> Outcome {
    let mut announced = 0;
    let mut seen_busy: Vec<Member> = Vec::new();
    let mut last_said = String::new();
    while !members.is_empty() {
        if announced != members.len() {
            announced = members.len();
            say!(terminal, "Waiting for reinitialize to complete on: {}", select::names(&members));
        }
        tokio::time::sleep(POLL).await;
        let mut still = Vec::new();
        for member in members {
            let Some(url) = &member.api_url else { continue };
            let answer = context.api.get(url, "/patroni", PROBE_LIMIT).await;
            let status = answer.ok().and_then(|a| a.json::<PatroniStatus>().ok());
            let busy = match &status {
                None => true,
                Some(status) => status.state == MemberState::CreatingReplica || status.task.is_some(),
            };
            if busy && !seen_busy.iter().any(|m| m.name == member.name) {
                seen_busy.push(member.clone());
            }
            if let Some(progress) = status.as_ref().and_then(|s| s.progress.as_ref()) {
                let line = format!("{}: {} {}", member.name, progress.what, describe(progress)).trim_end().to_owned();
                if line != last_said {
                    say!(terminal, "{line}");
                    last_said = line;
                }
            }
            let running = status.as_ref().is_some_and(|s| s.state == MemberState::Running);
            if !busy && (running || seen_busy.iter().any(|m| m.name == member.name)) {
                say!(terminal, "Reinitialize is completed on: {}", member.name);
            } else {
                still.push(member);
            }
        }
        members = still;
    }
    Ok(())
}
