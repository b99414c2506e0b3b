//! The leader's part of a step: from its facts to the next order for PostgreSQL or the store.

use std::time::Duration;

use crate::cluster::{ClusterView, SyncState};
use crate::ids::MemberName;
use crate::order::Order;
use crate::rules::{Leads, Work};
use crate::settings::SynchronousMode;

use super::{InForce, Key, Move, Names, Situation, mode, next, standbys};

/// Something is about to happen that the server tells only when it is asked.
const SOON: Duration = Duration::from_millis(50);
/// Nothing goes on here without the other side, which wakes this one in most cases.
const LATER: Duration = Duration::from_millis(500);

pub(crate) fn drive(work: &mut Work) {
    let facts = work.facts;
    let Some(view) = work.view.filter(|_| work.leads == Leads::Me && facts.store.broken.is_none()) else { return };
    let Some(observed) = facts.postgres.observed().filter(|o| !o.in_recovery) else { return };
    let begins = work.orders.iter().any(|o| matches!(o, Order::Begin { .. } | Order::ReleaseLead | Order::Exit(_)));
    if facts.shutdown || facts.task.is_some() || begins || facts.lead.is_none() {
        return;
    }
    let doing = &facts.synchronous;
    if doing.busy || doing.readable_from.is_some_and(|from| view.revision < from) {
        return;
    }
    let mode = mode(&facts.settings);
    if mode == SynchronousMode::Off {
        match view.sync.as_ref() {
            Some(key) => work.order(Order::WriteSync { state: None, version: Some(key.version) }),
            None if doing.taken_over => work.order(Order::SetNames { names: None }),
            None => {}
        }
        return;
    }
    if let Some(key) = view.sync.as_ref().filter(|_| doing.readable_from.is_none()) {
        // A write of an earlier process of this name may be on its way still, and finds another version then.
        work.order(Order::WriteSync { state: Some(key.value.clone()), version: Some(key.version) });
        return;
    }
    let read = |text: &str| Names::parse(text, |n| spelling(view, &facts.me, n));
    let shown = read(&observed.synchronous_standby_names);
    // Members come and go, and with them how their names are spelled.
    let in_force = doing.in_force.clone();
    let in_force = in_force.map(|f| InForce { names: read(&f.names.text().unwrap_or_default()), ..f });
    if in_force.as_ref().is_some_and(|f| f.names != shown && observed.at < f.at) {
        // The answer is older than the setting.
        work.again_in(SOON);
        return;
    }
    let in_force = in_force.as_ref().filter(|f| f.names == shown);
    let situation = Situation {
        me: facts.me.as_str().to_owned(),
        quorum_mode: mode == SynchronousMode::Quorum,
        strict: facts.settings.synchronous_mode_strict,
        want: usize::try_from(facts.settings.synchronous_node_count.max(1)).unwrap_or(usize::MAX),
        key: view.sync.as_ref().map(|k| key(view, &facts.me, &k.value)),
        names: in_force.map(|f| f.names.clone()),
        active: standbys(facts, view, observed, in_force),
        patient: in_force.is_some_and(|f| facts.now.since(f.at) < facts.settings.timing.loop_wait),
        shown,
    };
    match next(&situation) {
        Move::Settled if situation.active.len() < situation.want => work.again_in(Duration::from_secs(1)),
        Move::Settled => {}
        Move::Wait(what) => {
            work.wait_for(what);
            work.again_in(if situation.active.is_empty() { LATER } else { SOON });
        }
        Move::Write(key) => {
            work.order(Order::WriteSync { state: Some(key.state()), version: view.sync_version });
        }
        Move::Set(names) => work.order(Order::SetNames { names: Some(names) }),
    }
}

/// As the member of that name spells itself.
fn spelling<'a>(view: &'a ClusterView, me: &'a MemberName, name: &str) -> Option<&'a str> {
    std::iter::once(me).chain(view.members.keys()).map(MemberName::as_str).find(|n| n.eq_ignore_ascii_case(name))
}

fn key(view: &ClusterView, me: &MemberName, state: &SyncState) -> Key {
    let spell = |n: &str| spelling(view, me, n).map_or_else(|| n.to_lowercase(), str::to_owned);
    Key {
        leader: spell(state.leader.as_str()),
        voters: state.standbys.iter().map(|n| spell(n)).filter(|n| *n != spell(state.leader.as_str())).collect(),
        quorum: usize::try_from(state.quorum).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lists_its_leader_once() {
        let state = SyncState { leader: "A".into(), standbys: vec!["a".into(), "B".into()], quorum: 0 };
        let read = key(&ClusterView::default(), &"A".into(), &state);
        assert_eq!(read, Key { leader: "A".into(), voters: ["b".to_owned()].into(), quorum: 0 });
    }
}
