//! Getting this data directory to be a copy of the leader's.

use std::time::Duration;

use futures_util::future::Either;
use surus_core::cluster::{Member, Upstream};
use surus_core::facts::TaskDone;
use surus_core::loss::{Destroying, Recorded};
use surus_core::postgres::DataDir;
use surus_core::server::Divergence;
use tracing::{info, warn};

use super::{Hands, Outcome, TaskContext, demote, methods, run};
use crate::race::{first, within};

pub async fn clone(cx: &TaskContext, hands: &impl Hands, from: Option<&Upstream>) -> Outcome {
    // The directory is empty, so a server that still runs has lost its files.
    demote::stop_now(hands).await?;
    methods::create(cx, hands, from, &hands.replica_methods(), false).await
}

pub async fn reinitialize(cx: &TaskContext, hands: &impl Hands, from: &Upstream) -> Outcome {
    hands.tell(format!("reinitializing from {}", from.name));
    // What is here may be the last copy: it goes only once its replacement can be had.
    if let Some(why) = unreachable(hands, from).await {
        return Err(format!("{} at {}:{} {why}, the local copy is kept", from.name, from.host, from.port));
    }
    demote::stop_now(hands).await?;
    if hands.data_dir().await != DataDir::Empty {
        let leader = cx.view.as_deref().and_then(|v| v.leader_member()).and_then(Member::upstream);
        if let Some(why) = record(cx, hands, leader.as_ref().unwrap_or(from), Destroying::Removal).await? {
            return Err(format!("{why}, the local copy is kept"));
        }
        keep_rows(hands).await;
    }
    let all = if from.remote { hands.remote_methods() } else { hands.replica_methods() };
    methods::create(cx, hands, Some(from), &all, true).await
}

pub async fn check(hands: &impl Hands, from: &Upstream) -> Outcome {
    let compared = hands.divergence(from, Duration::from_secs(10));
    let Either::Right(divergence) = first(hands.cancelled(), compared).await else {
        return Err("given up on request".into());
    };
    Ok(match divergence {
        Ok(Divergence::None) => TaskDone::NotDiverged,
        Ok(Divergence::Ahead { local, upstream }) => TaskDone::Diverged(format!(
            "local timeline {local} is unknown to {}, which is on timeline {upstream}",
            from.name
        )),
        Ok(Divergence::Unrelated { local, upstream }) => TaskDone::Diverged(format!(
            "local timeline {local} is not part of the history of {}, which is on timeline {upstream}",
            from.name
        )),
        Ok(Divergence::Forked { timeline, switchpoint, local }) => TaskDone::Diverged(format!(
            "timeline {timeline} ended at {switchpoint} for {}, and goes on to {local} here",
            from.name
        )),
        Ok(Divergence::SameNumber { timeline, parted }) => TaskDone::SameNumber(format!(
            "{} and this server parted at {parted} and each has a timeline {timeline} of its own",
            from.name
        )),
        Ok(Divergence::HalfRewound { fork }) => {
            TaskDone::Diverged(format!("a rewind to {fork} broke off and left files of two servers"))
        }
        Err(why) => TaskDone::Undecided(why),
    })
}

pub async fn rewind(cx: &TaskContext, hands: &impl Hands, from: &Upstream) -> Outcome {
    hands.tell(format!("running pg_rewind from {}", from.name));
    run::stop_fast(hands, false, None).await?;
    // While the server stopped its source may have become a standby of somebody else: only what the comparison finds now
    // is what will be cut off. And before crash recovery, whose checkpoint may remove old log.
    if let Some(why) = record(cx, hands, from, Destroying::Rewind).await? {
        return Ok(TaskDone::Undecided(why));
    }
    match hands.archive_pending(cx.patience).await {
        Ok(0) => {}
        Ok(n) => info!("archived {n} segments that the server had left"),
        Err(why) => warn!("before the rewind, {why}"),
    }
    let begun = hands.now();
    if hands.recover().await? {
        info!("crash recovery before pg_rewind took {:.1} s", hands.now().since(begun).as_secs_f64());
    }
    // There is something to recover again if that was cut short.
    if keep_rows(hands).await {
        hands.recover().await?;
    }
    let begun = hands.now();
    if let Err(why) = hands.rewind(from, cx.patience).await {
        // That the source went away says nothing about this server: it is tried again with whoever leads then.
        return match unreachable(hands, from).await {
            Some(gone) => Ok(TaskDone::Undecided(format!("{} {gone}; {why}", from.name))),
            None => Err(why),
        };
    }
    info!("pg_rewind from {} took {:.1} s", from.name, hands.now().since(begun).as_secs_f64());
    Ok(TaskDone::Done)
}

async fn unreachable(hands: &impl Hands, from: &Upstream) -> Option<String> {
    match within(hands, Duration::from_secs(5), hands.reach(from)).await {
        Some(Ok(())) => None,
        Some(Err(e)) => Some(format!("cannot be reached ({e})")),
        None => Some("does not answer".to_owned()),
    }
}

/// The log is safe already: rows that cannot be read hold nothing up. `false`: nothing was done.
async fn keep_rows(hands: &impl Hands) -> bool {
    match hands.keep_lost_rows().await {
        Ok(Some(what)) => warn!("of what is lost, {what}"),
        Ok(None) => return false,
        Err(why) => warn!("the rows that are lost could not be kept beside their receipt: {why}"),
    }
    true
}

/// `Some`: it cannot be told yet what would be lost.
async fn record(
    cx: &TaskContext,
    hands: &impl Hands,
    against: &Upstream,
    destroying: Destroying,
) -> Result<Option<String>, String> {
    hands.tell(format!("looking for what {} does not have", against.name));
    match hands.record_loss(against, destroying, cx.patience).await? {
        Recorded::Nothing(why) => info!("nothing is lost against {}: {why}", against.name),
        Recorded::Receipt(what) => {
            warn!("loss receipt {what}; `surus loss show` tells more, `surus loss ack` removes it")
        }
        Recorded::Undecided(why) => return Ok(Some(why)),
    }
    Ok(None)
}
