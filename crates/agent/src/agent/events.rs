//! What wakes the loop.

use std::time::Duration;

use surus_conduct::task::Outcome;
use surus_core::order::{Request as Ask, Task};
use surus_store::clock::boot_now;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Agent;
use crate::handle::{Reply, Request};
use crate::stores::consul::Consul;

pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    leave: Signal,
}

impl Signals {
    pub fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            leave: signal(SignalKind::user_defined1())?,
        })
    }
}

impl Agent {
    /// Returns when there is a reason for another step.
    pub(super) async fn wait(&mut self, signals: &mut Signals) {
        loop {
            let (postmaster, wake) = (self.postmaster.clone(), self.wake.clone());
            let timing = &self.settings.effective.settings.timing;
            let stop_at = self.member.wake_at(boot_now(), self.lease.lead(), timing);
            let again = self.member.again_at().since(boot_now());
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
                _ = signals.leave.recv() => {
                    self.leaves_as_it_is = true;
                    self.consul.iter().for_each(Consul::stay);
                    return;
                }
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
                Ok(()) = self.fence_state.changed() => {
                    let works = self.fence_state.borrow_and_update().works.clone();
                    if works != self.published.load().fence.state.works {
                        return;
                    }
                    let lease = self.lease_state.borrow().clone();
                    self.publish_lease(&lease);
                }
                Ok(()) = self.watchdog_state.changed() => {
                    let works = self.watchdog_state.borrow_and_update().works.clone();
                    if works != self.published.load().watchdog.state.works {
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
                    if self.member.answered(name, fact) {
                        return;
                    }
                }
                Some((name, said)) = self.consents.1.recv() => {
                    if let Err(why) = &said {
                        info!("{name} does not consent that I lead: {why}");
                    }
                    if self.member.consented(name, said) {
                        return;
                    }
                }
                Some(written) = self.vouching.1.recv() => {
                    self.member.vouching_written(written, self.lease.lead(), boot_now());
                    return;
                }
                Some(synced) = self.synced.1.recv() => {
                    self.synced(synced);
                    return;
                }
                Some((request, reply)) = self.requests.recv() => {
                    // Whoever only asks is no reason for a step.
                    let only_asks = matches!(request, Request::Settings { .. });
                    self.take_request(request, reply);
                    if !only_asks {
                        return;
                    }
                }
                () = self.peer_files.exchanged() => self.renew_peer_client(),
                _ = signals.hangup.recv() => {
                    info!("reloading the configuration (SIGHUP)");
                    self.reload_local();
                    return;
                }
                () = wake.notified() => return,
                () = tokio::time::sleep(again) => return,
            }
        }
    }

    fn end(&mut self, signal: &str) {
        if self.member.shut_down() {
            info!("ending ({signal})");
        }
    }

    fn postmaster_ended(&mut self) {
        self.postmaster = None;
        if self.member.task().is_none() {
            tracing::warn!("Postgresql is not running: the postmaster ended");
            self.crashed = true;
        }
        self.data_dir_read = None;
    }

    fn task_ended(&mut self, outcome: Result<Outcome, tokio::task::JoinError>) {
        self.task = None;
        let outcome = outcome.unwrap_or_else(|e| Err(format!("the task broke: {e}; please report it as a BUG")));
        let Some(ended) = self.member.ended(outcome, boot_now()) else { return };
        if let Some((whom, said)) = ended.answer {
            let _ = whom.send(said.into());
        }
        match (&ended.task, ended.done) {
            (Task::Promote, true) => self.counters.promotions += 1,
            (Task::Demote(_), true) => self.counters.demotions += 1,
            _ => {}
        }
        self.data_dir_read = None;
        self.crashed = false;
    }

    fn lease_matters(&mut self) -> bool {
        let now = self.lease_state.borrow_and_update().clone();
        let led = self.published.load().lease_until.is_some();
        let matters = now.matters(led, self.keys.borrow().session_number);
        // Gathering facts for the next step may take a while, and a lead that is gone is not to be shown meanwhile.
        self.publish_lease(&now);
        matters
    }

    fn view_matters(&mut self) -> bool {
        let now = self.followed.borrow_and_update().clone();
        if self.moved(&now).is_some() {
            return true;
        }
        let known = self.member.seen().view.as_ref().map_or(&[][..], |view| &view.garbage);
        for spoilt in now.view.iter().flat_map(|view| &view.garbage).filter(|garbage| !known.contains(garbage)) {
            warn!("ignoring {} in the store: {}", self.store.layout().key(&spoilt.key), spoilt.problem);
        }
        self.member.view_changed(now)
    }

    fn take_request(&mut self, request: Request, reply: oneshot::Sender<Reply>) {
        let answer = match request {
            Request::MoveStore(id) => return self.move_store(&id, reply),
            Request::Wake => Reply::Ok(String::new()),
            Request::Settings { trusted } => {
                let (told, instance) = (crate::shown::configured(&self.settings), self.instance.clone());
                let (role, latest) = (self.published.load().role, self.shown.clone());
                tokio::spawn(async move {
                    let _ =
                        reply.send(Reply::Ok(crate::shown::document(told, role, &instance, &latest, trusted).await));
                });
                return;
            }
            Request::Reload => {
                self.reload_local();
                Reply::Ok("reload scheduled".into())
            }
            Request::Restart(filters) => {
                if let Some(why) = self.restart_filtered(&filters) {
                    info!("not proceeding with the restart: {why}");
                    Reply::Refused("restart conditions are not satisfied".into())
                } else {
                    return self.ask(Ask::Restart, filters.timeout, reply);
                }
            }
            Request::ScheduleRestart(schedule, filters) => self.schedule_restart(schedule, filters),
            Request::CancelScheduledRestart => match self.scheduled_restart.take() {
                Some(_) => Reply::Ok("scheduled restart deleted".into()),
                None => Reply::Refused("no restarts are scheduled".into()),
            },
            Request::Reinitialize { force, from_leader } => {
                return self.ask(Ask::Reinitialize { force, from_leader }, None, reply);
            }
        };
        let _ = reply.send(answer);
    }

    fn ask(&mut self, request: Ask, timeout: Option<Duration>, whom: oneshot::Sender<Reply>) {
        if let Err((whom, why)) = self.member.ask(request, timeout, whom) {
            let _ = whom.send(Reply::Refused(why));
        }
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
