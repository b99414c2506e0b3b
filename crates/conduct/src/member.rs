//! What a member does between its facts and its deeds: which of its orders come when, what a step is shown, what
//! ends a lead, and what it may wait for.
//!
//! The driver waits for something to happen and tells it, gathers facts, calls [`Member::decide`], and does what
//! [`Member::next`] hands out, one after the other, until there is nothing left. What fails on the way is told
//! before the next is asked for.

mod deeds;
mod wait;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use surus_core::facts::{Facts, FinishedTask, Lead, PeerFact, RunningTask, TaskDone};
use surus_core::memory::Memory;
use surus_core::order::{Epoch, Order, Request, Task};
use surus_core::rules::stop_reserve;
use surus_core::settings::Timing;
use surus_core::step::Step;
use surus_core::store::{Followed, Revision};
use surus_core::{BootTime, MemberName};
use tracing::{error, info};

pub use deeds::{Deed, PROBE, WRITE};
pub use wait::{differ, positionless};

use crate::task::Outcome;

/// `Ok`: done, or accepted for later. `Err`: not done, and why.
pub type Said = Result<String, String>;

/// The task that runs now.
struct Running {
    task: RunningTask,
    cancelled: bool,
}

/// A request that a step has yet to answer.
struct Asked<T> {
    request: Request,
    /// How long the start may take that it asks for.
    timeout: Option<Duration>,
    whom: T,
}

/// How a task ended.
pub struct Ended<T> {
    pub task: Task,
    pub done: bool,
    /// To whoever waits for it.
    pub answer: Option<(T, Said)>,
}

/// `T` is how the driver answers a request.
pub struct Member<T> {
    me: MemberName,
    memory: Memory,
    /// The view of the latest step, to tell changes that matter from those that do not.
    seen: Arc<Followed>,
    inherited: Option<BootTime>,
    running: Option<Running>,
    finished: Option<FinishedTask>,
    peers: BTreeMap<MemberName, PeerFact>,
    asking: BTreeMap<MemberName, BootTime>,
    asked: Option<Asked<T>>,
    answering: Option<(Epoch, T)>,
    shutdown: bool,

    orders: VecDeque<Order>,
    reply: Option<Said>,
    begun: Option<Epoch>,
    end: Option<Said2>,
    /// When the latest step looked at everything.
    stepped: BootTime,
    /// The next step comes then at the latest.
    again_at: BootTime,
}

/// What the process ends with.
pub type Said2 = Result<(), String>;
