//! Waiting for what became of an accepted switchover or failover (`spec/rest-api.md §8.4`).
//!
//! The agent's own view of the store, renewed by its watch, drives this; the store is read only for
//! a beginning and, every second, in case that view stands still.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use surus_core::MemberName;
use surus_core::cluster::{ClusterView, MemberRole, MemberState};
use surus_core::settings::ClusterSettings;
use tokio::time::{Instant, sleep, sleep_until};

use super::app::App;
use super::limits;
use super::respond::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Switchover,
    Failover,
}

impl Action {
    pub fn word(self) -> &'static str {
        match self {
            Action::Switchover => "switchover",
            Action::Failover => "failover",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Action::Switchover => "Switchover",
            Action::Failover => "Failover",
        }
    }
}

pub async fn wait(
    app: &App,
    action: Action,
    before: Option<MemberName>,
    candidate: Option<MemberName>,
    given_up: Option<&str>,
    settings: &ClusterSettings,
) -> Response {
    // Members' clocks may differ by a little.
    let since = Timestamp::now().saturating_sub(SignedDuration::from_secs(60)).unwrap_or_default();
    let patience = 2 * settings.timing.loop_wait.max(Duration::from_secs(10));
    match watch(app, before.as_ref(), Instant::now() + patience).await {
        Verdict::Leads(view, leader) => {
            if !settings.standby_cluster {
                accepts_writes(app, view, &leader).await;
            }
            let given_up = given_up.filter(|_| candidate.as_ref() == Some(&leader));
            let given_up = given_up.map(|what| format!("; what was acknowledged since is given up: {what}"));
            let done = match (action, candidate.filter(|c| *c != leader)) {
                (Action::Switchover, None) => format!("Successfully switched over to \"{leader}\""),
                (Action::Failover, None) => format!("Successfully failed over to \"{leader}\""),
                (Action::Switchover, Some(asked)) => format!("Switched over to \"{leader}\" instead of \"{asked}\""),
                (Action::Failover, Some(asked)) => format!("Failed over to \"{leader}\" instead of \"{asked}\""),
            };
            text(StatusCode::OK, done + given_up.as_deref().unwrap_or_default())
        }
        Verdict::GivenUp(view) => {
            let failed = format!("{} failed", action.title());
            let why = refusal(app, &view, since).await;
            text(StatusCode::SERVICE_UNAVAILABLE, why.map_or(failed.clone(), |why| format!("{failed}: {why}")))
        }
        Verdict::Open => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "{} status unknown after {} seconds; operation may still be in progress",
                action.title(),
                patience.as_secs()
            ),
        ),
    }
}

enum Verdict {
    Leads(Arc<ClusterView>, MemberName),
    GivenUp(Arc<ClusterView>),
    Open,
}

async fn watch(app: &App, before: Option<&MemberName>, deadline: Instant) -> Verdict {
    let mut changed = app.handle.changed.clone();
    let mut agent_gone = false;
    let mut newest: Option<Arc<ClusterView>> = None;
    let mut read_at = Instant::now();
    loop {
        if Instant::now() >= read_at {
            let view = tokio::select! {
                view = app.handle.store.read(app.store_deadline()) => view.ok(),
                () = sleep_until(deadline) => None,
            };
            newest = newer(newest, view.map(Arc::new));
            read_at = Instant::now() + limits::OUTCOME_READ;
        }
        // Until one reading has certainly seen the request, the agent's view may be from before it,
        // when its absence meant nothing.
        if newest.is_some() {
            newest = newer(newest, app.handle.read().view.as_ref().map(|(view, _)| view.clone()));
        }
        if let Some(view) = &newest {
            match judge(view, before) {
                Judged::Leads(leader) => return Verdict::Leads(view.clone(), leader.clone()),
                Judged::GivenUp => return Verdict::GivenUp(view.clone()),
                Judged::Open => {}
            }
        }
        tokio::select! {
            result = changed.changed(), if !agent_gone => agent_gone = result.is_err(),
            () = sleep_until(read_at) => {}
            () = sleep_until(deadline) => return Verdict::Open,
        }
    }
}

fn newer(known: Option<Arc<ClusterView>>, found: Option<Arc<ClusterView>>) -> Option<Arc<ClusterView>> {
    match (known, found) {
        (Some(known), Some(found)) => {
            Some(if found.revision.cmp(&known.revision) == Ordering::Less { known } else { found })
        }
        (known, found) => known.or(found),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judged<'a> {
    Leads(&'a MemberName),
    GivenUp,
    Open,
}

fn judge<'a>(view: &'a ClusterView, before: Option<&MemberName>) -> Judged<'a> {
    match view.leader_name() {
        Some(leader) if before != Some(leader) => Judged::Leads(leader),
        // The lead is where it was and nobody is asked to move it any more.
        leader if leader == before && view.failover.is_none() => Judged::GivenUp,
        _ => Judged::Open,
    }
}

/// The lead changes hands before the promotion is finished, and who reads "successfully" goes on
/// to write: so the answer waits until the new leader is out of recovery.
async fn accepts_writes(app: &App, mut view: Arc<ClusterView>, leader: &MemberName) {
    let mut changed = app.handle.changed.clone();
    let promoted = async {
        loop {
            let published = app.handle.read();
            view = newer(Some(view.clone()), published.view.as_ref().map(|(v, _)| v.clone())).unwrap_or(view);
            let is_primary = |role, state| role == MemberRole::Primary && state == MemberState::Running;
            if published.name == *leader {
                if is_primary(published.role, published.state) {
                    return;
                }
            } else if let Some(member) = view.members.get(leader) {
                if is_primary(member.role, member.state) {
                    return;
                }
                // Members of other versions write their key late.
                if let Some(url) = &member.api_url {
                    let peers = app.policy.load().peers.clone();
                    if peers.probe(url, limits::PROBE).await.is_ok_and(|status| !status.in_recovery) {
                        return;
                    }
                }
            }
            tokio::select! {
                Ok(()) = changed.changed() => {}
                () = sleep(limits::PROMOTION_LOOK) => {}
            }
        }
    };
    // The lead has changed either way, and that is what was asked for.
    let _ = tokio::time::timeout(limits::PROMOTION, promoted).await;
}

/// Why the leader did not hand over, as it told in its latest decisions.
async fn refusal(app: &App, view: &ClusterView, since: Timestamp) -> Option<String> {
    let leader = view.leader_member()?;
    let published = app.handle.read();
    if published.name == leader.name {
        return told(published.decisions.iter(), since);
    }
    let peers = app.policy.load().peers.clone();
    let answer = peers.get(leader.api_url.as_deref()?, "/explain", limits::PROBE).await.ok()?;
    told(answer.json::<Value>().ok()?.get("recent")?.as_array()?.iter(), since)
}

/// The newest decision that ended a request; those on the way to it, and older ones, are left out.
fn told<'a>(decisions: impl Iterator<Item = &'a Value>, since: Timestamp) -> Option<String> {
    let time = |d: &Value| d.get("at").and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
    decisions.take_while(|d| time(d).is_none_or(|at| at >= since)).find_map(|decision| {
        let goal = decision.get("goal")?.as_str()?;
        let why = goal.strip_prefix("switchover: ").or_else(|| goal.strip_prefix("manual failover: "))?;
        let ends = !why.starts_with("asking the candidates") && !why.starts_with("demoting myself");
        ends.then(|| why.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use surus_core::cluster::{FailoverRequest, Leader, Versioned};

    use super::*;

    #[test]
    fn the_outcome_is_read_off_leader_and_request() {
        let view = |leader: Option<&str>, request: bool| ClusterView {
            leader: leader.map(|name| Leader { name: name.into(), version: 1, lease: None }),
            failover: request.then(|| Versioned { value: FailoverRequest::default(), version: 1 }),
            ..ClusterView::default()
        };
        let (a, b) = (MemberName::from("a"), MemberName::from("b"));
        for (before, leader, request, want) in [
            (Some(&a), Some("a"), true, Judged::Open),
            (Some(&a), Some("a"), false, Judged::GivenUp),
            (Some(&a), None, true, Judged::Open),
            (Some(&a), None, false, Judged::Open),
            (Some(&a), Some("b"), true, Judged::Leads(&b)),
            (Some(&a), Some("b"), false, Judged::Leads(&b)),
            (None, Some("b"), true, Judged::Leads(&b)),
            (None, None, true, Judged::Open),
            (None, None, false, Judged::GivenUp),
        ] {
            assert_eq!(judge(&view(leader, request), before), want, "{before:?} {leader:?} {request}");
        }
    }

    #[test]
    fn the_reason_is_the_latest_decision_that_ended_a_request() {
        let at = |minute: u32| format!("2026-10-01T12:{minute:02}:00Z");
        let decisions = [
            json!({"at": at(9), "goal": "no action"}),
            json!({"at": at(8), "goal": "switchover: demoting myself, handing over to n2"}),
            json!({"at": at(7), "goal": "switchover: no healthy members found (n2: lags 3 MB)"}),
            json!({"at": at(1), "goal": "manual failover: I am already the leader"}),
        ];
        let since = |minute| at(minute).parse::<Timestamp>().unwrap();
        let latest = told(decisions.iter(), since(5));
        assert_eq!(latest.as_deref(), Some("no healthy members found (n2: lags 3 MB)"));
        assert_eq!(told(decisions[3..].iter(), since(0)).as_deref(), Some("I am already the leader"));
        assert_eq!(told(decisions[3..].iter(), since(5)), None, "it ended another request");
    }
}
