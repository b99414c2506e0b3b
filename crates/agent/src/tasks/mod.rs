//! Carries out the long operations that `surus-core` orders, one at a time.
//!
//! A task chooses nothing: it does what its name says, or fails with the reason. What it may wait for
//! is bounded, and whatever stops a primary ends before the lease does.

mod bootstrap;
mod copy;
mod demote;
mod run;

use std::sync::Arc;
use std::time::Duration;

use surus_core::facts::TaskDone;
use surus_core::order::{Demote, Task};
use surus_core::postgres::Progress;
use surus_core::{BootTime, MemberName};
use surus_postgres::Instance;
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::lease::LeaseKeeper;

/// Everything a task works with, as of the moment it begins.
#[derive(Clone)]
pub struct TaskContext {
    pub me: MemberName,
    pub instance: Instance,
    pub store: Arc<ClusterStore>,
    pub lease: LeaseKeeper,
    pub api: Arc<surus_api::Client>,
    pub progress: Arc<watch::Sender<Option<Progress>>>,
    pub cancel: CancellationToken,
    /// How long a start, a stop or a handover may take.
    pub patience: Duration,
    pub start_timeout: Duration,
    pub use_slots: bool,
    pub founding_document: serde_json::Value,
    pub post_bootstrap: Option<String>,
    /// The server runs as a primary now.
    pub is_primary: bool,
    /// The view at the start of the task, for addresses and for what the status key holds.
    pub view: Option<Arc<surus_core::cluster::ClusterView>>,
}

pub type Outcome = Result<TaskDone, String>;

pub async fn perform(task: Task, cx: TaskContext) -> Outcome {
    let outcome = match task {
        Task::Bootstrap => bootstrap::bootstrap(&cx).await,
        Task::Clone { from } => copy::clone(&cx, &from).await,
        Task::Reinitialize { from } => copy::reinitialize(&cx, &from).await,
        Task::CheckDivergence { from } => copy::check(&cx, &from).await,
        Task::Rewind { from } => copy::rewind(&cx, &from).await,
        Task::StartPrimary => run::start_primary(&cx).await,
        Task::StartStandby { upstream } => run::start_standby(&cx, upstream).await,
        Task::Promote => run::promote(&cx).await,
        Task::Follow { upstream } => run::follow(&cx, upstream).await,
        Task::Restart => run::restart(&cx).await,
        Task::KillOrphans => cx.instance.kill_orphans().await.map(|_| TaskDone::Done).map_err(text),
        Task::Demote(Demote::Handover { to, upstream }) => demote::handover(&cx, &to, upstream.as_ref()).await,
        Task::Demote(Demote::LeaseEnding { stop_by }) => demote::before(&cx, stop_by).await,
        Task::Demote(Demote::Deposed) => demote::at_once(&cx).await,
        Task::Demote(Demote::Release) => demote::release(&cx).await,
        Task::Shutdown { to } => demote::shutdown(&cx, to.as_ref()).await,
    };
    cx.progress.send_replace(None);
    outcome
}

impl TaskContext {
    pub fn tell(&self, what: impl Into<String>) {
        self.progress.send_replace(Some(Progress { what: what.into(), ..Progress::default() }));
    }

    /// The time the lead is good for, zero without one.
    pub fn lead_left(&self) -> Duration {
        self.lease.lead_until().map_or(Duration::ZERO, |until| until.since(boot_now()))
    }

    /// Resolves when a primary has to be killed for its lease's sake, at once without a lead.
    pub async fn lead_ends(&self) {
        let mut state = self.lease.subscribe();
        loop {
            let lead = state.borrow_and_update().lead;
            let Some(kill_at) = lead.map(|l| l.until - demote::KILL_RESERVE * 3).filter(|at| boot_now() < *at) else {
                return;
            };
            tokio::select! {
                () = crate::timer::sleep_until(kill_at) => {}
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    pub fn slot(&self) -> Option<String> {
        self.use_slots.then(|| self.me.slot_name())
    }
}

pub fn text(e: impl std::fmt::Display) -> String {
    e.to_string()
}

/// What is left until `deadline`, less `reserve`.
fn left(deadline: BootTime, reserve: Duration) -> Duration {
    deadline.since(boot_now()).saturating_sub(reserve)
}
