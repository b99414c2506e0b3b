//! Going over to another store: this agent ends as if it were killed, and another one begins where it was, in the same
//! process and with the new store. PostgreSQL, its fence and the end of its lead are found as after a restart.

use std::sync::Arc;
use std::time::Duration;

use surus_conduct::member::WRITE;
use surus_core::BootTime;
use surus_core::cluster::{ClusterView, MemberRole, Migration, MigrationPhase};
use surus_core::facts::Facts;
use surus_core::failsafe::Promises;
use surus_store::follow::Followed;
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use super::{Agent, Left};
use crate::handle::Reply;
use crate::journal;
use crate::migrate::Prepared;
use crate::migrate::attempt::{Attempt, Found, obstacle};
use crate::settings::Settings;
use crate::source::ConfigSource;

/// How long what an agent leaves behind may take to end.
const ENDING: Duration = Duration::from_secs(1);

impl Agent {
    /// The old store has said that the cluster has moved to one that this member has open.
    pub(super) fn moved(&self, followed: &Followed) -> Option<Arc<Prepared>> {
        self.migrator.moved(followed.view.as_deref())
    }

    /// The same, and nothing is under way here that has to end first.
    pub(super) fn moves(&self) -> Option<Arc<Prepared>> {
        let idle = self.member.task().is_none() && self.task.is_none();
        self.moved(&self.followed.borrow()).filter(|_| idle)
    }

    /// Somebody who begins on a copy has not heard that it counts: where it was copied from another one may lead.
    pub(super) fn check_copy(&self) -> Result<(), String> {
        let view = self.member.seen().view.as_deref();
        match view.and_then(ClusterView::copied) {
            Some((migration, _)) if !self.migrator.arrived_by(&migration.id) => Err(format!(
                "this store holds a copy of the cluster made by the move {}, and as far as this member knows the cluster has not \
                 moved here. Name the former store in the configuration, start the agent, and finish the move with `surus store \
                 migrate --to FILE` or give it up with --abort",
                migration.id
            )),
            _ => Ok(()),
        }
    }

    /// Whoever begins on this store from now on need not have heard of the move.
    pub(super) fn confirm_arrival(&mut self, facts: &Facts) {
        let Some((migration, version)) = facts.store.view.as_deref().and_then(ClusterView::copied) else { return };
        if facts.lead.is_none() || !self.migrator.arrived_by(&migration.id) {
            return;
        }
        let arrived = Migration { phase: MigrationPhase::Arrived, ..migration.clone() }.to_text();
        let store = self.store.clone();
        _ = self.upkeep.spawn("writing that the cluster has moved here", async move {
            let written = store.compare_and_put_as_leader("migrate", Some(version), arrived, WRITE).await;
            written.map(drop).map_err(|e| e.to_string())
        });
    }

    /// A member that was away does not know the new store.
    pub(super) fn tell_of_move(&mut self, followed: &Followed) {
        if let Some(moved) = followed.view.as_deref().and_then(ClusterView::moved)
            && !std::mem::replace(&mut self.told_of_move, true)
        {
            warn!(
                "the cluster has moved to another store, {}, while this member was away: it neither leads nor follows here. Name \
                 the new store in its configuration and restart the agent, or run `surus store migrate --to FILE` again, with the \
                 configuration of this store",
                moved.to
            );
        }
    }

    /// Makes an attempt to move the cluster; in the background, and answered when it is known what came of it.
    pub(super) fn move_store(&mut self, id: &str, reply: oneshot::Sender<Reply>) {
        let refuse = |reply: oneshot::Sender<Reply>, why: String| drop(reply.send(Reply::Refused(why)));
        let Some(prepared) = self.migrator.prepared().filter(|p| p.stored.id == id) else {
            return refuse(reply, format!("this member has not prepared the move {id}"));
        };
        let view = self.member.seen().view.clone();
        let serves = self.lease.lead().is_some() && self.published.load().role == MemberRole::Primary;
        let why = match view.as_deref() {
            None => Some("the store has said nothing yet".to_owned()),
            Some(_) if !serves => Some("this member does not lead".to_owned()),
            Some(_) if self.member.task().is_some() => Some("something else is under way here".to_owned()),
            Some(view) => obstacle(view),
        };
        if let Some(why) = why {
            return refuse(reply, why);
        }
        info!("moving the cluster to another store ({})", crate::migrate::kind(&prepared.stored.section));
        let attempt = Attempt {
            new: self.migrator.target(&prepared),
            migrator: self.migrator.clone(),
            prepared,
            old: self.store.clone(),
            lease: self.lease.clone(),
            timing: self.settings.effective.settings.timing,
            found: Found::default(),
        };
        let (wake, under_way) = (self.wake.clone(), self.moving.clone());
        tokio::spawn(async move {
            // Two attempts at once would withdraw each other.
            let Ok(_one) = under_way.try_lock() else {
                return refuse(reply, "an attempt is under way already".to_owned());
            };
            let said = attempt.run().await;
            wake.notify_one();
            let _ = reply.send(said.map(|()| "the cluster has moved".to_owned()).into());
        });
    }

    /// Returns what the next agent begins with, once nothing of this one is left that would meet it.
    pub(super) async fn leave_for(self, prepared: &Prepared) -> Left {
        let promises = self.failsafe.hand_over();
        self.migrator.arrive(prepared).await;
        let left = self.lease.lead_until().map(|until: BootTime| until.since(surus_store::clock::boot_now()));
        info!(
            "going over to the new store ({}){}",
            crate::migrate::kind(&prepared.stored.section),
            left.map_or_else(String::new, |left| format!("; the lead is good for another {:.1} s", left.as_secs_f64()))
        );
        journal::finish(&self.recorder).await;
        let ends = (self.fence_state.clone(), self.watchdog_state.clone(), self.lease_state.clone());
        let left = self.remains(prepared, promises);
        let ended = async {
            let (fence, watchdog, lease) = ends;
            ended(fence).await;
            ended(watchdog).await;
            ended(lease).await;
        };
        // The device of a watchdog is open once at a time, and a fence hears one agent.
        if tokio::time::timeout(ENDING, ended).await.is_err() {
            warn!("the agent on the old store has not ended within {} s", ENDING.as_secs());
        }
        left
    }

    /// Everything else ends here. What was read from the old store is forgotten with it: versions mean nothing in another.
    fn remains(self, prepared: &Prepared, promises: Promises) -> Left {
        let store = prepared.config.store.clone();
        let source = ConfigSource { store: Some(store.clone()), ..self.source };
        let settings = Settings::new(self.settings.local.on(store));
        let Agent { _lock: lock, api, rest, measures, .. } = self;
        Left { source, settings, lock, api, rest, measures, promises: Some(promises) }
    }
}

async fn ended<T>(mut state: watch::Receiver<T>) {
    while state.changed().await.is_ok() {}
}
