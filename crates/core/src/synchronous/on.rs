//! Mode `on`: each listed standby has every commit (`spec/ha.md §16.3`).

use std::collections::BTreeSet;

use super::{Key, Move, Names, Situation};

pub fn next(s: &Situation) -> Move {
    let Some(key) = s.key.as_ref().filter(|k| k.leader == s.me) else { return Move::Write(Key::nobody(&s.me)) };
    let Some(names) = &s.names else { return Move::Set(s.shown.clone()) };
    let write = |voters| Move::Write(Key { leader: s.me.clone(), voters, quorum: 0 });
    let vouched = |name: &String| names.holders(&BTreeSet::from([name.clone()])) == 1;
    // With a quorum the listed vouch for each other, and none of them alone.
    let listed: BTreeSet<String> = key.voters.iter().filter(|n| key.quorum == 0 && vouched(n)).cloned().collect();
    let active = s.names_of_active();
    let strict = s.strict && active.is_empty();
    let keep: BTreeSet<String> = if strict { listed } else { listed.intersection(&active).cloned().collect() };
    if keep != key.voters || key.quorum != 0 {
        return write(keep);
    }
    let target = match (strict, keep.is_empty()) {
        (true, true) => Names::Blocked { any: false },
        // One that comes back is let in at once.
        (true, false) => Names::all(keep),
        (false, _) => Names::all(active.iter().cloned()),
    };
    if *names != target {
        return Move::Set(target);
    }
    if strict {
        return Move::Wait("a synchronous standby to connect: commits wait until then (synchronous_mode_strict)");
    }
    let confirmed = s.confirmed();
    if !confirmed.is_subset(&key.voters) {
        return write(key.voters.union(&confirmed).cloned().collect());
    }
    if key.voters == active { Move::Settled } else { Move::Wait("a standby to catch up and become synchronous") }
}
