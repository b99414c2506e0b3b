//! **One writer.** No two PostgreSQL servers of a group acknowledge commits at the same time.
//!
//! In simulation: clients write to every server that takes a commit, whoever leads. From the moment a promotion is
//! done, that is, from when a new timeline can be written to, no server may be *able* to acknowledge a commit on an
//! older one, and none may ever do so later. Being able means: the machine is on and awake, its disk works, and a primary
//! serves there or backends of a dead postmaster are left.
//!
//! Two sites: an agent that has seen that its cluster follows another site begins neither a promotion nor a primary. That no
//! primary is left there in the end is for the fourth promise.
//!
//! Whom nobody could stop in time is excused (`excuse.rs`).

use super::Invariant;
use super::excuse::Excuses;
use crate::history::Happened;
use crate::world::World;
use crate::world::remote::follows;
use surus_core::order::{Order, Task};

#[derive(Default)]
pub struct OneWriter {
    /// Of the newest promotion, or of the founding.
    reign: u64,
    excuses: Excuses,
}

impl Invariant for OneWriter {
    fn name(&self) -> &'static str {
        "one writer"
    }

    fn sees(&mut self, w: &World, what: &Happened) -> Option<String> {
        self.excuses.sees(w, what);
        match what {
            Happened::BeganToWrite { node } => {
                let mine = w.nodes[*node].postgres.log().map_or(0, |l| l.place().stretch);
                if mine < self.reign {
                    let said = format!("n{} serves as a primary on a timeline that was left", node + 1);
                    return (!self.excuses.excused(w, *node)).then_some(said);
                }
                // One that is unguarded does not begin a reign: an agent that saw it would end it.
                if self.excuses.excused(w, *node) {
                    return None;
                }
                self.reign = mine;
                let other = (0..w.nodes.len())
                    .find(|other| other != node && w.acknowledges(*other) && !self.excuses.excused(w, *other));
                return other
                    .map(|other| format!("n{} can be written to while n{} still acknowledges", node + 1, other + 1));
            }
            Happened::Decided { node, facts, step } => {
                let follows = facts.store.view.as_ref()?.config.as_ref().is_some_and(|c| follows(&c.value));
                let task = step.orders.iter().find_map(|o| match o {
                    Order::Begin { task: task @ (Task::Promote | Task::StartPrimary), .. } => Some(task),
                    _ => None,
                });
                let task = task.filter(|_| follows)?;
                return Some(format!("n{} began \"{}\" although its cluster follows another", node + 1, task.name()));
            }
            Happened::Acknowledged(ack) if ack.place.stretch < self.reign && !self.excuses.excused(w, ack.node) => {
                return Some(format!("n{} acknowledged a commit after another server was promoted", ack.node + 1));
            }
            _ => {}
        }
        None
    }
}
