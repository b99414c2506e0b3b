//! What happened in a cluster, put together from the accounts of its members.

mod changes;
mod clocks;
mod lines;

use std::collections::BTreeMap;

use serde::Serialize;
use surus_core::MemberName;

use crate::digest::{Account, Entry, Event};

pub use changes::{Change, Phase};
pub use clocks::Clock;
pub use lines::Line;

/// Times are wall-clock, Unix milliseconds, of the clock that most members agree with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// Members whose clock differs from that.
    pub clocks: Vec<Clock>,
    /// Everything worth a line, in order.
    pub lines: Vec<Line>,
    /// How the lead went from one member to another.
    pub changes: Vec<Change>,
}

/// The accounts, each in the order of its own journal; their order does not matter.
pub fn merge(accounts: &[Account]) -> Timeline {
    let clocks = clocks::compare(accounts);
    let told = Told::new(accounts, &clocks);
    let mut lines = lines::cluster(&told);
    for (member, events) in &told.events {
        lines.extend(lines::of(member, events));
    }
    lines.sort_by_key(|line| line.at);
    Timeline { changes: changes::all(&told), lines, clocks }
}

/// Accounts with their times on one clock.
struct Told<'a> {
    events: BTreeMap<&'a MemberName, Vec<(i64, &'a Event)>>,
    /// Every term of a leader by the version of its key: who, when it was first seen, and by whom.
    terms: BTreeMap<u64, Seen<'a>>,
    /// When the key of a term was first seen to be gone.
    ends: BTreeMap<u64, Seen<'a>>,
}

struct Seen<'a> {
    leader: &'a MemberName,
    at: i64,
    by: &'a MemberName,
    /// It stood already where that account begins.
    before: bool,
}

impl<'a> Told<'a> {
    fn new(accounts: &'a [Account], clocks: &[Clock]) -> Told<'a> {
        let mut told = Told { events: BTreeMap::new(), terms: BTreeMap::new(), ends: BTreeMap::new() };
        for account in accounts {
            let ahead = clocks.iter().find(|c| c.member == account.member).map_or(0, |c| c.ahead_ms);
            let events: Vec<_> = account.events.iter().map(|e| (e.at() - ahead, e)).collect();
            told.events.entry(&account.member).or_default().extend(events);
        }
        let all: Vec<_> = told.events.iter().map(|(member, events)| (*member, entries(events))).collect();
        for (member, entries) in all {
            let mut last: Option<&Entry> = None;
            for (at, entry) in entries {
                told.look(member, at, last, entry);
                // A reading that is not current says nothing new.
                if entry.seen.store_trouble.is_none() {
                    last = Some(entry);
                }
            }
        }
        told
    }

    fn look(&mut self, by: &'a MemberName, at: i64, last: Option<&'a Entry>, entry: &'a Entry) {
        if entry.seen.store_trouble.is_some() {
            return;
        }
        let before = last.is_none();
        if let (Some(version), Some(leader)) = (entry.seen.leader_version, &entry.seen.leader) {
            sooner(&mut self.terms, version, Seen { leader, at, by, before });
        }
        if let Some(last) = last
            && let (Some(version), Some(leader)) = (last.seen.leader_version, &last.seen.leader)
            && entry.seen.leader.is_none()
        {
            sooner(&mut self.ends, version, Seen { leader, at, by, before: false });
        }
    }

    /// The term before was the same member's and was not seen to end: after a restart of its agent, or when the cluster
    /// is founded.
    fn goes_on(&self, version: u64) -> bool {
        let before = self.terms.range(..version).next_back();
        let leader = self.terms.get(&version).map(|t| t.leader);
        before.is_some_and(|(v, term)| Some(term.leader) == leader && !self.ends.contains_key(v))
    }

    fn entries_of(&self, member: &MemberName) -> Vec<(i64, &'a Entry)> {
        self.events.get(member).map(|events| entries(events)).unwrap_or_default()
    }

    fn others(&self, member: &MemberName) -> impl Iterator<Item = &'a MemberName> {
        self.events.keys().filter(move |m| **m != member).copied()
    }
}

/// Where one account begins with it, the time says only "not later than that": any other sighting is better.
fn sooner<'a>(seen: &mut BTreeMap<u64, Seen<'a>>, version: u64, new: Seen<'a>) {
    match seen.get(&version) {
        Some(known) if (known.at, known.before) <= (new.at, new.before) => {}
        _ => {
            seen.insert(version, new);
        }
    }
}

fn entries<'a>(events: &[(i64, &'a Event)]) -> Vec<(i64, &'a Entry)> {
    let entry = |(at, event): &(i64, &'a Event)| match event {
        Event::Decided(entry) => Some((*at, entry.as_ref())),
        _ => None,
    };
    events.iter().filter_map(entry).collect()
}
