//! Which standbys are synchronous: what PostgreSQL waits for (`synchronous_standby_names`) and who may be promoted (the
//! `/sync` key), moved one step at a time (`spec/ha.md §16`).
//!
//! Both facts say something about the same commits, and only one of them can be changed at a time. What must hold at
//! every moment, also between two steps and when the one who takes them is killed there:
//!
//! > Every acknowledged commit is on at least one member of each set of members that may elect a leader.
//!
//! A candidate needs `quorum` votes of others of `/sync` (its leader counts as one), from members that are not ahead of
//! it. In mode `on` the quorum is zero: each listed member may be promoted on its own, so each must have everything.
//! What follows for the order:
//!
//! - PostgreSQL is made to wait for *more* before `/sync` trusts in it, and `/sync` stops trusting before PostgreSQL
//!   waits for less. `/sync` that demands more, or names fewer, is always safe.
//! - A setting counts only once it is *in force*: no process of the server can release a commit by the older one.
//! - It says nothing about commits from before. A member is *confirmed* once it has everything up to where the log was
//!   when the setting came into force, and only what confirmed members vouch for is written to `/sync`.

mod drive;
mod duty;
mod names;
mod on;
mod quorum;
mod standbys;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cluster::SyncState;
use crate::ids::{Lsn, MemberName};
use crate::settings::{ClusterSettings, SynchronousMode};
use crate::time::BootTime;

pub(crate) use drive::drive;
pub(crate) use duty::{ask_to_leave, on_duty};
pub use names::{Names, PLACEHOLDER};
pub use standbys::{Standby, standbys};

/// What was set by this process and is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    pub names: Names,
    /// Everything that was acknowledged under another setting is below.
    pub flushed: Lsn,
    pub at: BootTime,
}

/// What the leader's process knows of its own doing. All of it is forgotten with the lead.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Doing {
    /// `None`: not known for certain, since nothing was set yet or setting it failed on the way.
    pub in_force: Option<InForce>,
    /// A reading of `/sync` counts from this revision on. `None`: an earlier write could still arrive.
    pub readable_from: Option<u64>,
    /// A step is under way.
    pub busy: bool,
    /// The setting is not the operator's. Is not forgotten.
    pub taken_over: bool,
}

/// The `/sync` key with names as the members spell them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub leader: String,
    pub voters: BTreeSet<String>,
    pub quorum: usize,
}

#[derive(Clone, Debug)]
pub struct Situation {
    pub me: String,
    /// `On` or `Quorum`.
    pub quorum_mode: bool,
    pub strict: bool,
    /// How many standbys are to have a commit, at least one.
    pub want: usize,
    pub key: Option<Key>,
    /// In force for certain.
    pub names: Option<Names>,
    /// As PostgreSQL shows it.
    pub shown: Names,
    /// To be synchronous, the best first.
    pub active: Vec<Standby>,
    /// The lead is new, and the standbys may be on their way.
    pub patient: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    Settled,
    Wait(&'static str),
    Write(Key),
    Set(Names),
}

impl Key {
    pub fn nobody(leader: &str) -> Key {
        Key { leader: leader.to_owned(), voters: BTreeSet::new(), quorum: 0 }
    }

    pub fn state(&self) -> SyncState {
        SyncState {
            leader: MemberName::from(self.leader.as_str()),
            standbys: self.voters.iter().cloned().collect(),
            quorum: u32::try_from(self.quorum).unwrap_or(u32::MAX),
        }
    }

    /// Whoever wins by this key has all that is acknowledged while PostgreSQL waits for these.
    pub fn covered_by(&self, names: &Names) -> bool {
        self.voters.is_empty() || self.quorum + names.holders(&self.voters) >= self.voters.len()
    }
}

/// The one step to take next.
pub fn next(situation: &Situation) -> Move {
    if situation.quorum_mode { quorum::next(situation) } else { on::next(situation) }
}

impl Situation {
    fn names_of_active(&self) -> BTreeSet<String> {
        self.active.iter().map(|s| s.name.clone()).collect()
    }

    fn confirmed(&self) -> BTreeSet<String> {
        self.active.iter().filter(|s| s.confirmed).map(|s| s.name.clone()).collect()
    }
}

/// The mode that is in force: a standby cluster has none.
pub fn mode(settings: &ClusterSettings) -> SynchronousMode {
    if settings.standby_cluster { SynchronousMode::Off } else { settings.synchronous_mode }
}

/// What a server must wait for from its first commit as a primary, and what `/sync` must say before it may make one
/// (`spec/ha.md §16.5`). The second is `None` where it can stay as it is.
pub fn before_first_commit(
    me: &MemberName,
    settings: &ClusterSettings,
    key: Option<&SyncState>,
) -> (Names, Option<SyncState>) {
    let me = me.as_str();
    let strict = settings.synchronous_mode_strict;
    let mine = key.is_some_and(|k| k.leader.as_str().eq_ignore_ascii_case(me));
    let members: BTreeSet<String> =
        key.into_iter().flat_map(|k| k.standbys.iter().cloned().chain([k.leader.as_str().to_owned()])).collect();
    let others: BTreeSet<String> = members.iter().filter(|n| !n.eq_ignore_ascii_case(me)).cloned().collect();
    let nobody = |any| if strict { Names::Blocked { any } } else { Names::Nobody };
    match (mode(settings), key) {
        (SynchronousMode::Off, _) => (Names::Nobody, None),
        (SynchronousMode::On, Some(key)) if mine && key.quorum == 0 => {
            if others.is_empty() {
                (nobody(false), None)
            } else {
                (Names::all(others), None)
            }
        }
        // Each of these had every commit until now, and PostgreSQL goes on to wait for all of them.
        (SynchronousMode::On, Some(key)) if strict && key.quorum == 0 && !others.is_empty() => {
            let state = Key { leader: me.to_owned(), voters: others.clone(), quorum: 0 }.state();
            (Names::all(others), Some(state))
        }
        (SynchronousMode::On, _) => (nobody(false), Some(Key::nobody(me).state())),
        (SynchronousMode::Quorum, Some(key)) if !key.standbys.is_empty() && !others.is_empty() => {
            let quorum = usize::try_from(key.quorum).unwrap_or(usize::MAX);
            // As many as make any set of voters that may elect the next leader meet them.
            let count = others.len().saturating_sub(quorum).max(usize::from(strict)).min(others.len());
            let names = if count == 0 { nobody(true) } else { Names::any(count, others.clone()) };
            // Whoever led before would need no votes for as long as the key names it.
            let state = Key { leader: me.to_owned(), voters: others, quorum }.state();
            (names, (!mine).then_some(state))
        }
        (SynchronousMode::Quorum, _) => (nobody(true), (!mine).then(|| Key::nobody(me).state())),
    }
}
