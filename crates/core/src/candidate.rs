//! Who could take the lead over, as its holder sees it (`spec/ha.md §10.3`).

use std::collections::BTreeMap;

use crate::cluster::{ClusterView, FailoverRequest, Member, SyncState};
use crate::facts::{Facts, PeerFact};
use crate::ids::MemberName;
use crate::report::Candidate;
use crate::settings::SynchronousMode;
use crate::time::BootTime;

/// Answers older than this are not used to choose a leader. It is longer than a member is waited for
/// (2 s): otherwise one that does not answer would outdate the answers of all others.
pub const FRESH: std::time::Duration = std::time::Duration::from_secs(5);

/// What speaks against this member becoming the leader, given its answer.
pub fn objection(
    facts: &Facts,
    view: &ClusterView,
    request: Option<&FailoverRequest>,
    member: &Member,
) -> Option<String> {
    if member.tags.nofailover() {
        return Some("not allowed to promote (tag nofailover)".into());
    }
    if member.api_url.is_none() {
        return Some("publishes no api_url, so it cannot be asked".into());
    }
    let manual = request.is_some_and(|r| r.leader.is_none());
    if let Some(sync) = active_sync(facts, view)
        && !manual
        && !sync.lists(&member.name)
    {
        return Some("not a synchronous standby".into());
    }
    let fresh = |p: &&PeerFact| facts.now.since(p.asked) <= FRESH;
    let answer = match facts.peers.get(&member.name).filter(fresh).map(|p| &p.answer) {
        None => return Some("not asked yet".into()),
        Some(Err(why)) => return Some(format!("not reachable ({why})")),
        Some(Ok(answer)) => answer,
    };
    if answer.tags.nofailover() {
        return Some("not allowed to promote (tag nofailover)".into());
    }
    if answer.watchdog_failed {
        return Some("a fence or watchdog is required there and does not work".into());
    }
    if !answer.in_recovery {
        return Some("runs as a primary".into());
    }
    if let Some(what) = &answer.forked {
        return Some(what.clone());
    }
    // Only for a running primary: its timeline is the cluster's.
    let current = facts.postgres.observed().filter(|o| !o.in_recovery).and_then(|o| o.timeline);
    if let (Some(theirs), Some(ours)) = (answer.timeline, current)
        && theirs != ours
    {
        return Some(format!("is on timeline {theirs} and the leader on {ours}"));
    }
    let mine = facts.postgres.observed().map_or(view.status.optime, |o| o.position());
    let lag = answer.position.behind(mine);
    if lag > facts.settings.maximum_lag_on_failover {
        return Some(format!(
            "lags {lag} bytes, more than maximum_lag_on_failover ({})",
            facts.settings.maximum_lag_on_failover
        ));
    }
    if facts.settings.check_timeline
        && !facts.settings.standby_cluster
        && let Some(cluster) = view.history_timeline()
        && answer.timeline.is_none_or(|t| t < cluster)
    {
        return Some(format!("is behind the cluster timeline {cluster}"));
    }
    None
}

/// What readers of permanent logical slots would suffer there. It keeps nobody from leading.
pub fn unready(slots: &[String]) -> Option<String> {
    (!slots.is_empty()).then(|| format!("logical slots not ready: {}", slots.join(", ")))
}

/// Every other member with the verdict on it, the fittest first: one that may lead, of the highest priority, whose logical
/// slots are ready, with most of the log.
pub fn weigh(facts: &Facts, view: &ClusterView, request: Option<&FailoverRequest>) -> Vec<Candidate> {
    let mut rows: Vec<(Candidate, i64, bool, u64)> = view
        .others(&facts.me)
        .filter(|m| request.and_then(|r| r.candidate.as_ref()).is_none_or(|c| *c == m.name))
        .map(|m| {
            let objection = objection(facts, view, request, m);
            let answer = facts.peers.get(&m.name).and_then(|p| p.answer.as_ref().ok());
            let position = answer.map_or(0, |a| a.position.0);
            let unready = answer.and_then(|a| unready(&a.unready_slots));
            let fit = objection.is_none();
            let slots = unready.as_ref().map(|told| format!("; {told}")).unwrap_or_default();
            let why = objection.unwrap_or_else(|| format!("reachable, at {}{slots}", crate::Lsn(position)));
            (Candidate { name: m.name.clone(), fit, why }, m.tags.failover_priority(), unready.is_none(), position)
        })
        .collect();
    // A few bytes of lag are gone in a moment; a slot can take minutes, or its reader's help.
    rows.sort_by(|a, b| {
        let fitness = |r: &(Candidate, i64, bool, u64)| (r.0.fit, r.1, r.2, r.3);
        fitness(b).cmp(&fitness(a)).then(a.0.name.cmp(&b.0.name))
    });
    rows.into_iter().map(|r| r.0).collect()
}

/// Somebody can, and enough members vouch for it where a quorum decides (`spec/ha.md §10.3`).
pub fn can_take_over(facts: &Facts, view: &ClusterView) -> bool {
    let fit = weigh(facts, view, None).iter().filter(|m| m.fit).count();
    let quorum = active_sync(facts, view).map_or(0, |sync| sync.quorum);
    fit > usize::try_from(quorum).unwrap_or(usize::MAX)
}

/// The `sync` key, while it restricts who may lead: synchronous mode is asked for and in force.
pub fn active_sync<'a>(facts: &Facts, view: &'a ClusterView) -> Option<&'a SyncState> {
    let asked_for = facts.settings.synchronous_mode != SynchronousMode::Off && !facts.settings.standby_cluster;
    view.sync.as_ref().map(|s| &s.value).filter(|_| asked_for)
}

/// Members worth asking before choosing a successor.
pub fn to_ask(view: &ClusterView, me: &MemberName) -> Vec<MemberName> {
    view.others(me).filter(|m| m.api_url.is_some() && !m.tags.nofailover()).map(|m| m.name.clone()).collect()
}

/// All of them were asked at or after `since`.
pub fn all_asked(peers: &BTreeMap<MemberName, PeerFact>, names: &[MemberName], since: BootTime) -> bool {
    names.iter().all(|n| peers.get(n).is_some_and(|p| p.asked >= since))
}
