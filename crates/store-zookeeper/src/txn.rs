//! Transactions: what is there is read, the comparisons are made on it, and one `multi` writes under the condition that it
//! still is so.
//!
//! A `multi` can only check the version of a value, which starts again at 0 when a znode is made again: a leader key that
//! vanished with its session and was made anew by somebody else looks as before. So every key that is made here is written
//! twice, which gives it a version above what others make; and who makes or deletes a key also writes the value of its
//! parent, as it was, whose version every comparison of a key below checks as well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use surus_store::{Compare, LeaseId, Op, StoreError, StoreResult, Txn, TxnOutcome};
use tokio::time::{Instant, sleep};

use crate::ensemble::Link;
use crate::store::{Inner, Via};
use crate::tree::{self, Node, Unread, collect, directory, parent, unsigned};
use crate::wire::{Acl, Code, Lost, Mode, Multi, MultiOutcome};

/// Between tries when somebody else was faster.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn run(inner: &Inner, txn: &Txn, end: Instant) -> StoreResult<TxnOutcome> {
    let (via, lease) = session_of(inner, txn)?;
    let mut link = inner.link(&via, end).await.map_err(Lost::without_effect)?;
    // What this server says is the newest state, as far as anybody was told.
    let mut newest = false;
    let mut why = "somebody else changed the same keys at the same time, again and again".to_owned();
    loop {
        if Instant::now() >= end {
            return Err(StoreError::Unavailable(format!("{}: {why}", link.host())));
        }
        if !link.is_open() {
            link = inner.link(&via, end).await.map_err(Lost::without_effect)?;
            newest = false;
        }
        let state = match State::read(&link, txn, end).await {
            Ok(state) => state,
            Err(Unread::Refused(text)) => return Err(StoreError::Refused(text)),
            Err(Unread::Lost(lost)) => {
                why = again(inner, &via, lost).await?;
                continue;
            }
        };
        let plan = if state.holds(txn) { Some(Plan::of(&state, txn, lease, &link)?) } else { None };
        let Some(plan) = plan.filter(|plan| newest || !plan.multi.is_empty()) else {
            if newest {
                return Ok(TxnOutcome::Conflict);
            }
            match link.barrier(end).await {
                Ok(()) => newest = true,
                Err(lost) => why = again(inner, &via, lost).await?,
            }
            continue;
        };
        if plan.multi.is_empty() {
            return Ok(TxnOutcome::Applied(state.revision()));
        }
        let paths = plan.multi.paths.clone();
        match link.multi(plan.multi, end).await {
            Ok((MultiOutcome::Done(written), zxid)) => {
                return Ok(TxnOutcome::Applied(unsigned(written.unwrap_or(zxid))));
            }
            Ok((MultiOutcome::Refused(index, code), _)) => match code {
                Code::NO_NODE | Code::NODE_EXISTS | Code::BAD_VERSION | Code::NOT_EMPTY => {
                    // The refusal was agreed on like a transaction: this server has everything before it.
                    newest = true;
                    sleep(PAUSE).await;
                }
                code => {
                    let path = paths.get(index).map_or("a transaction", String::as_str);
                    return Err(StoreError::Refused(format!("{path} at {}: {code}", link.host())));
                }
            },
            Err(Lost::Unknown(text)) => return Err(StoreError::OutcomeUnknown(text)),
            Err(lost) => why = again(inner, &via, lost).await?,
        }
    }
}

/// After a failure that certainly had no effect: why, if another try makes sense.
async fn again(inner: &Inner, via: &Via, lost: Lost) -> StoreResult<String> {
    sleep(PAUSE).await;
    match (lost, via) {
        (Lost::Unsent(text) | Lost::Unknown(text), _) => Ok(text),
        (Lost::Refused(text), _) => Err(StoreError::Refused(text)),
        (Lost::Expired, Via::Data) => {
            inner.forget_data().await;
            Ok("the session of readings had expired".into())
        }
        (Lost::Expired, Via::Lease(lease)) => {
            lease.note(&Lost::Expired);
            Err(StoreError::LeaseGone)
        }
    }
}

/// A key is bound to a session by being made in it.
fn session_of(inner: &Inner, txn: &Txn) -> StoreResult<(Via, i64)> {
    let wanted = txn.then.iter().filter_map(|op| match op {
        Op::Put { lease, .. } => *lease,
        _ => None,
    });
    let wanted: BTreeSet<LeaseId> = wanted.collect();
    match wanted.first() {
        None => Ok((Via::Data, 0)),
        Some(_) if wanted.len() > 1 => {
            Err(StoreError::Refused("ZooKeeper cannot bind keys to two sessions in one transaction".into()))
        }
        Some(id) => match inner.lease(*id) {
            Some(lease) => Ok((Via::Lease(lease), id.cast_signed())),
            None => Err(StoreError::LeaseGone),
        },
    }
}

/// The znodes that a transaction is about, and those above them.
struct State {
    nodes: BTreeMap<String, Option<Node>>,
    /// What is below the prefixes to be deleted, by path.
    doomed: BTreeMap<String, Node>,
}

fn compared(compare: &Compare) -> &str {
    match compare {
        Compare::Absent { key } | Compare::Version { key, .. } | Compare::Value { key, .. } => key,
    }
}

impl State {
    async fn read(link: &Link, txn: &Txn, end: Instant) -> Result<State, Unread> {
        let mut paths: BTreeSet<&str> = BTreeSet::new();
        let mut doomed = BTreeMap::new();
        let keys = txn.compare.iter().map(compared).chain(txn.then.iter().map(|op| match op {
            Op::Put { key, .. } | Op::Delete { key } => key.as_str(),
            Op::DeletePrefix { prefix } => directory(prefix),
        }));
        for key in keys {
            let mut path = key;
            while path != "/" && paths.insert(path) {
                path = parent(path);
            }
        }
        for op in &txn.then {
            if let Op::DeletePrefix { prefix } = op {
                let tree = collect(link, prefix, end).await?;
                let whole = directory(prefix);
                let wanted = |path: &String, node: &Node| {
                    path.starts_with(prefix)
                        || (path == whole && prefix.ends_with('/') && path != "/" && !node.is_key())
                };
                doomed.extend(tree.nodes.into_iter().filter(|(path, node)| wanted(path, node)));
            }
        }
        let read = tree::read(link, paths.iter().copied(), end).await?;
        Ok(State { nodes: paths.into_iter().map(str::to_owned).zip(read).collect(), doomed })
    }

    fn node(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path).and_then(Option::as_ref)
    }

    fn key(&self, path: &str) -> Option<&Node> {
        self.node(path).filter(|node| node.is_key())
    }

    fn holds(&self, txn: &Txn) -> bool {
        txn.compare.iter().all(|compare| match compare {
            Compare::Absent { key } => self.key(key).is_none(),
            Compare::Version { key, version } => self.key(key).is_some_and(|node| node.version() == *version),
            Compare::Value { key, value } => self.key(key).is_some_and(|node| node.value == *value),
        })
    }

    fn revision(&self) -> u64 {
        let zxids = self.nodes.values().flatten().map(|node| node.stat);
        unsigned(zxids.map(|stat| stat.czxid.max(stat.mzxid).max(stat.pzxid)).max().unwrap_or(0))
    }
}

/// The `multi` of a transaction.
struct Plan<'a> {
    state: &'a State,
    link: &'a Link,
    acls: &'a [Acl],
    multi: Multi,
    checked: BTreeSet<String>,
    made: BTreeSet<String>,
    deleted: BTreeSet<String>,
    /// Parents that a key came to or went from.
    touched: BTreeSet<String>,
}

impl<'a> Plan<'a> {
    fn of(state: &'a State, txn: &Txn, lease: i64, link: &'a Link) -> StoreResult<Plan<'a>> {
        let mut plan = Plan {
            state,
            link,
            acls: &link.ensemble().acls,
            multi: Multi::default(),
            checked: BTreeSet::new(),
            made: BTreeSet::new(),
            deleted: BTreeSet::new(),
            touched: BTreeSet::new(),
        };
        let put: BTreeSet<&str> = txn
            .then
            .iter()
            .filter_map(|op| match op {
                Op::Put { key, .. } => Some(key.as_str()),
                _ => None,
            })
            .collect();
        for compare in &txn.compare {
            plan.compare(compare, &put);
        }
        for op in &txn.then {
            match op {
                Op::Put { key, value, lease: bound } => plan.put(key, value, bound.map_or(0, |_| lease)),
                Op::Delete { key } => match state.key(key) {
                    Some(node) => plan.delete(key, node),
                    None => plan.check(parent(key)),
                },
                Op::DeletePrefix { .. } => {}
            }
        }
        // Children before their parents.
        for (path, node) in state.doomed.iter().rev() {
            plan.delete(path, node);
        }
        plan.touch();
        Ok(plan)
    }

    fn znode(&self, path: &str) -> String {
        self.link.ensemble().znode(path)
    }

    /// That a znode is what was read.
    fn check(&mut self, path: &str) {
        if let Some(node) = self.state.node(path)
            && self.checked.insert(path.to_owned())
        {
            self.multi.check(&self.znode(path), node.stat.version);
        }
    }

    fn compare(&mut self, compare: &Compare, put: &BTreeSet<&str>) {
        let key = compared(compare);
        if self.state.node(key).is_some() {
            self.check(parent(key));
            self.check(key);
        } else if !put.contains(key) {
            // That something is absent cannot be checked; it can be made and taken away again.
            let mut missing = key;
            while self.state.node(parent(missing)).is_none() && parent(missing) != "/" {
                missing = parent(missing);
            }
            if self.checked.insert(missing.to_owned()) {
                let znode = self.znode(missing);
                self.multi.create(&znode, b"", Mode::Persistent, self.acls);
                self.multi.delete(&znode, -1);
            }
        }
    }

    fn put(&mut self, key: &str, value: &[u8], lease: i64) {
        let znode = self.znode(key);
        let owner = self.state.node(key).map(|node| (node, node.lease().map_or(0, u64::cast_signed)));
        match owner {
            Some((node, owner)) if owner == lease => {
                self.multi.set(&znode, value, node.stat.version);
                return;
            }
            // What a key is bound to is decided when it is made.
            Some((node, _)) => self.multi.delete(&znode, node.stat.version),
            None => self.make_above(key),
        }
        let mode = if lease == 0 { Mode::Persistent } else { Mode::Ephemeral };
        self.multi.create(&znode, value, mode, self.acls);
        self.multi.set(&znode, value, 0);
        self.touched.insert(parent(key).to_owned());
    }

    fn make_above(&mut self, key: &str) {
        let above = parent(key);
        if above == "/" || self.state.node(above).is_some() || self.made.contains(above) {
            return;
        }
        self.make_above(above);
        self.multi.create(&self.znode(above), b"", Mode::Persistent, self.acls);
        self.made.insert(above.to_owned());
    }

    fn delete(&mut self, path: &str, node: &Node) {
        if self.deleted.insert(path.to_owned()) {
            self.multi.delete(&self.znode(path), node.stat.version);
            self.touched.insert(parent(path).to_owned());
        }
    }

    fn touch(&mut self) {
        for path in std::mem::take(&mut self.touched) {
            if let Some(node) = self.state.node(&path).filter(|_| !self.deleted.contains(&path)) {
                self.multi.set(&self.znode(&path), &node.value, node.stat.version);
            }
        }
    }
}
