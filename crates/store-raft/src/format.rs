//! Which format the group writes, and how it gets to a newer one while its nodes are upgraded one after the other.
//!
//! A program reads every format up to its [`NEWEST`] and writes none but the group's, which is part of the replicated
//! state. The Raft leader raises it, by one entry of the log, once every member has said that it reads a newer one. Until
//! then each node may go back to the version before. From then on the files say the new number (from the moment at which
//! the entry is in them, applied or not), and an older program refuses them instead of misreading them; nor is a node
//! let in that does not read what is written.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use surus_store::{StoreError, StoreResult};
use tokio::time::{Instant, sleep};

use crate::host;
use crate::node::Node;
use crate::types::Operation;
use crate::wire::Probed;

pub const FIRST: u32 = 1;
/// What this program reads at most. A new kind of record comes with a number of its own ([`Operation::format`]).
pub const NEWEST: u32 = 1;

const LOOK: Duration = Duration::from_secs(5);
const RAISE: Duration = Duration::from_secs(10);

/// Of nodes that do not say it: they are older than the question.
pub fn first() -> u32 {
    FIRST
}

impl Node {
    pub async fn raise_format(self: Arc<Node>) {
        let mut told = String::new();
        while self.machine.format() < host::newest_format() {
            sleep(LOOK).await;
            if !self.is_raft_leader() {
                told.clear();
                continue;
            }
            match self.raise_format_once().await {
                Ok(()) => {}
                Err(why) if why == told => {}
                Err(why) => {
                    tracing::info!("the store group goes on writing format {}: {why}", self.machine.format());
                    told = why;
                }
            }
        }
    }

    async fn raise_format_once(&self) -> Result<(), String> {
        // Nobody is let in between the question and the entry.
        let Ok(_one) = self.changing.try_lock() else { return Ok(()) };
        let mut format = host::newest_format();
        let members = self.membership();
        let others = members.nodes().filter(|(id, _)| **id != self.id);
        let asked = join_all(others.map(|(id, node)| async move { (*id, &node.addr, self.probe(&node.addr).await) }));
        for (id, addr, answer) in asked.await {
            let probed = answer.map_err(|e| format!("whether {addr} reads a newer one is not known: {e}"))?;
            if probed.node != id {
                return Err(format!("at {addr} another node than the member answers"));
            }
            if probed.format <= self.machine.format() {
                return Err(format!(
                    "{addr} runs a version that reads no newer one; upgrade it, or go back on the others"
                ));
            }
            format = format.min(probed.format);
        }
        match self.propose(Operation::Format { format }, RAISE).await {
            Ok(_) => {
                tracing::info!(
                    "the store group writes format {format} from here on: all {} members read it, versions that do not \
                     are refused",
                    members.nodes().count()
                );
                Ok(())
            }
            // Leads no more, or tries again.
            Err(_) => Ok(()),
        }
    }

    /// As the leader, with nobody else changing members: refuses a node that would misread what is written.
    pub async fn reads_what_is_written(&self, probed: &Probed, within: Duration) -> StoreResult<()> {
        // An entry that raised the format and of which nothing was heard is in this log, if it counts.
        let last = self.log.last().map_or(0, |id| id.index + 1);
        self.wait_applied(last, Instant::now() + within).await?;
        let written = self.machine.format();
        if probed.format >= written {
            return Ok(());
        }
        Err(StoreError::Refused(format!(
            "{} runs a version that reads the store's format {} at most, and the group writes format {written}: bring it to \
             the version of the others",
            probed.addr, probed.format
        )))
    }
}
