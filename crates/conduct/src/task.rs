//! Carries out the long operations that `surus-core` orders, one at a time.
//!
//! A task chooses nothing: it does what its name says, or fails with the reason. What it may wait for
//! is bounded, and whatever stops a primary ends before the lease does.

mod bootstrap;
mod copy;
mod demote;
mod hands;
mod methods;
mod phase;
mod run;
mod slots;
mod synchronous;
mod timeline;

use std::sync::Arc;
use std::time::Duration;

use surus_core::cluster::{ClusterView, Upstream};
use surus_core::facts::TaskDone;
use surus_core::order::{Demote, Task};
use surus_core::settings::ClusterSettings;
use surus_core::{BootTime, MemberName, follow};

pub use hands::{Hands, Happened, Launched, Made};
pub use methods::{BASEBACKUP, ReplicaMethod};
pub use phase::Phase;

use crate::race::first;

/// What a task knows, as of the moment it begins.
#[derive(Clone, Debug)]
pub struct TaskContext {
    pub me: MemberName,
    /// How long a start, a stop or a handover may take.
    pub patience: Duration,
    pub start_timeout: Duration,
    pub settings: ClusterSettings,
    /// The text of the `config` key of a new cluster.
    pub founding_document: String,
    pub post_bootstrap: Option<String>,
    /// Where the data directory is, for messages.
    pub data_dir: String,
    /// The server runs as a primary now.
    pub is_primary: bool,
    /// An earlier run of this agent led, and what it ordered may be still to come: the server can become a primary although
    /// this run has not asked for it.
    pub inherited: bool,
    /// The view at the start of the task, for addresses and for what the status key holds.
    pub view: Option<Arc<ClusterView>>,
}

pub type Outcome = Result<TaskDone, String>;

pub async fn perform<H: Hands>(task: Task, cx: TaskContext, hands: H) -> Outcome {
    let (cx, hands) = (&cx, &hands);
    match task {
        Task::Bootstrap => bootstrap::bootstrap(cx, hands).await,
        Task::Clone { from } => copy::clone(cx, hands, Some(&from)).await,
        Task::CloneWithoutLeader => copy::clone(cx, hands, None).await,
        Task::Reinitialize { from } => copy::reinitialize(cx, hands, &from).await,
        Task::CheckDivergence { from } => copy::check(hands, &from).await,
        Task::Rewind { from } => copy::rewind(cx, hands, &from).await,
        Task::StartPrimary => run::start_primary(cx, hands).await,
        Task::StartStandby { upstream } => run::start_standby(cx, hands, upstream).await,
        Task::Promote => run::promote(cx, hands).await,
        Task::Follow { upstream } => run::follow(cx, hands, upstream).await,
        Task::Restart => run::restart(cx, hands).await,
        Task::CopySlots { from, slots } => slots::copy(cx, hands, from, &slots).await,
        Task::KillOrphans => hands.kill_orphans().await.map(|()| TaskDone::Done),
        Task::Demote(Demote::Handover { to, upstream }) => demote::handover(cx, hands, &to, upstream.as_ref()).await,
        Task::Demote(Demote::LeaseEnding { stop_by }) => demote::before(hands, stop_by).await,
        Task::Demote(Demote::Deposed) => demote::at_once(hands).await,
        Task::Demote(Demote::Release) => demote::release(cx, hands).await,
        Task::Demote(Demote::Cluster) => demote::cluster(cx, hands).await,
        Task::Shutdown { to } => demote::shutdown(cx, hands, to.as_ref()).await,
    }
}

impl TaskContext {
    fn slot(&self, upstream: Option<&Upstream>) -> Option<String> {
        follow::slot(upstream, &self.me, &self.settings)
    }

    /// Whom the server is to stream from, as far as the view at the start of the task tells.
    fn upstream(&self) -> Option<Upstream> {
        let view = self.view.as_deref()?;
        let tags = view.members.get(&self.me).map(|m| m.tags.clone()).unwrap_or_default();
        follow::upstream(view, &self.me, view.leader_name() == Some(&self.me), None, &tags, &self.settings)
    }
}

/// The time the lead is good for, zero without one.
fn lead_left(hands: &impl Hands) -> Duration {
    hands.lead().map_or(Duration::ZERO, |lead| lead.until.since(hands.now()))
}

/// Resolves when a primary has to be killed for its lease's sake, at once without a lead.
async fn lead_ends(hands: &impl Hands) {
    loop {
        let lead = hands.lead();
        let kill_at = lead.map(|l| l.until - demote::KILL_RESERVE * 3).filter(|at| hands.now() < *at);
        let Some(kill_at) = kill_at else { return };
        first(hands.lead_changed(lead), hands.sleep_until(kill_at)).await;
    }
}

/// What is left until `deadline`, less `reserve`.
fn left(hands: &impl Hands, deadline: BootTime, reserve: Duration) -> Duration {
    deadline.since(hands.now()).saturating_sub(reserve)
}

fn ms_since(hands: &impl Hands, begun: BootTime) -> u128 {
    hands.now().since(begun).as_millis()
}

#[cfg(test)]
mod tests;
