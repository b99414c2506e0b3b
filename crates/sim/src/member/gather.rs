//! Facts for one step.

use std::sync::Arc;
use std::time::Duration;

use surus_conduct::race::first;
use surus_core::cluster::ClusterView;
use surus_core::facts::{Answer, Facts, Fence, PostgresFact, StoreFact};
use surus_core::postgres::{DataDir, ProcessState};
use surus_core::stall::{Stall, Stalls};

use super::Member;
use super::wait::{pause, sleep, until};
use crate::bug::Bug;
use crate::world::clock::MS;
use crate::world::node::Disk;

const ANSWER: Duration = Duration::from_secs(2);
const DISK: Duration = Duration::from_secs(10);

impl Member {
    pub(super) async fn gather(&self) -> Facts {
        self.look_at_process();
        self.look_at_data_dir().await;
        if self.mind().process.0 == ProcessState::NotRunning {
            let since = self.mind().process.1;
            self.mind().answer = Answer::Unknown(since, "PostgreSQL does not run".into());
        } else {
            self.ask_postgres().await;
        }
        let stalls = self.stalls();
        let (lease, orphans, fence, bug, now, unix_ms) = self.sim.with(|w| {
            let n = &w.nodes[self.node];
            (w.lease(self.node), n.postgres.orphans, n.fence.alive, w.bug, w.boot(self.node), n.clock.unix_ms(w.now))
        });
        let mind = self.mind();
        let mut settings = mind.settings.settings.clone();
        settings.pause &= bug != Some(Bug::PauseNotSeen);
        settings.standby_cluster &= bug != Some(Bug::RemoteNotSeen);
        let required = "it does not run".to_owned();
        Facts {
            now,
            unix_ms,
            me: self.me.clone(),
            tags: Default::default(),
            settings,
            may_bootstrap: true,
            store: StoreFact {
                view: match mind.conduct.seen().view.clone() {
                    Some(view) if bug == Some(Bug::SyncNotLookedAt) && lease.lead.is_none() => {
                        Some(Arc::new(ClusterView { sync: None, ..ClusterView::clone(&view) }))
                    }
                    view => view,
                },
                broken: mind
                    .conduct
                    .seen()
                    .broken_since
                    .map(|since| (since, mind.conduct.seen().reason.clone().unwrap_or_else(|| "no answer yet".into()))),
                session: lease.session,
            },
            lead: lease.lead,
            inherited: mind.conduct.inherited(),
            failsafe: self.sim.with(|w| {
                let agent = w.nodes[self.node].agent.as_ref();
                agent.map(|a| mind.conduct.failsafe(&a.promises, &lease, now)).unwrap_or_default()
            }),
            unguarded: mind.conduct.unguarded() || bug == Some(Bug::LeftAloneUnnoted) && mind.settings.settings.pause,
            fence: if fence { Fence::Working } else { Fence::Broken { required: true, why: required } },
            watchdog: Fence::Off,
            stalls,
            synchronous: mind.conduct.synchronous(lease.lead),
            postgres: PostgresFact {
                data_dir: mind.data_dir.clone(),
                process: mind.process.0,
                since: mind.process.1,
                orphans: orphans && mind.process.0 == ProcessState::NotRunning && mind.conduct.task().is_none(),
                replay: self.sim.with(|w| w.replay(self.node)),
                stand_alone: false,
                answer: mind.answer.clone(),
            },
            task: mind.conduct.task().cloned(),
            finished: mind.conduct.finished().cloned(),
            peers: mind.conduct.peers().clone(),
            request: mind.conduct.request(),
            room: None,
            missing_slots: vec![],
            unready_slots: vec![],
            shutdown: mind.conduct.shutdown(),
            failover_due: None,
        }
    }

    /// What the probes would tell, seen only when a step is taken.
    fn stalls(&self) -> Stalls {
        let (disk, postmaster, now) = self.sim.with(|w| {
            let (n, now) = (&w.nodes[self.node], w.boot(self.node));
            let server = n.postgres.server.as_ref();
            (n.disk == Disk::Hangs && (server.is_some() || n.postgres.orphans), server.is_some_and(|s| s.frozen), now)
        });
        let mut mind = self.mind();
        let apart = mind.timing().loop_wait * 2;
        let still = |known: Option<Stall>, hangs: bool| {
            // Nothing is known of a time in which this agent stood still itself.
            let known = known.filter(|stall| now.since(stall.seen) <= apart);
            hangs.then(|| Stall { since: known.map_or(now, |stall| stall.since), seen: now })
        };
        mind.stalls = Stalls {
            disk: still(mind.stalls.disk, disk),
            postmaster: still(mind.stalls.postmaster, postmaster),
            ..Stalls::default()
        };
        mind.stalls
    }

    fn look_at_process(&self) {
        let (server, now) =
            self.sim.with(|w| (w.nodes[self.node].postgres.server.as_ref().map(|s| s.pid), w.boot(self.node)));
        let mut mind = self.mind();
        if mind.server != server {
            mind.server = server;
            mind.data_dir_read = None;
        }
        let state = match server {
            None => ProcessState::NotRunning,
            Some(_) if mind.process.0 == ProcessState::Accepting => ProcessState::Accepting,
            Some(_) => ProcessState::NotAccepting,
        };
        mind.set_process(state, now);
    }

    async fn look_at_data_dir(&self) {
        let now = self.now();
        let (running, limit) = {
            let mind = self.mind();
            let running = mind.process.0 != ProcessState::NotRunning;
            let read = mind.data_dir_read;
            let fresh = read.is_some_and(|at| now.since(at) < mind.timing().loop_wait);
            if running && (fresh || read.is_some() && matches!(mind.data_dir, DataDir::Present { .. })) {
                return;
            }
            (running, if running { ANSWER } else { DISK })
        };
        let limit = if running { self.spare(limit) } else { limit };
        let read = until(&self.sim, self.node, |w| {
            let n = &w.nodes[self.node];
            (n.disk != Disk::Hangs).then(|| n.postgres.data_dir())
        });
        let found = first(read, sleep(&self.sim, self.node, limit)).await;
        let now = self.now();
        let mut mind = self.mind();
        match found {
            futures_util::future::Either::Left(found) => mind.data_dir = found,
            futures_util::future::Either::Right(()) if running && matches!(mind.data_dir, DataDir::Present { .. }) => {}
            futures_util::future::Either::Right(()) => {
                mind.data_dir = DataDir::Unreadable("it does not answer; check the disk".into());
            }
        }
        mind.data_dir_read = Some(now);
    }

    async fn ask_postgres(&self) {
        let us = self.sim.with(|w| w.random.between(300, 3 * MS));
        pause(&self.sim, us).await;
        let (observed, now) = self.sim.with(|w| {
            let serves = w.nodes[self.node].postgres.serves();
            (w.observed_arc(self.node).filter(|_| serves), w.boot(self.node))
        });
        let mut mind = self.mind();
        match observed {
            Some(observed) => {
                mind.set_process(ProcessState::Accepting, now);
                mind.crashed = false;
                mind.answer = Answer::Known(observed);
            }
            None => {
                let since = match &mind.answer {
                    Answer::Unknown(since, _) => *since,
                    Answer::Known(_) => now,
                };
                mind.answer = Answer::Unknown(since, "the database system is starting up or shutting down".into());
                let gone = self.sim.with(|w| w.nodes[self.node].postgres.server.is_none());
                mind.set_process(if gone { ProcessState::NotRunning } else { ProcessState::NotAccepting }, now);
            }
        }
    }
}

impl super::Mind {
    fn set_process(&mut self, state: ProcessState, now: surus_core::BootTime) {
        if self.process.0 != state {
            self.process = (state, now);
        }
    }
}
