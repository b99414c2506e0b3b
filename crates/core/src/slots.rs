//! Which member slots a node keeps, and how far the inactive ones may advance (`spec/ha.md §17`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::ClusterView;
use crate::ids::{Lsn, MemberName};
use crate::settings::ClusterSettings;

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WantedSlots {
    pub names: BTreeSet<String>,
    /// For slots that nobody streams from on this node: where their owner is known to be.
    pub advance: BTreeMap<String, Lsn>,
}

/// Physical slots of the other members, on the leader and on replicas alike: a new leader that already
/// has them serves its followers without delay and has kept the WAL they need.
pub fn wanted(
    view: &ClusterView,
    me: &MemberName,
    settings: &ClusterSettings,
    i_lead: bool,
    nofailover: bool,
) -> WantedSlots {
    let mut wanted = WantedSlots::default();
    if !settings.use_slots {
        return wanted;
    }
    let everywhere = settings.member_slots_ttl > Duration::ZERO && !nofailover;
    for member in view.others(me).filter(|m| !m.tags.nostream()) {
        let from = member.tags.replicatefrom();
        let streams_from_me = match &from {
            Some(from) if view.members.contains_key(from) => from == me,
            _ => i_lead,
        };
        if !streams_from_me && !everywhere {
            continue;
        }
        let slot = member.name.slot_name();
        if !streams_from_me {
            let published = view.status.slots.get(&slot).copied().unwrap_or_default();
            let own = if from.is_some() { member.xlog_location.unwrap_or_default() } else { Lsn::INVALID };
            let target = published.max(own);
            if target.is_valid() {
                wanted.advance.insert(slot.clone(), target);
            }
        }
        wanted.names.insert(slot);
    }
    if !nofailover {
        let mine = me.slot_name();
        wanted.names.extend(view.status.retain_slots.iter().filter(|s| **s != mine).cloned());
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Member, Status};

    #[test]
    fn cascades_and_absentees() {
        let mut view = ClusterView {
            status: Status {
                optime: Lsn(9),
                slots: [("c".into(), Lsn(5))].into(),
                retain_slots: vec!["gone".into(), "b".into()],
            },
            ..ClusterView::default()
        };
        for (name, from, nostream) in
            [("a", None, false), ("b", None, false), ("c", Some("b"), false), ("d", None, true)]
        {
            let mut m = Member { xlog_location: Some(Lsn(7)), ..Member::unknown(name.into()) };
            if let Some(from) = from {
                m.tags.0.insert("replicatefrom".into(), from.into());
            }
            m.tags.0.insert("nostream".into(), nostream.into());
            view.members.insert(name.into(), m);
        }
        let settings = ClusterSettings::default();
        let names = |w: &WantedSlots| w.names.iter().cloned().collect::<Vec<_>>();
        let leader = wanted(&view, &"a".into(), &settings, true, false);
        assert_eq!(names(&leader), ["b", "c", "gone"]);
        assert_eq!(leader.advance, [("c".to_owned(), Lsn(7))].into(), "c streams from b: here it only advances");
        let replica = wanted(&view, &"b".into(), &settings, false, false);
        assert_eq!(names(&replica), ["a", "c", "gone"]);
        assert!(!replica.advance.contains_key("c"));
        let off = ClusterSettings { use_slots: false, ..settings };
        assert_eq!(wanted(&view, &"a".into(), &off, true, false), WantedSlots::default());
    }
}
