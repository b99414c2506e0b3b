//! **No needless failover.** Trouble in the store alone never stops a primary whose members can still vouch for it.
//!
//! In simulation: a primary that leads is stopped by its own agent or its fence, and loses the leader key to another, only
//! if something other than the store was disturbed within the last minute. Where members do not vouch for each other
//! (`failsafe_mode: false`), also if the store was in trouble for longer than a lease lasts in the worst case
//! ([`tolerated`](crate::plan::tolerated)): a lease that was about to be renewed, less the reserve for stopping and the time
//! of one request that was under way.

use surus_config::DynamicConfig;
use surus_core::failsafe::Of;
use surus_core::settings::Timing;

use super::Invariant;
use crate::history::{Ending, Happened};
use crate::plan::tolerated;
use crate::world::World;
use crate::world::clock::{SECOND, True};

#[derive(Default)]
pub struct NoNeedlessFailover {
    /// Until when something besides the store counts as disturbed.
    disturbed: True,
    /// Until when the store alone was in trouble for too long.
    stretched: True,
}

impl NoNeedlessFailover {
    fn excused(&self, w: &World) -> bool {
        // An operator asked for it, and may have been heard only now (seed 54436).
        let asked = w.store.view().failover.is_some();
        // A cluster that is still being founded has nobody to lose.
        asked || w.now < 10 * SECOND || w.now < self.disturbed.max(self.stretched) || w.healed.is_some()
    }
}

/// In force now: operators may have changed it.
fn timing(w: &World) -> Timing {
    let document = w.store.view().config.as_ref().map(|c| &c.value);
    document.map_or(w.plan.timing, |d| DynamicConfig::read(d).0.settings.timing)
}

/// A leader has said who may vouch for it.
fn vouching(w: &World) -> bool {
    w.store.view().vouching.as_ref().is_some_and(|v| v.value.of != Of::None)
}

impl Invariant for NoNeedlessFailover {
    fn name(&self) -> &'static str {
        "no needless failover"
    }

    fn sees(&mut self, w: &World, what: &Happened) -> Option<String> {
        match what {
            Happened::Disturbed { store_only: false, lasts, .. } => {
                self.disturbed = self.disturbed.max(w.now + *lasts);
            }
            Happened::Disturbed { store_only: true, lasts, .. } if *lasts > tolerated(&timing(w)) && !vouching(w) => {
                self.stretched = self.stretched.max(w.now + *lasts + 60 * SECOND);
            }
            Happened::ServerEnded { node, how } if !self.excused(w) => {
                // One that still recovers is not well.
                let led = w.nodes[*node].postgres.server.as_ref().is_some_and(|s| s.primary && s.recovers.is_none());
                let by_us = matches!(how, Ending::Stopped | Ending::Killed(_));
                return (led && by_us).then(|| format!("n{} led, was well, and was stopped", node + 1));
            }
            // Its key ends with its lease, and it goes on.
            Happened::Leader { to: None, .. } if vouching(w) => {}
            Happened::Leader { from: Some(node), .. } if !self.excused(w) => {
                return Some(format!("n{} led, was well, and lost the leader key", node + 1));
            }
            _ => {}
        }
        None
    }
}
