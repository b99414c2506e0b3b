//! What can go wrong between one client and the in-memory store.

use std::time::Duration;

use super::MemoryStore;

/// Switches the faults of one client; other clients are not affected.
#[derive(Clone)]
pub struct Faults {
    pub(super) store: MemoryStore,
}

impl Faults {
    /// Every call fails and every watch is broken, until [`Faults::heal`].
    pub fn cut(&self) {
        self.store.switch(|s| s.cut = true);
    }

    /// Every call takes this long. One that has less time left is never carried out.
    pub fn slow(&self, delay: Duration) {
        self.store.switch(|s| s.delay = delay);
    }

    /// The next `n` writes take effect, but their caller is told that the outcome is unknown.
    pub fn lose_answers(&self, n: u32) {
        self.store.switch(|s| s.lost_answers = n);
    }

    /// The next `n` writes have no effect, and their caller is told that the outcome is unknown.
    pub fn lose_requests(&self, n: u32) {
        self.store.switch(|s| s.lost_requests = n);
    }

    /// Watches say `Broken` and stay so until [`Faults::heal`]; calls go on working.
    pub fn break_watches(&self) {
        self.store.switch(|s| s.watches_broken = true);
    }

    /// Watches deliver nothing and do not say so; what they held back comes after [`Faults::heal`].
    pub fn stall_watches(&self) {
        self.store.switch(|s| s.watches_stalled = true);
    }

    /// Ends every fault of this client.
    pub fn heal(&self) {
        self.store.switch(|s| *s = Switches::default());
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Switches {
    cut: bool,
    delay: Duration,
    lost_answers: u32,
    lost_requests: u32,
    watches_broken: bool,
    pub(super) watches_stalled: bool,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Delivered(Duration),
    Unreachable,
    TooSlow(Duration),
    AnswerLost,
    RequestLost,
}

impl Fate {
    pub(super) fn takes(self) -> Duration {
        match self {
            Fate::Delivered(delay) | Fate::TooSlow(delay) => delay,
            Fate::Unreachable | Fate::AnswerLost | Fate::RequestLost => Duration::ZERO,
        }
    }
}

impl Switches {
    pub(super) fn breaks_watches(&self) -> bool {
        self.cut || self.watches_broken
    }

    pub(super) fn fate(&mut self, write: bool, deadline: Duration) -> Fate {
        if self.cut {
            return Fate::Unreachable;
        }
        let mut one_of = |count: fn(&mut Switches) -> &mut u32| {
            let count = count(self);
            let any = write && *count > 0;
            *count -= u32::from(any);
            any
        };
        if one_of(|s| &mut s.lost_answers) {
            return Fate::AnswerLost;
        }
        if one_of(|s| &mut s.lost_requests) {
            return Fate::RequestLost;
        }
        if self.delay >= deadline && !self.delay.is_zero() {
            return Fate::TooSlow(deadline);
        }
        Fate::Delivered(self.delay)
    }
}
