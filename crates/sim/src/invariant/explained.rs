//! **Every decision can be explained**: the facts, the rule, what was rejected and why.
//!
//! In simulation: every step names the rule that decided, its goal and its reason, and gives a reason for each
//! candidate that was rejected. And nothing happens without such a step: whatever an agent does to its server or its
//! data belongs to a task that a recorded decision began, and whoever takes the lead has a recorded decision to.

use surus_core::order::{Order, Task};

use super::Invariant;
use crate::history::Happened;
use crate::world::World;

#[derive(Default)]
pub struct Explained {
    begun: [Option<Task>; 8],
    /// Decisions to take the lead, or to found a cluster, that have not led to it: with a slow store more than one request
    /// is under way.
    takes: [usize; 8],
}

impl Invariant for Explained {
    fn name(&self) -> &'static str {
        "every decision can be explained"
    }

    fn sees(&mut self, w: &World, what: &Happened) -> Option<String> {
        match what {
            Happened::Decided { node, step, .. } => {
                let report = &step.report;
                for order in &step.orders {
                    match order {
                        Order::Begin { task, .. } => {
                            self.takes[*node] += usize::from(*task == Task::Bootstrap);
                            self.begun[*node] = Some(task.clone());
                        }
                        Order::TakeLead | Order::RetakeLead => self.takes[*node] += 1,
                        _ => {}
                    }
                }
                if report.rule == 0 || report.goal.is_empty() || report.why.is_empty() {
                    return Some(format!("n{} decided \"{}\" by rule {}", node + 1, report.goal, report.rule));
                }
                let silent = report.candidates.iter().find(|c| !c.fit && c.why.is_empty());
                return silent.map(|c| format!("n{} rejected {} for no reason", node + 1, c.name));
            }
            Happened::Operates { node, operation, task } if *task != self.begun[*node].as_ref() => {
                return Some(format!("n{}: {operation:?} and no decision that says why", node + 1));
            }
            Happened::Leader { to: Some(node), .. } => {
                let name = &w.nodes[*node].name;
                match self.takes[*node].checked_sub(1) {
                    Some(left) => self.takes[*node] = left,
                    None => return Some(format!("{name} took the lead and no decision says why")),
                }
            }
            _ => {}
        }
        None
    }
}
