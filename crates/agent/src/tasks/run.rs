//! Starting, promoting, re-pointing and restarting the server.

use std::time::Duration;

use surus_core::cluster::Upstream;
use surus_core::facts::TaskDone;
use surus_postgres::{FollowOutcome, StartAs, StopMode, Stopped};
use tracing::{info, warn};

use super::{Outcome, TaskContext, demote, text};

pub async fn start_primary(cx: &TaskContext) -> Outcome {
    cx.tell("starting PostgreSQL as the primary");
    start(cx, StartAs::Primary).await
}

pub async fn start_standby(cx: &TaskContext, upstream: Option<Upstream>) -> Outcome {
    cx.tell("starting PostgreSQL as a standby");
    let slot = upstream.as_ref().and_then(|_| cx.slot());
    start(cx, StartAs::Standby { upstream, slot }).await
}

/// How long a start is watched as a task. A longer recovery goes on by itself, and the rules for a server
/// that is starting up take over: who leads may change meanwhile.
const WATCHED: Duration = Duration::from_secs(5);

pub async fn start(cx: &TaskContext, role: StartAs) -> Outcome {
    tokio::select! {
        started = cx.instance.start(&role, WATCHED) => match started {
            Ok(started) => {
                info!("PostgreSQL is up after {} ms (pid {})", started.took.as_millis(), started.postmaster.pid);
                Ok(TaskDone::Done)
            }
            Err(e) if e.is_timeout() => {
                info!("PostgreSQL is running and not accepting connections yet");
                Ok(TaskDone::Undecided("postgres is still starting".into()))
            }
            Err(e) => Err(e.to_string()),
        },
        () = cx.cancel.cancelled() => {
            // It may be about to accept writes: being told to leave means that it must not.
            if role.is_primary() {
                demote::stop_now(cx).await?;
            }
            Err("given up on request".into())
        }
    }
}

/// The lead is held; from here on the server leaves recovery, unless it is stopped.
pub async fn promote(cx: &TaskContext) -> Outcome {
    cx.tell("promoting");
    if cx.lead_left() <= demote::KILL_RESERVE * 3 {
        return Err("the leader lock ended before the promotion began".into());
    }
    let begun = std::time::Instant::now();
    let promotion = async {
        cx.instance.promote().await?;
        cx.instance.wait_promoted(cx.start_timeout.max(Duration::from_secs(10))).await
    };
    let why = tokio::select! {
        promoted = promotion => match promoted {
            Ok(timeline) => {
                info!("promoted to timeline {timeline} in {} ms", begun.elapsed().as_millis());
                return Ok(TaskDone::Done);
            }
            Err(e) => e.to_string(),
        },
        () = cx.cancel.cancelled() => "the leader lock was lost during the promotion".into(),
    };
    // The lead is given away after this, and a promotion that was ordered could still come to its end.
    match demote::stop_now(cx).await {
        Ok(()) => Err(format!("{why}; PostgreSQL was stopped")),
        Err(e) => Err(format!("{why}; and PostgreSQL could not be stopped: {e}")),
    }
}

pub async fn follow(cx: &TaskContext, upstream: Option<Upstream>) -> Outcome {
    let slot = upstream.as_ref().and_then(|_| cx.slot());
    match cx.instance.follow(upstream.as_ref(), slot.as_deref()).await.map_err(text)? {
        FollowOutcome::Unchanged | FollowOutcome::Reloaded => Ok(TaskDone::Done),
        FollowOutcome::RestartNeeded => {
            cx.tell("restarting PostgreSQL to follow another member");
            stop_fast(cx, false).await?;
            start_standby(cx, upstream).await
        }
    }
}

pub async fn restart(cx: &TaskContext) -> Outcome {
    cx.tell("restarting PostgreSQL");
    let leased = cx.is_primary && !cx.lead_left().is_zero();
    let role = if cx.is_primary {
        // A checkpoint while still serving shortens the one at the stop.
        tokio::select! {
            done = cx.instance.checkpoint(cx.start_timeout) => if let Err(e) = done {
                warn!("the checkpoint before the restart failed, going on without it: {e}");
            },
            () = cx.cancel.cancelled() => return Err("given up on request before anything was stopped".into()),
        }
        StartAs::Primary
    } else {
        let upstream = cx.view.as_deref().and_then(|v| {
            let tags = v.members.get(&cx.me).map(|m| m.tags.clone()).unwrap_or_default();
            surus_core::follow::upstream(v, &cx.me, &tags)
        });
        StartAs::Standby { slot: upstream.as_ref().and_then(|_| cx.slot()), upstream }
    };
    stop_fast(cx, leased).await?;
    start(cx, role).await
}

/// A fast stop without a limit of its own, as long as it may take; says so while it lasts. A `leased`
/// server stops before the lease ends, in whatever way that takes.
pub async fn stop_fast(cx: &TaskContext, leased: bool) -> Result<(), String> {
    let begun = std::time::Instant::now();
    let mut told = 0;
    loop {
        let mut slice = Duration::from_secs(1);
        if leased {
            slice = slice.min(cx.lead_left().saturating_sub(demote::KILL_RESERVE * 3));
            if slice.is_zero() {
                warn!("the leader lock is about to end, PostgreSQL is stopped the hard way");
                return demote::stop_now(cx).await;
            }
        }
        match demote::stop(cx, StopMode::Fast, slice).await? {
            Stopped::NotRunning | Stopped::Exited { .. } => return Ok(()),
            Stopped::TimedOut => {
                let waited = begun.elapsed().as_secs();
                if waited >= told + 10 {
                    told = waited;
                    warn!(
                        "PostgreSQL is still stopping after {waited} s (shutdown checkpoint, archiver, or a slow standby)"
                    );
                }
                if cx.cancel.is_cancelled() {
                    return demote::stop_now(cx).await;
                }
            }
        }
    }
}
