//! Replication slots (`spec/ha.md §17`): creating, advancing, and above all not dropping what somebody needs.

mod native;
mod ready;
mod retained;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_config::DynamicConfig;
use surus_core::BootTime;
use surus_core::cluster::Status;
use surus_core::facts::Facts;
use surus_core::postgres::{Observed, Slot};
use surus_core::settings::ClusterSettings;
use surus_core::slots::{self, Action, FAILOVER_SLOTS, Here, LogicalSlot, Node, Plan, Want, Wanted};
use tracing::{info, warn};

use self::native::Native;
use self::ready::Ready;
use self::retained::Retained;
use self::room::Watch;
use crate::agent::Agent;
use crate::handle::WalKept;

/// How long an unwanted slot is left alone. When the lead changes, the new leader's list of slots to
/// retain arrives a moment after its name.
const UNWANTED: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Slots {
    synced: Option<BootTime>,
    synced_for: Option<(BTreeSet<String>, bool)>,
    retained: Retained,
    /// Since when a slot is wanted by nobody.
    unwanted: BTreeMap<String, BootTime>,
    /// Logical slots that only a copy of the leader's can bring here.
    missing: Vec<LogicalSlot>,
    ready: Ready,
    native: Native,
    watch: Watch,
    told: BTreeSet<String>,
}

impl Slots {
    pub fn missing(&self) -> Vec<LogicalSlot> {
        self.missing.clone()
    }

    pub fn unready(&self) -> Vec<String> {
        self.wal().unready()
    }

    pub fn wal(&self) -> WalKept {
        let mut shown = self.watch.shown();
        shown.ready = self.native.ready.clone();
        shown.ready.extend(self.ready.shown());
        shown.ready.extend(self.missing.iter().map(|slot| (slot.name.clone(), false)));
        shown
    }

    /// The `status` key of a leader (`spec/dcs.md §2.5`).
    pub fn status(&self, facts: &Facts, observed: &Observed, dynamic: &DynamicConfig) -> Status {
        let mut slots = BTreeMap::new();
        if facts.settings.use_slots {
            for slot in &observed.slots {
                let lsn = if slot.logical { slot.confirmed_flush_lsn } else { slot.restart_lsn };
                slots.extend(lsn.map(|l| (slot.name.clone(), l)));
            }
            slots.insert(facts.me.slot_name(), observed.position());
        }
        // My own as well: a Patroni member that leads after my death keeps for me only what is listed here, and without
        // it the log that I need to come back is gone.
        let own = (facts.settings.use_slots && !facts.tags.nostream()).then(|| facts.me.slot_name());
        let names: BTreeSet<String> = self.retained.seen.keys().cloned().chain(own).collect();
        let retain = names.into_iter().filter(|s| !dynamic.slots.contains_key(s)).collect();
        Status { optime: observed.position(), slots, retain_slots: retain }
    }

    /// Slots that have not been unwanted for long enough to be sure of it.
    fn young(&mut self, have: &[Slot], wanted: &BTreeMap<String, Want>, now: BootTime) -> BTreeSet<String> {
        self.unwanted.retain(|n, _| have.iter().any(|s| s.name == *n) && !wanted.contains_key(n));
        for slot in have.iter().filter(|s| !wanted.contains_key(&s.name)) {
            self.unwanted.entry(slot.name.clone()).or_insert(now);
        }
        self.unwanted.iter().filter(|(_, since)| now.since(**since) < UNWANTED).map(|(n, _)| n.clone()).collect()
    }

    fn due(&mut self, wanted: &Wanted, lead: bool, settings: &ClusterSettings, now: BootTime) -> bool {
        let key = Some((wanted.slots.keys().cloned().collect(), lead));
        let rested = self.synced.is_none_or(|at| now.since(at) >= settings.timing.loop_wait);
        if !rested && self.synced_for == key {
            return false;
        }
        (self.synced_for, self.synced) = (key, Some(now));
        true
    }

    /// Says what there is to say once, and again when it comes back.
    fn tell(&mut self, wanted: &Wanted, plan: &Plan) {
        let in_use = plan.in_use.iter().map(|name| {
            format!("replication slot {name} is to go, and something reads from it: it is kept until that ends")
        });
        let unprotected = plan.unprotected.iter().map(|name| {
            format!(
                "logical replication slot {name} will be missing after a failover; to have it on every member, name it \
                 in `slots` of the dynamic configuration; to silence this, in `ignore_slots`"
            )
        });
        let bound = plan.bound.iter().map(|name| {
            format!(
                "logical replication slot {name} cannot be made a failover slot, or an ordinary one again, while \
                 something reads from it; let its reader be away for a moment (ALTER SUBSCRIPTION ... DISABLE)"
            )
        });
        let now = wanted.faults.iter().cloned().chain(in_use).chain(unprotected).chain(bound);
        let now: BTreeSet<String> = now.collect();
        for line in now.difference(&self.told) {
            warn!("{line}");
        }
        self.told = now;
    }
}

impl Agent {
    pub(super) fn keep_slots(&mut self, facts: &Facts) {
        let Some((view, without_store)) = self.view_for_slots(facts) else { return };
        let primary = facts.postgres.is_primary();
        let lead = facts.lead.is_some() && (primary || facts.settings.standby_cluster);
        let known: Vec<String> = self
            .member
            .memory()
            .known_members
            .values()
            .filter(|m| !m.tags.nostream())
            .map(|m| m.name.slot_name())
            .collect();
        let guard = &facts.settings.disk_guard;
        let shed = guard.drop_absent_slots && self.upkeep.slots.watch.is_low(guard);
        if !without_store {
            self.upkeep.slots.retained.note(&view, &known, facts, lead, shed);
        }
        let Some(observed) = facts.postgres.observed() else { return };
        if !facts.postgres.accepting() || view.leader.is_none() {
            return;
        }
        if self.member.task().is_some_and(|t| t.task.is_stopping()) {
            return;
        }
        let dynamic = &self.settings.dynamic;
        let mut wanted = slots::wanted(&Node {
            view: &view,
            me: &facts.me,
            tags: &facts.tags,
            settings: &facts.settings,
            permanent: &dynamic.slots,
            leads: lead,
            server_version: observed.server_version,
            synchronised: dynamic.synchronises_slots(),
        });
        for slot in self.upkeep.slots.retained.seen.keys() {
            wanted.slots.entry(slot.clone()).or_insert(Want::Physical { used_here: true, at: None });
        }
        let mine = &mut self.upkeep.slots;
        let spared = mine.young(&observed.slots, &wanted.slots, facts.now);
        let here = Here {
            primary,
            replayed: observed.replay_lsn,
            paused: facts.settings.pause,
            spared: &spared,
            ignored: &dynamic.ignore_slots,
            synchronised: dynamic.synchronises_slots() && observed.server_version >= FAILOVER_SLOTS,
            leader_has: mine.native.leader_has(facts, &view, observed),
        };
        let mut plan = slots::plan(&observed.slots, &wanted.slots, &here);
        self.watch_wal(facts, observed);
        if without_store {
            // Who needs which slot may have changed since; that all of them are moved on harms nobody.
            plan.actions.retain(|a| matches!(a, Action::AdvancePhysical(..) | Action::AdvanceLogical { .. }));
        } else {
            self.upkeep.slots.tell(&wanted, &plan);
            self.judge_slots(facts, &view, observed, &wanted);
            self.ask_failover_slots(facts, &view, observed);
            self.note_missing(&plan);
        }
        // Nothing to do costs nothing: what is there is known from the answer already.
        if plan.actions.is_empty() || !self.upkeep.slots.due(&wanted, lead, &facts.settings, facts.now) {
            return;
        }
        let (instance, again) = (self.instance.clone(), self.upkeep.slots.ready.again.clone());
        self.upkeep.spawn("keeping replication slots", async move {
            let mut trouble = Vec::new();
            for changed in instance.change_slots(plan.actions).await.map_err(|e| e.to_string())? {
                match (&changed.action, changed.outcome) {
                    (Action::Drop { name, why }, Ok(())) => info!("replication slot {name} dropped: {why}"),
                    (Action::GiveWay(name), Ok(())) => {
                        info!(
                            "replication slot {name} dropped: the leader's slot of that name is synchronised instead"
                        );
                    }
                    (Action::CreatePhysical(name), Ok(())) => info!("replication slot {name} created"),
                    (Action::CreateLogical { slot, failover }, Ok(())) => {
                        let how = if *failover { ", as a failover slot" } else { "" };
                        info!("logical replication slot {} created in database {}{how}", slot.name, slot.database);
                    }
                    (Action::SetFailover { slot, on }, Ok(())) => {
                        let now = if *on { "is a failover slot now" } else { "is no failover slot any more" };
                        info!("logical replication slot {} {now}", slot.name);
                    }
                    (_, Ok(())) => {}
                    // The WAL or the catalog rows it needs are gone here; the leader's slot is further on.
                    (Action::AdvanceLogical { slot, .. }, Err(e))
                        if matches!(e.sqlstate(), Some("58P01" | "55000")) =>
                    {
                        warn!("logical replication slot {} cannot be moved on ({e}); it is copied again", slot.name);
                        again.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(slot.clone());
                    }
                    (action, Err(e)) => trouble.push(format!("{}: {e}", name_of(action))),
                }
            }
            if trouble.is_empty() { Ok(()) } else { Err(trouble.join("; ")) }
        });
    }
}

impl Agent {
    fn note_missing(&mut self, plan: &Plan) {
        let mut missing: BTreeSet<LogicalSlot> = plan.to_copy.iter().cloned().collect();
        missing.extend(self.upkeep.slots.ready.copy_again());
        let missing: Vec<LogicalSlot> = missing.into_iter().collect();
        if self.upkeep.slots.missing != missing {
            self.upkeep.slots.missing = missing;
            self.wake.notify_one();
        }
    }
}

fn name_of(action: &Action) -> &str {
    match action {
        Action::Drop { name, .. }
        | Action::GiveWay(name)
        | Action::CreatePhysical(name)
        | Action::AdvancePhysical(name, _) => name,
        Action::CreateLogical { slot, .. } | Action::SetFailover { slot, .. } | Action::AdvanceLogical { slot, .. } => {
            &slot.name
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use surus_core::Lsn;
    use surus_core::cluster::{ClusterView, Member};

    use super::*;
    use crate::rest::testing::primary;
    use crate::sample::{NOW, facts};

    pub fn view(members: &[&str], retain: &[&str]) -> ClusterView {
        let mut view = ClusterView::default();
        view.status.retain_slots = retain.iter().map(|s| (*s).to_owned()).collect();
        view.members = members.iter().map(|n| ((*n).into(), Member::unknown((*n).into()))).collect();
        view
    }

    fn slot(name: &str, logical: bool) -> Slot {
        Slot {
            name: name.into(),
            logical,
            active: false,
            restart_lsn: Some(Lsn(5)),
            confirmed_flush_lsn: logical.then_some(Lsn(7)),
            has_xmin: false,
            wal_status: None,
            plugin: None,
            database: None,
            failover: false,
            synced: false,
        }
    }

    #[test]
    fn an_unwanted_slot_is_given_time() {
        let mut slots = Slots::default();
        let (have, wanted) = (vec![slot("a", false)], BTreeMap::new());
        let young = |slots: &mut Slots, wanted, at| !slots.young(&have, wanted, at).is_empty();
        assert!(young(&mut slots, &wanted, NOW));
        assert!(!young(&mut slots, &wanted, NOW + UNWANTED));
        let again: BTreeMap<String, Want> = [("a".to_owned(), Want::Physical { used_here: true, at: None })].into();
        assert!(!young(&mut slots, &again, NOW + UNWANTED));
        assert!(young(&mut slots, &wanted, NOW + UNWANTED), "its time begins anew");
    }

    #[test]
    fn the_status_key() {
        let mut f = facts(view(&["me", "b"], &[]), Some(primary()));
        let observed = Observed { flush_lsn: Lsn(9), slots: vec![slot("b", false), slot("l", true)], ..primary() };
        let mut slots = Slots::default();
        slots.retained.note(&view(&["me", "b", "c"], &[]), &[], &f, true, false);
        let (dynamic, _) = DynamicConfig::read(&json!({"slots": {"c": {"type": "physical"}}}));
        assert_eq!(
            slots.status(&f, &observed, &dynamic).to_text(),
            r#"{"optime":9,"slots":{"b":5,"l":7,"me":9},"retain_slots":["b","me"]}"#
        );
        f.settings.use_slots = false;
        slots.retained.note(&view(&["me", "b", "c"], &[]), &[], &f, true, false);
        assert_eq!(slots.status(&f, &observed, &dynamic).to_text(), r#"{"optime":9}"#);
    }
}
