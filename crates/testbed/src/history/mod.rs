//! What clients saw of a cluster, and what that proves.
//!
//! [`Clients`] write to every member's server all the time, whoever is said to lead, and record each acknowledgement
//! with the server that gave it. [`check`] is a pure function over that record and the final content.

mod check;
mod clients;
#[cfg(test)]
mod planted;

use std::collections::BTreeSet;
use std::time::Duration;

pub use check::{Reign, Verdict, Violation, check};
pub use clients::Clients;

/// A server's time as primary, as far as clients can tell: another start or another timeline is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    pub node: usize,
    pub timeline: u32,
    /// `pg_postmaster_start_time()`, in microseconds.
    pub started: i64,
}

/// One acknowledged append. Times are since the record began.
#[derive(Clone, Debug)]
pub struct Ack {
    /// Each client appends to a key of its own, counting up.
    pub key: u32,
    pub n: u64,
    pub sent: Duration,
    pub received: Duration,
    pub server: Server,
    pub lsn: u64,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    /// Smaller keys are of an earlier record.
    pub first_key: u32,
    pub acknowledged: Vec<Ack>,
    /// Sent without an acknowledgement: failed, or nobody knows.
    pub unanswered: BTreeSet<(u32, u64)>,
    /// What reading all accounts in one snapshot added up to: when, on which member, how much.
    pub totals: Vec<(Duration, usize, i64)>,
    /// When an operator's planned switchover had succeeded, and which member had led before.
    pub switchovers: Vec<(Duration, usize)>,
    /// When every process of a member, its fence too, stood still.
    pub suspended: Vec<(Duration, usize)>,
}

impl History {
    /// The longest time without any acknowledgement, from a moment on.
    pub fn longest_gap(&self, since: Duration) -> Duration {
        let mut received: Vec<Duration> = self.acknowledged.iter().map(|ack| ack.received).collect();
        received.push(since);
        received.sort_unstable();
        let pairs = received.windows(2).filter(|pair| pair[1] > since);
        pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// It was under way when its whole machine was stopped, so that the machine's first act on waking may be to acknowledge
    /// it: before anything on it is scheduled that could know better. What is begun after that has no such excuse.
    fn slept(&self, ack: &Ack) -> bool {
        self.suspended.iter().any(|(at, node)| *node == ack.server.node && ack.sent <= *at && *at < ack.received)
    }
}

/// The appends that a server holds, in the order in which it took them.
#[derive(Clone, Debug)]
pub struct Content {
    pub server: Server,
    pub appends: Vec<(u32, u64)>,
}

/// What the settings let an asynchronous failover lose.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    pub synchronous: bool,
    /// `maximum_lag_on_failover`
    pub bytes: u64,
    /// How old the position in the store may be by which candidates are judged: what is acknowledged later is nobody's
    /// to know.
    pub unpublished: Duration,
}

/// What all accounts hold together.
pub const MONEY: i64 = 800;
