//! Physical slots of members (`spec/ha.md §17.1, §17.4`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_core::Lsn;
use tokio::time::Instant;

use crate::Result;
use crate::instance::Instance;
use crate::sql::{Profile, Row, literal};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotChanges {
    pub created: Vec<String>,
    pub dropped: Vec<String>,
    pub advanced: Vec<String>,
    /// Unwanted, but in use.
    pub still_active: Vec<String>,
}

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    physical: bool,
    active: bool,
    restart_lsn: Option<Lsn>,
    has_xmin: bool,
    lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Drop(String),
    Create(String),
    Advance(String, Lsn),
}

/// What is to be done, in this order.
fn plan(
    found: &BTreeMap<String, Found>,
    wanted: &BTreeSet<String>,
    advance: &BTreeMap<String, Lsn>,
    keep: Option<&BTreeSet<String>>,
) -> (Vec<Action>, Vec<String>) {
    let (mut actions, mut still_active) = (Vec::new(), Vec::new());
    if let Some(keep) = keep {
        for (name, slot) in found.iter().filter(|(n, s)| s.physical && !wanted.contains(*n) && !keep.contains(*n)) {
            if slot.active {
                still_active.push(name.clone());
            } else {
                actions.push(Action::Drop(name.clone()));
            }
        }
    }
    for name in wanted {
        let Some(slot) = found.get(name) else {
            actions.push(Action::Create(name.clone()));
            continue;
        };
        let elsewhere = advance.get(name);
        // Nobody streams from a slot to be advanced: an xmin in it would hold back vacuum for ever.
        let useless = elsewhere.is_some() && (slot.has_xmin || slot.restart_lsn.is_none());
        if !slot.physical || slot.lost || useless {
            if slot.active {
                still_active.push(name.clone());
            } else {
                actions.push(Action::Drop(name.clone()));
                actions.push(Action::Create(name.clone()));
            }
        } else if let (Some(target), false) = (elsewhere, slot.active)
            && slot.restart_lsn.is_some_and(|at| at < *target)
        {
            actions.push(Action::Advance(name.clone(), *target));
        }
    }
    (actions, still_active)
}

fn read(rows: &[Row]) -> BTreeMap<String, Found> {
    let slot = |row: &Row| {
        let cell = |i: usize| row.get(i).and_then(Option::as_deref);
        let found = Found {
            physical: cell(1) == Some("physical"),
            active: cell(2) == Some("t"),
            restart_lsn: cell(3).and_then(|t| t.parse().ok()),
            has_xmin: cell(4) == Some("t"),
            lost: cell(5) == Some("lost"),
        };
        Some((cell(0)?.to_owned(), found))
    };
    rows.iter().filter_map(slot).collect()
}

impl Instance {
    /// `wanted` slots are created, and created anew where they are of no use. `advance` names those of them whose
    /// members stream from elsewhere, and how far their members are. With `keep`, inactive physical slots in neither
    /// set are dropped; without it none is.
    pub async fn sync_member_slots(
        &self,
        wanted: &BTreeSet<String>,
        advance: &BTreeMap<String, Lsn>,
        keep: Option<&BTreeSet<String>>,
    ) -> Result<SlotChanges> {
        let deadline = Instant::now() + LIMIT;
        let rows = self
            .kept_rows(
                "SELECT slot_name, slot_type, active, restart_lsn, coalesce(xmin, catalog_xmin) IS NOT NULL, wal_status \
                 FROM pg_replication_slots WHERE NOT temporary",
                deadline,
            )
            .await?;
        let (actions, still_active) = plan(&read(&rows), wanted, advance, keep);
        let mut changes = SlotChanges { still_active, ..SlotChanges::default() };
        if actions.is_empty() {
            return Ok(changes);
        }
        let session = self.session(&Profile::WORK, deadline).await?;
        let mut first = None;
        for action in actions {
            let (sql, name, list) = match action {
                Action::Drop(name) => (
                    format!(
                        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                         WHERE slot_name = {} AND NOT active",
                        literal(&name)
                    ),
                    name,
                    &mut changes.dropped,
                ),
                Action::Create(name) => (
                    format!(
                        "SELECT pg_create_physical_replication_slot({0}, true) \
                         WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = {0})",
                        literal(&name)
                    ),
                    name,
                    &mut changes.created,
                ),
                Action::Advance(name, to) => (
                    format!("SELECT pg_replication_slot_advance({}, '{to}')", literal(&name)),
                    name,
                    &mut changes.advanced,
                ),
            };
            // One slot that cannot be had must not keep the others from being there.
            match session.rows(&sql, deadline).await {
                Ok(_) => list.push(name),
                Err(e) => {
                    tracing::warn!("replication slot {name}: {e}");
                    first = first.or(Some(e));
                }
            }
        }
        match first {
            Some(e) => Err(e),
            None => Ok(changes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(active: bool, restart: Option<u64>, has_xmin: bool) -> Found {
        Found { physical: true, active, restart_lsn: restart.map(Lsn), has_xmin, lost: false }
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn what_is_done_to_slots() {
        let found: BTreeMap<String, Found> = [
            ("stray", slot(false, Some(5), false)),
            ("busy", slot(true, Some(5), false)),
            ("kept", slot(false, Some(5), false)),
            ("logical", Found { physical: false, ..slot(false, Some(5), true) }),
            ("a", slot(true, Some(5), true)),
            ("behind", slot(false, Some(5), false)),
            ("there", slot(false, Some(9), false)),
            ("xmin", slot(false, Some(5), true)),
            ("unreserved", slot(false, None, false)),
            ("lost", Found { lost: true, ..slot(false, Some(5), false) }),
        ]
        .map(|(n, s)| (n.to_owned(), s))
        .into();
        let wanted = set(&["a", "new", "behind", "there", "xmin", "unreserved", "lost"]);
        let advance: BTreeMap<String, Lsn> =
            ["behind", "there", "xmin", "unreserved"].map(|n| (n.to_owned(), Lsn(9))).into();
        let (actions, active) = plan(&found, &wanted, &advance, Some(&set(&["kept"])));
        let drop = |n: &str| Action::Drop(n.into());
        let create = |n: &str| Action::Create(n.into());
        assert_eq!(
            actions,
            [
                drop("stray"),
                Action::Advance("behind".into(), Lsn(9)),
                drop("lost"),
                create("lost"),
                create("new"),
                drop("unreserved"),
                create("unreserved"),
                drop("xmin"),
                create("xmin"),
            ]
        );
        assert_eq!(active, ["busy"]);
        let (quiet, active) = plan(&found, &set(&["a", "there"]), &BTreeMap::new(), None);
        assert!(quiet.is_empty() && active.is_empty());
    }
}
