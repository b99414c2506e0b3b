//! What wakes the loop.

use std::sync::Arc;

use surus_conduct::task::Outcome;
use surus_core::facts::{FinishedTask, TaskDone};
use surus_store::clock::boot_now;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::Agent;
use crate::handle::{Reply, Request};
use crate::keys;

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

impl Agent {
    /// Returns when there is a reason for another step.
    pub(super) async fn wait(&mut self, signals: &mut Signals) {
        loop {
            let (postmaster, wake) = (self.postmaster.clone(), self.wake.clone());
            // One step at that moment is enough, so it counts only until there was one.
            let stop_at = self.stop_at().filter(|at| *at > self.stepped);
            let exited = async {
                match &postmaster {
                    Some(p) => p.exited().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = signals.terminate.recv() => return self.end("SIGTERM"),
                _ = signals.interrupt.recv() => return self.end("SIGINT"),
                () = exited => {
                    self.postmaster_ended();
                    return;
                }
                end = task_end(self.task.as_mut().map(|t| &mut t.end)) => {
                    self.task_ended(end);
                    return;
                }
                () = reached(stop_at) => return,
                Ok(()) = self.lease_state.changed() => {
                    if self.lease_matters() {
                        return;
                    }
                }
                Ok(()) = self.followed.changed() => {
                    if self.view_matters() {
                        return;
                    }
                    self.publish_view();
                }
                Some((name, fact)) = self.answers.1.recv() => {
                    self.asking.remove(&name);
                    self.peers.insert(name, fact);
                    if self.asking.is_empty() {
                        return;
                    }
                }
                Some((request, reply)) = self.requests.recv() => {
                    self.take_request(request, reply);
                    return;
                }
                _ = signals.hangup.recv() => {
                    info!("reloading the configuration (SIGHUP)");
                    self.reload_local();
                    return;
                }
                () = wake.notified() => return,
                () = tokio::time::sleep_until(self.again_at) => return,
            }
        }
    }

    fn end(&mut self, signal: &str) {
        if !self.shutdown {
            info!("ending ({signal})");
        }
        self.shutdown = true;
    }

    fn postmaster_ended(&mut self) {
        self.postmaster = None;
        if self.task.is_none() {
            tracing::warn!("Postgresql is not running: the postmaster ended");
            self.crashed = true;
        }
        self.data_dir_read = None;
    }

    fn task_ended(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        let Some(task) = self.task.take() else { return };
        let outcome = outcome.unwrap_or_else(|e| Err(format!("the task broke: {e}; please report it as a BUG")));
        let took = boot_now().since(task.running.since);
        let name = task.running.task.name();
        match &outcome {
            Ok(_) => info!("{name} finished in {} ms", took.as_millis()),
            Err(why) => tracing::error!("{name} failed after {} ms: {why}", took.as_millis()),
        }
        if self.answering.as_ref().is_some_and(|(epoch, _)| *epoch == task.running.epoch)
            && let Some((_, reply)) = self.answering.take()
        {
            let _ = reply.send(match &outcome {
                Ok(TaskDone::Undecided(so_far)) => Reply::Refused(so_far.clone()),
                Ok(_) => Reply::Ok("restarted successfully".into()),
                Err(why) => Reply::Refused(format!("restart failed: {why}")),
            });
        }
        use surus_core::order::Task;
        match (&task.running.task, outcome.is_ok()) {
            (Task::Promote, true) => self.counters.promotions += 1,
            (Task::Demote(_), true) => self.counters.demotions += 1,
            _ => {}
        }
        self.finished =
            Some(FinishedTask { task: task.running.task, epoch: task.running.epoch, at: boot_now(), outcome });
        self.data_dir_read = None;
        self.crashed = false;
    }

    /// Renewals alone are no reason for a step.
    fn lease_matters(&mut self) -> bool {
        let now = self.lease_state.borrow_and_update().clone();
        let published = self.published.load();
        let lead = now.lead.is_some() != published.lease_until.is_some();
        let session = now.session_number != self.keys.borrow().session_number;
        if !lead && !session {
            self.publish_lease(&now);
        }
        lead || session
    }

    fn view_matters(&mut self) -> bool {
        let now = self.followed.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.seen, now.clone());
        let known = before.view.as_ref().map_or(&[][..], |view| &view.garbage);
        for spoilt in now.view.iter().flat_map(|view| &view.garbage).filter(|garbage| !known.contains(garbage)) {
            warn!("ignoring {} in the store: {}", self.store.layout().key(&spoilt.key), spoilt.problem);
        }
        if now.broken_since.is_some() != before.broken_since.is_some() {
            return true;
        }
        match (&before.view, &now.view) {
            (Some(a), Some(b)) => !Arc::ptr_eq(a, b) && keys::differ(a, b),
            (a, b) => a.is_some() != b.is_some(),
        }
    }

    fn take_request(&mut self, request: Request, reply: tokio::sync::oneshot::Sender<Reply>) {
        use surus_core::order::Request as Ask;
        let answer = match request {
            Request::Wake => Reply::Ok(String::new()),
            Request::Reload => {
                self.reload_local();
                Reply::Ok("reload scheduled".into())
            }
            Request::Restart(filters) => {
                if let Some(why) = self.restart_filtered(&filters) {
                    info!("not proceeding with the restart: {why}");
                    Reply::Refused("restart conditions are not satisfied".into())
                } else if self.asked.is_some() || self.answering.is_some() {
                    Reply::Refused("restart already in progress".into())
                } else {
                    self.asked = Some((Ask::Restart, filters.timeout, reply));
                    return;
                }
            }
            Request::ScheduleRestart(schedule, filters) => self.schedule_restart(schedule, filters),
            Request::CancelScheduledRestart => match self.scheduled_restart.take() {
                Some(_) => Reply::Ok("scheduled restart deleted".into()),
                None => Reply::Refused("no restarts are scheduled".into()),
            },
            Request::Reinitialize { force, from_leader } => {
                if self.asked.is_some() {
                    Reply::Refused("reinitialize already in progress".into())
                } else {
                    self.asked = Some((Ask::Reinitialize { force, from_leader }, None, reply));
                    return;
                }
            }
        };
        let _ = reply.send(answer);
    }
}

async fn reached(at: Option<surus_core::BootTime>) {
    match at {
        Some(at) => crate::timer::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn task_end(task: Option<&mut tokio::task::JoinHandle<Outcome>>) -> Result<Outcome, tokio::task::JoinError> {
    match task {
        Some(end) => end.await,
        None => std::future::pending().await,
    }
}
