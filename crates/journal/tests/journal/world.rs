//! One member that decides about a made-up world, as its agent would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;
use surus_core::cluster::*;
use surus_core::facts::*;
use surus_core::memory::Memory;
use surus_core::order::{Order, Request};
use surus_core::postgres::*;
use surus_core::settings::{ClusterSettings, Timing};
use surus_core::{BootTime, Lsn, SystemId, Timeline};
use surus_journal::Decision;

pub const SECRET: &str = "hunter2";

/// Something that happens in the world.
#[derive(Clone, Debug)]
pub enum Happening {
    /// Time passes and WAL is written.
    Time(u64),
    Leader(Option<u8>),
    Member(u8, bool),
    Store(bool),
    Process(bool, bool),
    Answers(bool),
    Lead(bool),
    TaskEnds(bool),
    Peers(u8),
    Request(bool),
    Asked,
    Pause(bool),
    Shutdown,
}

pub fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    use Happening::*;
    let one = prop_oneof![
        6 => (1_u64..20_000).prop_map(Time),
        2 => prop::option::of(1_u8..4).prop_map(Leader),
        1 => (2_u8..4, any::<bool>()).prop_map(|(n, there)| Member(n, there)),
        1 => any::<bool>().prop_map(Store),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(runs, standby)| Process(runs, standby)),
        1 => any::<bool>().prop_map(Answers),
        2 => any::<bool>().prop_map(Lead),
        2 => any::<bool>().prop_map(TaskEnds),
        1 => (0_u8..4).prop_map(Peers),
        1 => any::<bool>().prop_map(Request),
        1 => Just(Asked),
        1 => any::<bool>().prop_map(Pause),
        1 => Just(Shutdown),
    ];
    prop::collection::vec(one, 1..60)
}

pub struct World {
    pub facts: Facts,
    pub memory: Memory,
}

impl World {
    pub fn new() -> World {
        let now = BootTime::from_millis(1_000_000);
        let mut view = ClusterView {
            revision: 10,
            initialize: Initialize::Done(SystemId::parse("7277694203142172922").unwrap()),
            config: Some(Versioned { value: json!({"postgresql": {"parameters": {"x.key": SECRET}}}), version: 3 }),
            failsafe: Some([("node2".into(), format!("http://u:{SECRET}@h2:8008"))].into()),
            ..ClusterView::default()
        };
        for n in 1..4 {
            view.members.insert(name(n), member(n));
        }
        view.leader = Some(Leader { name: name(1), version: 9, lease: Some(7) });
        let control = ControlData {
            system_id: SystemId::parse("7277694203142172922").unwrap(),
            state: ControlState::InProduction,
            checkpoint_timeline: Timeline(1),
            checkpoint_lsn: Lsn(0x300_0060),
            min_recovery_timeline: None,
            min_recovery_lsn: Lsn::INVALID,
            data_checksums: true,
            wal_log_hints: false,
            wal_level_minimal: false,
            wal_segment: 16 << 20,
            limits: [("max_connections".to_owned(), 100)].into(),
        };
        let facts = Facts {
            now,
            unix_ms: 1_790_000_000_000,
            me: name(1),
            tags: Tags(json!({"zone": "a", "ratio": 1.4}).as_object().unwrap().clone()),
            settings: ClusterSettings {
                timing: Timing::NEW_CLUSTER,
                use_pg_rewind: true,
                ..ClusterSettings::default()
            },
            may_bootstrap: true,
            store: StoreFact { view: Some(Arc::new(view)), broken: None, session: true },
            lead: Some(Lead { until: now + Duration::from_secs(7), version: 9 }),
            inherited: None,
            unguarded: false,
            failsafe: Default::default(),
            fence: Fence::default(),
            watchdog: Fence::default(),
            stalls: Default::default(),
            synchronous: Default::default(),
            postgres: PostgresFact {
                data_dir: DataDir::Present { major_version: 17, standby_signal: false, control },
                process: ProcessState::Accepting,
                since: now,
                orphans: false,
                replay: None,
                stand_alone: false,
                answer: Answer::Known(Arc::new(observed(now, false))),
            },
            task: None,
            finished: None,
            peers: BTreeMap::new(),
            request: None,
            room: None,
            missing_slots: vec![],
            unready_slots: vec![],
            shutdown: false,
            failover_due: None,
        };
        World { facts, memory: Memory::default() }
    }

    fn view(&mut self) -> &mut ClusterView {
        let view = Arc::make_mut(self.facts.store.view.as_mut().unwrap());
        view.revision += 1;
        view
    }

    pub fn happens(&mut self, what: &Happening) {
        let now = self.facts.now;
        match what {
            Happening::Time(ms) => {
                self.facts.now = now + Duration::from_millis(*ms);
                self.facts.unix_ms += i64::try_from(*ms).unwrap();
                let renewed = self.facts.now + Duration::from_secs(7);
                if let Some(lead) = &mut self.facts.lead {
                    lead.until = renewed;
                }
                for member in self.view().members.values_mut() {
                    member.xlog_location = member.xlog_location.map(|lsn| Lsn(lsn.0 + ms));
                }
                if let Answer::Known(o) = &mut self.facts.postgres.answer {
                    let o = Arc::make_mut(o);
                    o.at = self.facts.now;
                    o.flush_lsn = Lsn(o.flush_lsn.0 + ms);
                }
            }
            Happening::Leader(n) => {
                let view = self.view();
                view.leader = n.map(|n| Leader { name: name(n), version: view.revision, lease: Some(n.into()) });
            }
            Happening::Member(n, there) => {
                let view = self.view();
                view.members.remove(&name(*n));
                if *there {
                    view.members.insert(name(*n), member(*n));
                }
            }
            Happening::Store(works) => self.facts.store.broken = (!works).then(|| (now, "no answer".to_owned())),
            Happening::Process(runs, standby) => {
                self.facts.postgres.process = if *runs { ProcessState::Accepting } else { ProcessState::NotRunning };
                self.facts.postgres.since = now;
                if let DataDir::Present { standby_signal, .. } = &mut self.facts.postgres.data_dir {
                    *standby_signal = *standby;
                }
                self.answers(*runs);
            }
            Happening::Answers(answers) => self.answers(*answers),
            Happening::Lead(held) => {
                self.facts.lead = held.then(|| Lead { until: now + Duration::from_secs(7), version: 9 });
            }
            Happening::TaskEnds(well) => {
                if let Some(RunningTask { task, epoch, .. }) = self.facts.task.take() {
                    let outcome = if *well { Ok(TaskDone::Done) } else { Err("it failed".to_owned()) };
                    self.facts.finished = Some(FinishedTask { task, epoch, at: now, outcome });
                }
            }
            Happening::Peers(n) => {
                let answer = PeerAnswer {
                    in_recovery: true,
                    position: Lsn(0x300_0060),
                    timeline: Some(Timeline(1)),
                    tags: Tags::default(),
                    watchdog_failed: false,
                    room: None,
                    unready_slots: vec![],
                    forked: None,
                };
                let answer = if n % 2 == 0 { Ok(answer) } else { Err("connection refused".to_owned()) };
                self.facts.peers.insert(name(*n), PeerFact { asked: now, answer });
            }
            Happening::Request(there) => {
                let view = self.view();
                let value = FailoverRequest { leader: Some(name(1)), candidate: Some(name(2)), scheduled_at: None };
                view.failover = there.then(|| Versioned { value, version: view.revision });
                view.failover_version = Some(view.revision);
            }
            Happening::Asked => self.facts.request = Some(Request::Restart),
            Happening::Pause(paused) => self.facts.settings.pause = *paused,
            Happening::Shutdown => self.facts.shutdown = true,
        }
    }

    fn answers(&mut self, answers: bool) {
        let now = self.facts.now;
        let standby = self.facts.postgres.standby_signal();
        self.facts.postgres.answer = if answers {
            Answer::Known(Arc::new(observed(now, standby)))
        } else {
            Answer::Unknown(now, "no answer in time".to_owned())
        };
    }

    /// Decides, and carries the decision out as far as this world goes.
    pub fn decide(&mut self) -> Decision {
        let step = surus_core::step(&self.memory, &self.facts);
        let decision = Decision { memory: self.memory.clone(), facts: self.facts.clone(), step: step.clone() };
        self.memory = step.memory;
        self.facts.finished = None;
        if step.reply.is_some() {
            self.facts.request = None;
        }
        for order in step.orders {
            if let Order::Begin { task, epoch } = order {
                self.facts.task = Some(RunningTask { task, epoch, since: self.facts.now });
            }
        }
        decision
    }
}

fn name(n: u8) -> surus_core::MemberName {
    surus_core::MemberName::new(format!("node{n}"))
}

fn member(n: u8) -> Member {
    Member {
        conn_url: Some(format!("postgres://u:{SECRET}@10.0.0.{n}:5432/postgres")),
        api_url: Some(format!("http://10.0.0.{n}:8008/patroni")),
        state: MemberState::Running,
        role: if n == 1 { MemberRole::Primary } else { MemberRole::Replica },
        xlog_location: Some(Lsn(0x300_0060)),
        timeline: Some(Timeline(1)),
        pending_restart_reason: [("x.key".to_owned(), pending())].into(),
        ..Member::unknown(name(n))
    }
}

fn pending() -> PendingRestart {
    PendingRestart { old_value: SECRET.to_owned(), new_value: format!("{SECRET}x") }
}

fn observed(at: BootTime, standby: bool) -> Observed {
    Observed {
        at,
        server_version: 170_004,
        postmaster_start_time: "2026-10-01 12:00:00.123456+00:00".to_owned(),
        in_recovery: standby,
        timeline: Some(Timeline(1)),
        flush_lsn: if standby { Lsn::INVALID } else { Lsn(0x300_0060) },
        flush_waiters: 0,
        receive_lsn: if standby { Lsn(0x300_0060) } else { Lsn::INVALID },
        replay_lsn: if standby { Lsn(0x300_0060) } else { Lsn::INVALID },
        replay_timestamp: None,
        replay_timeline: None,
        replay_paused: false,
        receiver: standby.then(|| WalReceiver {
            status: "streaming".to_owned(),
            received_timeline: Some(Timeline(1)),
            sender_host: Some("10.0.0.2".to_owned()),
            sender_port: Some(5432),
            slot_name: Some("node1".to_owned()),
            latest_end_lsn: Some(Lsn(0x300_0060)),
        }),
        senders: vec![],
        slots: vec![],
        primary_conninfo: standby
            .then(|| format!("host=10.0.0.2 port=5432 user=replicator password='{SECRET}' sslpassword={SECRET}")),
        primary_slot_name: standby.then(|| "node1".to_owned()),
        restore_command: Some(format!("AWS_SECRET_ACCESS_KEY={SECRET} fetch %f %p")),
        synchronous_standby_names: String::new(),
        synchronous_commit: String::new(),
        pending_restart: [("x.key".to_owned(), pending())].into(),
    }
}
