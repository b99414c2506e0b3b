//! The steps of synchronous replication, each of which is over before the next is decided.

use std::time::Duration;

use surus_core::cluster::{KeyVersion, SyncState};
use surus_core::facts::Lead;
use surus_core::store::{Revision, StoreResult, TxnOutcome};
use surus_core::synchronous::{Doing, InForce, Names};
use surus_core::{BootTime, Lsn};
use tracing::{info, warn};

use super::{Deed, Member};

/// Bringing a setting into force takes milliseconds, unless the checkpointer is busy.
const SET: Duration = Duration::from_secs(10);
const WRITE: Duration = Duration::from_secs(2);
/// Pause after a step that failed.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Sync {
    doing: Doing,
    /// Version of the lead under which it was done.
    reign: Option<u64>,
    setting: Option<Names>,
    wanted: Option<SyncState>,
}

impl<T> Member<T> {
    /// For the facts. What was done under another lead says nothing any more.
    pub fn synchronous(&self, lead: Option<Lead>) -> Doing {
        let doing = self.sync.doing.clone();
        if lead.is_some() && lead.map(|l| l.version) == self.sync.reign {
            return doing;
        }
        Doing { busy: doing.busy, taken_over: doing.taken_over, ..Doing::default() }
    }

    fn begin_step(&mut self, lead: Option<Lead>) {
        self.sync.doing = Doing { busy: true, ..self.synchronous(lead) };
        self.sync.reign = lead.map(|l| l.version);
    }

    pub(super) fn set_names(&mut self, names: Option<Names>, lead: Option<Lead>) -> Deed<T> {
        self.begin_step(lead);
        match names.as_ref().map(Names::text) {
            Some(Some(text)) => info!("Assigning synchronous_standby_names to {text}"),
            Some(None) => info!("Assigning synchronous_standby_names to nobody"),
            None => info!("synchronous_standby_names is what is configured"),
        }
        // On the way it may be the old one or the new.
        self.sync.doing.in_force = None;
        self.sync.setting = names.clone();
        Deed::SetNames { names, limit: SET }
    }

    /// What came of it: how far the log was when it was in force.
    pub fn names_set(&mut self, set: Result<Lsn, String>, lead: Option<Lead>, now: BootTime) {
        let names = self.sync.setting.take();
        let mine = lead.is_some() && lead.map(|l| l.version) == self.sync.reign;
        self.sync.doing.busy = false;
        match set {
            Ok(flushed) => {
                self.sync.doing.taken_over = names.is_some();
                self.sync.doing.in_force = names.filter(|_| mine).map(|names| InForce { names, flushed, at: now });
                self.sooner(now);
            }
            Err(why) => {
                warn!("the synchronous standbys could not be set, trying again: {why}");
                self.sooner(now + AGAIN);
            }
        }
    }

    /// The server was started, or stopped, by a task: what it waits for has to be made certain again.
    pub(super) fn names_uncertain(&mut self) {
        self.sync.doing.in_force = None;
    }

    pub(super) fn write_sync(
        &mut self,
        state: Option<SyncState>,
        version: Option<KeyVersion>,
        lead: Option<Lead>,
    ) -> Deed<T> {
        self.begin_step(lead);
        self.sync.doing.readable_from = None;
        self.sync.wanted = state.clone();
        Deed::WriteSync { state: state.map(|s| s.to_text()), version, limit: WRITE }
    }

    pub fn sync_written(&mut self, written: StoreResult<(TxnOutcome, Revision)>, lead: Option<Lead>, now: BootTime) {
        let wanted = self.sync.wanted.take();
        self.sync.doing.busy = false;
        let mine = lead.is_some() && lead.map(|l| l.version) == self.sync.reign;
        match written {
            Ok((outcome, revision)) => {
                self.sync.doing.readable_from = Some(revision).filter(|_| mine);
                match (outcome, wanted) {
                    (TxnOutcome::Conflict, _) => {
                        info!("the sync key was changed by somebody else, looking at it again")
                    }
                    (_, Some(s)) => {
                        let names = s.standbys.join(", ");
                        info!("the sync key: leader {}, quorum {} of ({names})", s.leader, s.quorum);
                    }
                    (_, None) => info!("Disabled synchronous replication"),
                }
                self.sooner(now);
            }
            Err(e) => {
                warn!("the sync key could not be written, trying again: {e}");
                self.sooner(now + AGAIN);
            }
        }
    }
}
