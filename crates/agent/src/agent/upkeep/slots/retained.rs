//! Slots of members that may be away for a while.

use std::collections::BTreeMap;

use surus_core::BootTime;
use surus_core::cluster::ClusterView;
use surus_core::facts::Facts;
use tracing::info;

/// The leader's list of slots of members that may be away for a while (`spec/dcs.md §2.5`).
#[derive(Default)]
pub struct Retained {
    leading: bool,
    /// When each was last needed by a member that is there.
    pub seen: BTreeMap<String, BootTime>,
}

impl Retained {
    pub fn note(&mut self, view: &ClusterView, known: &[String], facts: &Facts, lead: bool, now: BootTime) {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::view;
    use super::*;
    use crate::rest::testing::primary;
    use crate::sample::{NOW, facts};

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
}
