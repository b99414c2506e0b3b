//! A store that is half alive: it answers, and does not do all that it is asked.

use surus_core::store::{StoreError, StoreResult};

use super::World;
use super::store::{Op, Reply};
use crate::plan::Refuses;

/// Towards each machine, and, as the last, towards everybody else and its own leases.
#[derive(Debug)]
pub struct Half {
    refuses: Vec<Option<Refuses>>,
    errors: Vec<u64>,
    /// To be done when there is a majority again.
    held: Vec<Op>,
}

impl Half {
    pub fn new(nodes: usize) -> Half {
        Half { refuses: vec![None; nodes + 1], errors: vec![0; nodes + 1], held: vec![] }
    }

    /// All is as it should be, for this machine.
    pub fn is_whole(&self, node: usize) -> bool {
        self.refuses[node].is_none() && self.errors[node] == 0
    }

    pub(super) fn ends_leases(&self) -> bool {
        self.refuses.last() != Some(&Some(Refuses::Changes))
    }

    /// What an operator writes does not get there.
    pub(super) fn refuses_operators(&self) -> bool {
        self.refuses.last().is_some_and(Option::is_some)
    }
}

fn set<T: Clone>(all: &mut [T], node: Option<usize>, value: T) {
    match node {
        Some(node) => all[node] = value,
        None => all.fill(value),
    }
}

impl Refuses {
    fn this(self, op: &Op) -> bool {
        match op {
            Op::Read => false,
            Op::Txn(txn) => self != Refuses::Puts || txn.then.iter().any(puts),
            Op::Grant(_) => true,
            Op::Renew(_) | Op::Revoke(_) => self != Refuses::Puts,
        }
    }
}

fn puts(op: &surus_store::kv::Op) -> bool {
    matches!(op, surus_store::kv::Op::Put { .. })
}

impl World {
    /// It refuses this, to one machine or to all.
    pub fn store_refuses(&mut self, node: Option<usize>, refuses: Refuses) {
        set(&mut self.store.half.refuses, node, Some(refuses));
    }

    pub fn store_writes_again(&mut self, node: Option<usize>) {
        if self.store.half.refuses.iter().all(Option::is_none) {
            return;
        }
        set(&mut self.store.half.refuses, node, None);
        for op in std::mem::take(&mut self.store.half.held) {
            let _ = self.store_apply(op);
        }
        self.store_goes_on();
    }

    pub fn store_errors(&mut self, node: Option<usize>, percent: u64) {
        set(&mut self.store.half.errors, node, percent);
    }

    /// Does what arrived, or fails it. `None`: there is no answer.
    pub(super) fn store_does(&mut self, node: usize, op: Op) -> Option<StoreResult<Reply>> {
        let (refuses, errors) = (self.store.half.refuses[node], self.store.half.errors[node]);
        if let Some(refuses) = refuses.filter(|refuses| refuses.this(&op)) {
            return self.store_does_not(refuses, op);
        }
        if errors == 0 || !self.random.percent(errors) {
            return Some(self.store_apply(op));
        }
        let failed = "internal error".to_owned();
        let unknown = Err(if op.writes() {
            StoreError::OutcomeUnknown(failed.clone())
        } else {
            StoreError::Unavailable(failed.clone())
        });
        match self.random.below(5) {
            0 => Some(Err(StoreError::Unavailable(failed))),
            1 => Some(unknown),
            2 => None,
            done => {
                let _ = self.store_apply(op);
                (done == 3).then_some(unknown)
            }
        }
    }

    fn store_does_not(&mut self, refuses: Refuses, op: Op) -> Option<StoreResult<Reply>> {
        let why = || "database space exceeded".to_owned();
        match (refuses, self.random.below(4)) {
            (Refuses::Changes, 0) => {
                self.store.half.held.push(op);
                Some(Err(StoreError::OutcomeUnknown("no majority answered in time".into())))
            }
            (Refuses::Changes, 1) => None,
            (Refuses::Changes, _) => Some(Err(StoreError::Unavailable("no leader".into()))),
            (_, 0) => Some(Err(StoreError::Unavailable(why()))),
            _ => Some(Err(StoreError::Refused(why()))),
        }
    }
}
