//! What this member publishes about itself.

use surus_config::{Effective, LocalConfig};
use surus_core::cluster::{Member, MemberRole, MemberState, ScheduledRestart};
use surus_core::facts::Facts;
use surus_core::order::{Demote, Task};
use surus_core::postgres::{DataDir, ProcessState};

use crate::rest::version::COMPATIBLE_VERSION;

pub struct Extra<'a> {
    pub pending_restart: &'a std::collections::BTreeMap<String, surus_core::cluster::PendingRestart>,
    pub scheduled_restart: Option<&'a ScheduledRestart>,
    pub checkpoint_pending: bool,
    pub start_failed: bool,
    /// The server ended without being told to.
    pub crashed: bool,
    /// Of receipts that nobody has acknowledged.
    pub loss: Option<String>,
}

pub fn state(facts: &Facts, extra: &Extra) -> MemberState {
    let pg = &facts.postgres;
    match facts.task.as_ref().map(|t| &t.task) {
        // It may be a standby that recovers from a backup, and nobody is to read from it yet.
        Some(Task::Bootstrap) if !pg.is_primary() => return MemberState::InitializingNewCluster,
        Some(Task::Clone { .. } | Task::CloneWithoutLeader | Task::Reinitialize { .. }) => {
            return MemberState::CreatingReplica;
        }
        Some(Task::Restart) => return MemberState::Restarting,
        Some(Task::StartPrimary | Task::StartStandby { .. }) => return MemberState::Starting,
        // The checkpoint before the stop is made while serving.
        Some(task) if pg.accepting() && stops_planned(task) => {}
        Some(Task::Demote(_) | Task::Shutdown { .. } | Task::Rewind { .. }) => {
            return if pg.running() { MemberState::Stopping } else { MemberState::Stopped };
        }
        _ => {}
    }
    match pg.process {
        ProcessState::Accepting => MemberState::Running,
        ProcessState::NotAccepting => MemberState::Starting,
        ProcessState::NotRunning if extra.start_failed => MemberState::StartFailed,
        ProcessState::NotRunning if extra.crashed => MemberState::Crashed,
        ProcessState::NotRunning => MemberState::Stopped,
    }
}

pub fn role(facts: &Facts) -> MemberRole {
    let pg = &facts.postgres;
    let demoting = facts.task.as_ref().is_some_and(|t| {
        matches!(t.task, Task::Demote(_) | Task::Shutdown { .. }) && !(pg.accepting() && stops_planned(&t.task))
    });
    if pg.is_primary() {
        return if demoting { MemberRole::Demoted } else { MemberRole::Primary };
    }
    if pg.is_standby() {
        let promoting = matches!(facts.task.as_ref().map(|t| &t.task), Some(Task::Promote));
        return if promoting { MemberRole::Promoted } else { MemberRole::Replica };
    }
    if matches!(facts.task.as_ref().map(|t| &t.task), Some(Task::StartStandby { .. })) {
        return MemberRole::Replica;
    }
    match &pg.data_dir {
        DataDir::Present { standby_signal: true, .. } => MemberRole::Replica,
        DataDir::Present { .. } => MemberRole::Demoted,
        _ => MemberRole::Uninitialized,
    }
}

fn stops_planned(task: &Task) -> bool {
    matches!(task, Task::Demote(Demote::Handover { .. }) | Task::Shutdown { .. })
}

pub fn member(facts: &Facts, local: &LocalConfig, effective: &Effective, extra: &Extra) -> Member {
    let scheme = if local.restapi.tls.is_some() { "https" } else { "http" };
    let address = |a: &surus_config::HostPort| {
        if a.host.contains(':') { format!("[{}]:{}", a.host, a.port) } else { format!("{}:{}", a.host, a.port) }
    };
    let role = role(facts);
    let observed = facts.postgres.observed();
    let standby = observed.filter(|o| o.in_recovery);
    Member {
        name: facts.me.clone(),
        conn_url: Some(format!("postgres://{}/{}", address(&effective.connect_address), effective.database)),
        api_url: Some(format!("{scheme}://{}/patroni", address(&local.restapi.connect_address))),
        state: state(facts, extra),
        role,
        version: Some(COMPATIBLE_VERSION.into()),
        proxy_url: effective
            .proxy_address
            .as_ref()
            .map(|a| format!("postgres://{}/{}", address(a), effective.database)),
        tags: facts.tags.published(),
        xlog_location: observed.map(|o| o.position()),
        receive_lsn: standby.map(|o| o.receive_lsn).filter(|l| l.is_valid()),
        replay_lsn: standby.map(|o| o.replay_lsn).filter(|l| l.is_valid()),
        replication_state: observed.and_then(|o| o.replication_state()).map(str::to_owned),
        timeline: observed.and_then(|o| o.timeline),
        checkpoint_after_promote: (role == MemberRole::Primary && extra.checkpoint_pending).then_some(false),
        pending_restart: !extra.pending_restart.is_empty(),
        pending_restart_reason: extra.pending_restart.clone(),
        scheduled_restart: extra.scheduled_restart.cloned(),
        pause: surus_conduct::pause::taken_in(facts),
        fence: facts.fence.remark(),
        loss: extra.loss.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use surus_core::cluster::ClusterView;
    use surus_core::postgres::Observed;

    use super::*;
    use crate::rest::testing::{primary, replica};
    use crate::sample::{during, facts};

    fn published(facts: &Facts, start_failed: bool, crashed: bool) -> String {
        let none = BTreeMap::new();
        let extra = Extra {
            pending_restart: &none,
            scheduled_restart: None,
            checkpoint_pending: false,
            start_failed,
            crashed,
            loss: None,
        };
        format!("{}, {}", role(facts).as_str(), state(facts, &extra).as_str())
    }

    #[test]
    fn role_and_state_as_peers_know_them() {
        let at = |observed: Option<Observed>| facts(ClusterView::default(), observed);
        let handover = || Task::Demote(Demote::Handover { to: "b".into(), upstream: None });
        let starting = || {
            let mut facts = at(None);
            facts.postgres.process = ProcessState::NotAccepting;
            facts
        };
        let empty = || {
            let mut facts = at(None);
            facts.postgres.data_dir = DataDir::Empty;
            facts
        };
        let from = || surus_core::cluster::Upstream { name: "b".into(), host: "h".into(), port: 1 };
        for (facts, expected) in [
            (at(Some(primary())), "primary, running"),
            (at(Some(replica())), "replica, running"),
            (at(None), "demoted, stopped"),
            (empty(), "uninitialized, stopped"),
            (starting(), "primary, starting"),
            (during(Task::Promote, at(Some(replica()))), "promoted, running"),
            (during(Task::Promote, at(Some(primary()))), "primary, running"),
            // It serves while it makes the checkpoint before the stop.
            (during(handover(), at(Some(primary()))), "primary, running"),
            (during(handover(), starting()), "demoted, stopping"),
            (during(handover(), at(None)), "demoted, stopped"),
            (during(Task::Shutdown { to: None }, at(Some(primary()))), "primary, running"),
            (during(Task::Demote(Demote::Deposed), at(Some(primary()))), "demoted, stopping"),
            (during(Task::Restart, at(Some(primary()))), "primary, restarting"),
            (during(Task::Clone { from: from() }, empty()), "uninitialized, creating replica"),
            (during(Task::Bootstrap, empty()), "uninitialized, initializing new cluster"),
            (during(Task::StartStandby { upstream: None }, at(None)), "replica, starting"),
            (during(Task::Rewind { from: from() }, at(None)), "demoted, stopped"),
        ] {
            assert_eq!(published(&facts, false, false), expected, "{:?}", facts.task);
        }
        assert_eq!(published(&at(None), true, true), "demoted, start failed");
        assert_eq!(published(&at(None), false, true), "demoted, crashed");
    }
}
