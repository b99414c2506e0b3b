//! `/switchover` and `/failover`: what is accepted (`spec/rest-api.md §8`).

use axum::http::StatusCode;
use axum::response::Response;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Map, Value};
use surus_api::{Client, SwitchoverRequest};
use surus_core::MemberName;
use surus_core::cluster::{ClusterView, FailoverRequest, Member};
use surus_core::failsafe::Of;
use surus_core::settings::{ClusterSettings, SynchronousMode};
use surus_store::TxnOutcome;
use tracing::warn;

use super::app::{App, not_written};
use super::outcome::Action;
use super::respond::{Refusal, text};
use super::{limits, outcome, schedule};

const KEY: &str = "failover";

pub async fn request(app: &App, endpoint: Action, body: Map<String, Value>) -> Result<Response, Refusal> {
    let asked: SwitchoverRequest = serde_json::from_value(Value::Object(body)).map_err(|e| {
        let message = format!("leader, candidate and scheduled_at must be strings: {e}");
        Refusal::bad_request(message)
    })?;
    let view = app.fresh_view().await?;
    let settings = app.settings(&view);
    let (action, order) = accept(endpoint, &asked, settings.pause, Timestamp::now())?;
    if order.scheduled_at.is_none() {
        let peers = app.policy.load().peers.clone();
        possible(action, &order, &view, &settings, &peers)
            .await
            .map_err(|why| Refusal::new(StatusCode::PRECONDITION_FAILED, why))?;
    }
    write(app, action, &order, &view, asked.force).await?;
    app.wake();
    if order.scheduled_at.is_some() {
        return Ok(text(StatusCode::ACCEPTED, "Switchover scheduled"));
    }
    let candidate = order.candidate.as_ref().and_then(|name| view.members.get(name));
    let given_up = candidate.and_then(|m| m.forked.clone()).filter(|_| action == Action::Failover);
    Ok(outcome::wait(app, action, view.leader_name().cloned(), order.candidate, given_up.as_deref(), &settings).await)
}

async fn write(
    app: &App,
    action: Action,
    order: &FailoverRequest,
    view: &ClusterView,
    force: bool,
) -> Result<(), Refusal> {
    let (store, limit) = (&app.handle.store, app.store_deadline());
    let not_written = |e| Refusal::unavailable(format!("failed to write failover key into DCS: {e}"));
    let alone = action == Action::Failover && view.leader.is_none();
    let another = |name: &MemberName| alone && order.candidate.as_ref() != Some(name);
    let left = view.unguarded.as_ref().filter(|u| another(&u.value));
    let vouched = view.vouching.as_ref().filter(|v| force && v.value.of != Of::None && another(&v.value.leader));
    if left.is_none() && vouched.is_none() {
        return store.put(KEY, order.to_text(), limit).await.map_err(not_written);
    }
    // Who asks for a failover while nobody leads says that what was left alone has stopped. It is not left at that if
    // it answers.
    let peers = app.policy.load().peers.clone();
    // After a restore it may be any of them.
    let list = view.failsafe.iter().flat_map(|list| list.keys());
    let unnamed =
        vouched.is_some_and(|v| view.failsafe.as_ref().is_some_and(|list| !list.contains_key(&v.value.leader)));
    let any = list.filter(|name| unnamed && another(name));
    for name in left.map(|u| &u.value).into_iter().chain(vouched.map(|v| &v.value.leader)).chain(any) {
        let listed = view.failsafe.as_ref().and_then(|f| f.get(name));
        let url = view.members.get(name).and_then(|m| m.api_url.as_ref()).or(listed);
        if let Some(url) = url
            && peers.probe(url, limits::PROBE).await.is_ok_and(|status| !status.in_recovery)
        {
            let message = format!("failover is not possible: {name} runs as a primary; stop it, or resume the cluster");
            return Err(Refusal::new(StatusCode::PRECONDITION_FAILED, message));
        }
    }
    if let Some(left) = left {
        warn!("{} was left alone while paused, and is taken for stopped because a failover was asked for", left.value);
    }
    if let Some(vouched) = vouched {
        warn!(
            "{} may go on as the primary without the store, and is taken for stopped because a failover was asked for with \
             force",
            vouched.value.leader
        );
    }
    let written = store.put_failover_past(left.map(|u| u.version), vouched, order.to_text(), limit);
    match written.await.map_err(not_written)? {
        TxnOutcome::Applied(_) => Ok(()),
        TxnOutcome::Conflict => Err(Refusal::new(
            StatusCode::CONFLICT,
            "who leads, is left alone or may be vouched for has changed meanwhile; try again",
        )),
    }
}

pub async fn cancel(app: &App) -> Result<Response, Refusal> {
    let view = app.fresh_view().await?;
    let Some(scheduled) = view.failover.filter(|f| f.value.scheduled_at.is_some()) else {
        return Ok(text(StatusCode::NOT_FOUND, "no switchover is scheduled"));
    };
    let cleared = app
        .handle
        .store
        .compare_and_put(KEY, Some(scheduled.version), "{}".into(), app.store_deadline())
        .await
        .map_err(|e| not_written("the cancellation", &e))?;
    app.wake();
    Ok(match cleared {
        TxnOutcome::Applied(_) => text(StatusCode::OK, "scheduled switchover deleted"),
        TxnOutcome::Conflict => text(StatusCode::CONFLICT, "the scheduled switchover was changed meanwhile; try again"),
    })
}

/// What can be said without asking anybody. A failover that names the leader goes on as a switchover.
fn accept(
    endpoint: Action,
    asked: &SwitchoverRequest,
    paused: bool,
    now: Timestamp,
) -> Result<(Action, FailoverRequest), Refusal> {
    let bad = |message: &str| Err(Refusal::bad_request(message));
    let (leader, candidate) = (asked.leader(), asked.candidate());
    match endpoint {
        Action::Failover if candidate.is_none() => {
            return bad("Failover could be performed only to a specific candidate");
        }
        Action::Switchover if leader.is_none() => {
            return bad("Switchover could be performed only from a specific leader");
        }
        _ => {}
    }
    let scheduled_at = match asked.scheduled_at() {
        None => None,
        Some(_) if endpoint == Action::Failover => return bad("Failover can't be scheduled"),
        Some(_) if paused => return bad("Can't schedule switchover in the paused state"),
        Some(at) => Some(schedule::parse(&at.into(), "switchover", now)?),
    };
    if paused && candidate.is_none() {
        return bad("Switchover is possible only to a specific candidate in a paused state");
    }
    let action = if leader.is_some() { Action::Switchover } else { Action::Failover };
    if action != endpoint {
        warn!("a failover request that names the leader is treated as a switchover");
    }
    if leader.is_some() && leader == candidate {
        return bad("Switchover target and source are the same");
    }
    Ok((action, FailoverRequest { leader, candidate, scheduled_at }))
}

/// Whether somebody could take over, else why not, candidate by candidate.
async fn possible(
    action: Action,
    order: &FailoverRequest,
    view: &ClusterView,
    settings: &ClusterSettings,
    peers: &Client,
) -> Result<(), String> {
    let word = action.word();
    if order.leader.is_some() && order.leader.as_ref() != view.leader_name() {
        return Err(match view.leader_name() {
            Some(leader) => format!("leader name does not match: the leader is {leader}"),
            None => "leader name does not match: there is no leader".into(),
        });
    }
    let synchronous = settings.synchronous_mode == SynchronousMode::On && !settings.standby_cluster;
    let listed = |name: &MemberName| view.sync.as_ref().is_some_and(|sync| sync.value.lists(name));
    let asked: Vec<&Member> = match &order.candidate {
        Some(candidate) => {
            if action == Action::Switchover && synchronous && !listed(candidate) {
                return Err("candidate name does not match with sync_standby".into());
            }
            if view.leader_name() == Some(candidate) {
                return Err(format!("{word} is not possible: {candidate} is the leader already"));
            }
            match view.members.get(candidate) {
                Some(member) => vec![member],
                None => return Err("candidate does not exists".into()),
            }
        }
        None if synchronous => {
            let standbys: Vec<_> = view.members.values().filter(|m| listed(&m.name)).collect();
            if standbys.is_empty() {
                return Err(format!("{word} is not possible: can not find sync_standby"));
            }
            standbys
        }
        None => {
            let leader = view.leader_name();
            let others: Vec<_> =
                view.members.values().filter(|m| Some(&m.name) != leader && m.api_url.is_some()).collect();
            if others.is_empty() {
                return Err(format!("{word} is not possible: cluster does not have members except leader"));
            }
            others
        }
    };
    let by_name = action == Action::Failover && view.leader.is_none();
    let limitations = join_all(asked.iter().map(|member| limitation(member, peers, by_name))).await;
    let mut reasons = Vec::new();
    for (member, limitation) in asked.iter().zip(limitations) {
        match limitation {
            None => return Ok(()),
            Some(why) => reasons.push(format!("{}: {why}", member.name)),
        }
    }
    Err(format!("{word} is not possible: no good candidates have been found: {}", reasons.join(", ")))
}

/// What keeps a member from being promoted (`spec/ha.md §1`). Lag is for the leader to judge, which
/// knows where its log ends. `by_name`: somebody who knows that nobody leads wants this one.
async fn limitation(member: &Member, peers: &Client, by_name: bool) -> Option<String> {
    let Some(url) = &member.api_url else { return Some("not reachable (it publishes no api_url)".into()) };
    match peers.probe(url, limits::PROBE).await {
        Err(e) => Some(format!("not reachable ({e})")),
        Ok(status) if status.tags.nofailover() => Some("not allowed to promote".into()),
        Ok(status) if status.watchdog_failed => Some("not watchdog capable".into()),
        Ok(status) if !by_name => status
            .forked
            .map(|what| format!("{what}; only a failover while nobody leads gives up what was acknowledged since")),
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_are_refused_without_asking_anybody() {
        let now: Timestamp = "2026-10-01T12:00:00Z".parse().unwrap();
        let ask = |leader: &str, candidate: &str, at: &str| SwitchoverRequest {
            leader: Some(leader.into()),
            candidate: Some(candidate.into()),
            member: None,
            scheduled_at: Some(at.into()),
            force: false,
        };
        let later = "2026-10-01T13:00:00Z";
        for (endpoint, asked, paused, want) in [
            (Action::Failover, ask("", "", ""), false, Err(400)),
            (Action::Failover, ask("a", "", ""), false, Err(400)),
            (Action::Failover, ask("", "b", later), false, Err(400)),
            (Action::Failover, ask("", "b", ""), false, Ok(Action::Failover)),
            (Action::Failover, ask("", "b", ""), true, Ok(Action::Failover)),
            (Action::Failover, ask("a", "b", ""), false, Ok(Action::Switchover)),
            (Action::Switchover, ask("", "b", ""), false, Err(400)),
            (Action::Switchover, ask("a", "", ""), false, Ok(Action::Switchover)),
            (Action::Switchover, ask("a", "", ""), true, Err(400)),
            (Action::Switchover, ask("a", "b", ""), true, Ok(Action::Switchover)),
            (Action::Switchover, ask("a", "b", later), true, Err(400)),
            (Action::Switchover, ask("a", "b", later), false, Ok(Action::Switchover)),
            (Action::Switchover, ask("a", "b", "2026-10-01T11:00:00Z"), false, Err(422)),
            (Action::Switchover, ask("a", "b", "2026-10-01T13:00:00"), false, Err(400)),
            (Action::Switchover, ask("a", "a", ""), false, Err(400)),
            (Action::Switchover, ask("a", "a", later), false, Err(400)),
        ] {
            let got = accept(endpoint, &asked, paused, now).map(|(action, _)| action).map_err(|r| r.parts().0);
            assert_eq!(got, want, "{endpoint:?} {asked:?} paused: {paused}");
        }
    }
}
