//! **Paused means hands off.**
//!
//! In simulation: from the step in which an agent first sees that the cluster is paused, and, if its server is a primary,
//! that the store names it as one that is left alone, it begins nothing that starts,
//! stops, promotes or replaces its server, except what an operator asks for by name (a restart, a reinitialisation, a
//! switchover or failover to a named member and what follows from that), and except following another leader,
//! comparing histories and ending processes that a dead postmaster left behind. Its fence is disarmed: it kills nothing,
//! unless a task that was begun before, or that an operator asked for, is still at work (but for a restart of a primary
//! that is left alone all the time), or a promotion may still come to its
//! end (one that was given up, or that an earlier run of the agent may have ordered), or its deadline had passed before
//! that step: a machine that was suspended sees the pause and its fence acts within the same moment.

use surus_core::BootTime;
use surus_core::facts::Facts;
use surus_core::order::{Demote, Order, Request, Task};

use super::Invariant;
use crate::history::Happened;
use crate::world::World;

#[derive(Default)]
pub struct Paused {
    /// It has decided something as a member of a paused cluster.
    seen: [Option<BootTime>; 8],
    /// Until when a promotion may be pending that an earlier run of the agent ordered.
    inherited: [Option<BootTime>; 8],
    /// It was pending at the last decision: the fence is told of each prolonged lead until the next one (seed 115301).
    pending: [bool; 8],
    /// A task is at work.
    busy: [bool; 8],
    /// It is a restart of a primary that was left alone when it was begun, and ever since.
    restarts: [bool; 8],
    /// A promotion was ordered and given up, and its server has not been started again since.
    ordered: [bool; 8],
}

/// Allowed while paused.
fn hands_off(facts: &Facts, memory: &surus_core::memory::Memory, task: &Task) -> bool {
    let request = facts.store.view.as_deref().and_then(|v| v.failover.as_ref());
    let named = request.and_then(|f| f.value.candidate.as_ref());
    let asked = facts.request.is_some_and(|r| match r {
        Request::Restart => *task == Task::Restart,
        Request::Reinitialize { .. } => matches!(task, Task::Reinitialize { .. }),
    });
    match task {
        Task::Promote => named == Some(&facts.me) || memory.called,
        Task::Demote(Demote::Handover { to, .. }) => named == Some(to),
        Task::Follow { .. } | Task::CheckDivergence { .. } | Task::KillOrphans => true,
        Task::StartStandby { .. } | Task::Rewind { .. } => memory.handed_over,
        _ => asked,
    }
}

impl Invariant for Paused {
    fn name(&self) -> &'static str {
        "paused means hands off"
    }

    fn sees(&mut self, w: &World, what: &Happened) -> Option<String> {
        match what {
            Happened::Decided { node, facts, step } => {
                let paused = w.nodes[*node].agent.as_ref().is_some_and(|a| a.paused);
                let seen = paused && (facts.unguarded || !facts.postgres.is_primary() && !self.ordered[*node]);
                self.seen[*node] = if seen { self.seen[*node].or(Some(facts.now)) } else { None };
                self.busy[*node] = facts.task.is_some();
                self.inherited[*node] = facts.inherited;
                self.pending[*node] = facts.promotion_pending();
                let begun = step.orders.iter().find_map(|o| match o {
                    Order::Begin { task, .. } => Some(task),
                    _ => None,
                });
                let restarts = begun.is_some_and(|task| *task == Task::Restart) && facts.unguarded;
                self.restarts[*node] =
                    self.seen[*node].is_some() && (self.restarts[*node] && self.busy[*node] || restarts);
                self.busy[*node] |= begun.is_some();
                self.ordered[*node] &= begun.is_none() && facts.postgres.running();
                let task = begun.filter(|task| self.seen[*node].is_some() && !hands_off(facts, &step.memory, task))?;
                Some(format!("n{} began \"{}\" while paused", node + 1, task.name()))
            }
            Happened::TaskEnded { node, task: Task::Promote, outcome: Err(_) } => {
                self.ordered[*node] = true;
                self.seen[*node] = None;
                None
            }
            Happened::FenceFires { node, deadline }
                if self.seen[*node].is_some_and(|seen| seen <= *deadline)
                    && (!self.busy[*node] || self.restarts[*node])
                    && !self.pending[*node]
                    && self.inherited[*node].is_none_or(|until| until < *deadline) =>
            {
                Some(format!("the fence of n{} killed a server of a paused cluster", node + 1))
            }
            _ => None,
        }
    }
}
