//! **No silent loss of data.** A data directory or forked WAL is never destroyed without a record of what was in it that no
//! one else has.
//!
//! In simulation: before log that no other server has is cut off by a rewind or removed with its data directory, a loss
//! receipt lies beside the data directory that begins no later than that log and holds it to its end. A data
//! directory is removed only after its agent has said, as a warning in its log, which cluster, timeline and position go.
//! And whoever has the only copy of acknowledged log does not give it up for an empty one: nobody clones over data.
//!
//! No two promotions begin timelines with the same number: neither PostgreSQL nor `pg_rewind` can tell such forks apart,
//! so that what only one of them has would go unseen.

use std::collections::BTreeMap;

use surus_core::{SystemId, Timeline};

use super::Invariant;
use crate::history::{Happened, Operation};
use crate::world::World;
use crate::world::postgres::Postgres;

#[derive(Default)]
pub struct NoSilentLoss {
    /// The last operation of each machine was the removal of its data.
    removing: [bool; 8],
    given: BTreeMap<(SystemId, Timeline), usize>,
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
            Happened::Promoted { node, .. } => {
                let data = w.nodes[*node].postgres.data.as_ref()?;
                let number = data.log.timeline();
                let before = self.given.insert((data.system_id.clone(), number), *node);
                if let Some(other) = before {
                    let (node, other) = (node + 1, other + 1);
                    return Some(format!("n{node} was promoted to timeline {number}, as n{other} was before"));
                }
            }
            Happened::Destroys { node, log, told } => {
                if self.removing[*node] && told.is_none() {
                    return Some(format!("n{} removed its data directory and did not say what was in it", node + 1));
                }
                let others = (0..w.nodes.len()).filter(|other| other != node).map(|o| &w.nodes[o].postgres);
                let others = others.chain(w.remote.as_ref().map(|r| &r.postgres));
                let alone = others.filter_map(Postgres::log).map(|o| log.beyond(o)).min().unwrap_or(1);
                let receipts = &w.nodes[*node].postgres.receipts;
                let receipt = receipts.iter().any(|r| log.continues_into(&r.log) && r.from <= log.end - alone);
                if alone > 0 && !receipt {
                    return Some(format!(
                        "n{} gave up {alone} bytes of log that nobody else has, without a receipt",
                        node + 1
                    ));
                }
            }
            _ => {}
        }
        None
    }
}
