//! Loss receipts that nobody has acknowledged, as this agent shows them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use surus_core::cluster::ClusterView;
use surus_core::loss::{Receipt, Remembered, to_remember};
use surus_core::{BootTime, MemberName};
use surus_postgres::{PgError, loss};

/// Receipts come from tasks of this agent and go by commands, also by ones that only know the files.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub receipts: u64,
    pub transactions: u64,
    /// Of the log kept with them.
    pub bytes: u64,
    /// Id and summary, oldest first.
    lines: Vec<(String, String)>,
    problems: Vec<String>,
    /// Absent until the disk was read.
    disk: Option<OnDisk>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OnDisk {
    receipts: Vec<Remembered>,
    acknowledged: Vec<String>,
}

/// What is to be done about the store's memory of this member's receipts.
#[derive(Debug, PartialEq, Eq)]
pub enum Memory {
    Right,
    /// Empty: nothing is to be remembered.
    Write(Vec<Remembered>),
    /// The store has forgotten what was acknowledged under these ids.
    Forgotten(Vec<String>),
}

impl Shown {
    fn of(receipts: &[Receipt], problems: Vec<String>, directory: &Path, acknowledged: Vec<String>) -> Shown {
        let directory = directory.display().to_string();
        let remembered = receipts.iter().map(|r| Remembered::of(r, &directory)).collect();
        Shown {
            disk: Some(OnDisk { receipts: remembered, acknowledged }),
            receipts: receipts.len() as u64,
            transactions: receipts.iter().map(Receipt::transactions).sum(),
            bytes: receipts.iter().map(|r| r.wal.bytes).sum(),
            lines: receipts.iter().map(|r| (r.id.clone(), r.summary())).collect(),
            problems,
        }
    }

    pub fn memory(&self, stored: &[Remembered]) -> Memory {
        let Some(disk) = &self.disk else { return Memory::Right };
        let wanted = to_remember(stored, &disk.receipts, &disk.acknowledged);
        if wanted != stored {
            Memory::Write(wanted)
        } else if disk.acknowledged.is_empty() {
            Memory::Right
        } else {
            Memory::Forgotten(disk.acknowledged.clone())
        }
    }

    /// For the member key; absent when all is well.
    pub fn remark(&self) -> Option<String> {
        let (n, transactions) = (self.receipts, self.transactions);
        let plural = |n: u64| if n == 1 { "" } else { "s" };
        let text = format!("{n} receipt{}, {transactions} transaction{}", plural(n), plural(transactions));
        (n > 0).then_some(text)
    }

    /// Absent when there is nothing to tell.
    pub fn document(&self) -> Option<Value> {
        let lines: Vec<Value> = self.lines.iter().map(|(id, text)| json!({"id": id, "what": text})).collect();
        (self.receipts > 0 || !self.problems.is_empty())
            .then(|| json!({"receipts": lines, "bytes": self.bytes, "problems": self.problems}))
    }
}

pub struct Losses {
    pub directory: PathBuf,
    me: MemberName,
    shown: Arc<ArcSwap<Shown>>,
    read: Option<BootTime>,
}

impl Losses {
    pub fn new(directory: PathBuf, me: MemberName) -> Losses {
        Losses { directory, me, shown: Arc::default(), read: None }
    }

    pub fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }

    /// What is to be done in the background if it is time for that.
    pub fn look(
        &mut self,
        now: BootTime,
        at_once: bool,
        view: Option<Arc<ClusterView>>,
    ) -> Option<impl Future<Output = Result<(), String>> + use<>> {
        if !at_once && self.read.is_some_and(|at| now.since(at) < AGAIN) {
            return None;
        }
        self.read = Some(now);
        let (directory, me, shown) = (self.directory.clone(), self.me.clone(), self.shown.clone());
        Some(async move {
            let read = tokio::task::spawn_blocking(move || {
                let (mut receipts, problems) = loss::receipts(&directory)?;
                keep_own(&mut receipts, &me, view.as_deref());
                Ok::<_, PgError>(Shown::of(&receipts, problems, &directory, loss::acknowledged(&directory)))
            });
            let read = read.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            shown.store(Arc::new(read));
            Ok(())
        })
    }
}

/// `loss.directory` may be one for several members of a machine: each tells of its own, and somebody of those whose member
/// is gone.
pub fn keep_own(receipts: &mut Vec<Receipt>, me: &MemberName, view: Option<&ClusterView>) {
    receipts.retain(|r| r.member == *me || !view.is_some_and(|view| view.members.contains_key(&r.member)));
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::Member;

    use super::*;

    #[test]
    fn the_store_is_written_only_when_it_is_wrong() {
        let receipt: Receipt = serde_json::from_value(json!({
            "id": "x", "at": "2026-01-01T00:00:00Z", "scope": "s", "member": "a", "destroying": "rewind", "against": "b",
            "timelines": [], "committed": 1, "prepared": 0, "unfinished": 0, "xids": [7], "tables": [], "catalog_rows": 0,
            "wal": {"segments": [], "bytes": 0, "left_out": []}, "notes": [],
        }))
        .unwrap();
        let there = vec![Remembered::of(&receipt, "/d")];
        let read = |receipts: &[Receipt], acknowledged: &[&str]| {
            Shown::of(receipts, vec![], Path::new("/d"), acknowledged.iter().map(|a| (*a).to_owned()).collect())
        };
        let members = ["a", "b"].map(|name| (MemberName::from(name), Member::default()));
        let known = ClusterView { members: members.into(), ..ClusterView::default() };
        for (me, view, kept) in [("a", Some(&known), 1), ("b", Some(&known), 0), ("c", Some(&known), 0), ("b", None, 1)]
        {
            let mut receipts = vec![receipt.clone()];
            keep_own(&mut receipts, &me.into(), view);
            assert_eq!(receipts.len(), kept, "{me}");
        }
        let mut left = vec![Receipt { member: "gone".into(), ..receipt.clone() }];
        keep_own(&mut left, &"b".into(), Some(&known));
        assert_eq!(left.len(), 1, "nobody else tells of it");
        let all = [receipt.clone()];
        assert_eq!(Shown::default().memory(&there), Memory::Right, "the disk was not read yet");
        assert_eq!(read(&all, &[]).memory(&[]), Memory::Write(there.clone()));
        assert_eq!(read(&all, &[]).memory(&there), Memory::Right);
        assert_eq!(read(&[], &[]).memory(&there), Memory::Right, "it was on another disk");
        assert_eq!(read(&[], &["x"]).memory(&there), Memory::Write(vec![]));
        assert_eq!(read(&[], &["x"]).memory(&[]), Memory::Forgotten(vec!["x".into()]));
    }
}
