//! **One writer.** No two PostgreSQL servers of a group acknowledge commits at the same time.
//!
//! In simulation: clients write to every server that takes a commit, whoever leads. From the moment a promotion is
//! done, that is, from when a new timeline can be written to, no server may be *able* to acknowledge a commit on an
//! older one, and none may ever do so later. Being able means: the machine is on and awake, its disk works, and a primary
//! serves there or backends of a dead postmaster are left.
//!
//! Two exceptions, both stated to users (`docs/proof.md`). A machine that was suspended is given 100 ms after it wakes, in
//! which its fence acts. And where the fence is dead while the agent that
//! would start another is dead or frozen too, nobody is left to act: that takes watchdog hardware.

use super::Invariant;
use crate::history::Happened;
use crate::world::World;
use crate::world::clock::True;
use crate::world::fence::KILLS_WITHIN;

#[derive(Default)]
pub struct OneWriter {
    /// Of the newest promotion, or of the founding.
    reign: u64,
    unguarded: [bool; 8],
    woke: [Option<True>; 8],
}

impl OneWriter {
    fn excused(&self, w: &World, node: usize) -> bool {
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

impl Invariant for OneWriter {
    fn name(&self) -> &'static str {
        "one writer"
    }

    fn sees(&mut self, w: &World, what: &Happened) -> Option<String> {
        match what {
            Happened::Tick | Happened::Leader { .. } => self.look_for_unguarded(w),
            Happened::Woke { node } => self.woke[*node] = Some(w.now),
            Happened::BeganToWrite { node } => {
                self.look_for_unguarded(w);
                let mine = w.nodes[*node].postgres.log().map_or(0, |l| l.place().stretch);
                if mine < self.reign {
                    let said = format!("n{} serves as a primary on a timeline that was left", node + 1);
                    return (!self.excused(w, *node)).then_some(said);
                }
                // One that is unguarded does not begin a reign: an agent that saw it would end it.
                if self.excused(w, *node) {
                    return None;
                }
                self.reign = mine;
                let other = (0..w.nodes.len())
                    .find(|other| other != node && w.acknowledges(*other) && !self.excused(w, *other));
                return other
                    .map(|other| format!("n{} can be written to while n{} still acknowledges", node + 1, other + 1));
            }
            Happened::Acknowledged(ack) if ack.place.stretch < self.reign && !self.excused(w, ack.node) => {
                return Some(format!("n{} acknowledged a commit after another server was promoted", ack.node + 1));
            }
            _ => {}
        }
        None
    }
}
