//! What can happen.

use crate::world::clock::True;

/// Whom something happens to; looked up when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Node(usize),
    Leader,
    /// The member whose embedded server leads the store.
    StoreLeader,
    /// The n-th of those that do not lead.
    Other(usize),
}

/// What a store that still reads does not do any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuses {
    /// Puts and new leases. Leases are renewed and keys deleted: etcd whose space is used up.
    Puts,
    /// All that writes. Leases end.
    Writes,
    /// All that writes, and no lease ends: a majority is missing. Some of what it was asked is done when there is one again.
    Changes,
}

/// Faults end by themselves after the time they are given; operations are what operators do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    KillAgent {
        who: Who,
        down: True,
    },
    FreezeAgent {
        who: Who,
        lasts: True,
    },
    /// SIGTERM, and started again by whoever supervises it.
    EndAgent {
        who: Who,
    },
    /// Killed and started again at once, as by an upgrade.
    UpgradeAgent {
        who: Who,
    },
    PowerOff {
        who: Who,
        down: True,
    },
    Suspend {
        who: Who,
        lasts: True,
    },
    StepWall {
        who: Who,
        by_ms: i64,
    },
    KillPostmaster {
        who: Who,
        outlive: True,
    },
    CrashServer {
        who: Who,
    },
    FreezePostmaster {
        who: Who,
        lasts: True,
    },
    KillFence {
        who: Who,
    },
    CutPair {
        a: Who,
        b: Who,
        one_way: bool,
        lasts: True,
    },
    CutStore {
        who: Who,
        one_way: bool,
        lasts: True,
    },
    Isolate {
        who: Who,
        lasts: True,
    },
    SlowNetwork {
        who: Who,
        by: True,
        lasts: True,
    },
    SlowStore {
        by: True,
        lasts: True,
    },
    StoreOutage {
        lasts: True,
        again: bool,
    },
    LoseAnswers {
        percent: u64,
        lasts: True,
    },
    /// Half alive: it does not write. To one member: the server that this one speaks to has lost the others, and shows it
    /// nothing new either.
    ReadOnlyStore {
        who: Option<Who>,
        refuses: Refuses,
        lasts: True,
    },
    /// So many of a hundred requests fail, with or without effect.
    StoreErrors {
        who: Option<Who>,
        percent: u64,
        lasts: True,
    },
    /// Away and back again and again, for about these times.
    FlapStore {
        who: Option<Who>,
        away: True,
        back: True,
        lasts: True,
    },
    LoseWitness {
        lasts: True,
    },
    /// The network falls into two parts: these machines, as bits, perhaps with the store's (or the witness's), and the rest.
    Partition {
        side: u8,
        with_store: bool,
        lasts: True,
    },
    StallWatch {
        who: Who,
        lasts: True,
    },
    BreakWatch {
        who: Who,
        lasts: True,
    },
    HangDisk {
        who: Who,
        lasts: True,
    },
    FillDisk {
        who: Who,
        lasts: True,
    },
    SlowNode {
        who: Who,
        percent: u64,
        lasts: True,
    },
    Lag {
        who: Who,
        by: True,
        lasts: True,
    },
    PromotionFails {
        who: Who,
        lasts: True,
    },
    Switchover {
        to: Option<Who>,
    },
    Failover {
        to: Who,
    },
    Pause {
        lasts: True,
    },
    /// A number in the configuration of the cluster.
    Set {
        setting: &'static str,
        value: u64,
    },
    /// Failsafe mode, on or off; `None`: nothing is said about it.
    Failsafe {
        mode: Option<bool>,
    },
    /// The other site's primary is away.
    RemoteFails {
        lasts: True,
    },
    /// Another server takes over there, without so much of what the former one wrote last.
    RemoteFailsOver {
        lost: u64,
    },
    CutRemote {
        who: Who,
        lasts: True,
    },
    PromoteCluster,
    /// To follow the other site, which takes over with everything, or in haste.
    DemoteCluster {
        hasty: bool,
    },
    Restart {
        who: Who,
    },
    Reinit {
        who: Who,
        force: bool,
    },
}

impl Action {
    /// Trouble in the store alone.
    pub fn is_of_store(self) -> bool {
        use Action as A;
        matches!(
            self,
            A::StoreOutage { .. }
                | A::SlowStore { .. }
                | A::LoseAnswers { .. }
                | A::ReadOnlyStore { .. }
                | A::StoreErrors { .. }
                | A::FlapStore { .. }
                | A::BreakWatch { .. }
                | A::LoseWitness { .. }
        )
    }

    /// In place of what is half alive: what is away altogether.
    pub fn plainer(self) -> Option<Action> {
        let (who, lasts) = match self {
            Action::ReadOnlyStore { who, lasts, .. }
            | Action::StoreErrors { who, lasts, .. }
            | Action::FlapStore { who, lasts, .. } => (who, lasts),
            _ => return None,
        };
        Some(match who {
            None => Action::StoreOutage { lasts, again: false },
            Some(who) => Action::CutStore { who, one_way: false, lasts },
        })
    }

    /// How long it lasts, if it does.
    pub fn lasts(&mut self) -> Option<&mut True> {
        use Action as A;
        match self {
            A::KillAgent { down: lasts, .. }
            | A::PowerOff { down: lasts, .. }
            | A::KillPostmaster { outlive: lasts, .. }
            | A::FreezeAgent { lasts, .. }
            | A::Suspend { lasts, .. }
            | A::FreezePostmaster { lasts, .. }
            | A::CutPair { lasts, .. }
            | A::CutStore { lasts, .. }
            | A::Isolate { lasts, .. }
            | A::SlowNetwork { lasts, .. }
            | A::SlowStore { lasts, .. }
            | A::StoreOutage { lasts, .. }
            | A::LoseAnswers { lasts, .. }
            | A::ReadOnlyStore { lasts, .. }
            | A::StoreErrors { lasts, .. }
            | A::FlapStore { lasts, .. }
            | A::LoseWitness { lasts }
            | A::Partition { lasts, .. }
            | A::StallWatch { lasts, .. }
            | A::BreakWatch { lasts, .. }
            | A::HangDisk { lasts, .. }
            | A::FillDisk { lasts, .. }
            | A::SlowNode { lasts, .. }
            | A::Lag { lasts, .. }
            | A::PromotionFails { lasts, .. }
            | A::RemoteFails { lasts }
            | A::CutRemote { lasts, .. }
            | A::Pause { lasts } => Some(lasts),
            A::EndAgent { .. }
            | A::UpgradeAgent { .. }
            | A::StepWall { .. }
            | A::CrashServer { .. }
            | A::KillFence { .. }
            | A::Switchover { .. }
            | A::Failover { .. }
            | A::Set { .. }
            | A::Failsafe { .. }
            | A::RemoteFailsOver { .. }
            | A::PromoteCluster
            | A::DemoteCluster { .. }
            | A::Restart { .. }
            | A::Reinit { .. } => None,
        }
    }
}
