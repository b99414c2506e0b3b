//! The group's rhythm. Constants, because nodes that disagree about it are worse than any choice.

use std::time::Duration;

/// Asked of the library, which beats every one and a half of it: about every 375 ms. Also its limit
/// for one replication request, so far above what a busy disk takes for a sync.
pub const HEARTBEAT_MS: u64 = 250;
/// No vote against a leader heard from within this time; four beats, so that a busy machine does not
/// depose it.
pub const LEADER_LEASE_MS: u64 = 1500;
/// A node calls for an election this long after it last heard a leader; the spread keeps two from
/// doing so at once.
pub const ELECTION_MS: std::ops::Range<u64> = 1500..2300;
/// After an election that gave no leader.
pub const RETRY_MS: std::ops::Range<u64> = 200..900;

pub const LEADER_LEASE: Duration = Duration::from_millis(LEADER_LEASE_MS);

/// Within `range`, different every time.
pub fn jitter(range: std::ops::Range<u64>) -> Duration {
    let width = range.end - range.start;
    Duration::from_millis(range.start + crate::types::random_id() % width)
}
