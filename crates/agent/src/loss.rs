//! Loss receipts that nobody has acknowledged, as this agent shows them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use surus_core::BootTime;
use surus_core::loss::Receipt;

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
}

impl Shown {
    fn of(receipts: &[Receipt], problems: Vec<String>) -> Shown {
        Shown {
            receipts: receipts.len() as u64,
            transactions: receipts.iter().map(Receipt::transactions).sum(),
            bytes: receipts.iter().map(|r| r.wal.bytes).sum(),
            lines: receipts.iter().map(|r| (r.id.clone(), r.summary())).collect(),
            problems,
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
    shown: Arc<ArcSwap<Shown>>,
    read: Option<BootTime>,
}

impl Losses {
    pub fn new(directory: PathBuf) -> Losses {
        Losses { directory, shown: Arc::default(), read: None }
    }

    pub fn shown(&self) -> Arc<Shown> {
        self.shown.load_full()
    }

    /// What is to be done in the background if it is time for that.
    pub fn look(&mut self, now: BootTime, at_once: bool) -> Option<impl Future<Output = Result<(), String>> + use<>> {
        if !at_once && self.read.is_some_and(|at| now.since(at) < AGAIN) {
            return None;
        }
        self.read = Some(now);
        let (directory, shown) = (self.directory.clone(), self.shown.clone());
        Some(async move {
            let read = tokio::task::spawn_blocking(move || surus_postgres::loss::receipts(&directory));
            let (receipts, problems) = read.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
            shown.store(Arc::new(Shown::of(&receipts, problems)));
            Ok(())
        })
    }
}
