//! The group's rhythm. Constants, because nodes that disagree about it are worse than any choice.

use std::time::Duration;

/// The library knows one number for its heartbeat and for the time limit of a replication request. The
/// limit has to be far above what a busy disk takes for a sync, so it is that number that the library
/// is given, and the leader's beat is [`BEAT`], from a task of ours.
pub const REQUEST_MS: u64 = 900;
pub const BEAT: Duration = Duration::from_millis(300);
/// No vote against a leader heard from within this time; five beats, so that a busy machine does not
/// depose it.
pub const LEADER_LEASE_MS: u64 = 1500;
/// A node calls for an election this long after it last heard a leader; the spread keeps two from
/// doing so at once.
pub const ELECTION_MS: std::ops::Range<u64> = 1500..2300;
/// After an election that gave no leader.
pub const RETRY_MS: std::ops::Range<u64> = 200..900;

/// A voter that the leader has not heard for so long gives its vote to a member that follows. Longer than a restart of
/// the process takes; a machine that restarts may lose its vote, which costs nothing: it follows when it is back.
pub const REPLACE_AFTER: Duration = Duration::from_secs(30);

pub const LEADER_LEASE: Duration = Duration::from_millis(LEADER_LEASE_MS);

/// Within `range`, different every time.
pub fn jitter(range: std::ops::Range<u64>) -> Duration {
    let width = range.end - range.start;
    Duration::from_millis(range.start + crate::types::random_id() % width)
}
