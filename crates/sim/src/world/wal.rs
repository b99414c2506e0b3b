//! The write-ahead log of one data directory: which timelines it went through, and how far it goes.

use surus_core::{Lsn, Timeline};

/// A stretch of log written under one promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub timeline: Timeline,
    /// Where it begins: the end of what came before.
    pub start: u64,
    /// Two servers can give the same number to different timelines; the simulator tells them apart.
    pub id: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub stretches: Vec<Stretch>,
    pub end: u64,
}

/// A position that means one record only, whatever forks there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub stretch: u64,
    pub lsn: u64,
}

impl Log {
    pub fn new(id: u64) -> Log {
        let first = Stretch { timeline: Timeline(1), start: 0x0100_0000, id };
        Log { stretches: vec![first], end: first.start + 0x1000 }
    }

    fn last(&self) -> &Stretch {
        self.stretches.last().expect("a log has at least one stretch")
    }

    pub fn timeline(&self) -> Timeline {
        self.last().timeline
    }

    pub fn place(&self) -> Place {
        Place { stretch: self.last().id, lsn: self.end }
    }

    pub fn append(&mut self, bytes: u64) -> Place {
        self.end += bytes;
        self.place()
    }

    /// The first number that it has not seen, as PostgreSQL chooses it.
    pub fn next_timeline(&self) -> Timeline {
        Timeline(self.stretches.iter().map(|s| s.timeline.0).max().unwrap_or(1) + 1)
    }

    /// A promotion at the end of the log.
    pub fn branch(&mut self, timeline: Timeline, id: u64) {
        self.stretches.push(Stretch { timeline, start: self.end, id });
    }

    /// Where the two logs part; `None` if one is a beginning of the other.
    fn common(&self, other: &Log) -> (usize, u64) {
        let shared = self.stretches.iter().zip(&other.stretches).take_while(|(a, b)| a == b).count();
        let until = |log: &Log| log.stretches.get(shared).map_or(log.end, |s| s.start);
        (shared, until(self).min(until(other)))
    }

    /// `self` is a beginning of `other`, or equal to it.
    pub fn continues_into(&self, other: &Log) -> bool {
        let (shared, until) = self.common(other);
        shared == self.stretches.len() && self.end <= until
    }

    /// What is here and not in `other`, in bytes.
    pub fn beyond(&self, other: &Log) -> u64 {
        self.end - self.common(other).1.min(self.end)
    }

    pub fn contains(&self, place: Place) -> bool {
        let Some(at) = self.stretches.iter().position(|s| s.id == place.stretch) else { return false };
        let end = self.stretches.get(at + 1).map_or(self.end, |next| next.start);
        place.lsn <= end && place.lsn >= self.stretches[at].start
    }

    /// As far as `other` goes up to `end`.
    pub fn receive(&mut self, other: &Log, end: u64) {
        self.end = end.max(self.end).min(other.end);
        self.stretches.clear();
        self.stretches.extend(other.stretches.iter().filter(|s| s.start <= self.end));
    }

    pub fn lsn(&self) -> Lsn {
        Lsn(self.end)
    }

    /// Timeline and end of every finished timeline, as in a `.history` file.
    pub fn history(&self) -> Vec<(Timeline, Lsn)> {
        self.stretches.windows(2).map(|w| (w[0].timeline, Lsn(w[1].start))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_are_told_from_continuations() {
        let mut a = Log::new(1);
        a.append(100);
        let mut b = a.clone();
        assert!(a.continues_into(&b) && b.continues_into(&a));
        b.branch(b.next_timeline(), 2);
        let record = b.append(10);
        assert!(a.continues_into(&b) && !b.continues_into(&a));
        assert!(b.contains(a.place()) && b.contains(record) && !a.contains(record));
        let lost = a.append(50);
        assert!(!a.continues_into(&b) && !b.contains(lost));
        assert_eq!((a.beyond(&b), b.beyond(&a)), (50, 10));
        let mut c = Log::new(1);
        c.append(100);
        c.receive(&b, b.end);
        assert_eq!(c, b);
        assert_eq!(c.history(), [(Timeline(1), Lsn(0x0100_0000 + 0x1000 + 100))]);
    }

    #[test]
    fn the_same_number_is_not_the_same_timeline() {
        let mut a = Log::new(1);
        let mut b = a.clone();
        a.branch(a.next_timeline(), 2);
        b.branch(b.next_timeline(), 3);
        assert_eq!(a.timeline(), b.timeline());
        a.append(1);
        assert!(!a.continues_into(&b) && !b.continues_into(&a));
    }
}
