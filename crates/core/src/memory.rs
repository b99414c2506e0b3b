//! What one step leaves to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::{FailoverRequest, Member, Upstream};
use crate::forked::Forked;
use crate::ids::{Lsn, MemberName};
use crate::order::Epoch;
use crate::time::BootTime;

/// What is known about local history against the upstream's.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Divergence {
    #[default]
    Unchecked,
    /// Streaming, or found to be able to.
    None {
        against: MemberName,
    },
    Found {
        against: MemberName,
        what: String,
    },
    /// Both have a timeline of that number and of their own. PostgreSQL would take the one for the other: until a comparison
    /// finds otherwise, nobody is followed.
    SameNumber {
        against: MemberName,
        what: String,
    },
    /// Rewinding was tried and failed.
    RewindFailed {
        against: MemberName,
        why: String,
    },
}

impl Divergence {
    pub fn same_number(&self) -> bool {
        matches!(self, Divergence::SameNumber { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    pub epoch: Epoch,
    /// The members as of the last view that had a leader, and that leader: a node that vanished
    /// together with the leader key is still asked in the race.
    pub known_members: Arc<BTreeMap<MemberName, Member>>,
    pub last_leader: Option<MemberName>,
    /// Since when nobody leads.
    pub leaderless_since: Option<BootTime>,
    /// I gave the lead away on purpose: leave it to others until then.
    pub abstain_until: Option<BootTime>,
    pub divergence: Divergence,
    /// Until a comparison finds otherwise, or the data is made anew.
    #[serde(default)]
    pub forked: Option<Forked>,
    pub divergence_checked: Option<BootTime>,
    /// Rewinds that failed one after the other.
    #[serde(default)]
    pub rewinds_failed: u32,
    pub followed: Option<(Option<Upstream>, BootTime)>,
    /// The member that I am to replicate from, while it does not serve.
    #[serde(default)]
    pub away: Option<MemberName>,
    /// Consecutive failures to bring the server up, and when the last one was.
    pub start_failures: u32,
    pub last_failure: Option<BootTime>,
    /// When copying logical slots from the leader was last tried.
    #[serde(default)]
    pub slots_copied: Option<BootTime>,
    /// The lease ended under a running primary: serve reads as a standby until the store is back.
    pub lost_store: bool,
    /// Version of the failover request for which candidates are being asked, and since when.
    pub asked_for: Option<(u64, BootTime)>,
    /// Why the last handover was given up; its request is still to be cleared.
    pub given_up: Option<String>,
    /// Why the last promotion failed; the lead is still to be given away.
    pub promotion_failed: Option<String>,
    /// Since when a standby that has an upstream does not stream.
    pub not_streaming_since: Option<BootTime>,
    /// When candidates were first asked because the agent ends or the server crashed.
    pub asked_at: Option<BootTime>,
    /// I gave the leader key up: a reading that still shows my name there is an old one.
    pub released: bool,
    /// When the present round of the race began: answers to older questions do not count.
    pub race_round: Option<BootTime>,
    /// I took the lead because an operator named me, and am still to be promoted.
    pub called: bool,
    /// Version of the failover request that was refused; it is gone once the store has cleared it.
    pub refused: Option<u64>,
    /// What the request became when I named its candidate.
    pub named: Option<FailoverRequest>,
    /// This server was stopped by a handover and has not run since.
    pub handed_over: bool,
    /// The position of a standby, and when it was last seen to grow.
    #[serde(default)]
    pub received: Option<(Lsn, BootTime)>,
    /// When the others were last asked, and when one was last asked to take over, because the disk is nearly full.
    #[serde(default)]
    pub disk_asked: Option<BootTime>,
    #[serde(default)]
    pub disk_request: Option<BootTime>,
    /// The lead under which I may run as a primary, by its version: nobody else can be vouched for any more.
    #[serde(default)]
    pub cleared: Option<u64>,
    /// The last leader is driven by Patroni; the version of `vouching` under it, 0 if there was none: `Some(None)` would be
    /// read back from the journal as `None`.
    #[serde(default)]
    pub foreign_led_over: Option<u64>,
    /// Since when, while nobody leads, no primary can be going on without the store: what is asked of others before says
    /// nothing about how far its log went in the end.
    #[serde(default)]
    pub clear_since: Option<BootTime>,
    /// When others were last asked to consent, and since when I hold the lead and am not cleared.
    #[serde(default)]
    pub consent_asked: Option<BootTime>,
    #[serde(default)]
    pub uncleared_since: Option<BootTime>,
    /// Since when the store cannot be read.
    pub unreadable_since: Option<BootTime>,
    /// Since when a primary runs here without the lead.
    pub unled_since: Option<BootTime>,
    /// Since when the leader is asked to choose another synchronous standby than this one, which is about to stop.
    #[serde(default)]
    pub leaving_since: Option<BootTime>,
}
