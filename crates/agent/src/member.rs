//! What this member publishes about itself.

use surus_config::{Effective, LocalConfig};
use surus_core::cluster::{Member, MemberRole, MemberState, ScheduledRestart};
use surus_core::facts::Facts;
use surus_core::order::Task;
use surus_core::postgres::{DataDir, ProcessState};

use crate::rest::version::COMPATIBLE_VERSION;

pub struct Extra<'a> {
    pub pending_restart: &'a std::collections::BTreeMap<String, surus_core::cluster::PendingRestart>,
    pub scheduled_restart: Option<&'a ScheduledRestart>,
    pub checkpoint_pending: bool,
    pub start_failed: bool,
    /// The server ended without being told to.
    pub crashed: bool,
}

pub fn state(facts: &Facts, extra: &Extra) -> MemberState {
    let pg = &facts.postgres;
    match facts.task.as_ref().map(|t| &t.task) {
        Some(Task::Bootstrap) if !pg.accepting() => return MemberState::InitializingNewCluster,
        Some(Task::Clone { .. } | Task::Reinitialize { .. }) => return MemberState::CreatingReplica,
        Some(Task::Restart) => return MemberState::Restarting,
        Some(Task::StartPrimary | Task::StartStandby { .. }) => return MemberState::Starting,
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
    let demoting = matches!(facts.task.as_ref().map(|t| &t.task), Some(Task::Demote(_) | Task::Shutdown { .. }));
    if pg.is_primary() {
        return if demoting { MemberRole::Demoted } else { MemberRole::Primary };
    }
    if pg.is_standby() {
        let promoting = matches!(facts.task.as_ref().map(|t| &t.task), Some(Task::Promote));
        return if promoting { MemberRole::Promoted } else { MemberRole::Replica };
    }
    match &pg.data_dir {
        DataDir::Present { standby_signal: true, .. } => MemberRole::Replica,
        DataDir::Present { .. } => MemberRole::Demoted,
        _ => MemberRole::Uninitialized,
    }
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
        pause: facts.settings.pause,
    }
}
