//! WAL that slots hold back, and for how long the disk bears it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_core::BootTime;
use surus_core::facts::Facts;
use surus_core::postgres::Observed;
use surus_core::settings::DiskGuard;
use surus_core::slots::{Retention, Room, Withheld};
use tracing::{info, warn};

use crate::agent::Agent;
use crate::handle::WalKept;

const LOOK: Duration = Duration::from_secs(30);
/// While there is little of it.
const LOOK_SOON: Duration = Duration::from_secs(2);

#[derive(Default)]
pub struct Watch {
    retention: Retention,
    room: Arc<Mutex<Option<Room>>>,
    looked: Option<BootTime>,
    withheld: Vec<Withheld>,
    warned: BTreeSet<String>,
    low: bool,
}

impl Watch {
    fn room(&self) -> Option<Room> {
        *self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn shown(&self) -> WalKept {
        WalKept { withheld: self.withheld.clone(), room: self.room(), ..WalKept::default() }
    }

    pub fn is_low(&self, guard: &DiskGuard) -> bool {
        self.room().is_some_and(|room| room.free < guard.warn.bytes(room.total))
    }

    fn tell_room(&mut self, guard: &DiskGuard) {
        let (low, room) = (self.is_low(guard), self.room().unwrap_or(Room { free: 0, total: 0 }));
        match (low, std::mem::replace(&mut self.low, low)) {
            (true, false) => {
                let biggest = self.withheld.first().map_or_else(String::new, |w| {
                    format!("; replication slot {} holds back {} MB of it", w.slot, w.bytes >> 20)
                });
                warn!(
                    "the disk of the WAL has {} MB free of {} MB (disk_guard.warn): PostgreSQL ends when it is full{biggest}",
                    room.free >> 20,
                    room.total >> 20
                );
            }
            (false, true) => info!("the disk of the WAL has room again: {} MB are free", room.free >> 20),
            _ => {}
        }
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
        watch.tell_room(&facts.settings.disk_guard);
        // Twice of what would be told: with room for seconds, half a minute is too long.
        let warn = facts.settings.disk_guard.warn;
        let soon = watch.room().is_some_and(|room| room.free < warn.bytes(room.total).saturating_mul(2));
        if watch.looked.is_some_and(|at| facts.now.since(at) < if soon { LOOK_SOON } else { LOOK }) {
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
