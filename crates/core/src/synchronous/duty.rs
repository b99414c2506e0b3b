//! A synchronous standby that is about to stop (`spec/ha.md §16.4`): commits would wait for it until it is missed.

use std::time::Duration;

use crate::candidate::active_sync;
use crate::rules::{Ctx, Work};

/// It is waited for, and the leader has not been asked for long.
pub(crate) fn on_duty(c: &Ctx) -> bool {
    let patience = c.facts.settings.timing.loop_wait * 2;
    let listed = c.view.and_then(|v| active_sync(c.facts, v)).is_some_and(|s| s.lists(&c.facts.me));
    !c.paused
        && c.other_leads()
        && c.facts.store.broken.is_none()
        && c.facts.task.is_none()
        && c.facts.postgres.accepting()
        && c.facts.postgres.is_standby()
        && !c.facts.tags.nosync()
        && listed
        && c.memory.leaving_since.is_none_or(|since| c.facts.now.since(since) < patience)
}

pub(crate) fn ask_to_leave(w: &mut Work) {
    w.goal("Waiting for primary to release us from synchronous standby");
    w.memory.leaving_since.get_or_insert(w.facts.now);
    w.wait_for("the leader to choose another synchronous standby");
    w.again_in(Duration::from_millis(200));
}
