//! What a member publishes about itself: the pure part of its member key, and when it and the `status` key are written.

use std::time::Duration;

use surus_core::BootTime;
use surus_core::cluster::{Member, MemberRole, MemberState};
use surus_core::facts::Facts;
use surus_core::order::{Demote, Task};
use surus_core::postgres::{DataDir, ProcessState};

use crate::member::positionless;
use crate::pause::taken_in;

/// What the facts do not say of a server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Server {
    pub start_failed: bool,
    /// It ended without being told to.
    pub crashed: bool,
    /// Former primaries cannot be rewound against it yet.
    pub checkpoint_pending: bool,
}

pub fn state(facts: &Facts, server: &Server) -> MemberState {
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
        ProcessState::NotRunning if server.start_failed => MemberState::StartFailed,
        ProcessState::NotRunning if server.crashed => MemberState::Crashed,
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
        let standby_leader = facts.settings.standby_cluster && facts.lead.is_some();
        return if promoting {
            MemberRole::Promoted
        } else if standby_leader {
            MemberRole::StandbyLeader
        } else {
            MemberRole::Replica
        };
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
    matches!(task, Task::Demote(Demote::Handover { .. } | Demote::Cluster) | Task::Shutdown { .. })
}

/// The member key, without addresses and what else only the shell knows.
pub fn member(facts: &Facts, server: &Server) -> Member {
    let role = role(facts);
    let observed = facts.postgres.observed();
    let standby = observed.filter(|o| o.in_recovery);
    Member {
        name: facts.me.clone(),
        state: state(facts, server),
        role,
        tags: facts.tags.published(),
        xlog_location: observed.map(|o| o.position()),
        receive_lsn: standby.map(|o| o.receive_lsn).filter(|l| l.is_valid()),
        replay_lsn: standby.map(|o| o.replay_lsn).filter(|l| l.is_valid()),
        replication_state: observed.and_then(|o| o.replication_state()).map(str::to_owned),
        timeline: observed.and_then(|o| o.timeline),
        checkpoint_after_promote: (role == MemberRole::Primary && server.checkpoint_pending).then_some(false),
        pause: taken_in(facts),
        fence: guards(facts),
        surus: Some(env!("CARGO_PKG_VERSION").into()),
        ..Member::default()
    }
}

/// What operators should see at first sight of what ends this server or its machine.
fn guards(facts: &Facts) -> Option<String> {
    let told: Vec<String> = facts.fence.remark().into_iter().chain(facts.no_watchdog()).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// What is to be in the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub member: Option<Member>,
    pub session_number: u64,
    /// Only while I lead.
    pub status: Option<String>,
    pub loop_wait: Duration,
    /// A reading of this revision lacks my member key.
    pub missing_at: Option<u64>,
}

/// What was written of it.
#[derive(Default)]
pub struct Written {
    member: Option<(Member, u64, BootTime)>,
    /// The reading for which it was written again.
    missing_at: Option<u64>,
    status: Option<(String, BootTime)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Write the member key, then [`Written::member`].
    Member,
    /// Write the `status` key, then [`Written::status`].
    Status,
    /// Nothing now; what can wait is due after that time.
    Wait(Option<Duration>),
}

impl Written {
    /// What changed only in a WAL position is written once per `loop_wait`, else members would wake each other for
    /// ever.
    pub fn next(&mut self, want: &Desired, now: BootTime) -> Next {
        let left = |last: BootTime| Some(want.loop_wait.saturating_sub(now.since(last))).filter(|left| !left.is_zero());
        let mut due = None;
        if let Some(member) = &want.member {
            match &self.member {
                Some((written, session, at)) if *session == want.session_number => {
                    // Somebody removed it; a reading that is only older than my writing looks the same for a moment.
                    let missing = want.missing_at.is_some() && want.missing_at != self.missing_at;
                    if positionless(written) != positionless(member) {
                        return Next::Member;
                    }
                    if written != member || missing {
                        due = left(*at);
                        if due.is_none() {
                            return Next::Member;
                        }
                    }
                }
                _ => return Next::Member,
            }
        }
        match (&want.status, &self.status) {
            (None, _) => self.status = None,
            (Some(_), None) => return Next::Status,
            (Some(status), Some((written, at))) if status != written => {
                let Some(left) = left(*at) else { return Next::Status };
                due = Some(due.map_or(left, |d| d.min(left)));
            }
            _ => {}
        }
        Next::Wait(due)
    }

    pub fn member(&mut self, want: &Desired, now: BootTime) {
        self.member = want.member.clone().map(|member| (member, want.session_number, now));
        self.missing_at = want.missing_at;
    }

    pub fn status(&mut self, want: &Desired, now: BootTime) {
        self.status = want.status.clone().map(|status| (status, now));
    }
}
