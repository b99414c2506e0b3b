//! Failover slots, which the servers themselves bring to standbys (PostgreSQL 17 and newer).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_core::cluster::ClusterView;
use surus_core::facts::Facts;
use surus_core::follow::follows;
use surus_core::postgres::Observed;
use surus_core::slots::{self, FAILOVER_SLOTS, Want, Wanted};
use surus_core::{BootTime, MemberName};
use tracing::{info, warn};

use crate::agent::Agent;

const LIMIT: Duration = Duration::from_secs(5);

/// What a leader was found to have.
type Found = (MemberName, BTreeMap<String, bool>);

#[derive(Default)]
pub struct Native {
    found: Option<Found>,
    answer: Arc<Mutex<Option<Found>>>,
    asked: Option<BootTime>,
    /// The permanent ones, and whether this standby could go on with each.
    pub ready: BTreeMap<String, bool>,
}

impl Native {
    /// The logical slots of the leader, and which of them are failover slots, while this standby streams from it. A former primary that does not yet may have
    /// to lead again with what it has.
    pub fn leader_has(
        &mut self,
        facts: &Facts,
        view: &ClusterView,
        observed: &Observed,
    ) -> Option<&BTreeMap<String, bool>> {
        if let Some(found) = self.answer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.found = Some(found);
        }
        let leader = view.leader_name();
        if !observed.in_recovery || self.found.as_ref().is_some_and(|(of, _)| Some(of) != leader) {
            self.found = None;
        }
        let upstream = view.leader_member().filter(|m| m.name != facts.me).and_then(|m| m.upstream())?;
        let streams = observed.is_streaming() && follows(observed, Some(&upstream), Some(&facts.me.slot_name()));
        self.found.as_ref().filter(|_| streams).map(|(_, slots)| slots)
    }

    pub fn note(&mut self, wanted: &Wanted, observed: &Observed) {
        let natives = wanted.slots.iter().filter(|(_, want)| matches!(want, Want::Logical { native: true, .. }));
        let ready = natives.map(|(name, _)| (name.clone(), slots::is_synchronised(&observed.slots, name))).collect();
        let before = std::mem::replace(&mut self.ready, ready);
        for (slot, ready) in &self.ready {
            match (before.get(slot), ready) {
                (Some(true), true) | (None | Some(false), false) => {}
                (_, true) => info!("Logical slot {slot} is safe to be used after a failover"),
                (_, false) => warn!("logical slot {slot} is not synchronised any more; see PostgreSQL's log for why"),
            }
        }
    }
}

impl Agent {
    /// Asks while a slot is not synchronised, or one is there that may be in the way.
    pub(super) fn ask_failover_slots(&mut self, facts: &Facts, view: &ClusterView, observed: &Observed) {
        let unsure = self.upkeep.slots.native.ready.values().any(|ready| !ready)
            || observed.slots.iter().any(|s| s.logical && !s.synced && s.failover);
        let asks = unsure
            && observed.in_recovery
            && observed.server_version >= FAILOVER_SLOTS
            && self.settings.effective.synchronises_slots();
        let mine = &mut self.upkeep.slots.native;
        let rested = mine.asked.is_none_or(|at| facts.now.since(at) >= facts.settings.timing.loop_wait);
        if !asks || !rested {
            return;
        }
        let Some(leader) = view.leader_member().filter(|m| m.name != facts.me).and_then(|m| m.upstream()) else {
            return;
        };
        mine.asked = Some(facts.now);
        let (instance, answer, wake) = (self.instance.clone(), mine.answer.clone(), self.wake.clone());
        self.upkeep.spawn("asking the leader about failover slots", async move {
            let found = instance.failover_slots_at(&leader, LIMIT).await.map_err(|e| e.to_string())?;
            *answer.lock().unwrap_or_else(PoisonError::into_inner) = Some((leader.name, found));
            wake.notify_one();
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::{Leader, Member};
    use surus_core::postgres::WalReceiver;

    use super::*;
    use crate::rest::testing::primary;
    use crate::sample::facts;

    fn view(leader: &str) -> ClusterView {
        let mut view = ClusterView::default();
        for (name, port) in [("me", 1), ("b", 2), ("c", 3)] {
            let mut member = Member::unknown(name.into());
            member.conn_url = Some(format!("postgres://10.0.0.1:{port}/postgres"));
            view.members.insert(name.into(), member);
        }
        view.leader = Some(Leader { name: leader.into(), version: 1, lease: None });
        view
    }

    fn standby(port: u16) -> Observed {
        let receiver = WalReceiver {
            status: "streaming".into(),
            received_timeline: None,
            sender_host: None,
            sender_port: None,
            slot_name: None,
            latest_end_lsn: None,
        };
        Observed {
            in_recovery: true,
            receiver: Some(receiver),
            primary_conninfo: Some(format!("host=10.0.0.1 port={port}")),
            primary_slot_name: Some("me".into()),
            ..primary()
        }
    }

    #[test]
    fn what_is_known_of_the_leader_counts_while_this_standby_streams_from_it() {
        let f = facts(view("b"), Some(primary()));
        let mut native = Native::default();
        let names: BTreeMap<String, bool> = [("changes".to_owned(), true)].into();
        let told = |native: &Native, of: &str| {
            *native.answer.lock().unwrap() = Some((of.into(), [("changes".to_owned(), true)].into()));
        };
        assert_eq!(native.leader_has(&f, &view("b"), &standby(2)), None, "nobody was asked");
        told(&native, "b");
        assert_eq!(native.leader_has(&f, &view("b"), &standby(3)), None, "it still streams from c");
        let cut_off = Observed { receiver: None, ..standby(2) };
        assert_eq!(native.leader_has(&f, &view("b"), &cut_off), None);
        assert_eq!(native.leader_has(&f, &view("b"), &standby(2)), Some(&names));
        assert_eq!(native.leader_has(&f, &view("c"), &standby(3)), None, "c was not asked");
        assert_eq!(native.leader_has(&f, &view("b"), &standby(2)), None, "what b had before c led says nothing");
        told(&native, "b");
        assert_eq!(native.leader_has(&f, &view("c"), &standby(3)), None, "an answer that comes late");
        told(&native, "b");
        assert_eq!(native.leader_has(&f, &view("me"), &primary()), None);
    }
}
