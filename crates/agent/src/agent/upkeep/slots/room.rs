//! WAL that slots hold back, and for how long the disk bears it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_core::BootTime;
use surus_core::facts::Facts;
use surus_core::postgres::Observed;
use surus_core::slots::{Retention, Room, Withheld};
use tracing::{info, warn};

use crate::agent::Agent;
use crate::handle::WalKept;

const LOOK: Duration = Duration::from_secs(30);

#[derive(Default)]
pub struct Watch {
    retention: Retention,
    room: Arc<Mutex<Option<Room>>>,
    looked: Option<BootTime>,
    withheld: Vec<Withheld>,
    warned: BTreeSet<String>,
}

impl Watch {
    fn room(&self) -> Option<Room> {
        *self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn shown(&self) -> WalKept {
        WalKept { withheld: self.withheld.clone(), room: self.room(), ..WalKept::default() }
    }

    fn tell(&mut self) {
        let room = self.room();
        let dangerous: BTreeSet<String> =
            self.withheld.iter().filter(|w| w.is_dangerous(room)).map(|w| w.slot.clone()).collect();
        for withheld in self.withheld.iter().filter(|w| dangerous.contains(&w.slot) && !self.warned.contains(&w.slot)) {
            let free = room.map_or_else(String::new, |room| format!(", {} MB are free", room.free >> 20));
            let when = withheld.full_in.map_or_else(String::new, |time| {
                format!("; at the present rate of writing the disk is full in {} min", time.as_secs() / 60)
            });
            let reader = if withheld.active { "its reader is behind" } else { "nobody reads from it" };
            warn!(
                "replication slot {} holds back {} MB of WAL, {reader}{free}{when}; bring its reader back, drop it with \
                 pg_drop_replication_slot, or set max_slot_wal_keep_size",
                withheld.slot,
                withheld.bytes >> 20
            );
        }
        for slot in self.warned.difference(&dangerous) {
            info!("replication slot {slot} does not endanger the disk any more");
        }
        self.warned = dangerous;
    }
}

impl Agent {
    pub(super) fn watch_wal(&mut self, facts: &Facts, observed: &Observed) {
        let watch = &mut self.upkeep.slots.watch;
        watch.retention.note(facts.now, observed.position(), &observed.slots);
        watch.withheld = watch.retention.withheld(observed.position(), &observed.slots, watch.room());
        watch.tell();
        if watch.looked.is_some_and(|at| facts.now.since(at) < LOOK) {
            return;
        }
        watch.looked = Some(facts.now);
        let (room, dir) = (watch.room.clone(), self.settings.data_dir().join("pg_wal"));
        self.upkeep.spawn("looking at the disk of the WAL", async move {
            let found = surus_postgres::room(&dir).await.map_err(|e| e.to_string())?;
            *room.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
            Ok(())
        });
    }
}
