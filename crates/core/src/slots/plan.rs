//! What is to be done to the slots that are there (`spec/ha.md §17.4`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{IgnoreSlot, Want};
use crate::ids::Lsn;
use crate::postgres::Slot;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogicalSlot {
    pub name: String,
    pub database: String,
    pub plugin: String,
}

/// A logical slot of the leader as it is on its disk.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotCopy {
    pub slot: LogicalSlot,
    pub state: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Drop {
        name: String,
        why: &'static str,
    },
    /// Drop it if this server is a standby still: PostgreSQL stops synchronising over a slot that is not its own.
    GiveWay(String),
    CreatePhysical(String),
    CreateLogical {
        slot: LogicalSlot,
        failover: bool,
    },
    /// Whether the servers bring it to standbys.
    SetFailover {
        slot: LogicalSlot,
        on: bool,
    },
    AdvancePhysical(String, Lsn),
    AdvanceLogical {
        slot: LogicalSlot,
        to: Lsn,
    },
}

/// The server the slots are on.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    pub primary: bool,
    /// What a standby has applied: a logical slot cannot be ahead of that.
    pub replayed: Lsn,
    /// Nothing is dropped while the cluster is paused.
    pub paused: bool,
    /// Unwanted, and left alone for now.
    pub spared: &'a BTreeSet<String>,
    pub ignored: &'a [IgnoreSlot],
    /// `sync_replication_slots` is on in the cluster, and the server knows what that is.
    pub synchronised: bool,
    /// The logical slots of the leader that this server streams from, and which of them are failover slots; `None`: not
    /// known, or it does not.
    pub leader_has: Option<&'a BTreeMap<String, bool>>,
}

impl Here<'_> {
    /// The server would synchronise the leader's slot of that name, were it not for one that is here already.
    fn in_the_way(&self, slot: &Slot) -> bool {
        !self.primary && !slot.synced && self.leader_synchronises(&slot.name) == Some(true)
    }

    fn leader_synchronises(&self, name: &str) -> Option<bool> {
        self.leader_has?.get(name).copied()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// Should go, and is in use.
    pub in_use: BTreeSet<String>,
    /// Logical slots that only a copy of the leader's can bring to this standby.
    pub to_copy: Vec<LogicalSlot>,
    /// Slots of subscribers that nobody asked to keep: not there after a failover.
    pub unprotected: BTreeSet<String>,
    /// In use, so that they cannot be made failover slots.
    pub bound: BTreeSet<String>,
}

pub fn plan(found: &[Slot], wanted: &BTreeMap<String, Want>, here: &Here<'_>) -> Plan {
    let mut plan = Plan::default();
    for slot in found.iter().filter(|s| !wanted.contains_key(&s.name)) {
        surplus(slot, here, &mut plan);
    }
    let found: BTreeMap<&str, &Slot> = found.iter().map(|s| (s.name.as_str(), s)).collect();
    for (name, want) in wanted {
        let slot = found.get(name.as_str()).copied();
        match want {
            Want::Physical { used_here, at } => physical(name, *used_here, *at, slot, here, &mut plan),
            Want::Logical { database, plugin, at, native } => {
                let want = LogicalSlot { name: name.clone(), database: database.clone(), plugin: plugin.clone() };
                logical(want, *at, *native, slot, here, &mut plan);
            }
        }
    }
    plan
}

fn surplus(slot: &Slot, here: &Here<'_>, plan: &mut Plan) {
    if here.ignored.iter().any(|i| i.matches(slot)) {
        return;
    }
    if slot.logical && slot.failover {
        // Somebody's own. Of a former primary's it is dropped only for the sake of the leader's slot of that name.
        if here.in_the_way(slot) {
            give_way(slot, here, plan);
        } else if here.primary && !here.synchronised {
            plan.unprotected.insert(slot.name.clone());
        }
    } else if slot.logical && here.primary {
        // Somebody subscribed to it. That it is not in use just now does not make it worthless: dropped, its reader
        // would have lost what it has not read yet.
        plan.unprotected.insert(slot.name.clone());
    } else if !here.spared.contains(&slot.name) {
        drop(slot, "no member and no setting asks for it", here, plan);
    }
}

fn give_way(slot: &Slot, here: &Here<'_>, plan: &mut Plan) {
    if may_drop(slot, here, plan) {
        plan.actions.push(Action::GiveWay(slot.name.clone()));
    }
}

/// `true`: it will be gone.
fn drop(slot: &Slot, why: &'static str, here: &Here<'_>, plan: &mut Plan) -> bool {
    let may = may_drop(slot, here, plan);
    if may {
        plan.actions.push(Action::Drop { name: slot.name.clone(), why });
    }
    may
}

fn may_drop(slot: &Slot, here: &Here<'_>, plan: &mut Plan) -> bool {
    if slot.active && !here.paused {
        plan.in_use.insert(slot.name.clone());
    }
    !slot.active && !here.paused
}

fn lost(slot: &Slot) -> bool {
    slot.wal_status.as_deref() == Some("lost")
}

fn physical(name: &str, used_here: bool, at: Option<Lsn>, slot: Option<&Slot>, here: &Here<'_>, plan: &mut Plan) {
    let create = Action::CreatePhysical(name.to_owned());
    let Some(slot) = slot else {
        plan.actions.push(create);
        return;
    };
    let why = if slot.logical {
        "a physical slot of that name is wanted"
    } else if lost(slot) {
        "the WAL it was to keep is gone"
    } else if !used_here && slot.has_xmin {
        "nobody streams from it here, and its xmin would hold back vacuum for ever"
    } else if !used_here && slot.restart_lsn.is_none() {
        "it keeps no WAL"
    } else {
        if let (false, false, Some(at)) = (used_here, slot.active, at)
            && slot.restart_lsn.is_some_and(|restart| restart < at)
        {
            plan.actions.push(Action::AdvancePhysical(name.to_owned(), at));
        }
        return;
    };
    if drop(slot, why, here, plan) {
        plan.actions.push(create);
    }
}

fn logical(want: LogicalSlot, at: Option<Lsn>, native: bool, slot: Option<&Slot>, here: &Here<'_>, plan: &mut Plan) {
    let Some(slot) = slot else {
        if here.primary {
            plan.actions.push(Action::CreateLogical { slot: want, failover: native });
        } else if at.is_some() && (!native || here.leader_synchronises(&want.name) == Some(false)) {
            // The leader cannot change one that is in use, or does not know what that is for.
            plan.to_copy.push(want);
        }
        return;
    };
    if !here.primary && slot.synced {
        // The server's own, until a copy takes its place.
        if !native && at.is_some() {
            plan.to_copy.push(want);
        }
        return;
    }
    if native && here.in_the_way(slot) {
        give_way(slot, here, plan);
        return;
    }
    let same = slot.logical
        && slot.database.as_deref() == Some(want.database.as_str())
        && slot.plugin.as_deref() == Some(want.plugin.as_str());
    if !same || lost(slot) {
        let why = if same { "the WAL it was to keep is gone" } else { "its type, database or plugin is another one" };
        if drop(slot, why, here, plan) && here.primary {
            plan.actions.push(Action::CreateLogical { slot: want, failover: native });
        }
    } else if here.primary && here.synchronised && slot.failover != native {
        if slot.active {
            plan.bound.insert(slot.name.clone());
        } else {
            plan.actions.push(Action::SetFailover { slot: want, on: native });
        }
    } else if !here.primary && !slot.active {
        let to = at.map(|at| at.min(here.replayed)).filter(|to| slot.confirmed_flush_lsn.is_some_and(|c| c < *to));
        plan.actions.extend(to.map(|to| Action::AdvanceLogical { slot: want, to }));
    }
}

#[cfg(test)]
mod tests;
