//! What is asked of one PostgreSQL server, and the ways in which that ends. `surus-postgres` does it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::{MemberRole, Upstream};
use crate::ids::{Lsn, Timeline};

/// In which role a server is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartAs {
    Primary,
    /// Without an upstream it only replays what it has (and what `restore_command` gives).
    Standby {
        upstream: Option<Upstream>,
        slot: Option<String>,
    },
    /// Recovers, from an archive if there are settings for it, and becomes a primary by itself.
    Recovery {
        settings: BTreeMap<String, String>,
        /// Recovery settings and markers stay as they are found, and `settings` are none.
        keep_existing: bool,
    },
}

impl StartAs {
    pub fn standby_of(upstream: Upstream, slot: Option<String>) -> StartAs {
        StartAs::Standby { upstream: Some(upstream), slot }
    }

    pub fn is_primary(&self) -> bool {
        matches!(self, StartAs::Primary)
    }

    pub fn role(&self) -> MemberRole {
        match self {
            StartAs::Primary => MemberRole::Primary,
            StartAs::Standby { upstream: Some(upstream), .. } if upstream.remote => MemberRole::StandbyLeader,
            StartAs::Standby { .. } | StartAs::Recovery { .. } => MemberRole::Replica,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects everybody, checkpoints, lets standbys receive everything.
    Fast,
    /// As a crash: the next start recovers.
    Immediate,
    /// Waits until everybody has left.
    Smart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    NotRunning,
    Exited {
        took: Duration,
    },
    /// Still running, told to stop; nothing more was done.
    TimedOut,
}

/// How far a server is that was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Killed {
    Gone,
    /// None of its processes can let a client in or answer one any more, but some cannot end either before a disk
    /// answers; in words.
    Silent(String),
}

/// Where a cleanly stopped primary ended (`spec/postgres.md §8.1`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShutdownPosition {
    pub timeline: Timeline,
    pub checkpoint: Lsn,
    /// The position to publish: before the WAL switch that a shutdown with archiving writes.
    pub publish: Lsn,
}

/// What became of a running standby that was given another upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowOutcome {
    Unchanged,
    Reloaded,
    /// The files are written; only a start or restart brings them into force.
    RestartNeeded,
}

/// How a local history compares with an upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Divergence {
    /// Can follow as it is.
    None,
    /// On a timeline the upstream does not have.
    Ahead { local: Timeline, upstream: Timeline },
    /// Has WAL of `timeline` that the upstream, having left it at `switchpoint`, does not have.
    Forked { timeline: Timeline, switchpoint: Lsn, local: Lsn },
    /// Both gave this number to a timeline of their own, after they had parted. PostgreSQL goes by numbers and takes one
    /// for the other: neither it nor `pg_rewind` would object.
    SameNumber { timeline: Timeline, parted: Lsn },
    /// The upstream's history does not contain our timeline at all.
    Unrelated { local: Timeline, upstream: Timeline },
    /// A rewind broke off, to where two histories parted: whatever the timelines say, this directory is of no use as it is.
    HalfRewound { fork: Lsn },
}

impl Divergence {
    pub fn can_follow(self) -> bool {
        self == Divergence::None
    }
}
