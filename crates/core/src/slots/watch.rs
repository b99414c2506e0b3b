//! How much WAL a slot holds back, and when the disk is full if that goes on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::Lsn;
use crate::postgres::Slot;
use crate::time::BootTime;

/// Over how long the growth is measured: shorter, and a burst of writes is a forecast of doom.
const WINDOW: Duration = Duration::from_secs(300);
const APART: Duration = Duration::from_secs(10);

/// What the disk of the WAL has, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    pub free: u64,
    pub total: u64,
}

/// A slot that holds back WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withheld {
    pub slot: String,
    pub active: bool,
    /// From where it keeps WAL to the end of it.
    pub bytes: u64,
    /// Until the disk is full, if its reader stays where it is and WAL goes on being written at the present rate.
    pub full_in: Option<Duration>,
}

impl Withheld {
    /// Worth an operator's night: more than this share of the disk is held back, or it is full within a day.
    pub fn is_dangerous(&self, room: Option<Room>) -> bool {
        self.full_in.is_some_and(|time| time < Duration::from_secs(24 * 3600) && self.bytes > 1 << 30)
            || room.is_some_and(|room| self.bytes > room.total / 4)
            || room.is_some_and(|room| self.full_in.is_some() && self.bytes > room.free)
    }
}

/// Looks at the slots from time to time.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    /// End of the WAL, and where each slot stood.
    looks: VecDeque<(BootTime, Lsn, BTreeMap<String, Lsn>)>,
}

impl Retention {
    pub fn note(&mut self, at: BootTime, end: Lsn, slots: &[Slot]) {
        if self.looks.back().is_some_and(|(last, ..)| at.since(*last) < APART) {
            return;
        }
        // A timeline that begins anew: what was written before says nothing about it.
        if self.looks.back().is_some_and(|(_, last, _)| end < *last) {
            self.looks.clear();
        }
        while self.looks.front().is_some_and(|(first, ..)| at.since(*first) > WINDOW) {
            self.looks.pop_front();
        }
        let stand = slots.iter().filter_map(|s| Some((s.name.clone(), s.restart_lsn?))).collect();
        self.looks.push_back((at, end, stand));
    }

    pub fn clear(&mut self) {
        self.looks.clear();
    }

    /// Biggest first.
    pub fn withheld(&self, end: Lsn, slots: &[Slot], room: Option<Room>) -> Vec<Withheld> {
        let mut all: Vec<Withheld> = slots
            .iter()
            .filter_map(|slot| {
                let restart = slot.restart_lsn?;
                let full_in = room.and_then(|room| self.full_in(&slot.name, restart, room));
                let bytes = end.0.saturating_sub(restart.0);
                Some(Withheld { slot: slot.name.clone(), active: slot.active, bytes, full_in })
            })
            .collect();
        all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.slot.cmp(&b.slot)));
        all
    }

    /// A slot that moves keeps no more than it does now; one that stands lets the WAL grow at the rate it is written.
    fn full_in(&self, slot: &str, restart: Lsn, room: Room) -> Option<Duration> {
        let ((from, begin, stood), (to, end, _)) = (self.looks.front()?, self.looks.back()?);
        let time = to.since(*from);
        let still = stood.get(slot).is_some_and(|stood| *stood == restart);
        if time < WINDOW / 5 || !still {
            return None;
        }
        let written = end.0.saturating_sub(begin.0);
        (written > 0).then(|| time.mul_f64((room.free as f64 / written as f64).min(1e6)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::slot;
    use super::*;

    const MB: u64 = 1 << 20;

    fn at(seconds: u64) -> BootTime {
        BootTime::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn a_slot_that_stands_fills_the_disk() {
        let mut watch = Retention::default();
        // 1 MB/s is written; "moves" is read, "stands" is not.
        for second in (0..=120).step_by(5) {
            let end = Lsn(1000 * MB + second * MB);
            watch.note(at(second), end, &[slot("stands", 900 * MB), slot("moves", end.0)]);
        }
        let end = Lsn(1120 * MB);
        let room = Room { free: 3600 * MB, total: 100_000 * MB };
        let told = watch.withheld(end, &[slot("moves", end.0), slot("stands", 900 * MB)], Some(room));
        assert_eq!(told[0].slot, "stands");
        assert_eq!(told[0].bytes, 220 * MB);
        assert_eq!(told[0].full_in, Some(Duration::from_secs(3600)));
        assert_eq!((told[1].bytes, told[1].full_in), (0, None));
        assert!(!told[0].is_dangerous(Some(room)), "little yet, and time is left");
        assert!(Withheld { bytes: 2048 * MB, ..told[0].clone() }.is_dangerous(Some(room)));
        assert!(Withheld { full_in: None, bytes: 30_000 * MB, ..told[0].clone() }.is_dangerous(Some(room)));
    }

    #[test]
    fn a_moment_is_no_forecast() {
        let mut watch = Retention::default();
        watch.note(at(0), Lsn(1), &[slot("a", 1)]);
        watch.note(at(20), Lsn(1000), &[slot("a", 1)]);
        let room = Some(Room { free: 1, total: 1 });
        assert_eq!(watch.withheld(Lsn(1000), &[slot("a", 1)], room)[0].full_in, None);
        // Nothing is written: nothing fills.
        for second in 1..20 {
            watch.note(at(20 + second * 30), Lsn(1000), &[slot("a", 1)]);
        }
        assert_eq!(watch.withheld(Lsn(1000), &[slot("a", 1)], room)[0].full_in, None);
        // Another timeline began.
        watch.note(at(1000), Lsn(10), &[slot("a", 1)]);
        assert_eq!(watch.looks.len(), 1);
    }
}
