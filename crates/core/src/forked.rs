//! A member whose log left that of the cluster: what was acknowledged since is missing here, however long its own log is.
//!
//! It runs on as a replica until somebody mends it. As the primary it would silently take the place of what the others
//! have, so it does not run for the lead, and how far its log goes says nothing about who should. An operator who knows
//! that the rest is gone for good sends the lead to it by name.

use serde::{Deserialize, Serialize};

use crate::cluster::ClusterView;
use crate::divergence::{self, HistoryRow, LocalEnd};
use crate::facts::Facts;
use crate::ids::MemberName;
use crate::memory::{Divergence, Memory};
use crate::postgres::DataDir;
use crate::server;

/// What the last comparison that was able to tell has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forked {
    pub against: MemberName,
    pub what: String,
    /// From the server that a standby cluster follows. Once the cluster follows nobody it is none of its own.
    #[serde(default)]
    pub remote: bool,
}

/// In words, if this member's log left that of the cluster. A member that has compared its log knows; an agent that was
/// started while nobody leads finds it in the history that the last leader has left in the store.
pub fn told(facts: &Facts, memory: &Memory) -> Option<String> {
    let standby = facts.postgres.observed().is_none_or(|o| o.in_recovery);
    if !standby || facts.postgres.data_dir == DataDir::Empty {
        return None;
    }
    if let Some(Forked { against, what, .. }) =
        memory.forked.as_ref().filter(|forked| forked.remote == facts.settings.standby_cluster)
    {
        return Some(format!("its history forked from that of {against}: {what}"));
    }
    facts.store.view.as_deref().and_then(|view| by_history(facts, view))
}

/// The history in the store is that of this cluster's own primaries, which one that follows another has not.
fn by_history(facts: &Facts, view: &ClusterView) -> Option<String> {
    if facts.settings.standby_cluster {
        return None;
    }
    let (observed, history) = (facts.postgres.observed()?, view.history.as_ref()?);
    let (mine, replayed) = (observed.replay_timeline?, observed.replay_lsn);
    let rows: Vec<HistoryRow> = history
        .0
        .iter()
        .map(|e| HistoryRow { timeline: e.timeline, switch_lsn: e.switch_lsn, reason: String::new() })
        .collect();
    match divergence::compare(mine, LocalEnd::Replayed(replayed), history.current_timeline(), &rows) {
        // Its number was left out: it is the timeline of a promotion that nobody followed.
        server::Divergence::Forked { timeline, switchpoint, .. } if !switchpoint.is_valid() => {
            Some(format!("its history forked from that of the cluster, which has no timeline {timeline}"))
        }
        server::Divergence::Forked { timeline, switchpoint, local } => Some(format!(
            "its history forked from that of the cluster: timeline {timeline} ended at {switchpoint}, and goes on to {local} \
             here"
        )),
        // A short history begins with a later timeline: what came before is not known.
        server::Divergence::Unrelated { local, .. } if rows.iter().any(|row| row.timeline < local) => {
            Some(format!("its history forked from that of the cluster, which has no timeline {local}"))
        }
        _ => None,
    }
}

/// Outlives the divergence, which is found anew against each leader.
pub(crate) fn remember(memory: &mut Memory, facts: &Facts) {
    let remote = facts.settings.standby_cluster;
    let authority = if remote { facts.settings.remote.as_ref().map(|r| &r.name) } else { memory.last_leader.as_ref() };
    let found = |against: &MemberName, what: String| Some(Forked { against: against.clone(), what, remote });
    memory.forked = match &memory.divergence {
        _ if facts.postgres.data_dir == DataDir::Empty => None,
        _ if facts.postgres.observed().is_some_and(|o| !o.in_recovery) => None,
        Divergence::Unchecked => return,
        Divergence::None { against }
        | Divergence::Found { against, .. }
        | Divergence::SameNumber { against, .. }
        | Divergence::RewindFailed { against, .. }
            if authority != Some(against) =>
        {
            return;
        }
        Divergence::None { .. } => None,
        Divergence::Found { against, what } | Divergence::SameNumber { against, what } => found(against, what.clone()),
        Divergence::RewindFailed { against, why } => found(against, format!("pg_rewind failed: {why}")),
    };
}
