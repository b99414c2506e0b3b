//! Every state of three standbys: each step keeps the promise, and steps come to an end.

use std::collections::BTreeSet;

use surus_core::synchronous::{Key, Move, Names, Situation, Standby, next};

use crate::situation;

const ALL: [&str; 3] = ["a", "b", "c"];

fn subset(bits: u32) -> BTreeSet<String> {
    ALL.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, n)| (*n).to_owned()).collect()
}

fn settings() -> Vec<Names> {
    let mut all = vec![Names::Nobody, Names::Blocked { any: true }, Names::Foreign("*".into())];
    for bits in 1..8 {
        for count in 1..=subset(bits).len() {
            all.extend([true, false].map(|any| Names::Of { any, count, names: subset(bits) }));
        }
    }
    all
}

#[test]
fn every_step_is_safe_and_there_is_an_end() {
    let (mut states, mut longest) = (0, 0);
    for names in settings() {
        for (voters, quorum) in (0..8).flat_map(|v| (0..4).map(move |q| (v, q))) {
            let key = Key { leader: "p".into(), voters: subset(voters), quorum };
            for (active, confirmed) in (0..8_u32).flat_map(|a| (0..8).map(move |c| (a, a & c))) {
                for bits in 0..8_u32 {
                    let s = Situation {
                        quorum_mode: bits & 1 != 0,
                        strict: bits & 2 != 0,
                        want: if bits & 4 != 0 { 2 } else { 1 },
                        active: subset(active)
                            .into_iter()
                            .map(|name| Standby { confirmed: subset(confirmed).contains(&name), name })
                            .collect(),
                        ..situation(Some(key.clone()), names.clone())
                    };
                    longest = longest.max(goes_well(s));
                    states += 1;
                }
            }
        }
    }
    assert!(states > 200_000 && longest <= 7, "{states} states, {longest} steps");
}

fn goes_well(mut s: Situation) -> usize {
    for step in 0..20 {
        let before = s.clone();
        let key = before.key.as_ref().expect("there is one");
        match next(&s) {
            Move::Settled => {
                let key = s.key.expect("written");
                assert!(key.covered_by(s.names.as_ref().expect("known")), "{before:?}");
                assert_eq!(key.voters, s.active.iter().map(|a| a.name.clone()).collect(), "{before:?}");
                return step;
            }
            // Whoever is waited for catches up in the end.
            Move::Wait(_) if s.active.iter().any(|a| !a.confirmed) => {
                s.active.iter_mut().for_each(|a| a.confirmed = true);
            }
            Move::Wait(_) => {
                assert!(s.strict && s.active.is_empty(), "waits for nothing: {before:?}");
                return step;
            }
            Move::Write(new) => {
                assert_ne!(new, *key, "{before:?}");
                assert!(new.covered_by(s.names.as_ref().expect("known")), "{new:?} in {before:?}");
                s.key = Some(new);
            }
            Move::Set(new) => {
                assert_ne!(Some(&new), s.names.as_ref(), "{before:?}");
                assert!(key.covered_by(&new), "{new:?} in {before:?}");
                if !before.quorum_mode {
                    assert_eq!(key.quorum, 0, "{before:?}");
                }
                // What was confirmed counts for the setting before.
                s.active.iter_mut().for_each(|a| a.confirmed = false);
                (s.shown, s.names) = (new.clone(), Some(new));
            }
        }
    }
    panic!("no end from {s:?}");
}
