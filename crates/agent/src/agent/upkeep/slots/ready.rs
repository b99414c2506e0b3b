//! Whether the logical slots of this standby could be read from after a failover.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_core::cluster::{ClusterView, Upstream};
use surus_core::facts::Facts;
use surus_core::postgres::Observed;
use surus_core::slots::{LogicalSlot, Readiness, Want, Wanted, Xmins};
use surus_core::{BootTime, MemberName};
use tracing::{error, info, warn};

use super::native::Native;
use crate::agent::Agent;

const LIMIT: Duration = Duration::from_secs(5);

#[derive(Default)]
pub struct Ready {
    /// As long as the server is the one that was started then, what was found out holds.
    server: Option<String>,
    known: BTreeSet<String>,
    doubts: Readiness,
    asked: Option<BootTime>,
    answer: Arc<Mutex<Option<(Xmins, Xmins)>>>,
    /// Slots that did not move on.
    pub again: Arc<Mutex<BTreeSet<LogicalSlot>>>,
    complained: bool,
}

impl Ready {
    pub fn shown(&self) -> impl Iterator<Item = (String, bool)> {
        let pending: BTreeSet<&str> = self.doubts.pending().collect();
        self.known.iter().map(move |slot| (slot.clone(), !pending.contains(slot.as_str())))
    }

    pub fn copy_again(&self) -> BTreeSet<LogicalSlot> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Agent {
    pub(super) fn judge_slots(&mut self, facts: &Facts, view: &ClusterView, observed: &Observed, wanted: &Wanted) {
        let logical: BTreeSet<&str> = wanted
            .slots
            .iter()
            .filter(|(name, want)| {
                let here = observed.slots.iter().any(|s| s.logical && s.name == **name);
                here && matches!(want, Want::Logical { native: false, .. })
            })
            .map(|(name, _)| name.as_str())
            .collect();
        let slots = &mut self.upkeep.slots;
        if !observed.in_recovery {
            let native = slots.native.ready.iter().filter(|(_, ready)| !**ready).map(|(slot, _)| slot.as_str());
            let unsafe_ones: Vec<&str> = slots.ready.doubts.pending().chain(native).collect();
            if !unsafe_ones.is_empty() {
                warn!(
                    "Logical replication slots that might be unsafe to use after promote: {}; a reader may miss changes \
                     or be refused",
                    unsafe_ones.join(", ")
                );
            }
            slots.ready = Ready::default();
            slots.native = Native::default();
            return;
        }
        slots.native.note(wanted, observed);
        let ready = &mut slots.ready;
        if ready.server.as_ref() != Some(&observed.postmaster_start_time) {
            ready.server = Some(observed.postmaster_start_time.clone());
            ready.known.clear();
            // It was stopped, so that copies could be put below it; if that did not help, it shows again.
            ready.again.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        ready.doubts.keep_only(&logical);
        let new: Vec<&str> = logical.iter().copied().filter(|name| !ready.known.contains(*name)).collect();
        ready.doubts.doubt(new);
        ready.known = logical.iter().map(|name| (*name).to_owned()).collect();
        if let Some((leader, local)) = ready.answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let slot = connected_by(view, &facts.me).slot_name();
            match leader.get(&slot) {
                Some(Some(mine)) => {
                    ready.complained = false;
                    for slot in ready.doubts.judge(*mine, &leader, &local) {
                        info!("Logical slot {slot} is safe to be used after a failover");
                    }
                }
                Some(None) if !std::mem::replace(&mut ready.complained, true) => {
                    error!("Logical slot failover requires \"hot_standby_feedback\". Please check postgresql.auto.conf")
                }
                None if !std::mem::replace(&mut ready.complained, true) => {
                    warn!("Physical slot {slot} does not exist on the primary");
                }
                _ => {}
            }
        }
        let rested = ready.asked.is_none_or(|at| facts.now.since(at) >= facts.settings.timing.loop_wait);
        if ready.doubts.is_complete() || !rested {
            return;
        }
        let Some(leader) = view.leader_member().filter(|m| m.name != facts.me).and_then(|m| m.upstream()) else {
            return;
        };
        ready.asked = Some(facts.now);
        let (instance, answer, wake) = (self.instance.clone(), ready.answer.clone(), self.wake.clone());
        self.upkeep.spawn("asking the leader about logical slots", async move {
            let leader: Upstream = leader;
            let theirs = instance.catalog_xmins_at(&leader, LIMIT).await.map_err(|e| e.to_string())?;
            let mine = instance.catalog_xmins(LIMIT).await.map_err(|e| e.to_string())?;
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some((theirs, mine));
            wake.notify_one();
            Ok(())
        });
    }
}

/// The member whose slot on the primary stands for `me`: the first of those `me` streams through.
fn connected_by(view: &ClusterView, me: &MemberName) -> MemberName {
    let mut at = me.clone();
    for _ in 0..=view.members.len() {
        let next = view.members.get(&at).and_then(|m| m.tags.replicatefrom());
        match next.filter(|n| view.members.contains_key(n) && view.leader_name() != Some(n)) {
            Some(next) => at = next,
            None => break,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::Member;

    use super::*;

    #[test]
    fn a_cascade_is_protected_by_its_first_member() {
        let mut view = ClusterView::default();
        for (name, from) in [("a", ""), ("b", "a"), ("c", "b"), ("d", "gone")] {
            let mut member = Member::unknown(name.into());
            if !from.is_empty() {
                member.tags.0.insert("replicatefrom".into(), from.into());
            }
            view.members.insert(name.into(), member);
        }
        view.leader = Some(surus_core::cluster::Leader { name: "a".into(), version: 1, lease: None });
        let by = |name: &str| connected_by(&view, &name.into()).0;
        assert_eq!((by("b"), by("c"), by("d")), ("b".into(), "b".into(), "d".into()));
    }
}
