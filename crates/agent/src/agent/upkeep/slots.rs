//! Replication slots of members (`spec/ha.md §17`): creating, advancing, and above all not dropping what somebody needs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_config::DynamicConfig;
use surus_core::BootTime;
use surus_core::cluster::{ClusterView, Status};
use surus_core::facts::Facts;
use surus_core::postgres::{Observed, Slot};
use surus_core::settings::ClusterSettings;
use tracing::info;

use crate::agent::Agent;

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
}

/// The leader's list of slots of members that may be away for a while (`spec/dcs.md §2.5`).
#[derive(Default)]
struct Retained {
    leading: bool,
    /// When each was last needed by a member that is there.
    seen: BTreeMap<String, BootTime>,
}

impl Retained {
    fn note(&mut self, view: &ClusterView, known: &[String], facts: &Facts, lead: bool, now: BootTime) {
        if !lead || !facts.settings.use_slots {
            *self = Retained::default();
            return;
        }
        if !std::mem::replace(&mut self.leading, true) {
            // What the leader before me kept for absent members is kept for another full period, and so is
            // what that leader itself needs to come back.
            self.seen = view.status.retain_slots.iter().chain(known).map(|s| (s.clone(), now)).collect();
        }
        for member in view.others(&facts.me).filter(|m| !m.tags.nostream()) {
            self.seen.insert(member.name.slot_name(), now);
        }
        self.seen.remove(&facts.me.slot_name());
        let ttl = facts.settings.member_slots_ttl;
        self.seen.retain(|slot, seen| {
            let keep = now.since(*seen) <= ttl;
            if !keep {
                info!("Replication slot '{slot}' for absent cluster member is expired after {} sec.", ttl.as_secs());
            }
            keep
        });
    }
}

/// Slots that belong to somebody else: permanent ones, and those an operator wants ignored.
fn spared(dynamic: &DynamicConfig, have: &BTreeMap<&str, &Slot>) -> BTreeSet<String> {
    // A description without a name may mean any of them.
    let any = dynamic.ignore_slots.iter().any(|i| i.name.is_none());
    let all = any.then(|| have.keys().map(|name| (*name).to_owned())).into_iter().flatten();
    let named = dynamic.ignore_slots.iter().filter_map(|i| i.name.clone());
    dynamic.slots.keys().cloned().chain(named).chain(all).collect()
}

impl Slots {
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
        let retain = self.retained.seen.keys().filter(|s| !dynamic.slots.contains_key(*s)).cloned().collect();
        Status { optime: observed.position(), slots, retain_slots: retain }
    }

    /// Slots that have not been unwanted for long enough to be sure of it.
    fn young(&mut self, have: &BTreeMap<&str, &Slot>, wanted: &BTreeSet<String>, now: BootTime) -> BTreeSet<String> {
        self.unwanted.retain(|n, _| have.contains_key(n.as_str()) && !wanted.contains(n));
        for name in have.keys().filter(|n| !wanted.contains(**n)) {
            self.unwanted.entry((*name).to_owned()).or_insert(now);
        }
        self.unwanted.iter().filter(|(_, since)| now.since(**since) < UNWANTED).map(|(n, _)| n.clone()).collect()
    }

    fn due(&mut self, wanted: &BTreeSet<String>, lead: bool, settings: &ClusterSettings, now: BootTime) -> bool {
        let key = Some((wanted.clone(), lead));
        let rested = self.synced.is_none_or(|at| now.since(at) >= settings.timing.loop_wait);
        if !rested && self.synced_for == key {
            return false;
        }
        (self.synced_for, self.synced) = (key, Some(now));
        true
    }
}

impl Agent {
    pub(super) fn keep_slots(&mut self, facts: &Facts) {
        let Some(view) = facts.store.view.clone().filter(|_| facts.store.broken.is_none()) else { return };
        let lead = facts.lead.is_some() && facts.postgres.is_primary();
        let known: Vec<String> = self
            .member
            .memory()
            .known_members
            .values()
            .filter(|m| !m.tags.nostream())
            .map(|m| m.name.slot_name())
            .collect();
        let (now, slots) = (facts.now, &mut self.upkeep.slots);
        slots.retained.note(&view, &known, facts, lead, now);
        let Some(observed) = facts.postgres.observed() else { return };
        if !facts.postgres.accepting() || view.leader.is_none() {
            return;
        }
        if self.member.task().is_some_and(|t| t.task.is_stopping()) {
            return;
        }
        let mut wanted = surus_core::slots::wanted(&view, &facts.me, &facts.settings, lead, facts.tags.nofailover());
        wanted.names.extend(slots.retained.seen.keys().cloned());
        if !slots.due(&wanted.names, lead, &facts.settings, now) {
            return;
        }
        // Nothing to do costs nothing: what is there is known from the answer already.
        let have: BTreeMap<&str, &Slot> =
            observed.slots.iter().filter(|s| !s.logical).map(|s| (s.name.as_str(), s)).collect();
        let mut keep = spared(&self.settings.dynamic, &have);
        keep.extend(slots.young(&have, &wanted.names, now));
        let drop_others = !facts.settings.pause;
        let missing = wanted.names.iter().any(|n| !have.contains_key(n.as_str()));
        let surplus = drop_others && have.keys().any(|n| !wanted.names.contains(*n) && !keep.contains(*n));
        let behind = wanted
            .advance
            .iter()
            .any(|(n, lsn)| have.get(n.as_str()).is_some_and(|s| s.restart_lsn.is_none_or(|r| r < *lsn)));
        if !missing && !surplus && !behind {
            return;
        }
        let instance = self.instance.clone();
        self.upkeep.spawn("keeping replication slots", async move {
            let keep = drop_others.then_some(&keep);
            let changes =
                instance.sync_member_slots(&wanted.names, &wanted.advance, keep).await.map_err(|e| e.to_string())?;
            for (what, names) in [("created", &changes.created), ("dropped", &changes.dropped)] {
                if !names.is_empty() {
                    info!("replication slots {what}: {}", names.join(", "));
                }
            }
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use surus_core::Lsn;
    use surus_core::cluster::Member;

    use super::*;
    use crate::rest::testing::primary;
    use crate::sample::{NOW, facts};

    fn view(members: &[&str], retain: &[&str]) -> ClusterView {
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
        }
    }

    #[test]
    fn slots_of_absent_members_are_kept_for_their_time() {
        let mut f = facts(view(&[], &[]), Some(primary()));
        f.settings.member_slots_ttl = Duration::from_secs(60);
        let mut retained = Retained::default();
        let names = |r: &Retained| r.seen.keys().cloned().collect::<Vec<_>>();
        // A new leader inherits the list, and keeps what the former leader needs to come back.
        retained.note(&view(&["me", "b"], &["gone", "me"]), &["old_leader".into()], &f, true, NOW);
        assert_eq!(names(&retained), ["b", "gone", "old_leader"]);
        retained.note(&view(&["me", "b"], &[]), &[], &f, true, NOW + Duration::from_secs(60));
        assert_eq!(names(&retained), ["b", "gone", "old_leader"]);
        retained.note(&view(&["me"], &[]), &[], &f, true, NOW + Duration::from_secs(61));
        assert_eq!(names(&retained), ["b"], "b was there a second ago");
        retained.note(&view(&["me"], &[]), &[], &f, false, NOW + Duration::from_secs(62));
        assert_eq!(names(&retained), Vec::<String>::new());
        f.settings.use_slots = false;
        retained.note(&view(&["me", "b"], &["gone"]), &[], &f, true, NOW);
        assert_eq!(names(&retained), Vec::<String>::new());
    }

    #[test]
    fn permanent_and_ignored_slots_are_nobody_elses_to_drop() {
        let (a, b) = (slot("a", false), slot("b", false));
        let have: BTreeMap<&str, &Slot> = [("a", &a), ("b", &b)].into();
        let spared = |document| {
            let (dynamic, warnings) = DynamicConfig::read(&document);
            assert!(warnings.is_empty(), "{warnings:?}");
            spared(&dynamic, &have).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(spared(json!({})), Vec::<String>::new());
        assert_eq!(spared(json!({"slots": {"audit": {"type": "physical"}}})), ["audit"]);
        assert_eq!(spared(json!({"ignore_slots": [{"name": "a", "type": "physical"}]})), ["a"]);
        assert_eq!(spared(json!({"ignore_slots": [{"type": "physical"}]})), ["a", "b"]);
    }

    #[test]
    fn an_unwanted_slot_is_given_time() {
        let mut slots = Slots::default();
        let (a, wanted) = (slot("a", false), BTreeSet::new());
        let have: BTreeMap<&str, &Slot> = [("a", &a)].into();
        let young = |slots: &mut Slots, wanted, at| !slots.young(&have, wanted, at).is_empty();
        assert!(young(&mut slots, &wanted, NOW));
        assert!(!young(&mut slots, &wanted, NOW + UNWANTED));
        let again: BTreeSet<String> = ["a".to_owned()].into();
        assert!(!young(&mut slots, &again, NOW + UNWANTED));
        assert!(young(&mut slots, &wanted, NOW + UNWANTED), "its time begins anew");
    }

    #[test]
    fn the_status_key() {
        let mut f = facts(view(&["me", "b"], &[]), Some(primary()));
        let observed = Observed { flush_lsn: Lsn(9), slots: vec![slot("b", false), slot("l", true)], ..primary() };
        let mut slots = Slots::default();
        slots.retained.note(&view(&["me", "b", "c"], &[]), &[], &f, true, NOW);
        let (dynamic, _) = DynamicConfig::read(&json!({"slots": {"c": {"type": "physical"}}}));
        assert_eq!(
            slots.status(&f, &observed, &dynamic).to_text(),
            r#"{"optime":9,"slots":{"b":5,"l":7,"me":9},"retain_slots":["b"]}"#
        );
        f.settings.use_slots = false;
        slots.retained.note(&view(&["me", "b", "c"], &[]), &[], &f, true, NOW);
        assert_eq!(slots.status(&f, &observed, &dynamic).to_text(), r#"{"optime":9}"#);
    }
}
