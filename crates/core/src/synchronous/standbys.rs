//! Which standbys are fit to be synchronous (`spec/ha.md §16.1`).

use crate::cluster::{ClusterView, Member};
use crate::facts::Facts;
use crate::ids::{Lsn, MemberName};
use crate::postgres::{Observed, WalSender};
use crate::settings::SynchronousMode;

use super::{InForce, mode};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standby {
    pub name: String,
    /// It has everything that was acknowledged before the setting came into force.
    pub confirmed: bool,
}

/// Those who are to be synchronous now, the best first.
pub fn standbys(facts: &Facts, view: &ClusterView, observed: &Observed, in_force: Option<&InForce>) -> Vec<Standby> {
    let settings = &facts.settings;
    let want = usize::try_from(settings.synchronous_node_count.max(1)).unwrap_or(usize::MAX);
    let mut fit: Vec<(&Member, &WalSender, Lsn)> = view
        .others(&facts.me)
        .filter(|m| m.is_running() && !m.tags.nosync())
        .filter_map(|m| sender(observed, &m.name).map(|(sender, lsn)| (m, sender, lsn)))
        .filter(|(m, ..)| !cascades(view, observed, &facts.me, m))
        .collect();
    fit.sort_by(|(a, s, x), (b, t, y)| {
        let nofailover = a.tags.nofailover().cmp(&b.tags.nofailover());
        let priority = b.tags.sync_priority().cmp(&a.tags.sync_priority());
        nofailover.then(priority).then(rank(&t.sync_state).cmp(&rank(&s.sync_state))).then(y.cmp(x))
    });
    if let Some(limit) = settings.maximum_lag_on_syncnode {
        let ahead = match fit.as_slice() {
            [_] => observed.flush_lsn,
            fit => fit.iter().map(|(.., lsn)| *lsn).max().unwrap_or_default(),
        };
        fit.retain(|(.., lsn)| lsn.behind(ahead) <= limit);
    }
    let quorum = mode(settings) == SynchronousMode::Quorum;
    let mut active = vec![];
    for (member, sender, lsn) in fit {
        // A member that may not lead is a voter only where others do not suffice.
        if active.len() >= want && (!quorum || member.tags.nofailover()) {
            continue;
        }
        let confirmed = in_force.is_some_and(|f| lsn >= f.flushed) && sender.sync_state != "async";
        active.push(Standby { name: member.name.as_str().to_owned(), confirmed });
    }
    active
}

/// The connection that counts for this member and how far it has told to have the log.
fn sender<'a>(observed: &'a Observed, name: &MemberName) -> Option<(&'a WalSender, Lsn)> {
    let position = |s: &WalSender| match observed.synchronous_commit.as_str() {
        "remote_apply" => s.replay_lsn,
        "remote_write" => s.write_lsn,
        _ => s.flush_lsn,
    };
    observed
        .senders
        .iter()
        .filter(|s| s.state == "streaming" && s.application_name.eq_ignore_ascii_case(name.as_str()))
        .filter_map(|s| position(s).map(|lsn| (s, lsn)))
        .max_by_key(|(_, lsn)| *lsn)
}

fn rank(state: &str) -> u8 {
    match state {
        "sync" => 3,
        "quorum" => 2,
        "potential" => 1,
        _ => 0,
    }
}

/// It is to receive the log from another member that is there, which is to receive it from me.
fn cascades(view: &ClusterView, observed: &Observed, me: &MemberName, member: &Member) -> bool {
    let mut current = member;
    // No chain is longer than there are members, unless it goes round.
    for _ in 0..view.members.len() {
        let Some(from) = current.tags.replicatefrom() else {
            return current.name != member.name && sender(observed, &current.name).is_some();
        };
        match view.members.get(&from) {
            Some(next) if from != *me && next.is_running() && !next.tags.nosync() => current = next,
            _ => return false,
        }
    }
    false
}
