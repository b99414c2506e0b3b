//! Everything that ends a primary.

use std::time::Duration;

use surus_core::cluster::{Status, Upstream};
use surus_core::facts::TaskDone;
use surus_core::{BootTime, Lsn, MemberName};
use surus_postgres::{StartAs, StopMode, Stopped};
use surus_store::clock::boot_now;
use tracing::{info, warn};

use super::{Outcome, TaskContext, left, text};

/// How long giving the lead up is tried. When all members end together, the embedded store is gone before the last one.
const RELEASE: Duration = Duration::from_secs(2);
/// How long a successor may take to receive the last records after the server here stopped.
const CATCH_UP: Duration = Duration::from_secs(2);
/// What killing needs when an immediate stop does not do.
pub const KILL_RESERVE: Duration = Duration::from_millis(300);

/// Planned: everything that may take long is done while still serving.
pub async fn handover(cx: &TaskContext, to: &MemberName, upstream: Option<&Upstream>) -> Outcome {
    let begun = std::time::Instant::now();
    cx.tell("checkpoint before the switchover");
    tokio::select! {
        done = cx.instance.checkpoint(cx.patience.max(Duration::from_secs(60)) * 5) => {
            if let Err(e) = done {
                return Ok(TaskDone::GivenUp(format!("the checkpoint before the stop failed: {e}")));
            }
        }
        () = cx.cancel.cancelled() => return Ok(TaskDone::GivenUp("cancelled before anything was stopped".into())),
        () = cx.lead_ends() => return Ok(TaskDone::GivenUp("the leader lock was about to end".into())),
    }
    info!("checkpoint before the switchover took {} ms", begun.elapsed().as_millis());

    cx.tell(format!("stopping PostgreSQL to hand over to {to}"));
    let stopping = std::time::Instant::now();
    if !stop_within_lease(cx, cx.patience).await? {
        return go_on(cx, &format!("PostgreSQL did not stop within {} s", cx.patience.as_secs())).await;
    }
    let Some(position) = cx.instance.shutdown_position().await.map_err(text)? else {
        return go_on(cx, "PostgreSQL did not stop cleanly").await;
    };
    info!("PostgreSQL stopped in {} ms at {}", stopping.elapsed().as_millis(), position.publish);

    if !holds(cx, to, position.checkpoint).await {
        let end = upstream.map(|u| format!(" at {}:{}", u.host, u.port)).unwrap_or_default();
        return go_on(cx, &format!("{to}{end} did not receive the last records up to {}", position.checkpoint)).await;
    }
    release_at(cx, Some(position.publish)).await?;
    info!("handed over to {to} {} ms after the stop began", stopping.elapsed().as_millis());
    Ok(TaskDone::Released)
}

/// Better a short interruption than none to take over: the stopped primary is started again.
async fn go_on(cx: &TaskContext, why: &str) -> Outcome {
    warn!("switchover given up, starting the primary again: {why}");
    // The rules see a server that is still starting in here as no danger, so the lease is watched here.
    tokio::select! {
        biased;
        () = cx.lead_ends() => {
            stop_now(cx).await?;
            Err(format!("{why}; the leader lock ended before the primary was up again"))
        }
        started = super::run::start(cx, StartAs::Primary) => {
            started.map_err(|e| format!("{why}; and the primary did not start again: {e}"))?;
            Ok(TaskDone::GivenUp(why.to_owned()))
        }
    }
}

/// The successor has everything up to this position. It streams, so it mostly does already: a fast stop
/// waits for connected standbys.
async fn holds(cx: &TaskContext, to: &MemberName, position: Lsn) -> bool {
    let Some(api_url) = cx.view.as_ref().and_then(|v| v.members.get(to)).and_then(|m| m.api_url.clone()) else {
        return false;
    };
    let end = boot_now() + CATCH_UP;
    loop {
        match cx.api.probe(&api_url, Duration::from_secs(1)).await {
            Ok(peer) if peer.position >= position => return true,
            Ok(peer) => info!("{to} is at {}, waiting for {position}", peer.position),
            Err(e) => warn!("{to} cannot be asked for its position: {e}"),
        }
        if boot_now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops fast, within `patience` and before the lease ends. `false`: it had to be cut short.
async fn stop_within_lease(cx: &TaskContext, patience: Duration) -> Result<bool, String> {
    let end = boot_now() + patience;
    loop {
        // The lease is renewed meanwhile, so its end is looked up again and again.
        let slice =
            left(end, Duration::ZERO).min(cx.lead_left().saturating_sub(KILL_RESERVE * 3)).min(Duration::from_secs(1));
        if slice.is_zero() {
            stop_now(cx).await?;
            return Ok(false);
        }
        match stop(cx, StopMode::Fast, slice).await? {
            Stopped::NotRunning | Stopped::Exited { .. } => return Ok(true),
            Stopped::TimedOut => {}
        }
    }
}

/// The lease cannot be renewed: stop in order if there is time, at once if there is not.
pub async fn before(cx: &TaskContext, stop_by: BootTime) -> Outcome {
    let fast = left(stop_by, KILL_RESERVE * 2);
    if fast > Duration::from_millis(200)
        && matches!(stop(cx, StopMode::Fast, fast).await, Ok(Stopped::Exited { .. } | Stopped::NotRunning))
    {
        info!("PostgreSQL stopped before its lease ended");
        return Ok(TaskDone::Done);
    }
    stop_now(cx).await?;
    warn!("PostgreSQL was stopped the hard way because its lease was ending");
    Ok(TaskDone::Done)
}

pub async fn at_once(cx: &TaskContext) -> Outcome {
    stop_now(cx).await?;
    Ok(TaskDone::Done)
}

pub async fn release(cx: &TaskContext) -> Outcome {
    stop_now(cx).await?;
    release_at(cx, None).await?;
    Ok(TaskDone::Released)
}

/// No backend may acknowledge anything after this returns.
pub async fn stop_now(cx: &TaskContext) -> Result<(), String> {
    match stop(cx, StopMode::Immediate, KILL_RESERVE).await {
        Ok(Stopped::Exited { .. }) => {}
        _ => cx.instance.kill_hard().await.map_err(text)?,
    }
    cx.instance.kill_orphans().await.map_err(text)?;
    Ok(())
}

/// Ends in time also where asking the server to stop has to wait, for example for a connection that hangs.
pub async fn stop(cx: &TaskContext, mode: StopMode, limit: Duration) -> Result<Stopped, String> {
    match tokio::time::timeout(limit, cx.instance.stop(mode, Some(limit))).await {
        Ok(stopped) => stopped.map_err(text),
        Err(_) => Ok(Stopped::TimedOut),
    }
}

pub async fn shutdown(cx: &TaskContext, to: Option<&MemberName>) -> Outcome {
    cx.tell("stopping PostgreSQL");
    let lead = cx.is_primary && !cx.lead_left().is_zero();
    if lead {
        tokio::select! {
            done = cx.instance.checkpoint(cx.patience) => if let Err(e) = done {
                warn!("the checkpoint before the stop failed, going on without it: {e}");
            },
            () = cx.lead_ends() => {}
        }
    }
    super::run::stop_fast(cx, lead).await?;
    if lead {
        let position = cx.instance.shutdown_position().await.ok().flatten();
        if let (Some(to), Some(position)) = (to, position)
            && !holds(cx, to, position.checkpoint).await
        {
            warn!("{to} did not receive the last records up to {}; it may be passed over", position.checkpoint);
        }
        release_at(cx, position.map(|p| p.publish)).await?;
    }
    Ok(TaskDone::Released)
}

/// Gives the lead up, and says in the same transaction where the log ended.
async fn release_at(cx: &TaskContext, position: Option<Lsn>) -> Result<(), String> {
    let status = position.map(|optime| {
        let known = cx.view.as_ref().map(|v| v.status.clone()).unwrap_or_default();
        Status { optime, ..known }.to_text()
    });
    let end = boot_now() + RELEASE;
    let last = loop {
        match cx.lease.release(status.clone()).await {
            Ok(()) => return Ok(()),
            Err(e) if boot_now() >= end => break e,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    // The lease ends by itself; nothing runs here any more that could use it.
    warn!("the leader lock could not be released ({last}); it ends with its ttl");
    Ok(())
}
