//! Slots of members that may be away for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use surus_core::BootTime;
use surus_core::cluster::ClusterView;
use surus_core::facts::Facts;
use tracing::{info, warn};

/// How long a member is away before its slot may be given up for the sake of the disk.
const SHED: Duration = Duration::from_secs(60);

/// The leader's list of slots of members that may be away for a while (`spec/dcs.md §2.5`).
#[derive(Default)]
pub struct Retained {
    leading: bool,
    /// When each was last needed by a member that is there.
    pub seen: BTreeMap<String, BootTime>,
}

impl Retained {
    pub fn note(&mut self, view: &ClusterView, known: &[String], facts: &Facts, lead: bool, shed: bool) {
        let now = facts.now;
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
            // Nothing is known of one that has just come to lead: whoever is away may only be late.
            let keep = now.since(*seen) <= if shed { SHED.min(ttl) } else { ttl };
            if !keep && shed {
                warn!(
                    "giving up replication slot '{slot}' of an absent member because the disk is nearly full \
                     (disk_guard.drop_absent_slots): that member will have to fetch the log from an archive or be copied anew"
                );
            } else if !keep {
                info!("Replication slot '{slot}' for absent cluster member is expired after {} sec.", ttl.as_secs());
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::view;
    use super::*;
    use crate::rest::testing::primary;
    use crate::sample::{NOW, facts};

    fn note(r: &mut Retained, now: BootTime, view: &ClusterView, known: &[String], f: &Facts, lead: bool, shed: bool) {
        r.note(view, known, &Facts { now, ..f.clone() }, lead, shed);
    }

    #[test]
    fn slots_of_absent_members_go_early_when_the_disk_is_nearly_full() {
        let f = facts(view(&[], &[]), Some(primary()));
        let mut retained = Retained::default();
        note(&mut retained, NOW, &view(&["me", "b", "c"], &[]), &[], &f, true, true);
        assert_eq!(retained.seen.len(), 2);
        let later = |seconds| NOW + Duration::from_secs(seconds);
        note(&mut retained, later(60), &view(&["me", "b"], &[]), &[], &f, true, true);
        assert_eq!(retained.seen.len(), 2, "it may only be late");
        note(&mut retained, later(61), &view(&["me", "b"], &[]), &[], &f, true, false);
        assert_eq!(retained.seen.len(), 2, "there is room");
        note(&mut retained, later(62), &view(&["me", "b"], &[]), &[], &f, true, true);
        assert_eq!(retained.seen.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn slots_of_absent_members_are_kept_for_their_time() {
        let mut f = facts(view(&[], &[]), Some(primary()));
        f.settings.member_slots_ttl = Duration::from_secs(60);
        let mut retained = Retained::default();
        let names = |r: &Retained| r.seen.keys().cloned().collect::<Vec<_>>();
        // A new leader inherits the list, and keeps what the former leader needs to come back.
        note(&mut retained, NOW, &view(&["me", "b"], &["gone", "me"]), &["old_leader".into()], &f, true, false);
        assert_eq!(names(&retained), ["b", "gone", "old_leader"]);
        note(&mut retained, NOW + Duration::from_secs(60), &view(&["me", "b"], &[]), &[], &f, true, false);
        assert_eq!(names(&retained), ["b", "gone", "old_leader"]);
        note(&mut retained, NOW + Duration::from_secs(61), &view(&["me"], &[]), &[], &f, true, false);
        assert_eq!(names(&retained), ["b"], "b was there a second ago");
        note(&mut retained, NOW + Duration::from_secs(62), &view(&["me"], &[]), &[], &f, false, false);
        assert_eq!(names(&retained), Vec::<String>::new());
        f.settings.use_slots = false;
        note(&mut retained, NOW, &view(&["me", "b"], &["gone"]), &[], &f, true, false);
        assert_eq!(names(&retained), Vec::<String>::new());
    }
}
