//! A primary without the store, as the loop sees it: what the store says about who may vouch, and whom to ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use surus_api::FailsafeRequest;
use surus_core::cluster::{ClusterView, Leader, Member as Key};
use surus_core::facts::Facts;
use surus_core::failsafe::{self, CONSENT};
use surus_core::store::TxnOutcome;
use surus_core::{BootTime, MemberName};
use surus_store::clock::boot_now;
use tracing::{info, warn};

use super::Agent;
use crate::failsafe::{Want, consents, members_may_ask};

const WRITE: Duration = Duration::from_secs(2);

impl Agent {
    /// What the lease keeper has to know of a decision.
    pub(super) async fn note_clearance(&mut self, facts: &Facts) {
        let known = facts.store.view.as_deref().is_some_and(|v| v.vouching.is_some());
        let lead = self.member.memory().cleared.filter(|_| known);
        if self.unvouches != lead {
            self.unvouches = lead;
            self.lease.unvouches(lead).await;
        }
        let epoch = self.member.electors_epoch();
        if self.electors != epoch {
            self.electors = epoch;
            self.lease.electors(epoch).await;
        }
    }

    pub(super) fn ask_consent(&self, at: BootTime, whom: BTreeMap<MemberName, String>, firm: bool) {
        if !self.failsafe.give_myself(firm) {
            return;
        }
        if whom.is_empty() {
            self.wake.notify_one();
        }
        for (name, url) in whom {
            let (api, tx, me) = (self.api.clone(), self.consents.0.clone(), self.me.clone());
            tokio::spawn(async move {
                let said = consents(&api, &url, &me).await.map(|()| at + failsafe::good_for(CONSENT));
                let _ = tx.send((name, said)).await;
            });
        }
    }

    fn let_in(&mut self) -> bool {
        let why = members_may_ask(&self.settings.local.restapi, &self.settings.local.ctl).err();
        if self.kept_out != why {
            if let Some(why) = &why {
                info!("failsafe_mode is not switched on by default, since members would not let each other in: {why}");
            }
            self.kept_out = why;
        }
        self.kept_out.is_none()
    }

    /// Has the store know that failsafe mode is on, and who may vouch for me.
    pub(super) fn note_vouching(&mut self, facts: &Facts) {
        if let Some((config, over)) = self.member.failsafe_mode_due(facts)
            && self.let_in()
        {
            let store = self.store.clone();
            tokio::spawn(async move {
                match store.compare_and_put_as_leader("config", Some(over), config, WRITE).await {
                    Ok(TxnOutcome::Applied(_)) => info!(
                        "failsafe_mode: true written to the dynamic configuration, which said nothing about it, since Surus \
                         drives all members; `surus edit-config -s failsafe_mode=false` switches it off"
                    ),
                    Ok(TxnOutcome::Conflict) => {}
                    Err(e) => warn!(
                        "failsafe_mode: true could not be written to the dynamic configuration, trying again: {e}"
                    ),
                }
            });
        }
        if facts.settings.failsafe_mode && facts.store.view.is_some() {
            self.failsafe.allow(facts.settings.timing.ttl);
        }
        let lease = self.lease_state.borrow().clone();
        let Some(write) = self.member.vouching_due(facts, &lease, boot_now()) else { return };
        let (store, tx) = (self.store.clone(), self.vouching.0.clone());
        tokio::spawn(async move {
            let written = store.write_vouching(write.failsafe, write.vouching, write.over, WRITE).await;
            let _ = tx.send(written).await;
        });
    }

    /// The reading that slots are kept by. While a primary goes on without the store, its slots and the positions of those
    /// who vouch for it are in what they say to each other: then with `true`.
    pub(super) fn view_for_slots(&self, facts: &Facts) -> Option<(Arc<ClusterView>, bool)> {
        let view = facts.store.view.clone()?;
        let readable = facts.store.broken.is_none();
        if readable && view.leader.is_some() {
            return Some((view, false));
        }
        let mut known = ClusterView::clone(&view);
        let leads = |name: MemberName| Some(Leader { name, version: 0, lease: None });
        if let Some(heard) = self.failsafe.heard() {
            known.leader = leads(heard.request.name);
            if !heard.request.slots.is_empty() {
                known.status.slots = heard.request.slots;
            }
        } else if facts.lead.is_some() && !facts.failsafe.vouched_by.is_empty() {
            known.leader = leads(self.me.clone());
            for (name, position) in self.failsafe.positions() {
                if let Some(member) = known.members.get_mut(&name) {
                    member.xlog_location = Some(position);
                }
            }
        } else {
            return readable.then_some((view, false));
        }
        Some((Arc::new(known), true))
    }

    /// For the task that asks, which does not wait for this loop.
    pub(super) fn show_vouchers(&self, facts: &Facts, member: &Key) {
        let electors = self.member.electors(facts);
        // The store may show positions of long ago.
        let now = facts.postgres.observed().map(|o| self.upkeep.slots.status(facts, o, &self.settings.dynamic));
        let timing = facts.settings.timing;
        let request = FailsafeRequest {
            name: self.me.clone(),
            conn_url: member.conn_url.clone().unwrap_or_default(),
            api_url: member.api_url.clone().unwrap_or_default(),
            slots: now.map(|s| s.slots).unwrap_or_default(),
            ttl_ms: u64::try_from(timing.ttl.as_millis()).ok(),
        };
        let want = electors.map(|electors| Want { api: self.api.clone(), timing, electors: Some(electors), request });
        self.vouchers.send_if_modified(|before| {
            let same = match (&*before, &want) {
                (Some(a), Some(b)) => (&a.electors, &a.timing, &a.request) == (&b.electors, &b.timing, &b.request),
                (a, b) => a.is_none() && b.is_none(),
            };
            if !same {
                *before = want;
            }
            !same
        });
    }
}
