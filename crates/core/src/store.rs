//! What a store can answer, and what is followed of it: the values decisions and procedures turn on.
//! The contract itself is in `surus-store`.

use std::sync::Arc;

use crate::cluster::{ClusterView, KeyVersion};
use crate::ids::Timeline;
use crate::time::BootTime;

pub type StoreResult<T> = Result<T, StoreError>;
pub type Revision = u64;
pub type LeaseId = u64;

/// What went wrong, by what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The request certainly had no effect; the same request may succeed later.
    #[error("the store could not be reached: {0}")]
    Unavailable(String),
    /// The request may or may not have been applied: read back before acting on either.
    #[error("the store did not answer in time, the outcome is unknown: {0}")]
    OutcomeUnknown(String),
    /// The lease is gone, and every key bound to it.
    #[error("the lease has ended in the store")]
    LeaseGone,
    /// Repeating will not help: wrong credentials, wrong server, refused by policy.
    #[error("the store refused: {0}")]
    Refused(String),
}

impl StoreError {
    /// The store may be in trouble, as opposed to having given a definite answer.
    pub fn is_inaccessible(&self) -> bool {
        matches!(self, StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))
    }
}

/// A request that is made again and again: whether its failure is news for the log. A store that is half alive would fill it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failing(Option<bool>);

impl Failing {
    /// The first since it last went well, or the store is in trouble where it refused before, or the other way round.
    pub fn is_news(&mut self, e: &StoreError) -> bool {
        let inaccessible = Some(e.is_inaccessible());
        std::mem::replace(&mut self.0, inaccessible) != inaccessible
    }

    pub fn over(&mut self) {
        self.0 = None;
    }
}

/// Other keys that a decision to take the lead rests on. The lead is not taken once they are different: the reading may
/// be old, and who may lead without losing a commit, or while somebody is left alone, is what they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// `None`: the key was absent.
    pub unguarded: Option<KeyVersion>,
    /// `None`: it does not matter. `Some(None)`: the key was absent.
    pub sync: Option<Option<KeyVersion>>,
    /// `None`: it does not matter, or could not be read. Whether the cluster is paused, follows a remote node or keeps
    /// commits on several members is decided by what it says.
    pub config: Option<KeyVersion>,
    /// Whom members may vouch for. `None`: it does not matter. `Some(None)`: the key was absent.
    pub vouching: Option<Option<KeyVersion>>,
    /// What a standby that takes the lead says in the same transaction.
    pub announce: Option<Announce>,
}

/// The number of the timeline that a promotion is to begin, for the `timeline` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    pub timeline: Timeline,
    /// What the key had when the number was chosen. `None`: it was absent.
    pub over: Option<KeyVersion>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Applied; every key written now has this version.
    Applied(Revision),
    /// At least one comparison did not hold.
    Conflict,
}

/// How an attempt to take the lead ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeLead {
    Taken(KeyVersion),
    /// Somebody else has it.
    Lost,
}

/// What is known of the cluster, and how far it can be trusted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Followed {
    /// The newest complete view, kept while the stream is broken. `None` before the first snapshot.
    pub view: Option<Arc<ClusterView>>,
    /// When the stream last delivered anything; zero before the first snapshot. A stream on which
    /// nothing happens is silent: see [`Followed::known_at`].
    pub confirmed_at: BootTime,
    /// Since when changes may be missing. `None` while the stream is whole.
    pub broken_since: Option<BootTime>,
    /// Why it is broken, in words for operators.
    pub reason: Option<String>,
}

impl Followed {
    /// A view from a stream that is whole, as far as the adapter can tell.
    pub fn is_current(&self) -> bool {
        self.view.is_some() && self.broken_since.is_none()
    }

    /// The point up to which the view is known to be right: `now` while the stream is whole, however
    /// long nothing changed; the last sign of life once it is broken.
    pub fn known_at(&self, now: BootTime) -> BootTime {
        if self.is_current() { now } else { self.confirmed_at }
    }

    pub fn revision(&self) -> Revision {
        self.view.as_ref().map_or(0, |view| view.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_goes_on_is_told_once() {
        let cut = StoreError::Unavailable("cut".into());
        let late = StoreError::OutcomeUnknown("late".into());
        let full = StoreError::Refused("full".into());
        let mut failing = Failing::default();
        for (e, news) in [(&cut, true), (&late, false), (&cut, false), (&full, true), (&full, false), (&late, true)] {
            assert_eq!(failing.is_news(e), news, "{e}");
        }
        failing.over();
        assert!(failing.is_news(&late));
    }
}
