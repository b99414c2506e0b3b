//! Runs async procedures on virtual time, one at a time and always in the same order.
//!
//! Every task belongs to a process of some machine: when the process dies its tasks are dropped where they stand, and
//! while it is frozen they are woken and not run, as the kernel does it to a real process.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A process, numbered once and never again.
pub type Pid = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    Run,
    /// Frozen: its turn comes when it thaws.
    Wait,
    /// Its process is gone.
    Never,
}

#[derive(Default)]
struct Ready(Mutex<VecDeque<u64>>);

impl Ready {
    fn push(&self, task: u64) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.contains(&task) {
            queue.push_back(task);
        }
    }

    fn pop(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

struct Handle {
    task: u64,
    ready: Arc<Ready>,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.task);
    }
}

struct Task {
    of: Pid,
    work: Work,
    waker: Waker,
}

#[derive(Default)]
pub struct Executor {
    tasks: BTreeMap<u64, Task>,
    last: u64,
    ready: Arc<Ready>,
    held: Vec<u64>,
}

impl Executor {
    pub fn spawn(&mut self, of: Pid, work: Work) {
        self.last += 1;
        let waker = Waker::from(Arc::new(Handle { task: self.last, ready: self.ready.clone() }));
        self.tasks.insert(self.last, Task { of, work, waker });
        self.ready.push(self.last);
    }

    /// Runs one task that is ready. `false`: there was none.
    pub fn run_one(&mut self, may: impl Fn(Pid) -> May) -> bool {
        let Some(id) = self.ready.pop() else { return false };
        let Some(task) = self.tasks.get_mut(&id) else { return true };
        match may(task.of) {
            May::Wait => self.held.push(id),
            May::Never => drop(self.tasks.remove(&id)),
            May::Run => {
                let mut cx = Context::from_waker(&task.waker);
                if task.work.as_mut().poll(&mut cx) == Poll::Ready(()) {
                    self.tasks.remove(&id);
                }
            }
        }
        true
    }

    /// Some process thawed: whoever was woken meanwhile gets its turn.
    pub fn thawed(&mut self) {
        for id in std::mem::take(&mut self.held) {
            self.ready.push(id);
        }
    }

    pub fn drop_process(&mut self, pid: Pid) {
        self.tasks.retain(|_, t| t.of != pid);
    }
}
