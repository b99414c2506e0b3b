//! What one client may take of the server, and for how long.

use std::time::Duration;

/// Largest request body. A dynamic configuration is a few kilobytes; stores refuse values over 1 to 1.5 MiB.
pub const BODY_BYTES: usize = 1024 * 1024;

/// Largest request head, as peers allow for the request line alone (`spec/rest-api.md §1`).
pub const HEAD_BYTES: usize = 64 * 1024;

/// Time for one request head, which also bounds how long a kept-alive connection may idle: longer
/// than the interval of the usual pollers (15 s), or each of their polls would have to reconnect.
pub const HEAD_TIME: Duration = Duration::from_secs(20);

/// The same once half of all places are taken: idle connections then give way to new ones, and none
/// is kept for a second request.
pub const BUSY_HEAD_TIME: Duration = Duration::from_secs(3);

/// Time for a request body to arrive whole: a local network needs milliseconds.
pub const BODY_TIME: Duration = Duration::from_secs(5);

/// Time for a TLS handshake: two round trips and one signature.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// A client that takes nothing of a response for this long is gone.
pub const WRITE_STALL: Duration = Duration::from_secs(10);

/// Unacknowledged data ends a connection after this time (`spec/rest-api.md §2`).
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(3);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
pub const KEEPALIVE_COUNT: u32 = 3;

/// Connections served at once. Each costs a few kilobytes and one descriptor: well below the usual
/// limit of 1024 descriptors, which the agent needs for the store and PostgreSQL.
pub const CONNECTIONS: usize = 512;

/// Of these, for one address that is neither this machine nor in the allowlist: a check of a load balancer has one or two.
pub const PER_ADDRESS: usize = CONNECTIONS / 4;

/// Pending connections the kernel keeps. Peers default to 5, which a burst of checks overflows.
pub const BACKLOG: u32 = 128;

/// Between two lines in the log about addresses with too many connections.
pub const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Pause after `accept` failed: without descriptors it fails at once, and must not spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long requests under way may go on after the server was told to stop.
pub const DRAIN: Duration = Duration::from_secs(1);

/// PostgreSQL is asked with a limit of two seconds; this only guards against that limit failing.
pub const OBSERVE: Duration = Duration::from_millis(2500);

/// Answer of the agent's loop to a request that needs no work on PostgreSQL.
pub const ASK: Duration = Duration::from_secs(10);

/// For a peer's state before a switchover, as peers do (`spec/ha.md §1`).
pub const PROBE: Duration = Duration::from_secs(2);

/// How long the answer of a switchover waits for the new leader to accept writes, once it has the
/// lead. A promotion takes 0.1 to 0.2 s; after this time the answer is given all the same, because
/// the lead did change.
pub const PROMOTION: Duration = Duration::from_secs(5);

/// Between two looks at whether the new leader accepts writes.
pub const PROMOTION_LOOK: Duration = Duration::from_millis(50);

/// Between two readings of the store while waiting for the outcome of a switchover, in case the
/// agent's own view of the store stands still.
pub const OUTCOME_READ: Duration = Duration::from_secs(1);

/// For the names in `allowlist`, and for the members' with `allowlist_include_members`.
pub const RESOLVE: Duration = Duration::from_secs(2);

/// The limits a test has to reach in less than the real time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    pub per_address: usize,
    pub head_time: Duration,
    pub body_time: Duration,
    pub handshake_time: Duration,
    pub write_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: CONNECTIONS,
            per_address: PER_ADDRESS,
            head_time: HEAD_TIME,
            body_time: BODY_TIME,
            handshake_time: HANDSHAKE_TIME,
            write_stall: WRITE_STALL,
        }
    }
}
