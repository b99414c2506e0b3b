//! Which replication slots a node keeps, and how far the inactive ones may advance (`spec/ha.md §17`).

mod plan;
mod ready;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use plan::{Action, Here, LogicalSlot, Plan, SlotCopy, plan};
pub use ready::{Readiness, Xmins, is_synchronised};
pub use watch::{Retention, Room, Withheld};

use crate::cluster::{ClusterView, Member, Tags};
use crate::ids::{Lsn, MemberName};
use crate::postgres::Slot;
use crate::settings::ClusterSettings;

/// The version of PostgreSQL that brought failover slots.
pub const FAILOVER_SLOTS: u32 = 170_000;

/// A slot that the dynamic configuration asks for on every member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PermanentSlot {
    /// Whether it exists in a cluster of that kind.
    Physical { on_primary_cluster: bool, on_standby_cluster: bool },
    Logical {
        database: String,
        plugin: String,
        /// Whether PostgreSQL is to bring it to standbys; not said: where it can.
        #[serde(default)]
        failover: Option<bool>,
    },
}

/// A slot that is none of our business matches an entry when every given field equals; an empty entry matches all.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IgnoreSlot {
    pub name: Option<String>,
    pub kind: Option<String>,
    pub database: Option<String>,
    pub plugin: Option<String>,
}

impl IgnoreSlot {
    pub fn matches(&self, slot: &Slot) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| wanted.as_deref().is_none_or(|w| Some(w) == value);
        is(&self.name, Some(&slot.name))
            && is(&self.kind, Some(if slot.logical { "logical" } else { "physical" }))
            && is(&self.database, slot.database.as_deref())
            && is(&self.plugin, slot.plugin.as_deref())
    }
}

/// The node whose slots are meant.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub view: &'a ClusterView,
    pub me: &'a MemberName,
    pub tags: &'a Tags,
    pub settings: &'a ClusterSettings,
    pub permanent: &'a BTreeMap<String, PermanentSlot>,
    /// It holds the lead.
    pub leads: bool,
    pub server_version: u32,
    /// `sync_replication_slots` is on in the cluster.
    pub synchronised: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    Physical {
        /// Somebody is to stream from it here. The others only keep what their owner may need one day.
        used_here: bool,
        /// Where its owner is known to be.
        at: Option<Lsn>,
    },
    Logical {
        database: String,
        plugin: String,
        /// What its reader has confirmed to the leader.
        at: Option<Lsn>,
        /// A failover slot, which PostgreSQL synchronises; otherwise its file is copied and moved on here.
        native: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Wanted {
    pub slots: BTreeMap<String, Want>,
    /// What cannot be had as it is written down, in words.
    pub faults: BTreeSet<String>,
}

/// Slots of the other members, on the leader and on replicas alike: a new leader that already has them serves its
/// followers without delay and has kept the WAL they need. And the permanent ones.
pub fn wanted(node: &Node<'_>) -> Wanted {
    let mut wanted = Wanted::default();
    if !node.settings.use_slots {
        return wanted;
    }
    members(node, &mut wanted);
    if !node.tags.nofailover() {
        let mine = node.me.slot_name();
        for slot in node.view.status.retain_slots.iter().filter(|s| **s != mine) {
            let at = node.published(slot);
            wanted.slots.entry(slot.clone()).or_insert(Want::Physical { used_here: node.leads, at });
        }
        permanent(node, &mut wanted);
    }
    wanted
}

fn members(node: &Node<'_>, wanted: &mut Wanted) {
    let ttl = node.settings.member_slots_ttl;
    let everywhere = node.server_version >= 110_000 && ttl > Duration::ZERO && !node.tags.nofailover();
    let mut owners: BTreeMap<String, Vec<&MemberName>> = BTreeMap::new();
    for member in node.view.others(node.me).filter(|m| !m.tags.nostream()) {
        let slot = member.name.slot_name();
        owners.entry(slot.clone()).or_default().push(&member.name);
        let used_here = node.feeds(member);
        if used_here || everywhere {
            let own = member.tags.replicatefrom().and(member.xlog_location);
            let at = node.published(&slot).max(own).filter(|lsn| lsn.is_valid());
            wanted.slots.insert(slot, Want::Physical { used_here, at });
        }
    }
    for (slot, owners) in owners.into_iter().filter(|(_, owners)| owners.len() > 1) {
        let names: Vec<&str> = owners.iter().map(|name| name.0.as_str()).collect();
        wanted.faults.insert(format!(
            "Following cluster members share a replication slot name: {} ({slot}); give one of them another name",
            names.join(", ")
        ));
    }
}

fn permanent(node: &Node<'_>, wanted: &mut Wanted) {
    // Older servers cannot move a slot that nobody reads, and it would hold back WAL for ever.
    if node.server_version < 110_000 && !node.leads {
        return;
    }
    for (name, slot) in node.permanent {
        match slot {
            PermanentSlot::Physical { on_primary_cluster, on_standby_cluster } => {
                let here = if node.settings.standby_cluster { *on_standby_cluster } else { *on_primary_cluster };
                if here && *name != node.me.slot_name() {
                    let at = node.published(name);
                    wanted.slots.entry(name.clone()).or_insert(Want::Physical { used_here: node.leads, at });
                }
            }
            PermanentSlot::Logical { database, plugin, failover } => {
                if *failover == Some(true) && !(node.synchronised && node.server_version >= FAILOVER_SLOTS) {
                    wanted.faults.insert(format!(
                        "permanent logical slot {name} asks for `failover`, which takes PostgreSQL 17 or newer with \
                         sync_replication_slots: on among the parameters of the dynamic configuration; its file is \
                         copied to standbys instead"
                    ));
                }
                if wanted.slots.contains_key(name) {
                    wanted.faults.insert(format!(
                        "Permanent logical replication slot '{name}' is conflicting with slot name for cluster member; \
                         rename it in `slots`"
                    ));
                } else if !node.settings.standby_cluster && node.decodes() {
                    let (database, plugin) = (database.clone(), plugin.clone());
                    let (at, native) = (node.published(name), node.native(*failover));
                    wanted.slots.insert(name.clone(), Want::Logical { database, plugin, at, native });
                }
            }
        }
    }
}

impl Node<'_> {
    fn published(&self, slot: &str) -> Option<Lsn> {
        self.view.status.slots.get(slot).copied().filter(|lsn| lsn.is_valid())
    }

    /// That member streams from this node.
    fn feeds(&self, member: &Member) -> bool {
        match member.tags.replicatefrom() {
            // One that does not serve is replaced by the leader.
            Some(from) if self.view.members.get(&from).is_some_and(|m| m.is_running() || m.name == *self.me) => {
                from == *self.me && (self.leads || self.view.leader_name() != Some(&member.name))
            }
            _ => self.leads,
        }
    }

    /// The slot is the servers' own business. They synchronise with a primary only: a member that may stream from another
    /// standby keeps a copy.
    fn native(&self, failover: Option<bool>) -> bool {
        let here = self.leads || self.tags.replicatefrom().is_none();
        self.server_version >= FAILOVER_SLOTS && self.synchronised && failover != Some(false) && here
    }

    /// A server that streams, directly or through others, and so can tell the primary what a logical slot still needs.
    fn decodes(&self) -> bool {
        let mut tags = self.tags;
        for _ in 0..=self.view.members.len() {
            if tags.nostream() {
                return false;
            }
            match tags.replicatefrom().and_then(|name| self.view.members.get(&name)) {
                Some(upstream) => tags = &upstream.tags,
                None => return true,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;
