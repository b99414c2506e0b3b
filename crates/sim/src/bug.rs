//! Planted bugs: what the invariants must catch. Each sits in the simulator, at the seam where the shipped code is
//! given its facts and its hands; the shipped code itself knows none of them.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    // One writer.
    /// The fence is never told of a deadline.
    FenceNotArmed,
    /// The fence counts from when the answer to a renewal came, not from before it was sent.
    FenceArmedFromTheAnswer,
    /// The lease keeper is told that a renewal was sent when its answer came.
    RenewalCountedFromTheAnswer,
    /// An agent that knows an old view takes the lead of its earlier run again, also when others have led since.
    LeadRetakenBlindly,
    /// The leader key is written whoever has it.
    LeadGivenTwice,
    /// A new leader of the embedded store counts more time than has passed.
    StoreTimeJumps,
    /// A primary that sees a pause is left alone at once, before the store knows of it.
    LeftAloneUnnoted,
    /// A fence that is started anew does not hear of the deadline that an earlier agent left.
    NewFenceNotTold,
    /// An agent that is started anew knows nothing of promises before it, and makes new ones at once.
    PromisesForgotten,
    /// A primary without the store takes its own word for enough.
    OneVouches,
    /// A primary without the store counts from when enough members had answered, not from before they were asked.
    VouchedFromTheAnswer,
    /// A renewal that the store answers and refuses is taken for a confirmed one.
    RefusalTakenForRenewal,
    /// An agent does not see that its cluster follows another site.
    RemoteNotSeen,
    // Nothing acknowledged is lost.
    /// The timeline of members that are asked is not looked at, and positions are made up.
    PeersLookBehind,
    /// A handover gives the lead away as soon as the server was told to stop, without asking what the successor holds.
    SuccessorNotAwaited,
    /// A setting of whom commits wait for is taken to be in force as soon as it is written, so that the sync key is
    /// written before it is.
    NamesNotInForce,
    /// The sync key is not looked at by those who may take the lead.
    SyncNotLookedAt,
    /// That a rewind broke off is not written down, and the server starts on what it left.
    HalfRewoundStarts,
    /// The history in the store does not say that the number before the present timeline was left out.
    LeftOutNotInHistory,
    /// Nobody sees that a log left that of the cluster, neither by comparing nor by the history in the store.
    ForksNotSeen,
    // No needless failover.
    /// One failed request to the store is taken for the end of the lease.
    OneFailureEndsTheLease,
    /// Renewals are sent only when the lease is nearly over.
    LateRenewal,
    // It comes back.
    /// While nobody leads, the members of a standby cluster do not know whom it follows.
    RemoteUnknownWithoutALeader,
    /// The end of a task is not told to the next step.
    EndOfTaskForgotten,
    /// Nobody renews its session after the store ended it.
    NoNewSession,
    // No silent loss of data.
    /// The loss receipt is written when the rewind is done.
    ReceiptAfterTheRewind,
    /// Forked data is removed without a receipt.
    ReceiptLeftOut,
    /// Data is removed and nobody says what it was.
    RemovedInSilence,
    /// A promotion is ordered and the store does not know which timeline it begins.
    TimelineNotAnnounced,
    /// A promotion begins a timeline with a number that was announced before.
    AnnouncedTimelineTaken,
    // Every decision can be explained.
    /// Decisions are carried out and not recorded.
    DecisionNotRecorded,
    /// The rule that decided is not named.
    RuleNotNamed,
    // Paused means hands off.
    /// The agent does not see that the cluster is paused.
    PauseNotSeen,
    /// The fence stays armed in a paused cluster.
    PausedFenceStaysArmed,
    /// A restart arms the fence of a primary that is left alone.
    RestartArmsTheFence,
}
