//! Bringing logical slots from the leader to a standby.

use std::time::Duration;

use futures_util::future::Either;
use surus_core::cluster::Upstream;
use surus_core::facts::TaskDone;
use surus_core::slots::LogicalSlot;
use tracing::info;

use super::{Hands, Outcome, TaskContext, ms_since, run};
use crate::race::first;

pub async fn copy(cx: &TaskContext, hands: &impl Hands, from: Upstream, slots: &[LogicalSlot]) -> Outcome {
    hands.tell(format!("copying logical slots from {}", from.name));
    // Nothing is stopped for slots that cannot be had.
    let fetch = hands.fetch_slots(&from, slots, Duration::from_secs(10));
    let copies = match first(hands.cancelled(), fetch).await {
        Either::Left(()) => return Err("given up on request before anything was stopped".into()),
        Either::Right(copies) => copies?,
    };
    if copies.is_empty() {
        return Ok(TaskDone::Undecided(format!("{} has none of the slots", from.name)));
    }
    let names: Vec<String> = copies.iter().map(|copy| copy.slot.name.clone()).collect();
    let begun = hands.now();
    run::stop_fast(hands, false, None).await?;
    let put = hands.put_slots(copies).await;
    // With or without the slots, this standby has to run.
    let upstream = match cx.view.as_deref() {
        Some(_) => cx.upstream(),
        None => Some(from.clone()),
    };
    let started = run::start_standby(cx, hands, upstream).await?;
    put?;
    info!(
        "copied logical slots from {}, restart included, in {} ms: {}",
        from.name,
        ms_since(hands, begun),
        names.join(", ")
    );
    Ok(started)
}
