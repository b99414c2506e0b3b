//! Mode `quorum`: enough of the listed standbys have every commit (`spec/ha.md §16.6`).
//!
//! Said of a set of voters, *holders* is how many of them have any one acknowledged commit, at the least. Electing takes
//! a candidate and `quorum` others, so `quorum + holders >= voters` makes the two meet. Each step is derived from where
//! things stand, and leaves that true: for the new key under the setting in force, or for the new setting under the key.

use std::collections::BTreeSet;

use super::{Key, Move, Names, Situation};

pub fn next(s: &Situation) -> Move {
    let nobody = || Move::Write(Key::nobody(&s.me));
    let Some(key) = &s.key else { return nobody() };
    let Some(names) = &s.names else { return Move::Set(s.shown.clone()) };
    if key.leader != s.me {
        // Whoever led has all it acknowledged, so it takes my place among those who vote.
        let mut voters = key.voters.clone();
        voters.remove(&s.me);
        voters.insert(key.leader.clone());
        let mine = Key { leader: s.me.clone(), voters, quorum: key.quorum };
        return if mine.covered_by(names) { Move::Write(mine) } else { nobody() };
    }
    if !key.covered_by(names) {
        // Somebody else has changed one of the two: nothing is known of what was acknowledged meanwhile.
        return nobody();
    }
    let active = s.names_of_active();
    if active.is_empty() {
        return alone(s, key, names);
    }
    let count = s.want.min(active.len());
    let target = Names::any(count, active.iter().cloned());
    let confirmed = s.confirmed();
    let holders = |voters: &BTreeSet<String>| {
        let by_key = key.voters.len().saturating_sub(key.quorum + key.voters.difference(voters).count());
        let by_names = names.holders(voters).min(voters.intersection(&confirmed).count());
        by_key.max(by_names)
    };
    let among_active = holders(&active);
    if *names == target {
        // With nobody to vouch for them, naming them would only make an election impossible.
        if among_active == 0 {
            return Move::Wait("a standby to catch up and vote");
        }
        let better =
            Key { leader: s.me.clone(), quorum: active.len() - among_active.min(active.len()), voters: active };
        if better.voters != key.voters || better.quorum < key.quorum {
            return Move::Write(better);
        }
        let settled = key.quorum + count <= key.voters.len();
        return if settled { Move::Settled } else { Move::Wait("more standbys to catch up") };
    }
    if key.covered_by(&target) {
        return Move::Set(target);
    }
    if among_active > 0 {
        let quorum = active.len() - among_active.min(count);
        return Move::Write(Key { leader: s.me.clone(), voters: active, quorum });
    }
    match target.holders(&key.voters) {
        0 => nobody(),
        will_have => Move::Write(Key { quorum: key.voters.len() - will_have, ..key.clone() }),
    }
}

/// No standby is connected.
fn alone(s: &Situation, key: &Key, names: &Names) -> Move {
    if s.patient && !key.voters.is_empty() {
        return Move::Wait("the standbys to connect");
    }
    if s.strict {
        let count = key.voters.len().saturating_sub(key.quorum).max(1);
        let target = Names::any(count, key.voters.iter().cloned());
        let target = if target == Names::Nobody { Names::Blocked { any: true } } else { target };
        if *names != target {
            return Move::Set(target);
        }
        return Move::Wait("a standby to connect: commits wait until then (synchronous_mode_strict)");
    }
    if !key.voters.is_empty() {
        return Move::Write(Key::nobody(&s.me));
    }
    if *names == Names::Nobody { Move::Settled } else { Move::Set(Names::Nobody) }
}
