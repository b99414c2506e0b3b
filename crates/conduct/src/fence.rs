//! When the fence stands guard.

use surus_core::facts::Facts;

use crate::pause::left_alone;

/// Whether the fence is to guard this server from now on; `None`: as before.
///
/// A task that makes a primary arms the fence by itself before it does, so while one runs nothing changes here. A server
/// that gives no answer stays guarded: only one that certainly is a standby, or is gone with all its processes, is let
/// off, and a primary that the store knows to be left alone.
pub fn guard(facts: &Facts) -> Option<bool> {
    let postgres = &facts.postgres;
    if facts.task.is_some() {
        return None;
    }
    let standby = postgres.observed().is_some_and(|o| o.in_recovery);
    // The fence that an earlier agent told may have died with it: another one has to hear of that deadline.
    if standby && facts.promotion_pending() {
        return Some(true);
    }
    if left_alone(facts) || standby || (!postgres.running() && !postgres.orphans) {
        return Some(false);
    }
    // A server that an operator made a primary by hand has no lead yet, and one that had it stays guarded.
    let hands_off = facts.settings.pause || facts.unguarded && facts.store.view.is_none();
    (postgres.is_primary() && (facts.lead.is_some() || !hands_off)).then_some(true)
}
