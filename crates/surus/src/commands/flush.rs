//! `flush`: scheduled restarts, or the scheduled switchover.

use surus_store::TxnOutcome;

use crate::cli::Flush;
use crate::commands::{API_LIMIT, ended, say_failed, select};
use crate::connect::STORE_DEADLINE;
use crate::context::{Cluster, Context, Reading};
use crate::failure::{Failure, Outcome, failed};
use crate::terminal::{Terminal, say};
use crate::when;

pub async fn flush(context: &Context, terminal: &mut Terminal, args: &Flush) -> Outcome {
    let (Some((target, rest)), true) = (args.names.split_last(), args.names.len() > 1) else {
        return Err(Failure::Usage("Missing argument '{restart|switchover}'".to_owned()));
    };
    let (name, members) = (&rest[0], &rest[1..]);
    if !["restart", "switchover"].contains(&target.as_str()) {
        return Err(Failure::Usage(format!("the last argument is neither 'restart' nor 'switchover': '{target}'")));
    }
    let cluster = context.cluster(Some(name), args.group)?;
    let reading = cluster.read().await?;
    if target == "restart" {
        restarts(context, terminal, &cluster, &reading, members, args).await
    } else {
        switchover(context, terminal, &cluster, &reading).await
    }
}

async fn restarts(
    context: &Context,
    terminal: &mut Terminal,
    cluster: &Cluster,
    reading: &Reading,
    names: &[String],
    args: &Flush,
) -> Outcome {
    let members = select::members(terminal, cluster, reading, args.role, names)?;
    select::confirm(terminal, args.force, "flush", &members)?;
    let mut all_well = true;
    for member in &members {
        let (Some(_), Some(url)) = (&member.scheduled_restart, &member.api_url) else {
            say!(terminal, "No scheduled restart for member {}", member.name);
            continue;
        };
        let answer = context.api.delete(url, "/restart", API_LIMIT).await;
        if answer.as_ref().is_ok_and(|a| a.code == 200) {
            say!(terminal, "Success: flush scheduled restart for member {}", member.name);
        } else {
            all_well = false;
            say_failed(terminal, &format!("flush scheduled restart for member {}", member.name), &answer)?;
        }
    }
    ended(all_well)
}

async fn switchover(context: &Context, terminal: &mut Terminal, cluster: &Cluster, reading: &Reading) -> Outcome {
    let scheduled = reading.view.failover.as_ref().filter(|f| f.value.scheduled_at.is_some());
    let Some(scheduled) = scheduled else {
        say!(terminal, "No pending scheduled switchover");
        return Ok(());
    };
    for (member, url) in reading.askable() {
        match context.api.delete(url, "/switchover", API_LIMIT).await {
            Ok(answer) if answer.code == 200 => {
                say!(terminal, "Success: {}", answer.body);
                return Ok(());
            }
            Ok(answer) if answer.code == 404 => {
                say!(terminal, "Failed: {}", answer.body);
                return Err(Failure::Said);
            }
            Ok(answer) => {
                say!(terminal, "Failed: member={}, status_code={}, ({})", member.name, answer.code, answer.body);
            }
            Err(error) => crate::warn(&format!("Failure to access member {}: {error}", member.name)),
        }
    }
    say!(terminal, "{} Could not find any accessible member of cluster {}", when::stamp(), cluster.name);
    let cleared = cluster.store.compare_and_put("failover", Some(scheduled.version), "{}".to_owned(), STORE_DEADLINE);
    match cleared.await.map_err(|e| cluster.store_failure(&e))? {
        TxnOutcome::Applied(_) => Ok(()),
        TxnOutcome::Conflict => failed("the scheduled switchover was changed meanwhile; look at it again with `list`"),
    }
}
