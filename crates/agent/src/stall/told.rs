//! Says in the log when something begins to stand still and when it goes on, once each, and keeps the totals.

use std::time::Duration;

use surus_core::stall::Stall;

/// Shorter than that nobody needs to hear of it.
pub const WORTH: Duration = Duration::from_secs(1);

/// How often it stood still, and for how long altogether.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub times: u64,
    pub lasted: Duration,
}

impl Total {
    pub fn add(&mut self, lasted: Duration) {
        self.times += 1;
        self.lasted += lasted;
    }
}

/// What there is to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Began,
    Ended(Duration),
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// How long it has lasted, once that was said.
    lasting: Option<Duration>,
}

impl Told {
    pub fn look(&mut self, stall: Option<Stall>, total: &mut Total) -> Option<Word> {
        match (stall.map(|s| s.lasted()), self.lasting) {
            (Some(lasted), None) if lasted >= WORTH => {
                self.lasting = Some(lasted);
                Some(Word::Began)
            }
            (Some(lasted), Some(before)) => {
                self.lasting = Some(lasted.max(before));
                None
            }
            (None, Some(lasted)) => {
                self.lasting = None;
                total.add(lasted);
                Some(Word::Ended(lasted))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use surus_core::BootTime;

    use super::*;

    #[test]
    fn each_beginning_and_each_end_is_said_once() {
        let (mut told, mut total) = (Told::default(), Total::default());
        let stall = |ms| {
            let since = BootTime::from_millis(1000);
            Some(Stall { since, seen: since + Duration::from_millis(ms) })
        };
        let mut said = vec![];
        for seen in [None, stall(900), None, stall(900), stall(1100), stall(5000), None, None, stall(1500), None] {
            said.extend(told.look(seen, &mut total));
        }
        let ended = |ms| Word::Ended(Duration::from_millis(ms));
        assert_eq!(said, [Word::Began, ended(5000), Word::Began, ended(1500)]);
        assert_eq!(total, Total { times: 2, lasted: Duration::from_millis(6500) });
    }
}
