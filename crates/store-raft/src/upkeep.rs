//! What a node does by itself: judges its contact with the group, and, while it leads, tells the others
//! so, ends leases that are due and finishes changes of membership its predecessor left half-done.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::Fatal;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::{boot_at, boot_ms};
use crate::host;
use crate::node::{Leader, Node};
use crate::timing::BEAT;
use crate::types::Operation;

const JUDGE: Duration = Duration::from_millis(250);
/// A process that is ending has ended by then.
const ENDING: Duration = Duration::from_millis(200);
const ASK: Duration = Duration::from_secs(2);
const EXPIRE: Duration = Duration::from_secs(2);
const UNFINISHED: Duration = Duration::from_secs(3);

impl Node {
    pub async fn beat(self: Arc<Node>) {
        loop {
            if self.is_raft_leader() && self.raft.trigger().heartbeat().await.is_err() {
                return;
            }
            sleep(BEAT).await;
        }
    }

    /// A process whose consensus has failed would look alive and never take part again.
    async fn stop_if_consensus_died(&self) {
        let state = self.raft.metrics().borrow().running_state.clone();
        stop_if_fatal(state).await;
    }

    /// One that panicked has told nobody, and is found out by asking it. One that is busy, with a disk perhaps, is not dead.
    pub async fn ask_consensus(self: Arc<Node>) {
        loop {
            sleep(ASK).await;
            if let Ok(answer) = timeout(ASK, self.raft.is_initialized()).await {
                stop_if_fatal(answer.map(|_| ())).await;
            }
        }
    }

    pub async fn judge_contact(self: Arc<Node>) {
        let mut joint_since: Option<Instant> = None;
        loop {
            self.stop_if_consensus_died().await;
            self.refresh_contact();
            let joint = self.leader() == Leader::Me && self.membership().get_joint_config().len() > 1;
            joint_since = joint.then(|| joint_since.unwrap_or_else(Instant::now));
            if joint_since.is_some_and(|since| since.elapsed() > UNFINISHED)
                && let Ok(_one) = self.changing.try_lock()
            {
                // Tried again with the next round if it does not work out.
                let _ = timeout(UNFINISHED, self.finish_interrupted_change()).await;
            }
            sleep(JUDGE).await;
        }
    }

    /// Proposes one command when the next lease is due, and none otherwise: an idle store writes nothing
    /// but renewals.
    pub async fn end_leases(self: Arc<Node>) {
        let mut applied = self.machine.applied();
        let mut metrics = self.raft.server_metrics();
        loop {
            applied.mark_unchanged();
            metrics.mark_unchanged();
            let due = match self.machine.next_lease_end() {
                Some(end) if self.is_raft_leader() => match timeout(EXPIRE, self.leading_offset()).await {
                    Ok(Some(offset)) => Some(boot_at(offset, end)),
                    _ => None,
                },
                _ => None,
            };
            let wait = match due {
                Some(at) => Duration::from_millis(at.saturating_sub(boot_ms())),
                None => Duration::from_secs(3600),
            };
            if wait.is_zero() {
                if self.propose(Operation::Expire, EXPIRE).await.is_err() {
                    sleep(Duration::from_millis(50)).await;
                }
                continue;
            }
            tokio::select! {
                () = sleep(wait) => {}
                _ = applied.changed() => {}
                changed = metrics.changed() => if changed.is_err() { return },
            }
        }
    }
}

async fn stop_if_fatal(state: Result<(), Fatal<u64>>) {
    if let Err(e) = state
        && e != Fatal::Stopped
    {
        // A runtime that is dropped ends its tasks in any order: consensus that went so looks as if it had panicked. This
        // task then ends here.
        sleep(ENDING).await;
        tracing::error!("the embedded store failed inside: {e}. Stopping at once; start it again");
        host::abort();
    }
}
