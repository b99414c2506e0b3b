//! The replicated state, a pure function of the log: no clock, no randomness, no I/O.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::{Deserialize, Serialize};
use surus_store::{KeyValue, Snapshot};

use crate::format::FIRST;
use crate::types::{Applied, Blob, Command, Compare, Op, Operation, Stamp};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Counts the commands that changed a key.
    pub revision: u64,
    /// Replicated time in milliseconds; never goes back.
    pub clock: u64,
    /// The last stamp that counted; kept so that a node restored from a snapshot knows which
    /// leadership its clock belongs to.
    pub stamp: Stamp,
    pub keys: BTreeMap<String, Item>,
    pub leases: BTreeMap<u64, Lease>,
    /// See [`State::format`].
    #[serde(default)]
    format: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub value: Blob,
    pub version: u64,
    pub lease: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub ttl_ms: u64,
    /// Replicated time at which it is over.
    pub ends: u64,
}

/// One changed key: its new content, or that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub revision: u64,
    pub key: String,
    pub item: Option<Item>,
}

impl State {
    /// `leader` is the term and node of the log entry.
    pub fn apply(&mut self, term: u64, command: Command, changes: &mut Vec<Change>) -> Applied {
        if command.stamp.term != term {
            return Applied::Misstamped;
        }
        self.stamp = command.stamp;
        self.clock = self.clock.max(command.stamp.now);
        self.end_due_leases(changes);
        match command.op {
            Operation::Txn { compare, then } => self.txn(&compare, then, changes),
            Operation::Grant { lease, ttl_ms } => {
                self.start_lease(lease, ttl_ms);
                Applied::Done
            }
            Operation::Renew { lease } => match self.leases.get(&lease).map(|l| l.ttl_ms) {
                Some(ttl_ms) => {
                    self.start_lease(lease, ttl_ms);
                    Applied::Done
                }
                None => Applied::LeaseGone,
            },
            Operation::Revoke { lease } => {
                self.end_lease(lease, changes);
                Applied::Done
            }
            Operation::Expire => Applied::Done,
            Operation::Format { format } => {
                self.format = self.format.max(format);
                Applied::Done
            }
            #[cfg(test)]
            Operation::Later => Applied::Done,
        }
    }

    /// That the group writes ([`crate::format`]).
    pub fn format(&self) -> u32 {
        self.format.max(FIRST)
    }

    /// The next time at which a lease is over.
    pub fn next_end(&self) -> Option<u64> {
        self.leases.values().map(|l| l.ends).min()
    }

    pub fn view(&self, prefix: &str) -> Snapshot {
        let keys = self.with_prefix(prefix).map(|(key, item)| item.to_kv(key)).collect();
        Snapshot { revision: self.revision, keys }
    }

    fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Item)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.keys.range::<str, _>(from).take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn start_lease(&mut self, lease: u64, ttl_ms: u64) {
        // One more, because a stamp is cut to whole milliseconds: the renewal may have come almost
        // a millisecond after the time it carries.
        let ends = self.clock.saturating_add(ttl_ms).saturating_add(1);
        self.leases.insert(lease, Lease { ttl_ms, ends });
    }

    fn end_due_leases(&mut self, changes: &mut Vec<Change>) {
        let due: Vec<u64> = self.leases.iter().filter(|(_, l)| l.ends <= self.clock).map(|(id, _)| *id).collect();
        for lease in due {
            self.end_lease(lease, changes);
        }
    }

    fn end_lease(&mut self, lease: u64, changes: &mut Vec<Change>) {
        if self.leases.remove(&lease).is_none() {
            return;
        }
        let bound: Vec<String> =
            self.keys.iter().filter(|(_, item)| item.lease == Some(lease)).map(|(key, _)| key.clone()).collect();
        let revision = self.revision + 1;
        for key in bound {
            self.delete(&key, revision, changes);
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent { key } => !self.keys.contains_key(key),
            Compare::Version { key, version } => self.keys.get(key).is_some_and(|i| i.version == *version),
            Compare::Value { key, value } => self.keys.get(key).is_some_and(|i| i.value == *value),
        }
    }

    fn txn(&mut self, compare: &[Compare], then: Vec<Op>, changes: &mut Vec<Change>) -> Applied {
        if !compare.iter().all(|c| self.holds(c)) {
            return Applied::Conflict;
        }
        let gone = |op: &Op| matches!(op, Op::Put { lease: Some(lease), .. } if !self.leases.contains_key(lease));
        if then.iter().any(gone) {
            return Applied::LeaseGone;
        }
        let revision = self.revision + 1;
        for op in then {
            match op {
                Op::Put { key, value, lease } => {
                    let item = Item { value, version: revision, lease };
                    self.keys.insert(key.clone(), item.clone());
                    self.revision = revision;
                    changes.push(Change { revision, key, item: Some(item) });
                }
                Op::Delete { key } => self.delete(&key, revision, changes),
                Op::DeletePrefix { prefix } => {
                    let keys: Vec<String> = self.with_prefix(&prefix).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        self.delete(&key, revision, changes);
                    }
                }
            }
        }
        Applied::Written { revision: self.revision }
    }

    fn delete(&mut self, key: &str, revision: u64, changes: &mut Vec<Change>) {
        if self.keys.remove(key).is_some() {
            self.revision = revision;
            changes.push(Change { revision, key: key.to_owned(), item: None });
        }
    }
}

impl Item {
    pub fn to_kv(&self, key: &str) -> KeyValue {
        KeyValue { key: key.to_owned(), value: self.value.0.clone(), version: self.version, lease: self.lease }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        state: State,
        now: u64,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { state: State::default(), now: 0 }
        }

        fn run(&mut self, op: Operation) -> (Applied, Vec<Change>) {
            let mut changes = Vec::new();
            let stamp = Stamp { lead: 1, term: 1, now: self.now };
            let applied = self.state.apply(1, Command { stamp, op }, &mut changes);
            (applied, changes)
        }

        fn put(&mut self, key: &str, value: &str, lease: Option<u64>) -> Applied {
            self.run(Operation::Txn { compare: vec![], then: vec![put(key, value, lease)] }).0
        }
    }

    fn put(key: &str, value: &str, lease: Option<u64>) -> Op {
        Op::Put { key: key.into(), value: Blob(value.into()), lease }
    }

    #[test]
    fn a_transaction_applies_all_or_nothing() {
        let mut b = Bench::new();
        assert_eq!(b.put("a", "1", None), Applied::Written { revision: 1 });
        let cases = [
            (Compare::Absent { key: "a".into() }, false),
            (Compare::Absent { key: "b".into() }, true),
            (Compare::Version { key: "a".into(), version: 1 }, true),
            (Compare::Version { key: "a".into(), version: 2 }, false),
            (Compare::Version { key: "b".into(), version: 0 }, false),
            (Compare::Value { key: "a".into(), value: Blob(b"1".to_vec()) }, true),
            (Compare::Value { key: "a".into(), value: Blob(b"2".to_vec()) }, false),
        ];
        for (compare, holds) in cases {
            let before = b.state.clone();
            let then = vec![put("x", "1", None), put("y", "2", None)];
            let (applied, changes) = b.run(Operation::Txn { compare: vec![compare.clone()], then });
            if holds {
                assert_eq!(changes.len(), 2, "{compare:?}");
                assert!(changes.iter().all(|c| c.revision == before.revision + 1));
                b.run(Operation::Txn { compare: vec![], then: vec![Op::Delete { key: "x".into() }] });
            } else {
                assert_eq!((applied, changes), (Applied::Conflict, vec![]), "{compare:?}");
                assert_eq!(b.state, before);
            }
        }
    }

    #[test]
    fn a_lease_takes_its_keys_along() {
        let mut b = Bench::new();
        b.run(Operation::Grant { lease: 7, ttl_ms: 1000 });
        b.put("leader", "n1", Some(7));
        b.put("other", "n1", None);
        b.now = 900;
        assert_eq!(b.run(Operation::Renew { lease: 7 }).0, Applied::Done);
        b.now = 1900;
        assert_eq!(b.run(Operation::Expire).1, vec![], "the renewal came at 900 and one millisecond is slack");
        b.now = 1901;
        let (_, changes) = b.run(Operation::Expire);
        assert_eq!(changes, vec![Change { revision: 3, key: "leader".into(), item: None }]);
        assert_eq!(b.run(Operation::Renew { lease: 7 }).0, Applied::LeaseGone);
        assert_eq!(b.put("leader", "n1", Some(7)), Applied::LeaseGone);
        assert_eq!(b.state.view("").keys.len(), 1);
    }

    #[test]
    fn a_key_leaves_its_lease_when_it_is_written_without() {
        let mut b = Bench::new();
        b.run(Operation::Grant { lease: 7, ttl_ms: 1000 });
        b.put("leader", "n1", Some(7));
        b.put("leader", "n2", None);
        assert_eq!(b.run(Operation::Revoke { lease: 7 }), (Applied::Done, vec![]));
        assert_eq!(b.run(Operation::Revoke { lease: 7 }), (Applied::Done, vec![]));
        assert_eq!(b.state.view("lea").keys.len(), 1);
    }

    #[test]
    fn a_stamp_of_another_leadership_has_no_effect() {
        let mut b = Bench::new();
        b.put("a", "1", None);
        let before = b.state.clone();
        let stamp = Stamp { lead: 9, term: 1, now: 99_999 };
        let op = Operation::Txn { compare: vec![], then: vec![put("a", "2", None)] };
        assert_eq!(b.state.apply(2, Command { stamp, op }, &mut Vec::new()), Applied::Misstamped);
        assert_eq!(b.state, before);
    }

    #[test]
    fn time_never_goes_back() {
        let mut b = Bench::new();
        b.now = 5000;
        b.run(Operation::Grant { lease: 1, ttl_ms: 1000 });
        b.now = 100;
        b.run(Operation::Grant { lease: 2, ttl_ms: 1000 });
        assert_eq!(b.state.clock, 5000);
        assert_eq!(b.state.leases[&2].ends, 6001);
    }

    #[test]
    fn a_prefix_ends_where_it_should() {
        let mut b = Bench::new();
        for key in ["/a", "/a/1", "/a/2", "/b", "/", "0"] {
            b.put(key, "v", None);
        }
        let keys = |p: &str| b.state.view(p).keys.into_iter().map(|k| k.key).collect::<Vec<_>>();
        assert_eq!(keys("/a/"), ["/a/1", "/a/2"]);
        assert_eq!(keys("/a"), ["/a", "/a/1", "/a/2"]);
        assert_eq!(keys("").len(), 6);
        let (_, changes) =
            b.run(Operation::Txn { compare: vec![], then: vec![Op::DeletePrefix { prefix: "/a/".into() }] });
        assert_eq!(changes.len(), 2);
        assert_eq!(b.state.view("").keys.len(), 4);
    }
}
