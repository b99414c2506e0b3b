//! Whom a server waits for, and who may be promoted after it, before it can make its first commit.

use std::time::Duration;

use surus_core::settings::SynchronousMode;
use surus_core::store::TxnOutcome;
use surus_core::synchronous::{before_first_commit, mode};
use tracing::{info, warn};

use super::{Hands, Made, TaskContext, demote, lead_left};
use crate::race::first;

const STORE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(100);

/// Returns once the server can become a primary without a commit that others may be promoted without. Tried for as long
/// as the lead lasts.
pub async fn agree(cx: &TaskContext, hands: &impl Hands) -> Made {
    if mode(&cx.settings) == SynchronousMode::Off {
        return hands.wait_for(None).await;
    }
    loop {
        if lead_left(hands) <= demote::KILL_RESERVE * 3 {
            return Err("the leader lock ended before it was written down who is synchronous".into());
        }
        match attempt(cx, hands).await {
            Ok(true) => return Ok(()),
            Ok(false) => {
                info!("Postponing promotion because synchronous replication state was updated by somebody else");
            }
            Err(why) => warn!("it is not yet agreed who is synchronous, trying again: {why}"),
        }
        first(hands.cancelled(), hands.sleep(AGAIN)).await;
        if hands.is_cancelled() {
            return Err("given up on request".into());
        }
    }
}

async fn attempt(cx: &TaskContext, hands: &impl Hands) -> Made<bool> {
    // Who was synchronous under the last leader is not a matter for an old reading.
    let view = hands.read_store(STORE).await.map_err(|e| format!("the store cannot be read: {e}"))?;
    let (names, state) = before_first_commit(&cx.me, &cx.settings, view.sync.as_ref().map(|s| &s.value));
    hands.wait_for(Some(&names)).await?;
    let Some(state) = state else { return Ok(true) };
    match hands.write_sync(Some(state.to_text()), view.sync_version, STORE).await {
        Ok(outcome) => Ok(outcome != TxnOutcome::Conflict),
        Err(e) => Err(format!("the sync key cannot be written: {e}")),
    }
}
