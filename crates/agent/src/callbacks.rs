//! Runs the user's callbacks: each in the background, the newest wins.
//!
//! Nobody waits for them: neither the loop nor a task, and so no lease depends on what a user wrote.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_conduct::callbacks::{Action, Call, Callbacks, Happened};
use surus_core::BootTime;
use surus_core::cluster::MemberRole;
use surus_core::facts::{Answer, Facts};
use surus_postgres::{Background, Instance, UserCommand};
use surus_store::clock::boot_now;
use tokio::sync::watch;
use tracing::{debug, info, warn};

#[derive(Clone, Debug)]
struct Due {
    number: u64,
    call: Call,
}

/// Clones share everything.
#[derive(Clone)]
pub struct CallbackRunner {
    told: Arc<Mutex<Callbacks>>,
    /// A reload must not end the script that moves an address, nor the other way round.
    reloads: Lane,
    others: Lane,
}

#[derive(Clone)]
struct Lane {
    due: watch::Sender<Option<Due>>,
    begun: watch::Receiver<u64>,
}

impl CallbackRunner {
    pub fn start(instance: Instance) -> CallbackRunner {
        CallbackRunner { told: Arc::default(), reloads: Lane::start(instance.clone()), others: Lane::start(instance) }
    }

    pub fn happened(&self, what: Happened) {
        self.then(|told| told.happened(what, boot_now()));
    }

    /// What a step saw, when no task works on the server.
    pub fn seen(&self, facts: &Facts) {
        let serving = match &facts.postgres.answer {
            Answer::Known(observed) => Some((surus_conduct::publish::role(facts), observed.at)),
            Answer::Unknown(..) => None,
        };
        let serving: Option<(MemberRole, BootTime)> = serving.filter(|_| facts.postgres.accepting());
        self.then(|told| told.seen(facts.postgres.running(), serving));
    }

    fn then(&self, tell: impl FnOnce(&mut Callbacks) -> Option<Call>) {
        // Holds plain values, each replaced as a whole.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = tell(&mut told) {
            let lane = if call.action == Action::Reload { &self.reloads } else { &self.others };
            lane.add(call);
        }
    }

    /// Returns when everything that is due was started; those scripts outlive this process.
    pub async fn started(&self, limit: Duration) {
        let both = async { tokio::join!(self.reloads.caught_up(), self.others.caught_up()) };
        if tokio::time::timeout(limit, both).await.is_err() {
            warn!("a callback was not started in time before the end");
        }
    }
}

impl Lane {
    fn start(instance: Instance) -> Lane {
        let (due, wanted) = watch::channel(None);
        let (done, begun) = watch::channel(0);
        tokio::spawn(run(instance, wanted, done));
        Lane { due, begun }
    }

    fn add(&self, call: Call) {
        self.due.send_modify(|due| {
            let number = due.as_ref().map_or(1, |d| d.number + 1);
            *due = Some(Due { number, call });
        });
    }

    async fn caught_up(&self) {
        let last = self.due.borrow().as_ref().map_or(0, |d| d.number);
        let _ = self.begun.clone().wait_for(|begun| *begun >= last).await;
    }
}

struct Running {
    what: String,
    process: Background,
}

async fn run(instance: Instance, mut wanted: watch::Receiver<Option<Due>>, begun: watch::Sender<u64>) {
    let mut running: Option<Running> = None;
    loop {
        tokio::select! {
            biased;
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let Some(due) = wanted.borrow_and_update().clone() else { continue };
                if let Some(command) = configured(&instance, due.call.action) {
                    if let Some(old) = running.take() {
                        warn!("ending {}, which still runs, for the next callback", old.what);
                        if let Err(e) = old.process.kill().await {
                            warn!("{} could not be ended: {e}", old.what);
                        }
                    }
                    running = begin(&instance, &command, due.call).await;
                }
                begun.send_replace(due.number);
            }
            status = ended(running.as_mut()) => {
                if let Some(old) = running.take() {
                    match status {
                        Ok(status) if status.success() => debug!("{} has ended", old.what),
                        Ok(status) => warn!("{} failed ({status})", old.what),
                        Err(e) => warn!("{} cannot be waited for: {e}", old.what),
                    }
                }
            }
        }
    }
}

fn configured(instance: &Instance, action: Action) -> Option<UserCommand> {
    instance.config().callbacks.get(action.name()).cloned()
}

async fn begin(instance: &Instance, command: &UserCommand, call: Call) -> Option<Running> {
    let args = [call.action.name(), call.role.as_str(), &instance.config().cluster_name];
    let what = format!("the callback \"{} {}\"", command.text, args.join(" "));
    info!("starting {what}");
    match instance.start_user_command(command, &args).await {
        Ok(process) => Some(Running { what, process }),
        Err(e) => {
            warn!("{}: {e}", command.setting);
            None
        }
    }
}

async fn ended(running: Option<&mut Running>) -> std::io::Result<std::process::ExitStatus> {
    match running {
        Some(running) => running.process.wait().await,
        None => std::future::pending().await,
    }
}
