//! Health checks for load balancers (`spec/rest-api.md §3`): pure, no I/O.

use surus_core::cluster::{MemberRole, MemberState};

use super::facts::{Facts, SyncStandby};
use super::query::Query;

/// Whether the check named by `path` passes.
pub fn check(facts: &Facts<'_>, path: &str, query: &Query) -> bool {
    let path = if path == "/" { "/primary" } else { path };
    let leads = Leads::of(facts);
    let replica = leads.may_be_replica && is_replica(facts, query);
    let any_leader = leads.primary || leads.standby_leader;
    let contains = |part: &str| path.contains(part);

    if contains("standby_leader") || contains("standby-leader") {
        return leads.standby_leader;
    }
    if contains("leader") {
        return leads.leader;
    }
    if contains("master") || contains("primary") || contains("read-write") {
        return leads.primary;
    }
    let passes = if contains("replica") {
        replica
    } else if contains("read-only") && !contains("sync") && !contains("quorum") {
        any_leader || replica
    } else if contains("health") {
        facts.state == MemberState::Running
    } else if facts.view.is_none() {
        false
    } else {
        match path {
            "/sync" | "/synchronous" => replica && facts.sync == SyncStandby::Sync,
            "/quorum" => replica && facts.sync == SyncStandby::Quorum,
            "/async" | "/asynchronous" => replica && facts.sync == SyncStandby::No,
            "/read-only-quorum" => any_leader || (replica && facts.sync == SyncStandby::Quorum),
            "/read-only-sync" | "/read-only-synchronous" => any_leader || (replica && facts.sync == SyncStandby::Sync),
            _ => false,
        }
    };
    passes && query.tags_match(&facts.tags)
}

/// `spec/rest-api.md §3.2`
struct Leads {
    leader: bool,
    primary: bool,
    standby_leader: bool,
    may_be_replica: bool,
}

impl Leads {
    fn of(facts: &Facts<'_>) -> Leads {
        let role = facts.role;
        if facts.view.is_none() && facts.published.settings.pause {
            // In maintenance nobody else takes over while the store is away: the role alone decides.
            let (primary, standby_leader) = (role == MemberRole::Primary, role == MemberRole::StandbyLeader);
            Leads { leader: primary || standby_leader, primary, standby_leader, may_be_replica: true }
        } else if facts.is_leader() && facts.published.settings.standby_cluster {
            let standby_leader = matches!(role, MemberRole::Replica | MemberRole::StandbyLeader);
            Leads { leader: true, primary: false, standby_leader, may_be_replica: false }
        } else {
            let leads = facts.is_leader();
            Leads { leader: leads, primary: leads, standby_leader: false, may_be_replica: true }
        }
    }
}

fn is_replica(facts: &Facts<'_>, query: &Query) -> bool {
    let reference = facts.reference();
    let lagging = reference.is_valid() && query.lag().is_some_and(|lag| facts.replayed().behind(reference) > lag);
    let replicates = query.get("replication_state").is_none_or(|asked| facts.replication_state() == Some(asked));
    facts.role == MemberRole::Replica
        && facts.state == MemberState::Running
        && !facts.tags.noloadbalance()
        && !lagging
        && replicates
}

/// `GET /liveness`: the agent's loop turns, or is late by no more than a lease's time.
pub fn is_live(facts: &Facts<'_>) -> bool {
    let published = facts.published;
    let ttl = published.settings.timing.ttl;
    // A primary whose loop stands still loses its lease after one TTL; for a replica nothing is at stake.
    let runs = !matches!(published.state, MemberState::Stopped | MemberState::Crashed | MemberState::Unknown);
    let patience = if published.role == MemberRole::Primary && runs { ttl } else { ttl * 2 };
    published.settings.pause || facts.now < published.next_step + patience
}

/// `GET /readiness`: leads, or streams close enough behind.
pub fn is_ready(facts: &Facts<'_>, query: &Query) -> bool {
    if facts.is_leader() {
        return true;
    }
    if facts.published.state != MemberState::Running || facts.replication_state() != Some("streaming") {
        return false;
    }
    // Nothing tells how far the primary is.
    if facts.view.is_none() && facts.latest_end_lsn().is_none() {
        return facts.published.failsafe.is_active();
    }
    let limit = query.lag().unwrap_or(facts.published.settings.maximum_lag_on_failover);
    let position = if query.get("mode") == Some("write") { facts.received() } else { facts.replayed() };
    position.behind(facts.reference()) <= limit
}
