//! The steps between who is waited for and who may be promoted.

mod small;
mod vectors;
mod walk;

use std::collections::BTreeSet;

use surus_core::synchronous::{Key, Names, Situation, Standby};

pub fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

pub fn standbys(active: &[&str], confirmed: &[&str]) -> Vec<Standby> {
    active.iter().map(|n| Standby { name: (*n).to_owned(), confirmed: confirmed.contains(n) }).collect()
}

pub fn situation(key: Option<Key>, names: Names) -> Situation {
    Situation {
        me: "p".into(),
        quorum_mode: true,
        strict: false,
        want: 1,
        key,
        names: Some(names.clone()),
        shown: names,
        active: vec![],
        patient: false,
    }
}
