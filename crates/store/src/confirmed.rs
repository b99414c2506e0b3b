//! When a server's word that it has renewed a lease can be relied on.
//!
//! etcd and Consul keep the time of leases in the memory of the server that leads, and confirm a renewal from there without
//! asking the others. One that was frozen while another was elected does so for what waits in its sockets, in the moment it
//! wakes up and before it hears of the other, which knows nothing of it: the lease ends as if nothing had been renewed,
//! under an agent that believes in it for its whole time. Such an answer is a late one. So a late one is not believed: the
//! server is given a moment to hear, and asked again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// In which a server that leads no more and asks the others, or is asked by them, hears that.
pub const HEARD: Duration = Duration::from_millis(100);
/// Quicker answers are believed. It has to be well below an election, which takes a second at least.
pub const QUICK: Duration = Duration::from_millis(250);

/// How long the confirmations take. A server that is slow every time is believed from the second time on: to be frozen twice
/// in a row, and to wake up each time with a renewal in its socket, is not what happens to one that is slow. One that
/// did not answer at all in between is not slow, it was away.
#[derive(Debug, Default)]
pub struct Pace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    late: Option<Duration>,
    answered: bool,
}

impl Pace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begins(&self) {
        self.state().answered = false;
    }

    /// Whether a confirmation that took so long counts.
    pub fn counts(&self, took: Duration) -> bool {
        let mut state = self.state();
        state.answered = true;
        let usual = |late: Duration| took <= (late * 3 / 2).max(QUICK * 3);
        let counts = took <= QUICK || state.late.is_some_and(usual);
        state.late = (took > QUICK).then_some(took);
        counts
    }

    /// The renewal failed.
    pub fn failed(&self) {
        let mut state = self.state();
        if !state.answered {
            state.late = None;
        }
    }
}

/// Why nothing was confirmed in time.
pub fn took_too_long(took: Duration) -> String {
    format!("it took {took:.1?} to renew it, in which another server may have been elected; that does not count")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `None`: the renewal failed, without an answer.
    fn played(answers: &[Option<u64>]) -> Vec<bool> {
        let pace = Pace::default();
        let mut counted = Vec::new();
        for answer in answers {
            pace.begins();
            match answer {
                Some(ms) => counted.push(pace.counts(Duration::from_millis(*ms))),
                None => pace.failed(),
            }
        }
        counted
    }

    #[test]
    fn a_late_confirmation_counts_only_of_a_server_that_is_always_late() {
        for (answers, counted) in [
            (vec![Some(3), Some(250), Some(3)], vec![true, true, true]),
            (vec![Some(3), Some(251), Some(3)], vec![true, false, true]),
            (vec![Some(251), Some(750), Some(1125), Some(1688)], vec![false, true, true, false]),
            (vec![Some(1100), Some(1100), Some(1100)], vec![false, true, true]),
            (vec![Some(1100), Some(1651)], vec![false, false]),
            // It was quick in between, or away.
            (vec![Some(1100), Some(3), Some(1100)], vec![false, true, false]),
            (vec![Some(1100), Some(1100), None, Some(1100)], vec![false, true, false]),
        ] {
            assert_eq!(played(&answers), counted, "{answers:?}");
        }
    }

    #[test]
    fn a_renewal_that_failed_after_a_late_answer_was_not_one_without() {
        let pace = Pace::default();
        pace.begins();
        assert!(!pace.counts(Duration::from_millis(1100)));
        pace.failed();
        pace.begins();
        assert!(pace.counts(Duration::from_millis(1100)));
    }
}
