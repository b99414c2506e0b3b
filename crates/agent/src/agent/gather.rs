//! Facts for one step.

use std::sync::Arc;
use std::time::Duration;

use surus_core::facts::{Answer, Facts, PostgresFact, Replay, StoreFact};
use surus_core::postgres::{DataDir, ProcessState};
use surus_postgres::{Postmaster, ServerProcesses};
use surus_store::clock::boot_now;

use super::Agent;

/// How long PostgreSQL may take to answer before the step goes on without its answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The same while its disk hangs: what needs no disk is answered at once, and nothing else is.
const HANGING: Duration = Duration::from_millis(200);
/// How long the file system may take to tell what is in the data directory of a server that does not run.
const DISK: Duration = Duration::from_secs(10);

impl Agent {
    pub(super) async fn gather(&mut self) -> Facts {
        let timing = self.settings.effective.settings.timing;
        // Each look at a disk that hangs would keep a thread for as long as it does; what is known of the files stays.
        let disk_hangs = self.stalls.fact().disk_hangs(&timing);
        self.look_at_process(disk_hangs).await;
        if !disk_hangs {
            self.look_at_data_dir().await;
        }
        if self.process.0 == ProcessState::NotRunning {
            self.answer = Answer::Unknown(self.process.1, "PostgreSQL does not run".into());
        } else if !disk_hangs || matches!(self.answer, Answer::Known(_)) {
            // A new session would have to read where the server listens.
            self.ask_postgres(if disk_hangs { HANGING } else { ANSWER }).await;
        }
        let orphans = self.process.0 == ProcessState::NotRunning
            && matches!(self.data_dir, DataDir::Present { .. })
            && self.member.task().is_none()
            && self.orphans(disk_hangs).await;
        let held = self.postmaster.as_ref().map(|p| (p.pid, p.start_ticks));
        self.stalls.server(timing, held, self.process.0 == ProcessState::Accepting);
        if let Answer::Known(observed) = &self.answer {
            self.stalls.observed(observed, timing.loop_wait);
        }
        let lease = self.lease_state.borrow().clone();
        let (now, seen) = (boot_now(), self.member.seen());
        Facts {
            now,
            unix_ms: jiff::Timestamp::now().as_millisecond(),
            me: self.me.clone(),
            tags: self.settings.local.tags.clone(),
            settings: self.settings.effective.settings.clone(),
            may_bootstrap: self.settings.local.bootstrap.is_some(),
            store: StoreFact {
                view: seen.view.clone(),
                broken: seen
                    .broken_since
                    .map(|since| (since, seen.reason.clone().unwrap_or_else(|| "no answer yet".into()))),
                session: lease.session,
            },
            lead: lease.lead,
            inherited: self.member.inherited(),
            unguarded: self.member.unguarded(),
            failsafe: self.failsafe.with(|promises| self.member.failsafe(promises, &lease, now)),
            fence: self.fence.fact(),
            watchdog: self.watchdog.fact(),
            stalls: self.stalls.fact(),
            synchronous: self.member.synchronous(lease.lead),
            postgres: PostgresFact {
                data_dir: self.data_dir.clone(),
                process: self.process.0,
                since: self.process.1,
                orphans,
                replay: self.replaying(disk_hangs),
                stand_alone: self.stand_alone(disk_hangs).await,
                answer: self.answer.clone(),
            },
            task: self.member.task().cloned(),
            finished: self.member.finished().cloned(),
            peers: self.member.peers().clone(),
            request: self.member.request(),
            room: self.upkeep.slots.wal().room,
            missing_slots: self.upkeep.slots.missing(),
            unready_slots: self.upkeep.slots.unready(),
            shutdown: self.member.shutdown(),
            failover_due: self.failover_due(),
        }
    }

    /// Known for good once it is not; until then a server that runs here is somebody else's.
    async fn stand_alone(&mut self, disk_hangs: bool) -> bool {
        if self.unmanaged && !disk_hangs && matches!(self.data_dir, DataDir::Present { .. }) {
            self.unmanaged = !self.instance.is_managed().await;
        }
        self.unmanaged && matches!(self.data_dir, DataDir::Present { .. })
    }

    fn replaying(&mut self, disk_hangs: bool) -> Option<Replay> {
        if let Answer::Known(observed) = &self.answer {
            self.written = (!observed.in_recovery).then(|| observed.position()).or(self.written);
        }
        let DataDir::Present { control, .. } = &self.data_dir else { return None };
        let starting = self.process.0 == ProcessState::NotAccepting && !disk_hangs;
        let at = self.postmaster.as_ref().filter(|_| starting).and_then(|p| p.replaying(control.wal_segment));
        let (now, segment, end) = (boot_now(), control.wal_segment, self.written);
        self.replay = at.map(|at| match self.replay {
            Some(seen) if seen.from <= at && seen.since >= self.process.1 => Replay { at, end, ..seen },
            _ => Replay { since: now, from: at, at, segment, end },
        });
        self.replay
    }

    fn failover_due(&self) -> Option<Result<i64, String>> {
        let view = self.member.seen().view.as_deref()?;
        let text = view.failover.as_ref()?.value.scheduled_at.clone()?;
        Some(match text.parse::<jiff::Timestamp>() {
            Ok(at) => Ok(at.as_millisecond()),
            Err(_) => Err(text),
        })
    }

    async fn orphans(&self, disk_hangs: bool) -> bool {
        if disk_hangs {
            let (dir, programs) = (self.settings.data_dir(), self.instance.postgres_names());
            return ServerProcesses::of(&dir, programs).count() > 0;
        }
        let looked = tokio::time::timeout(ANSWER, self.instance.orphans()).await;
        looked.is_ok_and(|o| o.is_ok_and(|o| !o.is_empty()))
    }

    async fn look_at_process(&mut self, disk_hangs: bool) {
        if disk_hangs {
            self.postmaster = self.postmaster.take().filter(Postmaster::is_alive);
        } else if self.postmaster.as_ref().is_none_or(|p| !p.is_alive()) {
            self.postmaster = self.instance.process().await;
            if self.postmaster.is_some() {
                self.data_dir_read = None;
            }
        }
        let state = match &self.postmaster {
            None => ProcessState::NotRunning,
            // Whether it accepts is seen by asking it; until then it is what it was.
            Some(_) if self.process.0 == ProcessState::Accepting => ProcessState::Accepting,
            Some(_) => ProcessState::NotAccepting,
        };
        self.set_process(state);
    }

    fn set_process(&mut self, state: ProcessState) {
        if self.process.0 != state {
            self.process = (state, boot_now());
        }
    }

    /// While the server runs its files change only through it, or through somebody who deletes them.
    async fn look_at_data_dir(&mut self) {
        if self.upkeep.take_checkpointed() {
            self.data_dir_read = None;
        }
        let running = self.process.0 != ProcessState::NotRunning;
        let fresh = self
            .data_dir_read
            .is_some_and(|at| boot_now().since(at) < self.settings.effective.settings.timing.loop_wait);
        if running && fresh {
            return;
        }
        if running && self.data_dir_read.is_some() && matches!(self.data_dir, DataDir::Present { .. }) {
            let control = self.settings.data_dir().join("global/pg_control");
            let limit = self.spare(Duration::from_millis(500));
            let there = tokio::time::timeout(limit, tokio::fs::try_exists(control)).await;
            if !matches!(there, Ok(Ok(false))) {
                self.data_dir_read = Some(boot_now());
                return;
            }
        }
        // A disk that hangs must not keep the loop from stopping a primary, and says nothing about what was there.
        let limit = if running { self.spare(ANSWER) } else { DISK };
        match tokio::time::timeout(limit, self.instance.data_dir()).await {
            Ok(found) => self.data_dir = found,
            Err(_) if running && matches!(self.data_dir, DataDir::Present { .. }) => {}
            Err(_) => {
                let text = format!("{} does not answer; check the disk", self.settings.data_dir().display());
                self.data_dir = DataDir::Unreadable(text);
            }
        }
        self.data_dir_read = Some(boot_now());
    }

    async fn ask_postgres(&mut self, most: Duration) {
        let limit = self.spare(most);
        // Its own limit does not reach into a file system that hangs.
        let asked = tokio::time::timeout(limit + Duration::from_millis(50), self.instance.observe(limit)).await;
        let asked = asked.map_or_else(|_| Err("no answer in time".to_owned()), |o| o.map_err(|e| e.to_string()));
        match asked {
            Ok(observed) => {
                if self.settings.set_server_version(observed.server_version) {
                    self.apply_settings();
                }
                self.set_process(ProcessState::Accepting);
                self.crashed = false;
                self.answer = Answer::Known(Arc::new(observed));
            }
            Err(e) => {
                let since = match &self.answer {
                    Answer::Unknown(since, _) => *since,
                    Answer::Known(_) => boot_now(),
                };
                self.answer = Answer::Unknown(since, e);
                let limit = self.spare(most);
                let state =
                    tokio::time::timeout(limit + Duration::from_millis(50), self.instance.accepting(limit)).await;
                let state = state.unwrap_or(ProcessState::NotAccepting);
                // A server that takes connections and does not answer is busy, not down.
                self.set_process(match state {
                    ProcessState::NotRunning if self.postmaster.as_ref().is_some_and(|p| p.is_alive()) => {
                        ProcessState::NotAccepting
                    }
                    other => other,
                });
            }
        }
    }
}
