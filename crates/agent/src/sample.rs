//! Facts for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use surus_core::cluster::{ClusterView, Tags};
use surus_core::facts::{Answer, Facts, PostgresFact, RunningTask, StoreFact};
use surus_core::order::Task;
use surus_core::postgres::{ControlData, ControlState, DataDir, Observed, ProcessState};
use surus_core::settings::ClusterSettings;
use surus_core::{BootTime, Lsn, SystemId, Timeline};

pub const NOW: BootTime = BootTime::from_millis(1_000_000);

pub fn data(standby_signal: bool) -> DataDir {
    let control = ControlData {
        system_id: SystemId::parse("7710904247095016795").unwrap(),
        state: ControlState::InProduction,
        checkpoint_timeline: Timeline(1),
        checkpoint_lsn: Lsn(1),
        min_recovery_timeline: None,
        min_recovery_lsn: Lsn(0),
        data_checksums: true,
        wal_log_hints: false,
        wal_level_minimal: false,
        wal_segment: 16 << 20,
        limits: BTreeMap::new(),
    };
    DataDir::Present { major_version: 150_000, standby_signal, control }
}

/// What `me` knows of a server that answers with `observed`, or does not run.
pub fn facts(view: ClusterView, observed: Option<Observed>) -> Facts {
    let standby = observed.as_ref().is_some_and(|o| o.in_recovery);
    Facts {
        now: NOW,
        unix_ms: 0,
        me: "me".into(),
        tags: Tags::default(),
        settings: ClusterSettings::default(),
        may_bootstrap: true,
        store: StoreFact { view: Some(Arc::new(view)), broken: None, session: true },
        lead: None,
        inherited: None,
        unguarded: false,
        failsafe: Default::default(),
        fence: Default::default(),
        watchdog: Default::default(),
        stalls: Default::default(),
        synchronous: Default::default(),
        postgres: PostgresFact {
            data_dir: data(standby),
            process: if observed.is_some() { ProcessState::Accepting } else { ProcessState::NotRunning },
            since: NOW,
            orphans: false,
            replay: None,
            stand_alone: false,
            answer: match observed {
                Some(observed) => Answer::Known(Arc::new(observed)),
                None => Answer::Unknown(NOW, "PostgreSQL does not run".into()),
            },
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
    }
}

pub fn during(task: Task, facts: Facts) -> Facts {
    Facts { task: Some(RunningTask { task, epoch: 1, since: NOW }), ..facts }
}
