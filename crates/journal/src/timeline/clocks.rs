//! Differences between the members' clocks, found by what they all saw: the store hands one change to everybody.

use std::collections::BTreeMap;

use serde::Serialize;
use surus_core::MemberName;
use surus_core::order::Order;

use crate::digest::{Account, Entry, Event};

/// Below that, a member may as well have been slow to look.
const NOTICED_MS: i64 = 1500;
/// What was seen before it was done, by so much, was seen on another clock.
const IMPOSSIBLE_MS: i64 = 100;

/// A clock that differs from the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Clock {
    pub member: MemberName,
    /// Negative: behind. Taken off the times of this member.
    pub ahead_ms: i64,
    /// Changes that it was told by.
    pub seen: usize,
    /// Something was seen before it was done: no delay explains that.
    pub certain: bool,
}

/// A change in the store, by the key and its version.
type Change = (&'static str, u64);

#[derive(Default)]
struct Watch {
    /// When it first saw each change that it cannot have missed.
    seen: BTreeMap<Change, i64>,
    /// When it set out to make one.
    made: BTreeMap<Change, i64>,
}

pub fn compare(accounts: &[Account]) -> Vec<Clock> {
    let watches: BTreeMap<&MemberName, Watch> = accounts.iter().map(|a| (&a.member, Watch::of(a))).collect();
    let of = |base: &Watch| -> Vec<Result<(), Clock>> {
        watches.iter().filter_map(|(member, watch)| difference(base, member, watch)).collect()
    };
    // The clock with which most others agree; the first of them by name. It agrees with itself.
    let judged = watches.values().map(of).min_by_key(|judged| std::cmp::Reverse(judged.iter().flatten().count()));
    judged.unwrap_or_default().into_iter().filter_map(Result::err).collect()
}

/// `Ok`: they agree. `None`: they saw nothing in common.
fn difference(base: &Watch, member: &MemberName, watch: &Watch) -> Option<Result<(), Clock>> {
    let mut differences: Vec<i64> =
        watch.seen.iter().filter_map(|(change, at)| Some(at - base.seen.get(change)?)).collect();
    differences.sort_unstable();
    let ahead_ms = *differences.get(differences.len() / 2)?;
    let earlier = |makes: &Watch, sees: &Watch| {
        makes.made.iter().any(|(change, made)| sees.seen.get(change).is_some_and(|seen| made - seen > IMPOSSIBLE_MS))
    };
    let certain = earlier(base, watch) || earlier(watch, base);
    // One late look is no clock: several have to say the same.
    let spread = differences.last()? - differences.first()?;
    let likely = differences.len() >= 2 && ahead_ms.abs() > NOTICED_MS && spread < ahead_ms.abs() / 2;
    Some(match certain || likely {
        true => Err(Clock { member: member.clone(), ahead_ms, seen: differences.len(), certain }),
        false => Ok(()),
    })
}

impl Watch {
    fn of(account: &Account) -> Watch {
        let mut watch = Watch::default();
        let mut last: Option<&Entry> = None;
        let mut reached: Option<i64> = None;
        for event in &account.events {
            let Event::Decided(entry) = event else {
                if matches!(event, Event::Started(_)) {
                    last = None;
                }
                continue;
            };
            let was = last.replace(entry);
            let term = |e: &Entry| e.seen.leader_version;
            // Seen late, after the store was away: that is no sighting.
            if let Some(was) = was.filter(|w| w.seen.store_trouble.is_none() && entry.seen.store_trouble.is_none()) {
                if let Some(version) = term(entry).filter(|_| term(was) != term(entry)) {
                    watch.seen.entry(("leader", version)).or_insert(entry.at);
                    if entry.seen.leader.as_ref() == Some(&account.member)
                        && let Some(at) = reached.take()
                    {
                        watch.made.insert(("leader", version), at);
                    }
                }
                let request = |e: &Entry| e.seen.request_version;
                if let Some(version) = request(entry).filter(|_| request(was) != request(entry)) {
                    watch.seen.entry(("failover", version)).or_insert(entry.at);
                }
            }
            if entry.orders.contains(&Order::TakeLead) {
                reached = Some(entry.at);
            }
        }
        watch
    }
}
