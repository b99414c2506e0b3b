//! What the other members will miss in this primary: users, rights, settings. Nobody creates them in a server that was
//! taken over, and a member that is refused says so on another machine.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_core::BootTime;
use surus_core::cluster::Upstream;
use surus_core::facts::Facts;
use tracing::{info, warn};

use crate::agent::Agent;

/// While something is wanting; an operator is about to mend it. Each look may leave a line in PostgreSQL's log.
const AGAIN: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(3);

#[derive(Default)]
pub struct Wanting {
    found: Arc<Mutex<Option<Vec<String>>>>,
    shown: Arc<Vec<String>>,
    /// When it was looked at last, of which run of the server and with which settings.
    looked: Option<(BootTime, String, u64)>,
}

impl Wanting {
    pub fn shown(&self) -> Arc<Vec<String>> {
        self.shown.clone()
    }

    fn tell(&mut self, found: Vec<String>) {
        let (before, now): (BTreeSet<_>, BTreeSet<_>) = (self.shown.iter().collect(), found.iter().collect());
        for line in now.difference(&before) {
            warn!("{line}");
        }
        if now.is_empty() && !before.is_empty() {
            info!("nothing is wanting any more that other members need here");
        }
        self.shown = Arc::new(found);
    }
}

impl Agent {
    pub(super) fn look_for_wanting(&mut self, facts: &Facts) {
        let wanting = &mut self.upkeep.wanting;
        let found = wanting.found.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(found) = found {
            wanting.tell(found);
        }
        let Some(observed) = facts.postgres.observed().filter(|o| !o.in_recovery && facts.lead.is_some()) else {
            wanting.shown = Arc::default();
            wanting.looked = None;
            return;
        };
        let state = (observed.postmaster_start_time.clone(), self.upkeep.generation);
        let known = wanting.looked.as_ref().is_some_and(|(at, start, generation)| {
            (start, generation) == (&state.0, &state.1) && (wanting.shown.is_empty() || facts.now.since(*at) < AGAIN)
        });
        if known || self.member.task().is_some() {
            return;
        }
        let address = &self.settings.effective.connect_address;
        let own = Upstream { name: self.me.clone(), host: address.host.clone(), port: address.port, remote: false };
        let (instance, place, wake) = (self.instance.clone(), wanting.found.clone(), self.wake.clone());
        let begun = self.upkeep.spawn("looking for what other members need here", async move {
            let found = instance.wanting(&own, LIMIT).await.map_err(|e| e.to_string())?;
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            wake.notify_one();
            Ok(())
        });
        if begun {
            self.upkeep.wanting.looked = Some((facts.now, state.0, state.1));
        }
    }
}
