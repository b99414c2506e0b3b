//! **It comes back.** Once faults stop and a majority can talk, there is one primary and every member follows it, with no
//! hand on it.
//!
//! In simulation: all faults of a run stop at one moment; machines that are off are switched on, frozen processes go on,
//! agents that ended are started, a pause ends. Within four times the `ttl` and two minutes from then on the cluster must be
//! [`well`], and stay so for ten seconds. A cluster that follows another site is well when one member leads and streams from
//! there, and all others stream from it. A member is left to an operator whose rewind broke off and whom the leader
//! of then cannot mend, where the settings do not allow to make it anew; and so is one whose log forked, where they allow
//! nothing: an operator, who comes after a minute, has it made anew ([`World::operator_comes`]).

use super::Invariant;
use crate::history::Happened;
use crate::member::histories::parted;
use crate::plan::us;
use crate::world::World;
use crate::world::clock::{SECOND, True};
use crate::world::remote::FAR;

#[derive(Default)]
pub struct ComesBack {
    well_since: Option<True>,
}

pub const STAYS: True = 10 * SECOND;

/// What is missing: one member leads and accepts writes, all others stream from it, and nothing is left to do.
pub fn well(w: &World) -> Result<usize, String> {
    let view = w.store.view();
    let Some(leader) = view.leader_name() else { return Err("nobody leads".into()) };
    let Some(leads) = w.number(leader) else { return Err(format!("{leader} leads and is no member")) };
    let follows = w.follows_remote();
    if follows && w.nodes.iter().any(|n| n.postgres.writes()) {
        return Err("a primary is left in a cluster that follows another".into());
    }
    if follows && !w.streams_from(leads, FAR) {
        return Err(format!("{leader} leads and does not stream from the other site"));
    }
    if !follows && (!w.acknowledges(leads) || !w.nodes[leads].postgres.writes()) {
        return Err(format!("{leader} leads and accepts no writes"));
    }
    if w.lease(leads).lead.is_none() {
        return Err(format!("{leader} has the leader key and does not know it"));
    }
    for (node, n) in w.nodes.iter().enumerate() {
        if n.agent.is_none() {
            return Err(format!("the agent of {} does not run", n.name));
        }
        if left_to_an_operator(w, node, if follows { FAR } else { leads }) {
            continue;
        }
        if !n.postgres.serves() {
            return Err(format!("PostgreSQL of {} does not serve", n.name));
        }
        if node != leads && !w.streams_from(node, leads) {
            return Err(format!("{} does not stream from {leader}", n.name));
        }
    }
    if view.failover.is_some() {
        return Err("a request is left in the store".into());
    }
    Ok(leads)
}

fn left_to_an_operator(w: &World, node: usize, leads: usize) -> bool {
    let Some(torn) = w.nodes[node].postgres.data.as_ref().and_then(|data| data.torn) else { return false };
    let document = w.store.view().config.as_ref().map(|c| c.value.clone()).unwrap_or_default();
    let settings = surus_config::DynamicConfig::read(&document).0.settings;
    !settings.remove_data_directory_on_rewind_failure
        && !settings.remove_data_directory_on_diverged_timelines
        && matches!(parted(w, node, leads), Ok(fork) if fork.is_none_or(|fork| fork > torn))
}

impl Invariant for ComesBack {
    fn name(&self) -> &'static str {
        "it comes back"
    }

    fn sees(&mut self, w: &World, what: &Happened) -> Option<String> {
        let (Happened::Tick, Some(healed)) = (what, w.healed) else { return None };
        let limit = healed + 4 * us(w.plan.timing.ttl) + 120 * SECOND;
        match well(w) {
            Ok(_) => {
                self.well_since.get_or_insert(w.now);
            }
            Err(why) => {
                if self.well_since.take().is_none() && w.now > limit {
                    return Some(format!("{} s after the last fault {why}", (w.now - healed) / SECOND));
                }
            }
        }
        None
    }
}
