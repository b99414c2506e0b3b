//! Whether a logical slot on a standby can be read from after a failover (`spec/ha.md §17.4`).

use std::collections::{BTreeMap, BTreeSet};

use crate::postgres::Slot;

/// `catalog_xmin` of slots; `None`: the slot has none.
pub type Xmins = BTreeMap<String, Option<u32>>;

/// A copied slot promises catalog rows that vacuum may have removed here before the slot was there. It keeps the promise
/// once the primary protects them on behalf of this standby: through the standby's own physical slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Slots not known to be safe, with what the leader's slot protected when it was first looked at.
    pending: BTreeMap<String, Option<u32>>,
}

impl Readiness {
    /// Nothing is known of these: they were copied, or this standby or its agent was started again.
    pub fn doubt<'a>(&mut self, slots: impl IntoIterator<Item = &'a str>) {
        for slot in slots {
            self.pending.insert(slot.to_owned(), None);
        }
    }

    pub fn keep_only(&mut self, slots: &BTreeSet<&str>) {
        self.pending.retain(|slot, _| slots.contains(slot.as_str()));
    }

    pub fn pending(&self) -> impl Iterator<Item = &str> {
        self.pending.keys().map(String::as_str)
    }

    pub fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }

    /// Those that became safe. `mine` is this standby's physical slot on the leader.
    pub fn judge(&mut self, mine: u32, leader: &Xmins, local: &Xmins) -> Vec<String> {
        let mut safe = Vec::new();
        for (slot, remembered) in &mut self.pending {
            let (Some(Some(theirs)), Some(Some(here))) = (leader.get(slot), local.get(slot)) else { continue };
            let first = *remembered.get_or_insert(*theirs);
            if !precedes(mine, first) && !precedes(*here, mine) {
                safe.push(slot.clone());
            }
        }
        self.pending.retain(|slot, _| !safe.contains(slot));
        safe
    }
}

/// A failover slot that the server of this standby has synchronised to an end. It keeps the rows it needs by itself; until
/// then it is a temporary one, which the server drops at a promotion.
pub fn is_synchronised(slots: &[Slot], name: &str) -> bool {
    // A slot that was invalidated, for whatever reason, counts as lost.
    slots.iter().any(|s| s.name == name && s.logical && s.synced && s.wal_status.as_deref() != Some("lost"))
}

/// Transaction ids wrap around: each is older than the two thousand million after it.
fn precedes(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xmins(value: u32) -> Xmins {
        [("s".to_owned(), Some(value))].into()
    }

    #[test]
    fn a_copy_is_safe_once_the_leader_protects_it() {
        let mut ready = Readiness::default();
        ready.doubt(["s", "t"]);
        // The leader's slot needs 100. What it protects for this standby is older: from before hot_standby_feedback.
        assert!(ready.judge(90, &xmins(100), &xmins(100)).is_empty());
        // The leader's slot moves on; what counts is what it needed when the copy was first looked at.
        assert!(ready.judge(105, &xmins(120), &xmins(100)).is_empty(), "the copy needs what is not protected");
        assert_eq!(ready.judge(105, &xmins(120), &xmins(110)), ["s"]);
        assert_eq!(ready.pending().collect::<Vec<_>>(), ["t"]);
        ready.keep_only(&BTreeSet::new());
        assert!(ready.is_complete());
    }

    #[test]
    fn what_counts_as_synchronised() {
        let synced = Slot { logical: true, failover: true, synced: true, ..super::super::tests::slot("s", 5) };
        for (slot, expected) in [
            (synced.clone(), true),
            (Slot { name: "other".into(), ..synced.clone() }, false),
            // A former primary's own.
            (Slot { synced: false, ..synced.clone() }, false),
            (Slot { wal_status: Some("lost".into()), ..synced.clone() }, false),
            (Slot { wal_status: Some("extended".into()), ..synced }, true),
        ] {
            assert_eq!(is_synchronised(std::slice::from_ref(&slot), "s"), expected, "{slot:?}");
        }
        assert!(!is_synchronised(&[], "s"));
    }

    #[test]
    fn transaction_ids_wrap_around() {
        let mut ready = Readiness::default();
        ready.doubt(["s"]);
        assert_eq!(ready.judge(5, &xmins(u32::MAX - 5), &xmins(7)), ["s"]);
        assert!(precedes(u32::MAX, 3) && !precedes(3, u32::MAX) && !precedes(3, 3));
    }
}
