//! **No silent loss of data.** A data directory or forked WAL is never destroyed without a record of what was in it that no
//! one else has.
//!
//! In simulation: before a data directory is removed its agent has said, as a warning in its log, which cluster,
//! timeline and position go. Before log that no other server has is cut off by a rewind, the member knows, and has
//! recorded with its decision, where the histories part ("timeline 3 ended at ... and goes on to ... here"). And whoever has
//! the only copy of acknowledged log does not give it up for an empty one: nobody clones over data.

use super::Invariant;
use crate::history::{Happened, Operation};
use crate::world::World;

#[derive(Default)]
pub struct NoSilentLoss {
    /// The last operation of each machine was the removal of its data.
    removing: [bool; 8],
}

impl Invariant for NoSilentLoss {
    fn name(&self) -> &'static str {
        "no silent loss of data"
    }

    fn sees(&mut self, w: &World, what: &Happened) -> Option<String> {
        match what {
            Happened::Operates { node, operation, .. } => {
                self.removing[*node] = *operation == Operation::Remove;
                if *operation == Operation::Clone && w.nodes[*node].postgres.data.is_some() {
                    return Some(format!("n{} clones over a data directory that holds data", node + 1));
                }
            }
            Happened::Destroys { node, log, told: None } => {
                let others = || (0..w.nodes.len()).filter(|other| other != node);
                let alone =
                    others().filter_map(|o| w.nodes[o].postgres.log()).map(|o| log.beyond(o)).min().unwrap_or(1);
                if self.removing[*node] {
                    return Some(format!("n{} removed its data directory and did not say what was in it", node + 1));
                }
                if alone > 0 {
                    return Some(format!("n{} cut off {alone} bytes of log that nobody else has, unsaid", node + 1));
                }
            }
            _ => {}
        }
        None
    }
}
