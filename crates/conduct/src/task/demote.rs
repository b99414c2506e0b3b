//! Everything that ends a primary.

use std::time::Duration;

use futures_util::future::Either;
use surus_core::cluster::{Status, Upstream};
use surus_core::facts::TaskDone;
use surus_core::postgres::{ControlState, DataDir};
use surus_core::server::{Killed, StartAs, StopMode, Stopped};
use surus_core::settings::SynchronousMode;
use surus_core::{BootTime, Lsn, MemberName};
use tracing::{error, info, warn};

use super::{Hands, Happened, Outcome, Phase, TaskContext, lead_ends, lead_left, left, ms_since};
use crate::race::{first, within};

/// How long giving the lead up is tried. When all members end together, the embedded store is gone before the last one.
const RELEASE: Duration = Duration::from_secs(2);
/// How long a successor may take to receive the last records after the server here stopped.
const CATCH_UP: Duration = Duration::from_secs(2);
/// How long one task waits for processes that were killed to be gone.
const GONE: Duration = Duration::from_secs(10);
/// How long after a failure archiving is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// What killing needs when an immediate stop does not do.
pub const KILL_RESERVE: Duration = Duration::from_millis(300);

/// Planned: everything that may take long is done while still serving.
pub async fn handover(cx: &TaskContext, hands: &impl Hands, to: &MemberName, upstream: Option<&Upstream>) -> Outcome {
    let begun = hands.now();
    hands.tell("checkpoint before the switchover".into());
    let checkpoint = hands.checkpoint(cx.patience.max(Duration::from_secs(60)) * 5);
    let given_up = match first(first(hands.cancelled(), lead_ends(hands)), checkpoint).await {
        Either::Left(Either::Left(())) => Some("cancelled before anything was stopped".to_owned()),
        Either::Left(Either::Right(())) => Some("the leader lock was about to end".to_owned()),
        Either::Right(Err(e)) => Some(format!("the checkpoint before the stop failed: {e}")),
        Either::Right(Ok(())) => None,
    };
    if let Some(why) = given_up {
        return Ok(TaskDone::GivenUp(why));
    }
    info!("checkpoint before the switchover took {} ms", ms_since(hands, begun));
    let took = |phase, since| hands.took(phase, true, hands.now().since(since));
    took(Phase::Checkpoint, begun);

    hands.tell(format!("stopping PostgreSQL to hand over to {to}"));
    let ending = hands.now();
    before_stop(hands, true, Some(cx.patience)).await;
    let stopping = hands.now();
    hands.happened(Happened::HandingOver);
    let limit = stop_limit(cx).filter(|limit| *limit < cx.patience && has_every_commit(cx, to));
    if !stop_within_lease(hands, limit.unwrap_or(cx.patience)).await? {
        if let Some(limit) = limit.filter(|_| !lead_left(hands).is_zero()) {
            warn!("PostgreSQL did not stop within {} s (primary_stop_timeout) and was killed", limit.as_secs());
            release_at(cx, hands, None).await;
            return Ok(TaskDone::Released);
        }
        return go_on(hands, &format!("PostgreSQL did not stop within {} s", cx.patience.as_secs())).await;
    }
    let Some(position) = hands.shutdown_position().await? else {
        return go_on(hands, "PostgreSQL did not stop cleanly").await;
    };
    info!("PostgreSQL stopped in {} ms at {}", ms_since(hands, stopping), position.publish);
    took(Phase::Stop, ending);

    let stopped = hands.now();
    if !holds(cx, hands, to, position.checkpoint).await {
        let end = upstream.map(|u| format!(" at {}:{}", u.host, u.port)).unwrap_or_default();
        let why = format!("{to}{end} did not receive the last records up to {}", position.checkpoint);
        return go_on(hands, &why).await;
    }
    took(Phase::CatchUp, stopped);
    let held = hands.now();
    release_at(cx, hands, Some(position.publish)).await;
    took(Phase::Release, held);
    info!("handed over to {to} {} ms after the stop began", ms_since(hands, stopping));
    Ok(TaskDone::Released)
}

/// `primary_stop_timeout`, where it is in force: a server that is killed loses nothing when a synchronous standby has
/// every commit.
pub fn stop_limit(cx: &TaskContext) -> Option<Duration> {
    let synchronous = surus_core::synchronous::mode(&cx.settings) != SynchronousMode::Off;
    Some(cx.settings.primary_stop_timeout).filter(|limit| synchronous && !limit.is_zero())
}

fn has_every_commit(cx: &TaskContext, member: &MemberName) -> bool {
    let sync = cx.view.as_ref().and_then(|v| v.sync.as_ref()).map(|s| &s.value);
    sync.is_some_and(|s| s.is_leader(&cx.me) && s.lists(member))
}

fn somebody_has_every_commit(cx: &TaskContext) -> bool {
    cx.view.as_ref().is_some_and(|v| v.others(&cx.me).any(|m| has_every_commit(cx, &m.name)))
}

/// Better a short interruption than none to take over: the stopped primary is started again.
async fn go_on(hands: &impl Hands, why: &str) -> Outcome {
    warn!("switchover given up, starting the primary again: {why}");
    // The rules see a server that is still starting in here as no danger, so the lease is watched here.
    let ends = async {
        if hands.left_alone() {
            std::future::pending::<()>().await;
        }
        lead_ends(hands).await;
    };
    match first(ends, super::run::start(hands, StartAs::Primary)).await {
        Either::Left(()) => {
            stop_now(hands).await?;
            Err(format!("{why}; the leader lock ended before the primary was up again"))
        }
        Either::Right(started) => {
            started.map_err(|e| format!("{why}; and the primary did not start again: {e}"))?;
            Ok(TaskDone::GivenUp(why.to_owned()))
        }
    }
}

/// The successor has everything up to this position. It streams, so it mostly does already: a fast stop
/// waits for connected standbys.
async fn holds(cx: &TaskContext, hands: &impl Hands, to: &MemberName, position: Lsn) -> bool {
    let Some(api_url) = cx.view.as_ref().and_then(|v| v.members.get(to)).and_then(|m| m.api_url.clone()) else {
        return false;
    };
    let end = hands.now() + CATCH_UP;
    loop {
        match hands.probe(&api_url, Duration::from_secs(1)).await {
            Ok(peer) if peer.position >= position => return true,
            Ok(peer) => info!("{to} is at {}, waiting for {position}", peer.position),
            Err(e) => warn!("{to} cannot be asked for its position: {e}"),
        }
        if hands.now() >= end {
            return false;
        }
        hands.sleep(Duration::from_millis(20)).await;
    }
}

/// Stops fast, within `patience` and before the lease ends. `false`: it had to be cut short.
async fn stop_within_lease(hands: &impl Hands, patience: Duration) -> Result<bool, String> {
    let end = hands.now() + patience;
    loop {
        // The lease is renewed meanwhile, so its end is looked up again and again.
        let slice = left(hands, end, Duration::ZERO)
            .min(lead_left(hands).saturating_sub(KILL_RESERVE * 3))
            .min(Duration::from_secs(1));
        if slice.is_zero() {
            stop_now(hands).await?;
            return Ok(false);
        }
        match stop(hands, StopMode::Fast, slice).await? {
            Stopped::NotRunning | Stopped::Exited { .. } => return Ok(true),
            Stopped::TimedOut => {}
        }
    }
}

/// The lease cannot be renewed: stop in order if there is time, at once if there is not.
pub async fn before(hands: &impl Hands, stop_by: BootTime) -> Outcome {
    let fast = left(hands, stop_by, KILL_RESERVE * 2);
    if fast > Duration::from_millis(200)
        && matches!(stop(hands, StopMode::Fast, fast).await, Ok(Stopped::Exited { .. } | Stopped::NotRunning))
    {
        info!("PostgreSQL stopped before its lease ended");
        return Ok(TaskDone::Done);
    }
    stop_now(hands).await?;
    warn!("PostgreSQL was stopped the hard way because its lease was ending");
    Ok(TaskDone::Done)
}

pub async fn at_once(hands: &impl Hands) -> Outcome {
    stop_now(hands).await?;
    Ok(TaskDone::Done)
}

/// The lead waits for no disk: it goes as soon as nobody here can acknowledge a commit. Whoever is left then has to be
/// gone before anything is started here again.
pub async fn release(cx: &TaskContext, hands: &impl Hands) -> Outcome {
    if let Killed::Silent(why) = silence(hands).await? {
        warn!("giving the leader lock up all the same: {why}");
    }
    release_at(cx, hands, None).await;
    Ok(TaskDone::Released)
}

/// The cluster is to follow another one. The lead stays: whoever leads the other cluster may need all that was written
/// here, and a standby that took over meanwhile could lack some of it.
pub async fn cluster(cx: &TaskContext, hands: &impl Hands) -> Outcome {
    hands.tell("checkpoint before the cluster is demoted".into());
    match first(first(hands.cancelled(), lead_ends(hands)), hands.checkpoint(cx.patience)).await {
        Either::Left(Either::Left(())) => return Err("given up on request before anything was stopped".into()),
        Either::Right(Err(e)) => warn!("the checkpoint before the stop failed, going on without it: {e}"),
        Either::Left(Either::Right(())) | Either::Right(Ok(())) => {}
    }
    hands.tell("stopping PostgreSQL to demote the cluster".into());
    super::run::stop_fast(hands, true, None).await?;
    if let Some(position) = hands.shutdown_position().await? {
        info!("PostgreSQL stopped at {} on timeline {}", position.checkpoint, position.timeline);
    }
    Ok(TaskDone::Done)
}

/// Has the archive get what a former primary wrote last, with its shutdown checkpoint: a cluster that lives on the archive
/// sees there where this one ended. Done before the start as a standby and not with the stop: an agent that dies in
/// between comes by here again, and afterwards the control file tells no more that this was a primary.
pub async fn archive_the_end(cx: &TaskContext, hands: &impl Hands) {
    let led = cx.view.as_ref().and_then(|view| view.leader_name()).is_none_or(|leader| *leader == cx.me);
    let DataDir::Present { control, .. } = hands.data_dir().await else { return };
    if !led || control.state != ControlState::ShutDown {
        return;
    }
    hands.tell("archiving what this cluster wrote last".into());
    let end = hands.now() + cx.patience;
    loop {
        let left = left(hands, end, Duration::ZERO).max(AGAIN);
        let archived = async {
            hands.archive_pending(left).await?;
            hands.archive_shutdown(left).await
        };
        let why = match archived.await {
            Ok(Some(segment)) => return info!("archived {segment}, which has the shutdown checkpoint"),
            Ok(None) => return,
            Err(why) => why,
        };
        if hands.is_cancelled() || hands.now() + AGAIN >= end {
            return error!(
                "the archive does not get what this cluster wrote last, and whoever lives on the archive will not see \
                 it: {why}. It is in pg_wal here, up to {} on timeline {}: mend the archive and copy the missing \
                 segments there by hand",
                control.checkpoint_lsn, control.checkpoint_timeline
            );
        }
        warn!("archiving what this cluster wrote last is tried again: {why}");
        first(hands.cancelled(), hands.sleep(AGAIN)).await;
    }
}

/// The user's command before an orderly stop, as long as the lease and `patience` allow. It is left alone by stops in
/// haste: nothing that a user wrote may stand between a lost lead and its end.
pub async fn before_stop(hands: &impl Hands, leased: bool, patience: Option<Duration>) {
    let hurry = async {
        if leased {
            lead_ends(hands).await;
        } else {
            hands.cancelled().await;
        }
    };
    let limit = async {
        match patience {
            Some(patience) => hands.sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    let hurry = first(first(hands.cancelled(), hurry), limit);
    if let Either::Right(_) = first(hands.before_stop(), hurry).await {
        warn!("before_stop was ended because PostgreSQL has to stop now");
    }
}

/// No backend may acknowledge anything after this returns, and none is left.
pub async fn stop_now(hands: &impl Hands) -> Result<(), String> {
    match silence(hands).await? {
        Killed::Gone => Ok(()),
        Killed::Silent(why) => see_gone(hands, why).await,
    }
}

/// No backend may acknowledge anything after this returns.
async fn silence(hands: &impl Hands) -> Result<Killed, String> {
    let killed = match stop(hands, StopMode::Immediate, KILL_RESERVE).await {
        Ok(Stopped::Exited { .. }) => Killed::Gone,
        _ => hands.silence().await?,
    };
    if killed == Killed::Gone {
        hands.kill_orphans().await?;
    }
    hands.happened(Happened::Stopped);
    Ok(killed)
}

async fn see_gone(hands: &impl Hands, why: String) -> Result<(), String> {
    let end = hands.now() + GONE;
    while hands.now() < end && !hands.is_cancelled() {
        first(hands.cancelled(), hands.sleep(Duration::from_secs(1))).await;
        if hands.silence().await? == Killed::Gone {
            return hands.kill_orphans().await;
        }
    }
    Err(why)
}

/// Ends in time also where asking the server to stop has to wait, for example for a connection that hangs.
pub async fn stop(hands: &impl Hands, mode: StopMode, limit: Duration) -> Result<Stopped, String> {
    let stopped = within(hands, limit, hands.stop(mode, limit)).await.unwrap_or(Ok(Stopped::TimedOut));
    if let Ok(Stopped::Exited { .. }) = stopped {
        hands.happened(Happened::Stopped);
    }
    stopped
}

pub async fn shutdown(cx: &TaskContext, hands: &impl Hands, to: Option<&MemberName>) -> Outcome {
    hands.tell("stopping PostgreSQL".into());
    let lead = cx.is_primary && !lead_left(hands).is_zero();
    if lead && let Either::Right(Err(e)) = first(lead_ends(hands), hands.checkpoint(cx.patience)).await {
        warn!("the checkpoint before the stop failed, going on without it: {e}");
    }
    if lead {
        hands.happened(Happened::HandingOver);
    }
    let limit = stop_limit(cx).filter(|_| lead && somebody_has_every_commit(cx));
    super::run::stop_fast(hands, lead, limit).await?;
    if lead {
        let position = hands.shutdown_position().await.ok().flatten();
        if let (Some(to), Some(position)) = (to, position)
            && !holds(cx, hands, to, position.checkpoint).await
        {
            warn!("{to} did not receive the last records up to {}; it may be passed over", position.checkpoint);
        }
        release_at(cx, hands, position.map(|p| p.publish)).await;
    }
    Ok(TaskDone::Released)
}

/// Gives the lead up, and says in the same transaction where the log ended.
async fn release_at(cx: &TaskContext, hands: &impl Hands, position: Option<Lsn>) {
    let status = position.map(|optime| {
        let known = cx.view.as_ref().map(|v| v.status.clone()).unwrap_or_default();
        Status { optime, ..known }.to_text()
    });
    let end = hands.now() + RELEASE;
    let last = loop {
        match hands.release_lead(status.clone()).await {
            Ok(()) => return,
            Err(e) if hands.now() >= end => break e,
            Err(_) => hands.sleep(Duration::from_millis(100)).await,
        }
    };
    // The lease ends by itself; nothing runs here any more that could use it.
    warn!("the leader lock could not be released ({last}); it ends with its ttl");
}
