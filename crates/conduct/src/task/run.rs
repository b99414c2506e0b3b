//! Starting, promoting, re-pointing and restarting the server.

use std::time::Duration;

use futures_util::future::Either;
use surus_core::cluster::Upstream;
use surus_core::facts::TaskDone;
use surus_core::server::{FollowOutcome, StartAs, StopMode, Stopped};
use tracing::{info, warn};

use super::{Hands, Happened, Launched, Outcome, Phase, TaskContext, demote, lead_ends, lead_left, ms_since};
use crate::race::{first, within};

pub async fn start_primary(cx: &TaskContext, hands: &impl Hands) -> Outcome {
    super::synchronous::agree(cx, hands).await?;
    hands.tell("starting PostgreSQL as the primary".into());
    start(hands, StartAs::Primary).await
}

pub async fn start_standby(cx: &TaskContext, hands: &impl Hands, upstream: Option<Upstream>) -> Outcome {
    if cx.settings.standby_cluster {
        demote::archive_the_end(cx, hands).await;
    }
    hands.tell("starting PostgreSQL as a standby".into());
    let slot = cx.slot(upstream.as_ref());
    start(hands, StartAs::Standby { upstream, slot }).await
}

/// How long a start is watched as a task. A longer recovery goes on by itself, and the rules for a server
/// that is starting up take over: who leads may change meanwhile.
const WATCHED: Duration = Duration::from_secs(5);

pub async fn start(hands: &impl Hands, role: StartAs) -> Outcome {
    if role.is_primary() && hands.lead().is_some() && !hands.left_alone() {
        // An agent that dies while the server comes up would leave a primary that nothing ends. While paused a primary
        // may run without the lead, and unguarded; one that is left alone must not be ended by a lease that ends while it
        // comes up: its fence is not disarmed before this task is over, and an agent that was frozen is too late.
        hands.arm_fence().await?;
    }
    match first(hands.cancelled(), hands.start(&role, WATCHED)).await {
        Either::Left(()) => {
            // It may be about to accept writes: being told to leave means that it must not.
            if role.is_primary() {
                demote::stop_now(hands).await?;
            }
            Err("given up on request".into())
        }
        Either::Right(Err(why)) => {
            if role.is_primary() && hands.lead().is_some() {
                hands.happened(Happened::StartFailed);
            }
            Err(why)
        }
        Either::Right(Ok(started)) => match started {
            Launched::Up { took } => {
                info!("PostgreSQL is up after {} ms", took.as_millis());
                hands.happened(Happened::Up { role: role.role() });
                Ok(TaskDone::Done)
            }
            Launched::Starting(_) => {
                info!("PostgreSQL is running and not accepting connections yet");
                Ok(TaskDone::Undecided("postgres is still starting".into()))
            }
        },
    }
}

/// The lead is held; from here on the server leaves recovery, unless it is stopped.
pub async fn promote(cx: &TaskContext, hands: &impl Hands) -> Outcome {
    hands.tell("promoting".into());
    let called = hands.now();
    // Its leader leaves the request in the store until the candidate has taken over.
    let planned = cx.view.as_ref().is_some_and(|v| v.failover.is_some());
    match prepare(cx, hands).await {
        // Nothing was ordered, so the standby goes on, unless an earlier run has ordered it: the lead is given away now.
        Err(why) if cx.inherited => return stopped_because(hands, why).await,
        prepared => prepared?,
    }
    let begun = hands.now();
    hands.took(Phase::Prepare, planned, begun.since(called));
    let promotion = async {
        hands.promote().await?;
        hands.wait_promoted(cx.start_timeout.max(Duration::from_secs(10))).await
    };
    let why = match first(hands.cancelled(), promotion).await {
        Either::Left(()) => "the leader lock was lost during the promotion".to_owned(),
        Either::Right(Ok(timeline)) => {
            info!("promoted to timeline {timeline} in {} ms", ms_since(hands, begun));
            hands.took(Phase::Promote, planned, hands.now().since(begun));
            hands.happened(Happened::Promoted);
            return Ok(TaskDone::Done);
        }
        Either::Right(Err(why)) => why,
    };
    stopped_because(hands, why).await
}

/// The lead is given away after this, and a promotion that was ordered could still come to its end.
async fn stopped_because(hands: &impl Hands, why: String) -> Outcome {
    match demote::stop_now(hands).await {
        Ok(()) => Err(format!("{why}; PostgreSQL was stopped")),
        Err(e) => Err(format!("{why}; and PostgreSQL could not be stopped: {e}")),
    }
}

async fn prepare(cx: &TaskContext, hands: &impl Hands) -> Result<(), String> {
    if lead_left(hands) <= demote::KILL_RESERVE * 3 {
        return Err("the leader lock ended before the promotion began".into());
    }
    allowed(cx, hands).await?;
    // After that: whoever was synchronous may lead in my place until then.
    super::synchronous::agree(cx, hands).await?;
    super::timeline::announce(cx, hands).await?;
    if lead_left(hands) <= demote::KILL_RESERVE * 3 {
        return Err("the leader lock ended before the promotion began".into());
    }
    hands.arm_fence().await
}

/// Asks the user's command.
async fn allowed(cx: &TaskContext, hands: &impl Hands) -> Result<(), String> {
    // The lead is renewed meanwhile and keeps everybody else from promoting: it must not be kept for ever.
    let asked = within(hands, cx.start_timeout, hands.pre_promote());
    match first(first(hands.cancelled(), lead_ends(hands)), asked).await {
        Either::Right(Some(said)) => said?,
        Either::Right(None) => {
            return Err(format!(
                "pre_promote did not end within {} s (primary_start_timeout) and was ended",
                cx.start_timeout.as_secs()
            ));
        }
        Either::Left(_) => return Err("the leader lock was lost while pre_promote ran".into()),
    }
    if lead_left(hands) <= demote::KILL_RESERVE * 3 {
        return Err("the leader lock ended while pre_promote ran".into());
    }
    Ok(())
}

pub async fn follow(cx: &TaskContext, hands: &impl Hands, upstream: Option<Upstream>) -> Outcome {
    let slot = cx.slot(upstream.as_ref());
    match hands.follow(upstream.as_ref(), slot.as_deref()).await? {
        FollowOutcome::Unchanged => Ok(TaskDone::Done),
        FollowOutcome::Reloaded => {
            hands.happened(Happened::Reloaded);
            Ok(TaskDone::Done)
        }
        FollowOutcome::RestartNeeded => {
            hands.tell("restarting PostgreSQL to follow another member".into());
            hands.happened(Happened::Restarting);
            stop_fast(hands, false, None).await?;
            start_standby(cx, hands, upstream).await
        }
    }
}

pub async fn restart(cx: &TaskContext, hands: &impl Hands) -> Outcome {
    hands.tell("restarting PostgreSQL".into());
    // One that is left alone stops and starts as if it had no lease: nobody takes its place meanwhile. Whether the pause
    // is over is looked at anew before the start.
    let leased = cx.is_primary && !hands.left_alone() && !lead_left(hands).is_zero();
    let role = if cx.is_primary {
        // A checkpoint while still serving shortens the one at the stop.
        match first(hands.cancelled(), hands.checkpoint(cx.start_timeout)).await {
            Either::Left(()) => return Err("given up on request before anything was stopped".into()),
            Either::Right(Ok(())) => {}
            Either::Right(Err(e)) => warn!("the checkpoint before the restart failed, going on without it: {e}"),
        }
        StartAs::Primary
    } else {
        let upstream = cx.upstream();
        StartAs::Standby { slot: cx.slot(upstream.as_ref()), upstream }
    };
    hands.happened(Happened::Restarting);
    stop_fast(hands, leased, None).await?;
    if leased && !hands.left_alone() && lead_left(hands) <= demote::KILL_RESERVE * 3 {
        return Err(
            "the leader lock ends or ended while PostgreSQL was stopped, it is not started again as the primary".into(),
        );
    }
    start(hands, role).await
}

/// A fast stop without a limit of its own, as long as it may take; says so while it lasts. A `leased`
/// server stops before the lease ends, in whatever way that takes, and after `limit` it is killed.
pub async fn stop_fast(hands: &impl Hands, leased: bool, limit: Option<Duration>) -> Result<(), String> {
    demote::before_stop(hands, leased, None).await;
    let begun = hands.now();
    let mut told = 0;
    loop {
        let mut slice = Duration::from_secs(1);
        if leased {
            slice = slice.min(lead_left(hands).saturating_sub(demote::KILL_RESERVE * 3));
            if slice.is_zero() {
                warn!("the leader lock is about to end, PostgreSQL is stopped the hard way");
                return demote::stop_now(hands).await;
            }
        }
        match demote::stop(hands, StopMode::Fast, slice).await? {
            // A postmaster that was killed meanwhile has left backends behind, which may still finish a commit.
            Stopped::NotRunning | Stopped::Exited { .. } => return hands.kill_orphans().await,
            Stopped::TimedOut => {
                if limit.is_some_and(|limit| hands.now().since(begun) >= limit) {
                    warn!("PostgreSQL did not stop in time (primary_stop_timeout) and is killed");
                    return demote::stop_now(hands).await;
                }
                let waited = hands.now().since(begun).as_secs();
                if waited >= told + 10 {
                    told = waited;
                    warn!(
                        "PostgreSQL is still stopping after {waited} s (shutdown checkpoint, archiver, or a slow standby)"
                    );
                }
                if hands.is_cancelled() {
                    return demote::stop_now(hands).await;
                }
            }
        }
    }
}
