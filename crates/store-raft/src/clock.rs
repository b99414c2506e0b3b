//! Replicated time: how a new Raft leader goes on counting where the last one stopped.
//!
//! Each leadership has an offset `o`: at local boot time `t` it stamps `t + o`. A lease renewed at
//! stamp `c0` ends with the first command stamped `c0 + ttl` or later. For that never to come early,
//! offsets (taken on one imaginary common clock) must not grow from one leadership to the next: the
//! new one may count less time than passed, never more.
//!
//! A node that applies a command stamped `c` at its own boot time `b` knows that the proposer's offset
//! was at least `c - b`, for the proposal came first. The greatest such bound *of the same leadership*
//! is what it would lead with. A bound from an earlier leadership must not survive into a later one: the
//! earlier offset may be greater than the later one, under which leases were renewed since. Hence the
//! reset on every change of [`Stamp::lead`], and the rule that a new leader stamps nothing before it
//! has applied all that was in its log when it was elected.
//!
//! What is lost to an election is the delay from proposal to application on the new leader, a few
//! milliseconds; what is lost when all nodes are down is the time they are down.

pub use crate::host::boot_ms;
use crate::types::Stamp;

/// What one node knows about the offset of the last leadership in its log.
#[derive(Clone, Copy, Debug)]
pub struct LeaseClock {
    lead: u64,
    offset: i64,
}

impl LeaseClock {
    pub fn new(stamp: Stamp, boot: u64) -> LeaseClock {
        LeaseClock { lead: stamp.lead, offset: bound(stamp, boot) }
    }

    pub fn observe(&mut self, stamp: Stamp, boot: u64) {
        if stamp.lead == self.lead {
            self.offset = self.offset.max(bound(stamp, boot));
        } else {
            *self = LeaseClock::new(stamp, boot);
        }
    }

    pub fn offset(&self) -> i64 {
        self.offset
    }
}

fn bound(stamp: Stamp, boot: u64) -> i64 {
    // `boot` was cut to whole milliseconds; the true time may be almost one later.
    signed(stamp.now) - signed(boot) - 1
}

/// Replicated time under an offset.
pub fn at_offset(offset: i64, boot: u64) -> u64 {
    u64::try_from(signed(boot) + offset).unwrap_or(0)
}

/// The local boot time at which replicated time reaches `when`.
pub fn boot_at(offset: i64, when: u64) -> u64 {
    u64::try_from(signed(when) - offset).unwrap_or(0)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(lead: u64, now: u64) -> Stamp {
        Stamp { lead, term: 1, now }
    }

    #[test]
    fn a_successor_loses_only_the_delay_of_the_last_command() {
        // Leader: offset 1000 on a common clock. The follower's boot clock is 50 ms ahead of it.
        let mut c = LeaseClock::new(stamp(0, 0), 0);
        for (t, delay) in [(100, 40), (200, 3), (300, 25)] {
            c.observe(stamp(7, t + 1000), t + delay + 50);
        }
        let t = 5000;
        let lost = (t + 1000) - at_offset(c.offset(), t + 50);
        assert_eq!(lost, 3 + 1);
    }

    #[test]
    fn a_later_leadership_with_less_time_counts() {
        let mut c = LeaseClock::new(stamp(0, 0), 0);
        c.observe(stamp(1, 10_000), 100);
        c.observe(stamp(2, 9_000), 200);
        assert_eq!(at_offset(c.offset(), 200), 8_999);
        c.observe(stamp(1, 10_300), 400);
        assert_eq!(c.lead, 1);
    }

    #[test]
    fn the_moment_of_an_end_is_when_time_has_reached_it() {
        let c = LeaseClock::new(stamp(1, 500), 10_000);
        let end = boot_at(c.offset(), 2_500);
        assert!(at_offset(c.offset(), end) >= 2_500);
        assert!(at_offset(c.offset(), end - 1) < 2_500);
    }
}
