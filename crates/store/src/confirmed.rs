//! When a server's word that it has renewed a lease can be relied on.
//!
//! etcd and Consul keep the time of leases in the memory of the server that leads, and confirm a renewal from there without
//! asking the others. One that was frozen while another was elected does so for what waits in its sockets, in the moment it
//! wakes up and before it hears of the other, which knows nothing of it: the lease ends as if nothing had been renewed,
//! under an agent that believes in it for its whole time. Such an answer is a late one. So a late one is not believed: the
//! server is given a moment to hear, and asked again.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// In which a server that leads no more and asks the others, or is asked by them, hears that.
pub const HEARD: Duration = Duration::from_millis(100);
/// Quicker answers are believed. It has to be well below an election, which takes a second at least.
pub const QUICK: Duration = Duration::from_millis(250);

/// How long the confirmations of one server take. One that is slow every time is believed from the second time on: to be
/// frozen twice in a row, and to wake up each time with a renewal in its socket, is not what happens to one that is slow. One
/// that did not answer at all in between is not slow, it was away.
#[derive(Debug, Default)]
pub struct Pace(Mutex<Option<Duration>>);

/// One call, in which the server may be asked more than once.
pub struct Asked<'a> {
    pace: &'a Pace,
    since: Instant,
    answered: bool,
}

impl Pace {
    fn late(&self) -> MutexGuard<'_, Option<Duration>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn asked(&self) -> Asked<'_> {
        Asked { pace: self, since: Instant::now(), answered: false }
    }

    /// It did not answer for so long. A call that was cut short says nothing of one that is slow.
    fn silent(&self, time: Duration) {
        let mut late = self.late();
        *late = late.filter(|late| time <= usual(*late));
    }
}

impl Asked<'_> {
    /// Whether a confirmation that took so long counts.
    pub fn counts(&mut self, took: Duration) -> bool {
        self.answered = true;
        let late = took > QUICK;
        let before = std::mem::replace(&mut *self.pace.late(), late.then_some(took));
        !late || before.is_some_and(|before| took <= usual(before))
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.pace.silent(self.since.elapsed());
        }
    }
}

/// What a server that was late may take the next time.
fn usual(late: Duration) -> Duration {
    (late * 3 / 2).max(QUICK * 3)
}

/// Why nothing was confirmed in time.
pub fn took_too_long(took: Duration) -> String {
    format!("it took {took:.1?} to renew it, in which another server may have been elected; that does not count")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Err`: for so long without an answer.
    fn played(answers: &[Result<u64, u64>]) -> Vec<bool> {
        let pace = Pace::default();
        let mut counted = Vec::new();
        for answer in answers {
            match answer {
                Ok(ms) => counted.push(pace.asked().counts(Duration::from_millis(*ms))),
                Err(ms) => pace.silent(Duration::from_millis(*ms)),
            }
        }
        counted
    }

    #[test]
    fn a_late_confirmation_counts_only_of_a_server_that_is_always_late() {
        for (answers, counted) in [
            (vec![Ok(3), Ok(250), Ok(3)], vec![true, true, true]),
            (vec![Ok(3), Ok(251), Ok(3)], vec![true, false, true]),
            (vec![Ok(251), Ok(750), Ok(1125), Ok(1688)], vec![false, true, true, false]),
            (vec![Ok(1100), Ok(1100), Ok(1100)], vec![false, true, true]),
            (vec![Ok(1100), Ok(1651)], vec![false, false]),
            // It was quick in between, or away.
            (vec![Ok(1100), Ok(3), Ok(1100)], vec![false, true, false]),
            (vec![Ok(1100), Ok(1100), Err(2000), Ok(1100)], vec![false, true, false]),
            (vec![Ok(1100), Ok(1100), Err(500), Ok(1100)], vec![false, true, true]),
        ] {
            assert_eq!(played(&answers), counted, "{answers:?}");
        }
    }

    #[test]
    fn a_call_that_ended_after_a_late_answer_was_not_one_without() {
        let pace = Pace::default();
        assert!(!pace.asked().counts(Duration::from_millis(1100)));
        assert!(pace.asked().counts(Duration::from_millis(1100)));
    }
}
