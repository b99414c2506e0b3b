//! Getting this data directory to be a copy of the leader's.

use std::time::Duration;

use surus_core::cluster::Upstream;
use surus_core::facts::TaskDone;
use surus_postgres::Divergence;
use tracing::{info, warn};

use super::{Outcome, TaskContext, demote, run, text};

pub async fn clone(cx: &TaskContext, from: &Upstream) -> Outcome {
    cx.tell(format!("copying from {}", from.name));
    // The directory is empty, so a server that still runs has lost its files.
    demote::stop_now(cx).await?;
    let begun = std::time::Instant::now();
    cx.instance.basebackup(from, &cx.progress, &cx.cancel).await.map_err(text)?;
    info!("replica has been created from {} in {:.1} s", from.name, begun.elapsed().as_secs_f64());
    Ok(TaskDone::Done)
}

pub async fn reinitialize(cx: &TaskContext, from: &Upstream) -> Outcome {
    cx.tell(format!("reinitializing from {}", from.name));
    // What is here may be the last copy: it goes only once its replacement can be had.
    let reach =
        tokio::time::timeout(Duration::from_secs(5), tokio::net::TcpStream::connect((from.host.as_str(), from.port)));
    match reach.await {
        Ok(Ok(_)) => {}
        Ok(Err(e)) => {
            return Err(format!(
                "{} at {}:{} cannot be reached ({e}), the local copy is kept",
                from.name, from.host, from.port
            ));
        }
        Err(_) => {
            return Err(format!(
                "{} at {}:{} does not answer, the local copy is kept",
                from.name, from.host, from.port
            ));
        }
    }
    demote::stop_now(cx).await?;
    if let surus_core::postgres::DataDir::Present { control, .. } = cx.instance.data_dir().await {
        warn!(
            "removing the data directory {} (system identifier {}, timeline {}, checkpoint {}) to copy {}",
            cx.instance.config().data_dir.display(),
            control.system_id,
            control.checkpoint_timeline,
            control.checkpoint_lsn,
            from.name
        );
    }
    cx.instance.remove_data_dir().await.map_err(text)?;
    clone(cx, from).await
}

pub async fn check(cx: &TaskContext, from: &Upstream) -> Outcome {
    tokio::select! {
        divergence = cx.instance.divergence(from, Duration::from_secs(10)) => Ok(match divergence {
            Ok(Divergence::None) => TaskDone::NotDiverged,
            Ok(Divergence::Ahead { local, upstream }) => {
                TaskDone::Diverged(format!("local timeline {local} is unknown to {}, which is on timeline {upstream}", from.name))
            }
            Ok(Divergence::Unrelated { local, upstream }) => TaskDone::Diverged(format!(
                "local timeline {local} is not part of the history of {}, which is on timeline {upstream}",
                from.name
            )),
            Ok(Divergence::Forked { timeline, switchpoint, local }) => TaskDone::Diverged(format!(
                "timeline {timeline} ended at {switchpoint} for {}, and goes on to {local} here",
                from.name
            )),
            Err(e) => TaskDone::Undecided(e.to_string()),
        }),
        () = cx.cancel.cancelled() => Err("given up on request".into()),
    }
}

pub async fn rewind(cx: &TaskContext, from: &Upstream) -> Outcome {
    cx.tell(format!("running pg_rewind from {}", from.name));
    run::stop_fast(cx, false).await?;
    cx.instance.kill_orphans().await.map_err(text)?;
    let begun = std::time::Instant::now();
    cx.instance.rewind(from, &cx.progress, &cx.cancel).await.map_err(text)?;
    info!("pg_rewind from {} took {:.1} s", from.name, begun.elapsed().as_secs_f64());
    Ok(TaskDone::Done)
}
