//! What the keeper is told, asks for and answers.

use std::collections::BTreeSet;
use std::time::Duration;

use surus_core::cluster::Leader;
use surus_core::facts::Lead;
use surus_core::store::{Beside, LeaseId, StoreResult, TakeLead};
use surus_core::{BootTime, MemberName, Timeline};

/// Enough members vouch for this lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// When they were asked.
    pub sent: BootTime,
    pub until: BootTime,
    pub by: BTreeSet<MemberName>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeaseState {
    pub session: bool,
    /// Changes with every new session: keys bound to the old one must be written again.
    pub session_number: u64,
    pub lead: Option<Lead>,
    /// Until when members vouch for me, while that is longer than the lease.
    pub vouched: Option<Vouched>,
    /// Whose word counts; see [`Electors::epoch`](surus_core::failsafe::Electors).
    pub electors: u64,
    /// The leader key ended in the store and I go on by what members say.
    pub unbound: bool,
    /// What was certainly said with taking that lead. It may have been said although this is absent.
    pub announced: Option<Timeline>,
    /// Last confirmed renewal: when it was sent and how long the answer took.
    pub renewed: Option<(BootTime, Duration)>,
    pub failing: Option<(BootTime, String)>,
    pub renewals: u64,
    pub failures: u64,
}

/// What has to be known at each input.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: BootTime,
    /// The lease that the store's client works with now. Whoever writes the other keys of the session may be told
    /// first that it has ended, and then there is none.
    pub session: Option<LeaseId>,
}

/// Chosen by whoever asks, to know the answer by.
pub type Ticket = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Take the lead, or confirm it: answered by [`Reply::Taken`].
    Take { beside: Beside },
    /// Go on with a lead of an earlier session, if the key still carries my name: answered by [`Reply::Taken`].
    Retake,
    /// Give the lead up, and write this text to the `status` key in the same transaction.
    Release { status: Option<String> },
    /// Let the lead end when it would end now: renewals do not prolong it until [`Command::Thaw`]. Answered by
    /// [`Reply::Frozen`].
    Freeze,
    /// Renewals prolong the lead again.
    Thaw,
    /// End the session: every key bound to it disappears at once. Nothing follows.
    Close,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `Ok(true)`: the lead is mine. `Ok(false)`: somebody else's.
    Taken(StoreResult<bool>),
    Released(StoreResult<()>),
    /// Until when the lead is good, if I hold it, and no longer.
    Frozen(Option<BootTime>),
    Thawed,
    Closed,
}

/// One request to the store, to be made at once and given up after its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Grant a lease, and work with it from now on.
    Open { ttl: Duration },
    /// Start the time of the session's lease again.
    Renew,
    /// Make the leader key carry my name, bound to the session (`ClusterStore::take_lead_beside`).
    Take { beside: Beside },
    /// Bind the leader key to the session if it carries my name, and leave it alone if not
    /// (`ClusterStore::retake_lead`).
    Retake,
    /// Read who leads.
    Look,
    /// Delete the leader key if it carries my name (`ClusterStore::release_lead`). `unvouch`: and say that nobody is vouched
    /// for any more.
    Release { status: Option<String>, unvouch: bool },
    /// Revoke the session's lease, if there is one.
    Close,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Opened(StoreResult<LeaseId>),
    Renewed(StoreResult<()>),
    Taken(StoreResult<TakeLead>),
    Looked(StoreResult<Option<Leader>>),
    /// Whether the key was mine makes no difference.
    Released(StoreResult<()>),
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Make this request now, then bring its answer.
    Ask {
        request: Request,
        limit: Duration,
    },
    Reply {
        ticket: Ticket,
        reply: Reply,
    },
    /// Nothing to do before then, unless something else is put in.
    Wait {
        until: BootTime,
    },
    /// A request is under way: its answer is what comes next.
    Busy,
    /// The session is closed.
    Ended,
}
