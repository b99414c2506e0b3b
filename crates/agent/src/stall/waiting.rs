//! How long something has been outstanding, as seen by somebody who may have been asleep himself.

use std::time::Duration;

use surus_core::BootTime;
use surus_core::stall::Stall;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting(Stall);

impl Waiting {
    pub fn since(now: BootTime) -> Waiting {
        Waiting(Stall { since: now, seen: now })
    }

    /// Still outstanding. Looks are meant to be at most `apart`: of a longer time between two of them most is not
    /// counted, because the answer may have been here all the while.
    pub fn still(&mut self, now: BootTime, apart: Duration) {
        let passed = now.since(self.0.seen);
        if passed > apart * 2 {
            self.0.since = self.0.since + (passed - apart);
        }
        self.0.seen = now;
    }

    /// There is other evidence that nothing hung until then.
    pub fn not_before(&mut self, at: BootTime) {
        self.0.since = self.0.since.max(at.min(self.0.seen));
    }

    pub fn stall(&self) -> Stall {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_nobody_looked_does_not_count() {
        let (start, second) = (BootTime::from_millis(1_000_000), Duration::from_secs(1));
        let mut waiting = Waiting::since(start);
        for n in 1..=3 {
            waiting.still(start + second * n, second);
        }
        assert_eq!(waiting.stall().lasted(), second * 3);
        waiting.still(start + second * 63, second);
        assert_eq!(waiting.stall().lasted(), second * 4, "a minute frozen counts as one look");
        waiting.not_before(start + second * 62);
        assert_eq!(waiting.stall().lasted(), second);
        waiting.not_before(start + second * 100);
        assert_eq!(waiting.stall().lasted(), Duration::ZERO);
    }
}
