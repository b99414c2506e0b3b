//! Facts told as a story: a cluster of `a` (me), and whoever is added.

use std::sync::Arc;

use surus_core::cluster::{
    ClusterView, FailoverRequest, Initialize, Leader, Member, MemberRole, MemberState, SyncState, Tags, Upstream,
    Versioned,
};
use surus_core::facts::{
    Answer, Facts, Fence, FinishedTask, Lead, PeerAnswer, PeerFact, PostgresFact, Replay, RunningTask, StoreFact,
    TaskDone,
};
use surus_core::memory::{Divergence, Memory};
use surus_core::order::{Demote, Order, Request, Task};
use surus_core::postgres::{ControlData, ControlState, DataDir, Observed, ProcessState, WalReceiver};
use surus_core::settings::{ClusterSettings, Timing};
use surus_core::stall::Stall;
use surus_core::{BootTime, Lsn, Step, SystemId, Timeline};

pub const NOW: BootTime = BootTime::from_millis(1_000_000);
pub const UNIX_MS: i64 = 1_700_000_000_000;
pub const OURS: &str = "7000000000000000001";
pub const THEIRS: &str = "7000000000000000002";

pub fn before(ms: u64) -> BootTime {
    BootTime::from_millis(NOW.as_millis() - ms)
}

pub fn after(ms: u64) -> BootTime {
    BootTime::from_millis(NOW.as_millis() + ms)
}

pub fn system_id(text: &str) -> SystemId {
    SystemId::parse(text).expect("a system identifier")
}

pub fn control(state: ControlState) -> ControlData {
    ControlData {
        system_id: system_id(OURS),
        state,
        checkpoint_timeline: Timeline(1),
        checkpoint_lsn: Lsn(1000),
        min_recovery_timeline: None,
        min_recovery_lsn: Lsn(0),
        data_checksums: true,
        wal_log_hints: false,
        wal_level_minimal: false,
        wal_segment: 16 << 20,
        limits: Default::default(),
    }
}

pub fn data(state: ControlState, standby_signal: bool) -> DataDir {
    DataDir::Present { major_version: 15, standby_signal, control: control(state) }
}

pub fn member(name: &str, role: MemberRole) -> Member {
    Member {
        conn_url: Some(format!("postgres://{name}:5432/postgres")),
        api_url: Some(format!("http://{name}:8008/patroni")),
        state: MemberState::Running,
        role,
        timeline: Some(Timeline(1)),
        ..Member::unknown(name.into())
    }
}

pub fn upstream(name: &str) -> Upstream {
    Upstream { name: name.into(), host: name.into(), port: 5432, remote: false }
}

pub fn primary_at(lsn: u64, timeline: u32) -> Observed {
    Observed {
        at: NOW,
        server_version: 150_000,
        postmaster_start_time: "2026-01-01 00:00:00.000000+00:00".into(),
        in_recovery: false,
        timeline: Some(Timeline(timeline)),
        flush_lsn: Lsn(lsn),
        flush_waiters: 0,
        receive_lsn: Lsn(0),
        replay_lsn: Lsn(0),
        replay_timestamp: None,
        replay_timeline: None,
        replay_paused: false,
        receiver: None,
        senders: vec![],
        slots: vec![],
        primary_conninfo: None,
        primary_slot_name: None,
        restore_command: None,
        synchronous_standby_names: String::new(),
        synchronous_commit: String::new(),
        pending_restart: Default::default(),
    }
}

/// A standby told to follow `from`, and whether it streams.
pub fn standby_at(lsn: u64, timeline: u32, me: &str, from: Option<&str>, streams: bool) -> Observed {
    let status = if streams { "streaming" } else { "waiting" };
    Observed {
        in_recovery: true,
        flush_lsn: Lsn(0),
        receive_lsn: Lsn(lsn),
        replay_lsn: Lsn(lsn),
        receiver: from.map(|host| WalReceiver {
            status: status.into(),
            received_timeline: Some(Timeline(timeline)),
            sender_host: Some(host.into()),
            sender_port: Some(5432),
            slot_name: None,
            latest_end_lsn: Some(Lsn(lsn)),
        }),
        primary_conninfo: from.map(|host| format!("host={host} port=5432 user=replicator")),
        primary_slot_name: from.map(|_| me.into()),
        ..primary_at(lsn, timeline)
    }
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub facts: Facts,
    pub view: ClusterView,
    pub memory: Memory,
    pub readable: bool,
}

impl Scenario {
    fn new(leader: Option<&str>, postgres: PostgresFact) -> Scenario {
        let view = ClusterView {
            revision: 10,
            initialize: Initialize::Done(system_id(OURS)),
            config: Some(Versioned { value: serde_json::json!({}), version: 1 }),
            leader: leader.map(|name| Leader { name: name.into(), version: 5, lease: None }),
            ..ClusterView::default()
        };
        let facts = Facts {
            now: NOW,
            unix_ms: UNIX_MS,
            me: "a".into(),
            tags: Tags::default(),
            settings: ClusterSettings { timing: Timing::PATRONI, ..ClusterSettings::default() },
            may_bootstrap: true,
            store: StoreFact { view: None, broken: None, session: true },
            lead: None,
            postgres,
            task: None,
            finished: None,
            peers: Default::default(),
            request: None,
            inherited: None,
            unguarded: false,
            failsafe: Default::default(),
            fence: Default::default(),
            watchdog: Default::default(),
            stalls: Default::default(),
            room: None,
            missing_slots: vec![],
            unready_slots: vec![],
            synchronous: Default::default(),
            shutdown: false,
            failover_due: None,
        };
        let me = member("a", MemberRole::Replica);
        Scenario { facts, view, memory: Memory { epoch: 7, ..Memory::default() }, readable: true }.member(me)
    }

    /// I lead and serve.
    pub fn leader() -> Scenario {
        Scenario::new(Some("a"), running(primary_at(1000, 1), false)).lead_until(after(20_000))
    }

    /// `b` leads, I stream from it.
    pub fn standby() -> Scenario {
        Scenario::new(Some("b"), running(standby_at(1000, 1, "a", Some("b"), true), true))
            .member(member("b", MemberRole::Primary))
    }

    /// I run as a standby and nobody leads.
    pub fn leaderless() -> Scenario {
        let mut s = Scenario::new(None, running(standby_at(1000, 1, "a", Some("b"), false), true));
        s.memory.leaderless_since = Some(before(900));
        s.memory.race_round = Some(before(900));
        s.memory.last_leader = Some("b".into());
        s
    }

    /// Nothing anywhere.
    pub fn nothing() -> Scenario {
        let mut s = Scenario::new(None, stopped(DataDir::Empty));
        s.view.initialize = Initialize::Absent;
        s
    }

    /// I hold the lead and PostgreSQL is down, with data that a primary left behind.
    pub fn crashed_leader() -> Scenario {
        Scenario::leader().down(ControlState::InProduction, false)
    }

    pub fn with(mut self, change: impl FnOnce(&mut Scenario)) -> Scenario {
        change(&mut self);
        self
    }

    pub fn member(mut self, member: Member) -> Scenario {
        self.view.members.insert(member.name.clone(), member);
        self
    }

    /// A replica that just answered.
    pub fn with_standby(mut self, name: &str, lsn: u64) -> Scenario {
        self.facts.peers.insert(name.into(), PeerFact { asked: before(500), answer: Ok(answer(true, lsn)) });
        self.member(member(name, MemberRole::Replica))
    }

    /// A replica that was not asked.
    pub fn with_unasked(self, name: &str) -> Scenario {
        self.member(member(name, MemberRole::Replica))
    }

    pub fn lead_until(mut self, until: BootTime) -> Scenario {
        self.facts.lead = Some(Lead { until, version: 5 });
        self
    }

    pub fn down(mut self, state: ControlState, standby_signal: bool) -> Scenario {
        self.facts.postgres = stopped(data(state, standby_signal));
        self
    }

    pub fn starting(mut self, since: BootTime) -> Scenario {
        self.facts.postgres.process = ProcessState::NotAccepting;
        self.facts.postgres.since = since;
        self.facts.postgres.answer = Answer::Unknown(since, "refuses connections".into());
        self
    }

    /// Replay has been watched for so long, and began the segment `at` of `end` after it began with the first.
    pub fn replaying(mut self, watched: u64, at: u64, end: u64) -> Scenario {
        let segment = 16 << 20;
        self.facts.postgres.replay = Some(Replay {
            since: before(watched),
            from: Lsn(segment),
            at: Lsn(at * segment),
            segment,
            end: Some(Lsn((end + 1) * segment)),
        });
        self
    }

    /// An operator started the server here, and no agent has ever managed it.
    pub fn stand_alone(mut self) -> Scenario {
        self.facts.postgres.stand_alone = true;
        self.facts.lead = None;
        self
    }

    pub fn led_by(mut self, name: &str) -> Scenario {
        self.view.leader = Some(Leader { name: name.into(), version: 5, lease: None });
        self.member(member(name, MemberRole::Primary))
    }

    pub fn led_by_nobody(mut self) -> Scenario {
        self.view.leader = None;
        self
    }

    pub fn silent(mut self) -> Scenario {
        self.facts.postgres.answer = Answer::Unknown(before(3000), "statement timeout".into());
        self
    }

    pub fn dir(mut self, dir: DataDir) -> Scenario {
        self.facts.postgres.data_dir = dir;
        self
    }

    /// A hardware watchdog is required and cannot be used.
    pub fn unwatched(mut self) -> Scenario {
        self.facts.watchdog = Fence::Broken { required: true, why: "/dev/watchdog: no such device".into() };
        self
    }

    /// A fence is required and does not work.
    pub fn unfenced(mut self) -> Scenario {
        self.facts.fence = Fence::Broken { required: true, why: "it has ended".into() };
        self
    }

    /// A primary here is known to the store as one that is left alone.
    pub fn paused(mut self) -> Scenario {
        self.facts.unguarded = self.facts.postgres.is_primary();
        self.pause_seen()
    }

    /// The store does not know yet that this member has seen it.
    pub fn pause_seen(mut self) -> Scenario {
        self.facts.settings.pause = true;
        self
    }

    /// So says the store.
    pub fn left_alone(mut self, name: &str) -> Scenario {
        self.view.unguarded = Some(Versioned { value: name.into(), version: 6 });
        self.facts.unguarded = self.facts.me == name.into();
        self
    }

    /// A standby cluster, to follow the server `far`.
    pub fn remote(mut self) -> Scenario {
        self.facts.settings.standby_cluster = true;
        self.facts.settings.remote = Some(Upstream::remote("far", 5432));
        self
    }

    pub fn shutdown(mut self) -> Scenario {
        self.facts.shutdown = true;
        self
    }

    pub fn request(mut self, request: Request) -> Scenario {
        self.facts.request = Some(request);
        self
    }

    pub fn runs(mut self, task: Task) -> Scenario {
        self.facts.task = Some(RunningTask { task, epoch: self.memory.epoch, since: before(1000) });
        self
    }

    pub fn finished(mut self, task: Task, outcome: Result<TaskDone, String>) -> Scenario {
        self.facts.finished = Some(FinishedTask { task, epoch: self.memory.epoch, at: NOW, outcome });
        self
    }

    pub fn tag(mut self, key: &str, value: impl Into<serde_json::Value>) -> Scenario {
        self.facts.tags.0.insert(key.into(), value.into());
        self
    }

    pub fn failover(mut self, leader: Option<&str>, candidate: Option<&str>) -> Scenario {
        let value = FailoverRequest {
            leader: leader.map(Into::into),
            candidate: candidate.map(Into::into),
            scheduled_at: None,
        };
        self.view.failover = Some(Versioned { value, version: 9 });
        self.view.failover_version = Some(9);
        self
    }

    /// The candidates were asked for the present request.
    pub fn asked(mut self) -> Scenario {
        self.memory.asked_for = Some((9, before(900)));
        self
    }

    pub fn sync(mut self, leader: &str, standbys: &[&str], quorum: u32) -> Scenario {
        let standbys = standbys.iter().map(|s| (*s).to_owned()).collect();
        self.view.sync = Some(Versioned { value: SyncState { leader: leader.into(), standbys, quorum }, version: 3 });
        self
    }

    pub fn store_away_since(mut self, since: BootTime) -> Scenario {
        self.facts.store.broken = Some((since, "no answer".into()));
        self
    }

    pub fn forked(mut self, failed: bool) -> Scenario {
        let against = "b".into();
        self.memory.last_leader = Some("b".into());
        self.memory.divergence_checked = Some(before(3000));
        self.memory.divergence = if failed {
            Divergence::RewindFailed { against, why: "no connection".into() }
        } else {
            Divergence::Found { against, what: "300 bytes on timeline 1".into() }
        };
        self
    }

    /// Compared that long ago.
    pub fn same_number(mut self, against: &str, ms: u64) -> Scenario {
        self = self.forked(false);
        let what = "b and this server parted at 0/64 and each has a timeline 2 of its own".into();
        self.memory.divergence = Divergence::SameNumber { against: against.into(), what };
        self.memory.divergence_checked = Some(before(ms));
        self
    }

    pub fn facts(&self) -> Facts {
        let mut facts = self.facts.clone();
        facts.store.view = self.readable.then(|| Arc::new(self.view.clone()));
        facts
    }

    pub fn step(&self) -> Step {
        surus_core::step(&self.memory, &self.facts())
    }
}

pub fn answer(in_recovery: bool, lsn: u64) -> PeerAnswer {
    PeerAnswer {
        in_recovery,
        position: Lsn(lsn),
        timeline: Some(Timeline(1)),
        tags: Tags::default(),
        watchdog_failed: false,
        room: None,
        unready_slots: vec![],
        forked: None,
    }
}

pub fn running(observed: Observed, standby_signal: bool) -> PostgresFact {
    let state = if standby_signal { ControlState::InArchiveRecovery } else { ControlState::InProduction };
    PostgresFact {
        data_dir: data(state, standby_signal),
        process: ProcessState::Accepting,
        since: before(60_000),
        orphans: false,
        replay: None,
        stand_alone: false,
        answer: Answer::Known(Arc::new(observed)),
    }
}

pub fn stopped(data_dir: DataDir) -> PostgresFact {
    PostgresFact {
        data_dir,
        process: ProcessState::NotRunning,
        since: before(5000),
        orphans: false,
        replay: None,
        stand_alone: false,
        answer: Answer::Unknown(before(5000), "not running".into()),
    }
}

pub fn hangs(ms: u64) -> Option<Stall> {
    Some(Stall { since: before(ms), seen: NOW })
}

/// An order in a few words.
pub fn brief(order: &Order) -> String {
    let to = |u: &Option<Upstream>| u.as_ref().map_or("nobody".to_owned(), |u| u.name.to_string());
    match order {
        Order::Begin { task, .. } => match task {
            Task::Bootstrap => "bootstrap".into(),
            Task::CloneWithoutLeader => "clone without leader".into(),
            Task::Clone { from } => format!("clone {}", from.name),
            Task::StartPrimary => "start primary".into(),
            Task::StartStandby { upstream } => format!("start standby of {}", to(upstream)),
            Task::Promote => "promote".into(),
            Task::Demote(Demote::Handover { to, .. }) => format!("hand over to {to}"),
            Task::Demote(Demote::LeaseEnding { .. }) => "demote, lease ends".into(),
            Task::Demote(Demote::Deposed) => "demote, deposed".into(),
            Task::Demote(Demote::Release) => "demote and release".into(),
            Task::Demote(Demote::Cluster) => "demote the cluster".into(),
            Task::Follow { upstream } => format!("follow {}", to(upstream)),
            Task::CheckDivergence { from } => format!("compare with {}", from.name),
            Task::Rewind { from } => format!("rewind from {}", from.name),
            Task::Reinitialize { from } => format!("reinitialize from {}", from.name),
            Task::Restart => "restart".into(),
            Task::CopySlots { from, slots } => format!("copy {} slot from {}", slots.len(), from.name),
            Task::KillOrphans => "kill orphans".into(),
            Task::Shutdown { to } => format!("shut down, to {}", to.as_ref().map_or("nobody", |n| n.as_str())),
        },
        Order::Cancel { .. } => "cancel".into(),
        Order::TakeLead => "take".into(),
        Order::RetakeLead => "retake".into(),
        Order::ReleaseLead => "release".into(),
        Order::Probe { members } => {
            format!("ask {}", members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
        Order::AskConsent { members } => {
            format!("consent of {}", members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
        Order::WriteSystemId { .. } => "write system id".into(),
        Order::WriteConfig { .. } => "write config".into(),
        Order::WriteHistory => "write history".into(),
        Order::ClearFailover { .. } => "clear request".into(),
        Order::NameCandidate { request, .. } => {
            format!("name {}", request.candidate.as_ref().map_or("nobody", |n| n.as_str()))
        }
        Order::RequestSwitchover { request, .. } => {
            format!("ask for a switchover to {}", request.candidate.as_ref().map_or("anybody", |n| n.as_str()))
        }
        Order::Exit(Ok(())) => "exit".into(),
        Order::SetNames { names } => {
            format!("wait for {:?}", names.as_ref().map(|n| n.text().unwrap_or_default()))
        }
        Order::WriteSync { state, .. } => {
            format!("write sync {}", state.as_ref().map_or("away".into(), |s| s.to_text()))
        }
        Order::Exit(Err(_)) => "exit with error".into(),
    }
}

pub fn briefs(step: &Step) -> Vec<String> {
    step.orders.iter().map(brief).collect()
}
