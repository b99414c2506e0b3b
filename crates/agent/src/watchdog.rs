//! Keeps the hardware watchdog: starts it with a confirmed lead, keeps it alive with every renewal, stops it in order.
//!
//! On a task of its own, like the lease keeper; the device itself is touched on a thread, since drivers may take their time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use surus_conduct::watchdog::{Act, Confirmed, Situation, acceptable, act, timeout};
use surus_config::{Watchdog, WatchdogMode};
use surus_core::facts::Fence;
use surus_core::settings::Timing;
use surus_fence::{Device, Driver, usable};
use surus_store::clock::boot_now;
use tokio::sync::watch;
use tokio::time::{sleep, timeout as within};
use tracing::{error, info, warn};

use crate::lease::LeaseState;

/// From one look at a device that is not open to the next.
const LOOK: Duration = Duration::from_secs(5);
/// How long a device that failed counts as broken: others should have the chance to lead meanwhile.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the device may take to answer, and a lead to be confirmed, before a promotion is given up.
const CONFIRM: Duration = Duration::from_secs(3);

/// What is wanted of the watchdog.
#[derive(Clone, Debug, PartialEq)]
struct Want {
    config: Watchdog,
    timing: Timing,
    guard: bool,
    closing: bool,
}

/// How it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchdogState {
    /// Absent before the first look.
    pub works: Option<Result<(), String>>,
    /// The device runs, and resets the machine this long after it was last kept alive.
    pub running: Option<Duration>,
    pub keepalives: u64,
}

/// What readers get to see.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub fact: Fence,
    pub mode: WatchdogMode,
    pub device: PathBuf,
    pub state: WatchdogState,
}

impl Shown {
    /// Absent where nobody asked for one and there is none.
    pub fn document(&self) -> Option<Value> {
        let state = match (&self.fact, self.state.running) {
            (Fence::Off | Fence::Broken { required: false, .. }, None) => return None,
            (_, Some(_)) => "running",
            (Fence::Broken { .. }, None) => "broken",
            (_, None) => "ready",
        };
        let mut out = json!({"mode": self.mode.word(), "state": state, "device": self.device});
        if let Fence::Broken { why, .. } = &self.fact {
            out["why"] = json!(why);
        }
        if let Some(timeout) = self.state.running {
            out["timeout"] = json!(timeout.as_secs());
            out["keepalives"] = json!(self.state.keepalives);
        }
        Some(out)
    }
}

#[derive(Clone)]
pub struct WatchdogKeeper {
    want: Arc<watch::Sender<Want>>,
    state: watch::Receiver<WatchdogState>,
}

impl WatchdogKeeper {
    pub fn start(config: Watchdog, timing: Timing, lease: watch::Receiver<LeaseState>) -> WatchdogKeeper {
        let (want, wanted) = watch::channel(Want { config, timing, guard: false, closing: false });
        let (tx, state) = watch::channel(WatchdogState::default());
        let keeper = Keeper { state: tx, device: None, passed: None, failed: None, told: None };
        tokio::spawn(keeper.run(wanted, lease));
        WatchdogKeeper { want: Arc::new(want), state }
    }

    pub fn set(&self, config: &Watchdog, timing: Timing) {
        self.want.send_if_modified(|w| {
            let next = Want { config: config.clone(), timing, ..w.clone() };
            std::mem::replace(w, next.clone()) != next
        });
    }

    /// Whether this server may accept writes.
    pub fn guard(&self, guard: bool) {
        self.want.send_if_modified(|w| std::mem::replace(&mut w.guard, guard) != guard);
    }

    pub fn subscribe(&self) -> watch::Receiver<WatchdogState> {
        self.state.clone()
    }

    pub fn fact(&self) -> Fence {
        fact(self.want.borrow().config.mode, &self.state.borrow())
    }

    pub fn shown(&self) -> Shown {
        let (want, state) = (self.want.borrow().clone(), self.state.borrow().clone());
        Shown { fact: fact(want.config.mode, &state), mode: want.config.mode, device: want.config.device, state }
    }

    /// Returns when it is known whether there is a watchdog.
    pub async fn settled(&self) {
        let mut state = self.state.clone();
        let _ = within(CONFIRM, state.wait_for(|s| s.works.is_some())).await;
    }

    /// The device is to be started, which takes a renewal that was confirmed just now.
    pub fn waits_for_a_renewal(&self) -> bool {
        let state = self.state.borrow();
        state.running.is_none() && matches!(state.works, Some(Ok(())))
    }

    /// Returns when the watchdog runs: from here on this server may accept writes. `Err`: one is required and does not.
    pub async fn started(&self) -> Result<(), String> {
        self.guard(true);
        let mut state = self.state.clone();
        let mode = || self.want.borrow().config.mode;
        let known = |s: &WatchdogState| s.running.is_some() || matches!(s.works, Some(Err(_)));
        let settled = mode() == WatchdogMode::Off || within(CONFIRM, state.wait_for(known)).await.is_ok();
        let runs = self.state.borrow().running.is_some();
        match self.fact() {
            _ if runs || mode() != WatchdogMode::Required => Ok(()),
            Fence::Broken { why, .. } => Err(format!("the watchdog could not be activated: {why}")),
            _ if settled => Err("the watchdog was stopped".into()),
            _ => Err("the watchdog was not activated in time: no renewal of the leader lock was confirmed".into()),
        }
    }

    /// Stops it for good.
    pub async fn close(&self) {
        self.want.send_modify(|w| (w.guard, w.closing) = (false, true));
        let mut state = self.state.clone();
        let _ = within(CONFIRM, state.wait_for(|s| s.running.is_none())).await;
    }
}

fn fact(mode: WatchdogMode, state: &WatchdogState) -> Fence {
    match (mode, &state.works) {
        (WatchdogMode::Off, _) => Fence::Off,
        (_, Some(Ok(()))) => Fence::Working,
        (_, works) => Fence::Broken {
            required: mode == WatchdogMode::Required,
            why: works.as_ref().and_then(|w| w.clone().err()).unwrap_or_else(|| "it was not looked at yet".into()),
        },
    }
}

struct Keeper {
    state: watch::Sender<WatchdogState>,
    /// And what it was set to, which is not always what it took.
    device: Option<(Device, Duration)>,
    passed: Option<Confirmed>,
    /// Until then it counts as broken, whatever a look says.
    failed: Option<(surus_core::BootTime, String)>,
    told: Option<String>,
}

impl Keeper {
    async fn run(mut self, mut wanted: watch::Receiver<Want>, mut lease: watch::Receiver<LeaseState>) {
        loop {
            let want = wanted.borrow_and_update().clone();
            let confirmed = confirmed(&lease.borrow_and_update());
            self.step(&want, confirmed).await;
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                changed = lease.changed() => if changed.is_err() { return },
                () = sleep(LOOK), if self.device.is_none() && want.config.mode != WatchdogMode::Off => {}
            }
        }
    }

    async fn step(&mut self, want: &Want, confirmed: Option<Confirmed>) {
        let config = &want.config;
        let timing = &want.timing;
        let sums = timeout(timing.ttl, timing.loop_wait, config.safety_margin);
        let on = config.mode != WatchdogMode::Off && !want.closing;
        let same = self.device.as_ref().is_none_or(|(device, _)| device.path() == config.device);
        let situation = Situation {
            now: boot_now(),
            ttl: timing.ttl,
            guard: want.guard && on && same,
            wanted: sums.clone().ok(),
            running: self.device.as_ref().map(|(_, set)| *set),
            confirmed,
            passed: self.passed,
        };
        let driver = driver(config);
        if self.device.is_none() {
            let found = match &self.failed {
                Some((until, why)) if boot_now() < *until => Err(why.clone()),
                _ => sums.and_then(|_| usable(&config.device, driver)),
            };
            self.found(on.then_some(found));
        }
        if self.device.is_none() && !matches!(self.state.borrow().works, Some(Ok(()))) {
            return;
        }
        let act = act(&situation);
        let done = match act {
            Act::Nothing => return,
            Act::Stop => {
                self.stop().await;
                return;
            }
            Act::Start | Act::Retime | Act::Keepalive => self.keep(want, situation.wanted, driver).await,
        };
        match done {
            Ok(()) => {
                self.passed = confirmed;
                let running = self.device.as_ref().map(|(_, set)| *set);
                self.state.send_modify(|s| {
                    s.running = running;
                    s.keepalives += 1;
                });
            }
            Err(why) => self.broken(want, &why, act == Act::Start),
        }
    }

    /// One confirmation, passed on to the device.
    async fn keep(&mut self, want: &Want, wanted: Option<Duration>, driver: Driver) -> Result<(), String> {
        let Some(wanted) = wanted else { return Ok(()) };
        let (path, loop_wait) = (want.config.device.clone(), want.timing.loop_wait);
        let required = want.config.mode == WatchdogMode::Required;
        let before = self.device.take();
        let fresh = before.is_none();
        let work = tokio::task::spawn_blocking(move || -> Result<(Device, Option<String>), String> {
            let (mut device, set) = match before {
                Some((device, set)) => (device, Some(set)),
                None => (Device::open(&path, driver).map_err(|e| e.to_string())?, None),
            };
            let mut remark = None;
            if set != Some(wanted) {
                let fit = device.set_timeout(wanted).map_err(|e| format!("its timeout cannot be set: {e}"));
                match fit.and_then(|actual| acceptable(wanted, actual, loop_wait, required)) {
                    Ok(known) => remark = known,
                    Err(why) => {
                        let _ = device.close();
                        return Err(why);
                    }
                }
            }
            device.keepalive().map_err(|e| format!("it cannot be kept alive: {e}"))?;
            Ok((device, remark))
        });
        let (device, remark) = match work.await {
            Ok(done) => done.map_err(|why| format!("{}: {why}", want.config.device.display()))?,
            Err(e) => return Err(e.to_string()),
        };
        if fresh {
            info!(
                "the watchdog {} runs: it resets this machine {} s after the last confirmed renewal of the leader lock",
                device.path().display(),
                wanted.as_secs()
            );
        }
        if let Some(remark) = remark {
            warn!("the watchdog {}: {remark} (watchdog.mode: automatic)", device.path().display());
        }
        self.device = Some((device, wanted));
        Ok(())
    }

    async fn stop(&mut self) {
        self.passed = None;
        let Some((device, _)) = self.device.take() else { return };
        let path = device.path().display().to_string();
        match tokio::task::spawn_blocking(move || device.close()).await {
            Ok(Ok(())) => info!("the watchdog {path} was stopped"),
            Ok(Err(e)) => error!("the watchdog {path} could not be stopped and may reset this machine: {e}"),
            Err(e) => error!("the watchdog {path} could not be stopped and may reset this machine: {e}"),
        }
        self.state.send_modify(|s| s.running = None);
    }

    fn found(&mut self, found: Option<Result<(), String>>) {
        if let Some(Err(why)) = &found
            && self.told.as_ref() != Some(why)
        {
            info!("there is no watchdog: {why}");
            self.told = Some(why.clone());
        }
        if matches!(found, Some(Ok(()))) {
            self.told = None;
        }
        self.state.send_if_modified(|s| std::mem::replace(&mut s.works, found.clone()) != found);
    }

    /// A device that ran is dropped without being stopped: it goes on counting, and the next confirmed renewal opens it
    /// again.
    fn broken(&mut self, want: &Want, why: &str, at_start: bool) {
        let mode = want.config.mode.word();
        error!("the watchdog could not be activated or kept alive (watchdog.mode: {mode}): {why}");
        (self.device, self.told) = (None, Some(why.to_owned()));
        if at_start {
            self.failed = Some((boot_now() + AGAIN, why.to_owned()));
        }
        self.state.send_modify(|s| (s.works, s.running) = (Some(Err(why.to_owned())), None));
    }
}

/// The renewal that my lead rests on.
fn confirmed(lease: &LeaseState) -> Option<Confirmed> {
    let until = lease.lead?.until;
    // What members vouch for counts as what the store confirms.
    Some(match &lease.vouched {
        Some(vouched) => Confirmed { sent: vouched.sent, until },
        None => Confirmed { sent: lease.renewed?.0, until },
    })
}

fn driver(config: &Watchdog) -> Driver {
    if config.driver == "testing" { Driver::Testing } else { Driver::Kernel }
}

#[cfg(test)]
mod tests;
