//! Servers that nobody could stop in time, as is stated to users (`docs/proof.md`): a machine that was suspended is given
//! 100 ms after it wakes, in which its fence acts; and where the fence is dead while the agent that would start another is
//! dead or frozen too, nobody is left to act: that takes watchdog hardware.

use crate::history::Happened;
use crate::world::World;
use crate::world::clock::True;
use crate::world::fence::KILLS_WITHIN;

#[derive(Clone, Copy, Default)]
pub struct Excuses {
    unguarded: [bool; 8],
    woke: [Option<True>; 8],
}

impl Excuses {
    pub fn sees(&mut self, w: &World, what: &Happened) {
        match what {
            Happened::Tick | Happened::Leader { .. } | Happened::BeganToWrite { .. } => self.look_for_unguarded(w),
            Happened::Woke { node } => self.woke[*node] = Some(w.now),
            _ => {}
        }
    }

    pub fn excused(&self, w: &World, node: usize) -> bool {
        self.unguarded[node] || self.woke[node].is_some_and(|at| w.now <= at + KILLS_WITHIN)
    }

    fn look_for_unguarded(&mut self, w: &World) {
        for (node, n) in w.nodes.iter().enumerate() {
            let runs = n.postgres.server.is_some() || n.postgres.orphans;
            let nobody = !n.fence.alive && !n.agent_runs();
            self.unguarded[node] = runs && (self.unguarded[node] || nobody);
        }
    }
}
