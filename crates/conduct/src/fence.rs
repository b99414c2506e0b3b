//! When the fence stands guard.

use surus_core::facts::Facts;

/// Whether the fence is to guard this server from now on; `None`: as before.
///
/// A task that makes a primary arms the fence by itself before it does, so while one runs nothing changes here. A server
/// that gives no answer stays guarded: only one that certainly is a standby, or is gone with all its processes, is let off.
pub fn guard(facts: &Facts) -> Option<bool> {
    let postgres = &facts.postgres;
    if facts.task.is_some() {
        return None;
    }
    let standby = postgres.observed().is_some_and(|o| o.in_recovery);
    // An earlier run of this agent held the lead: it may have ordered a promotion that the server still has to finish.
    if standby && !facts.settings.pause && facts.inherited.is_some_and(|until| facts.now < until) {
        return None;
    }
    if facts.settings.pause || standby || (!postgres.running() && !postgres.orphans) {
        return Some(false);
    }
    postgres.is_primary().then_some(true)
}
