//! `restart` and `reload`.

use std::time::Duration;

use serde_json::{Value, json};
use surus_api::{Client, RestartRequest};
use surus_core::cluster::Member;

use crate::cli::{Reload, Restart};
use crate::commands::{API_LIMIT, ended, say_failed, select};
use crate::context::Context;
use crate::failure::{Outcome, failed};
use crate::terminal::{Terminal, say};
use crate::when;

/// A restart is answered when it is done: longer than the longest start the settings allow.
const MARGIN: Duration = Duration::from_secs(60);

pub async fn restart(context: &Context, terminal: &mut Terminal, args: &Restart) -> Outcome {
    let cluster = context.cluster(Some(&args.members.cluster_name), args.members.group)?;
    let reading = cluster.read().await?;
    let mut members = select::members(terminal, &cluster, &reading, args.role, &args.members.member_names)?;

    let scheduled = match &args.scheduled {
        Some(text) => text.clone(),
        None if args.force => "now".to_owned(),
        None => {
            let question = format!("When should the restart take place (e.g. {}) ", when::example());
            terminal.ask(&question, Some("now"))?
        }
    };
    let scheduled = when::parse_scheduled(&scheduled)?;
    if args.pending && scheduled.is_none() {
        members.retain(|m| m.pending_restart);
        if members.is_empty() {
            say!(terminal, "No member has a pending restart");
            return Ok(());
        }
    }
    if args.any && !members.is_empty() {
        members = vec![members.swap_remove(any(members.len()))];
    }
    if !args.force {
        match &scheduled {
            None => select::confirm(terminal, false, "restart", &members)?,
            Some(at) => {
                let question = if args.pending {
                    "The nodes needing a restart will be identified at the scheduled time, and might be different from the ones showing pending restart right now. Is this fine?".to_owned()
                } else {
                    let names = select::names(&members);
                    format!("Are you sure you want to schedule restart of members {names} at {}?", at.readable())
                };
                if !terminal.confirm(&question)? {
                    return failed("Aborted scheduled restart");
                }
            }
        }
    }
    let version = match &args.pg_version {
        Some(version) => version.clone(),
        None if args.force => String::new(),
        None => terminal.ask("Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ", Some(""))?,
    };
    check_version(&version)?;
    if scheduled.is_some() && reading.settings.pause {
        return failed("Can't schedule restart in the paused state");
    }
    let request = RestartRequest {
        restart_pending: args.pending.then_some(true),
        postgres_version: Some(version).filter(|v| !v.is_empty()),
        schedule: scheduled.as_ref().map(when::Scheduled::iso),
        role: None,
        timeout: args.timeout.clone().map(Value::from),
    };
    let limit = args.timeout.as_deref().and_then(seconds).unwrap_or(reading.settings.primary_start_timeout) + MARGIN;
    let mut all_well = true;
    for member in &members {
        if args.force && scheduled.is_some() && member.scheduled_restart.is_some() {
            all_well &= drop_schedule(&context.api, terminal, member).await?;
        }
        all_well &= restart_one(&context.api, terminal, member, &request, limit).await?;
    }
    ended(all_well)
}

async fn restart_one(
    api: &Client,
    terminal: &mut Terminal,
    member: &Member,
    request: &RestartRequest,
    limit: Duration,
) -> Outcome<bool> {
    let name = &member.name;
    let Some(url) = &member.api_url else {
        say!(terminal, "Failed: restart for member {name}, it has not said where its REST API is");
        return Ok(false);
    };
    let answer = api.post(url, "/restart", request, limit).await;
    match answer.as_ref().map(|a| a.code) {
        Ok(200) => say!(terminal, "Success: restart on member {name}"),
        Ok(202) => say!(terminal, "Success: restart scheduled on member {name}"),
        Ok(409) => say!(terminal, "Failed: another restart is already scheduled on member {name}"),
        _ => say_failed(terminal, &format!("restart for member {name}"), &answer)?,
    }
    Ok(matches!(answer.map(|a| a.code), Ok(200 | 202)))
}

async fn drop_schedule(api: &Client, terminal: &mut Terminal, member: &Member) -> Outcome<bool> {
    let Some(url) = &member.api_url else { return Ok(true) };
    let answer = api.delete(url, "/restart", API_LIMIT).await;
    // Meanwhile nothing is scheduled any more: as good as deleted.
    let done = matches!(answer.as_ref().map(|a| a.code), Ok(200 | 404));
    if !done {
        say_failed(terminal, &format!("flush scheduled restart for member {}", member.name), &answer)?;
    }
    Ok(done)
}

/// Below `count`; good enough to spread load, and no reason for a random number generator.
fn any(count: usize) -> usize {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    nanos as usize / 1000 % count
}

fn check_version(version: &str) -> Outcome {
    if version.is_empty() {
        return Ok(());
    }
    let Ok(parts) = version.split('.').map(str::parse::<u32>).collect::<Result<Vec<_>, _>>() else {
        return failed(format!("Invalid PostgreSQL version: {version}"));
    };
    match parts.as_slice() {
        [major, _] if *major >= 10 => Ok(()),
        [_, _, _] => Ok(()),
        _ => failed(format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {version}")),
    }
}

/// `30`, `30s`, `5min`, `500ms`; what is not understood here the member refuses.
fn seconds(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let factor = match unit.trim() {
        "" | "s" => 1.0,
        "us" => 1e-6,
        "ms" => 1e-3,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * factor).ok()
}

pub async fn reload(context: &Context, terminal: &mut Terminal, args: &Reload) -> Outcome {
    let cluster = context.cluster(Some(&args.members.cluster_name), args.members.group)?;
    let reading = cluster.read().await?;
    let members = select::members(terminal, &cluster, &reading, args.role, &args.members.member_names)?;
    select::confirm(terminal, args.force, "reload", &members)?;
    let mut all_well = true;
    for member in &members {
        let name = &member.name;
        let Some(url) = &member.api_url else {
            say!(terminal, "Failed: reload for member {name}, it has not said where its REST API is");
            all_well = false;
            continue;
        };
        let answer = context.api.post(url, "/reload", &json!({}), API_LIMIT).await;
        match answer.as_ref().map(|a| a.code) {
            Ok(200) => say!(terminal, "No changes to apply on member {name}"),
            Ok(202) => say!(
                terminal,
                "Reload request received for member {name} and will be processed within {} seconds",
                reading.settings.timing.loop_wait.as_secs()
            ),
            _ => {
                all_well = false;
                say_failed(terminal, &format!("reload for member {name}"), &answer)?;
            }
        }
    }
    ended(all_well)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for good in ["", "15.9", "9.6.24", "10.0"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["15", "9.6", "x", "15.x", "1.2.3.4", "-1.2"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        for (text, millis) in
            [("30", Some(30_000)), ("1.5min", Some(90_000)), ("20ms", Some(20)), ("x", None), ("", None)]
        {
            assert_eq!(seconds(text).map(|d| d.as_millis()), millis, "{text}");
        }
        assert!(any(3) < 3);
    }
}
