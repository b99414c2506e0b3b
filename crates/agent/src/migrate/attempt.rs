//! Makes the requests of one attempt to move the cluster.

use std::sync::Arc;
use std::time::Duration;

use surus_conduct::migrate::{Answer, Mover, Next, Request};
use surus_core::BootTime;
use surus_core::cluster::{ClusterView, Initialize, KeyVersion};
use surus_core::rules::stop_reserve;
use surus_core::settings::Timing;
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use surus_store::migrate::{Copy, Target, moved_by};
use surus_store::{StoreError, StoreResult, TxnOutcome};
use tracing::{info, warn};

use super::{Migrator, Prepared};
use crate::lease::LeaseKeeper;

const AGAIN: Duration = Duration::from_millis(250);

pub struct Attempt {
    pub migrator: Arc<Migrator>,
    pub prepared: Arc<Prepared>,
    pub old: Arc<ClusterStore>,
    pub new: ClusterStore,
    pub lease: LeaseKeeper,
    pub timing: Timing,
    pub found: Found,
}

/// What the earlier requests brought.
#[derive(Default)]
pub struct Found {
    register: Option<KeyVersion>,
    /// When the frozen lead ends.
    until: Option<BootTime>,
    target: Option<Target>,
    copy: Option<Copy>,
}

impl Attempt {
    /// Until it is known whether the cluster has moved.
    pub async fn run(mut self) -> Result<(), String> {
        let mut mover = Mover::default();
        loop {
            let request = match mover.next() {
                Next::Ask(request) => *request,
                Next::Again(request) => {
                    tokio::time::sleep(AGAIN).await;
                    *request
                }
                Next::Moved => {
                    info!("the cluster has moved to another store, by the move {}", self.id());
                    self.migrator.decided(&self.prepared.stored.id);
                    return Ok(());
                }
                Next::NotMoved(why) => {
                    warn!("the cluster was not moved to another store: {why}");
                    return Err(why.clone());
                }
            };
            let answer = self.ask(request).await;
            tracing::debug!("move: {request:?}: {answer:?}");
            mover.answered(answer);
        }
    }

    fn id(&self) -> &str {
        &self.prepared.stored.id
    }

    /// For one request to a store: several of them have to fit into what is left of a lead.
    fn limit(&self) -> Duration {
        (self.timing.ttl / 8).clamp(Duration::from_millis(500), Duration::from_secs(3))
    }

    /// The lead is good for long enough that PostgreSQL need not begin to stop.
    fn in_time(&self) -> bool {
        self.found.until.is_some_and(|until| boot_now() + stop_reserve(&self.timing) < until)
    }

    /// For the copy as a whole: what follows it, be it the decision or the end of the session, has to be done in time, too.
    fn to_copy(&self) -> Duration {
        let rest = stop_reserve(&self.timing) + self.limit() * 2;
        self.found.until.map_or(Duration::ZERO, |until| until.since(boot_now()).saturating_sub(rest))
    }

    async fn ask(&mut self, request: Request) -> Answer {
        let limit = self.limit();
        match request {
            Request::Claim => said(self.old.claim_migration(self.id(), limit).await, |version| {
                self.found.register = Some(version);
            }),
            Request::Freeze => {
                // What is left counts from the last renewal.
                self.lease.renewed_now(limit).await;
                self.found.until = self.lease.freeze().await;
                if self.in_time() {
                    Answer::Done
                } else {
                    Answer::Conflict("this member does not hold the lead".into())
                }
            }
            Request::Open => {
                if let Err(e) = self.new.open_session(self.timing.ttl, limit).await {
                    return failed(&e, "a session in the new store could not be opened");
                }
                let looked = self.new.look_at_target(self.id(), limit).await;
                said(looked, |target| self.found.target = Some(target))
            }
            Request::Gather => {
                let Some(register) = self.found.register else {
                    return Answer::Failed("BUG: nothing was claimed".into());
                };
                let gathered = match self.old.gather_copy(self.id(), register, limit).await {
                    Ok(Ok(copy)) => obstacle(&copy.view).map_or(Ok(Ok(copy)), |why| Ok(Err(why))),
                    other => other,
                };
                said(gathered, |copy| self.found.copy = Some(copy))
            }
            Request::Copy => match (&self.found.copy, &self.found.target) {
                (Some(copy), Some(target)) => txn(
                    self.new.receive_copy(copy, target, limit, self.to_copy()).await,
                    "somebody else wrote to the new store meanwhile",
                ),
                _ => Answer::Failed("BUG: there is nothing to copy".into()),
            },
            Request::Decide if !self.in_time() => Answer::Failed("the stores took too long to answer".into()),
            Request::Decide => match &self.found.copy {
                Some(copy) => {
                    txn(self.old.decide_move(copy, limit).await, "the cluster's keys changed while they were copied")
                }
                None => Answer::Failed("BUG: there is no copy".into()),
            },
            Request::Withdraw => match &self.found.copy {
                Some(copy) => txn(self.old.withdraw_attempt(copy, limit).await, "the register has changed"),
                None => Answer::Done,
            },
            Request::Look => match self.old.read(limit).await {
                Ok(view) => {
                    let attempt = self.found.copy.as_ref().map_or(0, Copy::attempt);
                    if moved_by(&view, self.id(), attempt, self.old.me()) { Answer::Moved } else { Answer::Done }
                }
                Err(e) => failed(&e, "the old store does not answer"),
            },
            Request::Close => {
                // It ends by itself if this fails.
                let _ = self.new.close_session(limit).await;
                Answer::Done
            }
            Request::Thaw => {
                self.lease.thaw().await;
                Answer::Done
            }
        }
    }
}

/// Why a cluster cannot be moved as it is now.
pub fn obstacle(view: &ClusterView) -> Option<String> {
    let config = view.config.as_ref().map(|c| &c.value);
    let set = |key: &str| config.and_then(|c| c.get(key)).is_some_and(|v| !v.is_null() && v != false);
    if !matches!(view.initialize, Initialize::Done(_)) || config.is_none() {
        return Some("the cluster is not complete in its store yet".into());
    }
    if set("pause") || view.unguarded.is_some() {
        return Some("the cluster is paused, and its primary counts on no lead then; resume it first".into());
    }
    if set("standby_cluster") {
        return Some(
            "it is a standby cluster, whose leader leads without being a primary; only a cluster that is not one (any more: \
             standby_cluster removed from its configuration) can be moved while it runs"
                .into(),
        );
    }
    if view.failover.as_ref().is_some_and(|f| f.value.scheduled_at.is_none()) {
        return Some("a switchover or failover is under way; wait until it has ended".into());
    }
    let foreign: Vec<&str> = view.members.values().filter(|m| m.is_foreign()).map(|m| m.name.as_str()).collect();
    if !foreign.is_empty() {
        return Some(format!(
            "{} run{} Patroni, which cannot go over to another store; replace it there by Surus, or stop it, first",
            foreign.join(", "),
            if foreign.len() == 1 { "s" } else { "" }
        ));
    }
    let migration = view.migration.as_ref().map(|m| &m.value)?;
    let strangers: Vec<&str> =
        view.members.keys().filter(|m| !migration.members.contains_key(m)).map(|m| m.as_str()).collect();
    if !strangers.is_empty() {
        return Some(format!(
            "{} joined meanwhile and does not know the new store; run the command again, which includes it",
            strangers.join(", ")
        ));
    }
    None
}

fn said<T>(answer: StoreResult<Result<T, String>>, take: impl FnOnce(T)) -> Answer {
    match answer {
        Ok(Ok(found)) => {
            take(found);
            Answer::Done
        }
        Ok(Err(why)) => Answer::Conflict(why),
        Err(e) => failed(&e, "the store"),
    }
}

fn txn(done: StoreResult<TxnOutcome>, conflict: &str) -> Answer {
    match done {
        Ok(TxnOutcome::Applied(_)) => Answer::Done,
        Ok(TxnOutcome::Conflict) => Answer::Conflict(conflict.to_owned()),
        Err(e) => failed(&e, "the store"),
    }
}

fn failed(e: &StoreError, what: &str) -> Answer {
    let text = format!("{what}: {e}");
    match e {
        StoreError::OutcomeUnknown(_) => Answer::Unknown(text),
        _ => Answer::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::RawKey;

    use super::*;

    #[test]
    fn each_obstacle_is_told() {
        let register = r#"{"id":"m","phase":"preparing","to":"raft","members":{"a":"http://a","b":"http://b"}}"#;
        let ours = r#"{"api_url":"http://a/patroni","version":"4.1.1","surus":"0.1.0"}"#;
        let patroni = r#"{"api_url":"http://c/patroni","version":"4.1.1"}"#;
        let config = r#"{"ttl":20,"failsafe_mode":true}"#;
        let well = [
            ("initialize", "7277694203142172922"),
            ("config", config),
            ("migrate", register),
            ("members/a", ours),
            ("members/b", ours),
        ];
        let said = |over: &[(&str, &str)]| {
            let mut keys: std::collections::BTreeMap<&str, &str> = well.into();
            keys.extend(over.iter().copied());
            let raw = keys.into_iter().filter(|(_, value)| !value.is_empty());
            let raw: Vec<RawKey> = raw
                .map(|(key, value)| RawKey { key: key.into(), value: value.into(), version: 1, lease: None })
                .collect();
            obstacle(&ClusterView::read(1, &raw))
        };
        assert_eq!(said(&[]), None, "failsafe mode is none");
        assert_eq!(said(&[("failover", r#"{"member":"b","scheduled_at":"2126-01-01T00:00:00+00:00"}"#)]), None);
        for (over, why) in [
            (("config", r#"{"pause":true}"#), "paused"),
            (("config", r#"{"standby_cluster":{"host":"x"}}"#), "standby cluster"),
            (("config", ""), "not complete"),
            (("initialize", ""), "not complete"),
            (("failover", r#"{"member":"b"}"#), "switchover or failover is under way"),
            (("members/c", patroni), "c runs Patroni"),
            (("members/d", ours), "d joined meanwhile"),
        ] {
            let text = said(&[over]).unwrap_or_default();
            assert!(text.contains(why), "{over:?}: {text}");
        }
    }
}
