//! Getting this data directory to be a copy of the leader's.

use std::time::Duration;

use futures_util::future::Either;
use surus_core::cluster::Upstream;
use surus_core::facts::TaskDone;
use surus_core::postgres::DataDir;
use surus_core::server::Divergence;
use tracing::{info, warn};

use super::{Hands, Outcome, TaskContext, demote, run};
use crate::race::{first, within};

pub async fn clone(hands: &impl Hands, from: &Upstream) -> Outcome {
    hands.tell(format!("copying from {}", from.name));
    // The directory is empty, so a server that still runs has lost its files.
    demote::stop_now(hands).await?;
    let begun = hands.now();
    hands.basebackup(from).await?;
    info!("replica has been created from {} in {:.1} s", from.name, hands.now().since(begun).as_secs_f64());
    Ok(TaskDone::Done)
}

pub async fn reinitialize(cx: &TaskContext, hands: &impl Hands, from: &Upstream) -> Outcome {
    hands.tell(format!("reinitializing from {}", from.name));
    // What is here may be the last copy: it goes only once its replacement can be had.
    let kept = match within(hands, Duration::from_secs(5), hands.reach(from)).await {
        Some(Ok(())) => None,
        Some(Err(e)) => Some(format!("cannot be reached ({e})")),
        None => Some("does not answer".to_owned()),
    };
    if let Some(why) = kept {
        return Err(format!("{} at {}:{} {why}, the local copy is kept", from.name, from.host, from.port));
    }
    demote::stop_now(hands).await?;
    if let DataDir::Present { control, .. } = hands.data_dir().await {
        warn!(
            "removing the data directory {} (system identifier {}, timeline {}, checkpoint {}) to copy {}",
            cx.data_dir, control.system_id, control.checkpoint_timeline, control.checkpoint_lsn, from.name
        );
    }
    hands.remove_data_dir().await?;
    clone(hands, from).await
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
        Err(why) => TaskDone::Undecided(why),
    })
}

pub async fn rewind(hands: &impl Hands, from: &Upstream) -> Outcome {
    hands.tell(format!("running pg_rewind from {}", from.name));
    run::stop_fast(hands, false).await?;
    let begun = hands.now();
    hands.rewind(from).await?;
    info!("pg_rewind from {} took {:.1} s", from.name, hands.now().since(begun).as_secs_f64());
    Ok(TaskDone::Done)
}
