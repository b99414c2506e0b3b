//! Could we fail over now, to whom, and losing what: as the leader sees its standbys at this moment.

use serde_json::{Map, Value, json};
use surus_core::cluster::{ClusterView, Member};
use surus_core::settings::SynchronousMode;

use super::facts::Facts;

/// One standby that might take over.
#[derive(Debug, PartialEq)]
pub struct Successor<'a> {
    pub name: &'a str,
    pub fit: bool,
    /// What the leader has and it has not; absent when nothing tells.
    pub loses: Option<u64>,
}

/// Absent where it is not for this member to say: only the leader sees how far the others are.
pub fn readiness<'a>(facts: &Facts<'a>) -> Option<(bool, Vec<Successor<'a>>)> {
    let view = facts.view.filter(|_| facts.is_leader())?;
    let successors: Vec<_> = view.others(&facts.published.name).map(|member| successor(facts, view, member)).collect();
    let fit = successors.iter().filter(|s| s.fit).count();
    let quorum = sync(facts, view).map_or(0, |sync| sync.quorum);
    Some((fit > usize::try_from(quorum).unwrap_or(usize::MAX), successors))
}

/// What `GET /explain` tells of it.
pub fn document(facts: &Facts<'_>) -> Option<Value> {
    let (ready, successors) = readiness(facts)?;
    let members = successors.iter().map(|s| {
        let mut row = Map::new();
        row.insert("name".into(), json!(s.name));
        row.insert("fit".into(), json!(s.fit));
        row.extend(s.loses.map(|bytes| ("loses".into(), json!(bytes))));
        Value::Object(row)
    });
    let synchronous = facts.view.is_some_and(|view| sync(facts, view).is_some());
    Some(json!({"ready": ready, "synchronous": synchronous, "members": members.collect::<Vec<_>>()}))
}

fn sync<'a>(facts: &Facts<'_>, view: &'a ClusterView) -> Option<&'a surus_core::cluster::SyncState> {
    let settings = &facts.published.settings;
    let asked_for = settings.synchronous_mode != SynchronousMode::Off && !settings.standby_cluster;
    view.sync.as_ref().map(|s| &s.value).filter(|_| asked_for)
}

fn successor<'a>(facts: &Facts<'_>, view: &ClusterView, member: &'a Member) -> Successor<'a> {
    let loses = behind(facts, view, member);
    let settings = &facts.published.settings;
    let allowed = !member.tags.nofailover() && member.api_url.is_some();
    let listed = sync(facts, view).is_none_or(|sync| sync.lists(&member.name));
    let close = loses.is_some_and(|bytes| bytes <= settings.maximum_lag_on_failover);
    Successor { name: member.name.as_str(), fit: member.is_running() && allowed && listed && close, loses }
}

/// By what it confirmed on its replication connection, which is newer than what it published.
fn behind(facts: &Facts<'_>, view: &ClusterView, member: &Member) -> Option<u64> {
    let mine = facts.observed.filter(|o| !o.in_recovery);
    let connected = mine.and_then(|o| o.senders.iter().find(|s| s.application_name == member.name.as_str()));
    let has = connected
        .and_then(|s| s.flush_lsn)
        .or(member.receive_lsn)
        .or(member.replay_lsn)
        .filter(|lsn| lsn.is_valid())?;
    let end = mine.map_or(view.status.optime, |o| o.flush_lsn);
    Some(end.0.saturating_sub(has.0))
}
