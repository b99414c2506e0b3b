//! What the clients of a simulated group saw, judged as it comes: one register that is only written by compare-and-set,
//! and one lead bound to a lease.
//!
//! A write of the register names the version it was made over. So the order of all writes is a chain that can be walked,
//! and the register is linearisable if every version has one content and one successor, nobody reads less than what
//! was known before he asked, and everything acknowledged is in the chain.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct History {
    pub violations: Vec<String>,
    /// The greatest version that anybody was told of.
    floor: u64,
    /// Up to here the chain was walked, and what is older is forgotten.
    walked: u64,
    contents: BTreeMap<u64, u64>,
    writes: BTreeMap<u64, Write>,
    next: BTreeMap<u64, u64>,
    conflicts: Vec<(u64, u64)>,
    last_write: u64,
    claims: BTreeMap<usize, u64>,
    leaders: BTreeMap<u64, u64>,
    pub counts: Counts,
}

struct Write {
    over: u64,
    begun: u64,
    acknowledged: Option<u64>,
    /// Whoever wrote it was told that nothing happened.
    without_effect: bool,
}

#[derive(Default, Debug)]
pub struct Counts {
    pub writes: u64,
    pub conflicts: u64,
    pub unknown: u64,
    pub refused: u64,
    pub reads: u64,
    pub watched: u64,
    pub renewals: u64,
    pub leads: u64,
    pub terms: u64,
    /// Records of the format after the first.
    pub later: u64,
}

impl History {
    fn wrong(&mut self, what: String) {
        self.violations.push(what);
    }

    /// What a request that begins now must not fall behind.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// Its number is what is written.
    pub fn write_begins(&mut self, over: u64, now: u64) -> u64 {
        self.last_write += 1;
        self.writes.insert(self.last_write, Write { over, begun: now, acknowledged: None, without_effect: false });
        self.last_write
    }

    pub fn acknowledged(&mut self, number: u64, version: u64, floor: u64) {
        self.counts.writes += 1;
        if version <= floor {
            self.wrong(format!(
                "write {number} was acknowledged as version {version}, and {floor} was known before it"
            ));
        }
        if let Some(write) = self.writes.get_mut(&number) {
            write.acknowledged = Some(version);
        }
        self.seen(version, number);
    }

    pub fn conflicted(&mut self, number: u64, now: u64) {
        self.counts.conflicts += 1;
        if let Some(write) = self.writes.get(&number) {
            self.conflicts.push((write.over, now));
        }
        self.no_effect(number);
    }

    pub fn no_effect(&mut self, number: u64) {
        if let Some(write) = self.writes.get_mut(&number) {
            write.without_effect = true;
        }
        if self.contents.values().any(|n| *n == number) {
            self.wrong(format!("write {number} took effect, and its writer was told that it did not"));
        }
    }

    pub fn read(&mut self, found: Option<(u64, u64)>, floor: u64) {
        self.counts.reads += 1;
        let version = found.map_or(0, |(version, _)| version);
        if version < floor {
            self.wrong(format!("a read found version {version}, and {floor} was known before it"));
        }
        if let Some((version, number)) = found {
            self.seen(version, number);
        }
    }

    pub fn watched(&mut self, version: u64, number: u64) {
        self.counts.watched += 1;
        // A watch may be behind, so it says nothing about what is the newest.
        self.content(version, number);
    }

    fn seen(&mut self, version: u64, number: u64) {
        self.content(version, number);
        self.floor = self.floor.max(version);
    }

    fn content(&mut self, version: u64, number: u64) {
        if version <= self.walked {
            return;
        }
        if let Some(other) = self.contents.insert(version, number) {
            if other != number {
                self.wrong(format!("version {version} was seen as write {other} and as write {number}"));
            }
            return;
        }
        let Some(write) = self.writes.get(&number) else {
            return self.wrong(format!("version {version} is write {number}, which nobody made"));
        };
        let (over, without_effect) = (write.over, write.without_effect);
        if without_effect {
            self.wrong(format!("write {number} took effect, and its writer was told that it did not"));
        }
        if version <= over {
            self.wrong(format!("write {number} over version {over} became version {version}"));
        }
        if let Some(other) = self.next.insert(over, version)
            && other != version
        {
            self.wrong(format!("versions {other} and {version} were both written over {over}"));
        }
    }

    /// Goes back from the newest version to where it went before.
    pub fn walk(&mut self) {
        let (mut chain, mut at) = (BTreeSet::new(), self.floor);
        while at > self.walked {
            let Some(write) = self.contents.get(&at).and_then(|number| self.writes.get(number)) else {
                return self.wrong(format!("nobody knows what version {at} was, and another was written over it"));
            };
            chain.insert(at);
            at = write.over;
        }
        if at != self.walked {
            return self.wrong(format!("the writes lead back to version {at}, not to {}", self.walked));
        }
        let lost = self.writes.values().filter_map(|w| w.acknowledged).find(|v| *v > self.walked && !chain.contains(v));
        if let Some(version) = lost {
            self.wrong(format!("the acknowledged write that became version {version} is gone"));
        }
        let unfounded = self.conflicts.iter().find(|(over, ended)| {
            let after = self.next.get(over).and_then(|version| self.contents.get(version));
            let earlier = after.and_then(|number| self.writes.get(number)).is_some_and(|w| w.begun < *ended);
            *over >= self.walked && !earlier
        });
        if let Some((over, _)) = unfounded {
            self.wrong(format!("a write over version {over} was refused, and nothing had been written over it"));
        }
        self.conflicts.clear();
        let (newest, contents) = (self.floor, std::mem::take(&mut self.contents));
        self.contents = contents.into_iter().filter(|(version, _)| *version >= newest).collect();
        let keep: BTreeSet<u64> = self.contents.values().copied().collect();
        self.writes.retain(|number, w| keep.contains(number) || (w.over >= newest && !w.without_effect));
        self.next.retain(|over, _| *over >= newest);
        self.walked = newest;
    }

    /// `machine` relies on its lead until its own clock shows `until`; `clocks` are what all of them show now.
    pub fn claims(&mut self, machine: usize, until: u64, clocks: &[u64]) {
        // One that was frozen between the question and the answer does not rely on what has ended meanwhile.
        if clocks[machine] >= until {
            return;
        }
        for (other, ends) in &self.claims {
            if *other != machine && clocks[*other] < *ends {
                let left = (*ends - clocks[*other]) / 1000;
                let what =
                    format!("machine {machine} has the lead, and machine {other} relies on it for {left} ms more");
                return self.violations.push(what);
            }
        }
        if self.claims.insert(machine, until).is_none() {
            self.counts.leads += 1;
        }
    }

    pub fn gives_up(&mut self, machine: usize) {
        self.claims.remove(&machine);
    }

    /// Does anybody rely on the lead?
    pub fn held(&self, clocks: &[u64]) -> bool {
        self.claims.iter().any(|(machine, until)| clocks[*machine] < *until)
    }

    /// A node leads the group in a term.
    pub fn leads(&mut self, term: u64, node: u64) {
        match self.leaders.insert(term, node) {
            None => self.counts.terms += 1,
            Some(other) if other != node => {
                self.wrong(format!("nodes {other} and {node} both lead the group in term {term}"));
            }
            Some(_) => {}
        }
        while self.leaders.len() > 100 {
            self.leaders.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write that is acknowledged and seen.
    fn write(h: &mut History, over: u64, version: u64) -> u64 {
        let (floor, number) = (h.floor(), h.write_begins(over, version));
        h.acknowledged(number, version, floor);
        number
    }

    fn wrong(tell: impl FnOnce(&mut History)) -> String {
        let mut h = History::default();
        write(&mut h, 0, 3);
        write(&mut h, 3, 5);
        tell(&mut h);
        h.walk();
        h.violations.join("; ")
    }

    #[test]
    fn what_is_right_passes() {
        let said = wrong(|h| {
            h.walk();
            let unknown = h.write_begins(5, 6);
            let late = h.write_begins(5, 6);
            h.conflicted(late, 9);
            let floor = h.floor();
            h.read(Some((8, unknown)), floor);
            h.claims(0, 100, &[50, 60]);
            h.claims(1, 200, &[100, 110]);
            h.leads(1, 7);
            h.leads(2, 8);
        });
        assert_eq!(said, "");
    }

    /// Histories with one thing wrong in each.
    #[test]
    fn what_is_wrong_is_seen() {
        type Tell = fn(&mut History);
        let cases: [(&str, Tell); 9] = [
            ("was known before it", |h| {
                let floor = h.floor();
                h.read(Some((3, 1)), floor);
            }),
            ("both written over 3", |h| _ = write(h, 3, 7)),
            ("which nobody made", |h| h.watched(9, 77)),
            ("told that it did not", |h| {
                let number = h.write_begins(5, 6);
                h.no_effect(number);
                h.watched(9, number);
            }),
            ("as write 2 and as write 1", |h| h.watched(5, 1)),
            ("is gone", |h| {
                let (floor, lost, found) = (h.floor(), h.write_begins(5, 6), h.write_begins(5, 6));
                h.writes.get_mut(&lost).unwrap().acknowledged = Some(6);
                h.acknowledged(found, 7, floor);
            }),
            ("nothing had been written over it", |h| {
                let number = h.write_begins(5, 6);
                h.conflicted(number, 7);
            }),
            ("relies on it for", |h| {
                h.claims(0, 100_000, &[50_000, 60_000]);
                h.claims(1, 200_000, &[90_000, 110_000]);
            }),
            ("both lead the group in term 4", |h| {
                h.leads(4, 1);
                h.leads(4, 2);
            }),
        ];
        for (expected, tell) in cases {
            let said = wrong(tell);
            assert!(said.contains(expected), "{expected}: {said:?}");
        }
    }
}
