//! The clocks of one machine. True time exists only for the simulator, in microseconds.

use std::time::Duration;

use surus_core::BootTime;

pub type True = u64;

pub const MS: True = 1000;
pub const SECOND: True = 1_000_000;

/// A boot-time clock that runs a little too fast or too slow, and a wall clock that may be stepped.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    booted: u64,
    /// Parts per million by which it runs fast.
    drift: i64,
    wall_offset_ms: i64,
}

/// Well beyond what any quartz does.
pub const MOST_DRIFT: i64 = 500;

impl Clock {
    pub fn new(booted_ms: u64, drift: i64) -> Clock {
        Clock { booted: booted_ms * MS, drift, wall_offset_ms: 0 }
    }

    pub fn boot(&self, now: True) -> BootTime {
        BootTime::from_millis((self.booted + self.local(now)) / MS)
    }

    fn local(&self, span: True) -> u64 {
        let extra = i128::from(span) * i128::from(self.drift) / 1_000_000;
        u64::try_from(i128::from(span) + extra).unwrap_or(0)
    }

    /// How much true time passes while this clock counts `span`.
    pub fn true_span(&self, span: Duration) -> True {
        let us = i128::try_from(span.as_micros()).unwrap_or(i128::MAX / 2_000_000);
        u64::try_from(us * 1_000_000 / i128::from(1_000_000 + self.drift)).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
    }

    /// When this clock shows `at`; now, if it does already.
    pub fn when(&self, at: BootTime, now: True) -> True {
        let left = (at.as_millis() * MS).saturating_sub(self.booted + self.local(now));
        now + self.true_span(Duration::from_micros(left))
    }

    pub fn unix_ms(&self, now: True) -> i64 {
        1_700_000_000_000 + i64::try_from(now / MS).unwrap_or(0) + self.wall_offset_ms
    }

    pub fn step_wall(&mut self, by_ms: i64) {
        self.wall_offset_ms += by_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_counts_and_wall_steps_do_not() {
        let mut fast = Clock::new(5000, 500);
        assert_eq!(fast.boot(0), BootTime::from_millis(5000));
        assert_eq!(fast.boot(100 * SECOND), BootTime::from_millis(105_050));
        fast.step_wall(-3_600_000);
        assert_eq!(fast.boot(100 * SECOND), BootTime::from_millis(105_050));
        let span = fast.true_span(Duration::from_secs(10));
        assert!((9_994_000..=9_996_000).contains(&span), "{span}");
        let at = fast.when(BootTime::from_millis(15_000), 0);
        assert!(fast.boot(at + 1).as_millis() >= 15_000, "{at}");
    }
}
