//! The fence beside each agent: a process of its own that knows one deadline, and kills the server when it passes.

use surus_core::BootTime;

use super::World;
use super::clock::{MS, True};
use crate::bug::Bug;

/// From the deadline until nobody is left who could acknowledge a commit.
pub const KILLS_WITHIN: True = 100 * MS;

#[derive(Clone, Copy, Debug, Default)]
pub struct Fence {
    pub alive: bool,
    pub armed: Option<BootTime>,
}

impl World {
    pub fn start_fence(&mut self, node: usize) {
        self.nodes[node].fence.alive = true;
    }

    pub fn kill_fence(&mut self, node: usize) {
        self.nodes[node].fence = Fence::default();
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.fence_told = None;
            agent.inbox.fence = true;
        }
        self.nodes[node].stir();
        self.tell(node, || "fence: killed".into());
    }

    /// Each confirmed renewal moves the deadline. `false`: no fence works here.
    pub fn arm_fence(&mut self, node: usize, until: BootTime) -> bool {
        if self.is(Bug::FenceNotArmed) {
            return true;
        }
        let until = if self.is(Bug::FenceArmedFromTheAnswer) { self.boot(node) + self.plan.timing.ttl } else { until };
        let fence = &mut self.nodes[node].fence;
        if !fence.alive {
            return false;
        }
        if fence.armed != Some(until) && !self.fence_acts(node) {
            self.nodes[node].fence.armed = Some(until);
            let at = self.nodes[node].clock.when(until, self.now) + 1;
            self.at(at, move |w| w.deadline(node, until));
        }
        true
    }

    pub fn disarm_fence(&mut self, node: usize) {
        if !self.fence_acts(node) {
            self.nodes[node].fence.armed = None;
        }
    }

    /// A deadline that has passed is acted on before any message is read.
    fn fence_acts(&self, node: usize) -> bool {
        self.nodes[node].fence.armed.is_some_and(|until| until <= self.boot(node))
    }

    fn deadline(&mut self, node: usize, until: BootTime) {
        if self.nodes[node].suspended {
            return self.defer(node, Box::new(move |w| w.deadline(node, until)));
        }
        if self.nodes[node].fence.armed == Some(until) {
            let takes = self.random.below(KILLS_WITHIN * 7 / 10);
            self.after(takes, move |w| {
                if w.nodes[node].fence.armed == Some(until) && !w.nodes[node].suspended {
                    w.nodes[node].fence.armed = None;
                    if w.nodes[node].postgres.server.is_some() || w.nodes[node].postgres.orphans {
                        w.tell(node, || "fence: the deadline has passed".into());
                        w.fence_fires(node, until);
                        w.kill_server(node, "fenced");
                    }
                } else if w.nodes[node].suspended {
                    w.defer(node, Box::new(move |w| w.deadline(node, until)));
                }
            });
        }
    }
}
