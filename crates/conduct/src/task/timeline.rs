//! The number of the timeline that a promotion begins: written down before it is ordered, and given once.

use std::time::Duration;

use surus_core::Timeline;
use surus_core::store::{Announce, TxnOutcome};
use tracing::{info, warn};

use super::{Hands, Made, TaskContext, demote, lead_left};
use crate::race::first;

const STORE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(100);

/// Returns once the store knows the number and the server is going to take it. Tried for as long as the lead lasts.
pub async fn announce(cx: &TaskContext, hands: &impl Hands) -> Made {
    let choice = hands.next_timeline().await?;
    // Ordinarily it was said in the transaction that took the lead.
    let number = match hands.announced().filter(|said| *said >= choice) {
        Some(said) => said,
        None => agree(cx, hands, choice).await?,
    };
    if number > choice {
        info!(
            "timeline {number} begins here: somebody may have begun those from {choice} on while nobody could see it"
        );
        hands.skip_timelines(choice, number).await?;
    }
    Ok(())
}

async fn agree(cx: &TaskContext, hands: &impl Hands, choice: Timeline) -> Made<Timeline> {
    loop {
        if lead_left(hands) <= demote::KILL_RESERVE * 3 {
            return Err("the leader lock ended before it was written down which timeline begins".into());
        }
        match attempt(cx, hands, choice).await {
            Ok(Some(number)) => return Ok(number),
            Ok(None) => info!("Postponing promotion because another timeline was announced, or the lead is lost"),
            Err(why) => warn!("it is not yet written down which timeline begins, trying again: {why}"),
        }
        first(hands.cancelled(), hands.sleep(AGAIN)).await;
        if hands.is_cancelled() {
            return Err("given up on request".into());
        }
    }
}

async fn attempt(cx: &TaskContext, hands: &impl Hands, choice: Timeline) -> Made<Option<Timeline>> {
    let view = hands.read_store(STORE).await.map_err(|e| format!("the store cannot be read: {e}"))?;
    let timeline = view.timeline_for(&cx.me, choice);
    if view.announced.is_some_and(|a| a.value.leader == cx.me && a.value.timeline == timeline) {
        return Ok(Some(timeline));
    }
    match hands.announce(Announce { timeline, over: view.announced_version }, STORE).await {
        Ok(TxnOutcome::Applied(_)) => Ok(Some(timeline)),
        Ok(TxnOutcome::Conflict) => Ok(None),
        Err(e) => Err(format!("the timeline key cannot be written: {e}")),
    }
}
