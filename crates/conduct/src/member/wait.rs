//! What happens while nothing is decided, and whether it is a reason to decide.

use std::sync::Arc;
use std::time::Duration;

use surus_core::BootTime;
use surus_core::MemberName;
use surus_core::cluster::ClusterView;
use surus_core::facts::{FinishedTask, PeerFact, TaskDone};
use surus_core::order::{Request, Task};
use surus_core::store::Followed;
use tracing::{error, info};

use super::{Asked, Member, Running, Said};
use crate::lease::LeaseState;
use crate::task::Outcome;

/// How a task ended.
pub struct Ended<T> {
    pub task: Task,
    pub done: bool,
    /// To whoever waits for it.
    pub answer: Option<(T, Said)>,
}

impl<T> Member<T> {
    /// Asks a step for something. Refused, with the reason, while something like it is under way.
    pub fn ask(&mut self, request: Request, timeout: Option<Duration>, whom: T) -> Result<(), (T, String)> {
        let (busy, what) = match request {
            Request::Restart => (self.asked.is_some() || self.answering.is_some(), "restart"),
            Request::Reinitialize { .. } => (self.asked.is_some(), "reinitialize"),
        };
        if busy {
            return Err((whom, format!("{what} already in progress")));
        }
        self.asked = Some(Asked { request, timeout, whom });
        Ok(())
    }

    /// The agent is to end. `false`: it was told before.
    pub fn shut_down(&mut self) -> bool {
        !std::mem::replace(&mut self.shutdown, true)
    }

    /// The running task has ended: shown to exactly one step.
    pub fn ended(&mut self, outcome: Outcome, now: BootTime) -> Option<Ended<T>> {
        let Running { task, cancelled } = self.running.take()?;
        self.names_uncertain();
        let (took, name) = (now.since(task.since).as_millis(), task.task.name());
        match &outcome {
            Ok(_) => info!("{name} finished in {took} ms"),
            // That it was to be given up has been told as a warning, with the reason.
            Err(why) if cancelled => info!("{name} ended after {took} ms: {why}"),
            Err(why) => error!("{name} failed after {took} ms: {why}"),
        }
        let answer = self.answering.take_if(|(epoch, _)| *epoch == task.epoch).map(|(_, whom)| {
            let said = match &outcome {
                Ok(TaskDone::Undecided(so_far)) => Err(so_far.clone()),
                Ok(_) => Ok("restarted successfully".into()),
                Err(why) => Err(format!("restart failed: {why}")),
            };
            (whom, said)
        });
        let ended = Ended { task: task.task.clone(), done: outcome.is_ok(), answer };
        self.finished = Some(FinishedTask { task: task.task, epoch: task.epoch, at: now, outcome });
        Some(ended)
    }

    /// What a peer answered. `true`: that was the last one asked.
    pub fn answered(&mut self, name: MemberName, fact: PeerFact) -> bool {
        self.asking.remove(&name);
        self.peers.insert(name, fact);
        self.asking.is_empty()
    }

    /// Another view came. `true`: a decision could turn on it.
    pub fn view_changed(&mut self, now: Arc<Followed>) -> bool {
        let before = std::mem::replace(&mut self.seen, now);
        let now = &self.seen;
        if now.broken_since.is_some() != before.broken_since.is_some() {
            return true;
        }
        match (&before.view, &now.view) {
            (Some(a), Some(b)) => !Arc::ptr_eq(a, b) && differ(a, b),
            (a, b) => a.is_some() != b.is_some(),
        }
    }
}

impl LeaseState {
    /// Renewals alone are no reason for a step. Compared with what the latest one saw.
    pub fn matters(&self, led: bool, session_number: u64) -> bool {
        self.lead.is_some() != led || self.session_number != session_number
    }
}

/// Without what changes all the time, and is looked at when a decision is due anyway.
pub fn positionless(member: &surus_core::cluster::Member) -> surus_core::cluster::Member {
    surus_core::cluster::Member { xlog_location: None, receive_lsn: None, replay_lsn: None, ..member.clone() }
}

/// Whether two views differ in anything that a decision could turn on. Positions and the status key do not count.
pub fn differ(a: &ClusterView, b: &ClusterView) -> bool {
    a.initialize != b.initialize
        || a.leader != b.leader
        || a.config != b.config
        || a.failover != b.failover
        || a.sync != b.sync
        || a.history != b.history
        || a.unguarded != b.unguarded
        || a.failsafe != b.failsafe
        || a.vouching != b.vouching
        || a.garbage != b.garbage
        || a.members.len() != b.members.len()
        || a.members.values().zip(b.members.values()).any(|(x, y)| !same_but_positions(x, y))
}

/// Whether the two are equal as [`positionless`], without copying them: asked for each change of the store, of each member.
fn same_but_positions(a: &surus_core::cluster::Member, b: &surus_core::cluster::Member) -> bool {
    // A field that is added must be put on one of the two sides.
    let surus_core::cluster::Member {
        name,
        conn_url,
        api_url,
        state,
        role,
        version,
        proxy_url,
        tags,
        xlog_location: _,
        receive_lsn: _,
        replay_lsn: _,
        replication_state,
        timeline,
        checkpoint_after_promote,
        pending_restart,
        pending_restart_reason,
        scheduled_restart,
        pause,
        fence,
        loss,
        disk,
        forked,
        surus,
    } = a;
    *state == b.state
        && *role == b.role
        && *timeline == b.timeline
        && *checkpoint_after_promote == b.checkpoint_after_promote
        && *pending_restart == b.pending_restart
        && *pause == b.pause
        && *name == b.name
        && *conn_url == b.conn_url
        && *api_url == b.api_url
        && *version == b.version
        && *proxy_url == b.proxy_url
        && *tags == b.tags
        && *replication_state == b.replication_state
        && *pending_restart_reason == b.pending_restart_reason
        && *scheduled_restart == b.scheduled_restart
        && *fence == b.fence
        && *loss == b.loss
        && *disk == b.disk
        && *forked == b.forked
        && *surus == b.surus
}
