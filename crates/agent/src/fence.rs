//! Keeps the fence: starts it, tells it the end of every lease that was confirmed, replaces it when it is gone.
//!
//! On a task of its own, like the lease keeper, and for the same reason: what it passes on must not wait for
//! PostgreSQL, a disk or a decision.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use surus_config::FenceMode;
use surus_core::BootTime;
use surus_core::facts::Fence;
use surus_fence::{Ask, FenceClient, FenceError, Fired, Meeting, Postmaster, State, own_program, resolved};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::lease::LeaseState;

/// Pause between attempts to have a fence.
const AGAIN: Duration = Duration::from_millis(500);
/// How long a member waits for its fence at the start, and for a confirmation later.
const PATIENCE: Duration = Duration::from_secs(6);
const CONFIRM: Duration = Duration::from_secs(2);

/// What is wanted of the fence.
#[derive(Clone, Debug, PartialEq)]
struct Want {
    mode: FenceMode,
    /// This server may accept writes, or is about to. Unknown before the first step: then an earlier run's fence
    /// stays as it is.
    guard: Option<bool>,
    postmaster: Option<Postmaster>,
}

/// How it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FenceState {
    /// Absent before the first attempt.
    pub works: Option<Result<(), String>>,
    pub armed_until: Option<BootTime>,
    /// When it last had to end PostgreSQL, and how often it had to in the life of this agent.
    pub fired: Option<Fired>,
    pub firings: u64,
}

/// What readers get to see.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    pub fact: Fence,
    pub mode: FenceMode,
    pub state: FenceState,
}

impl Shown {
    pub fn works(&self) -> bool {
        self.fact == Fence::Working
    }

    pub fn document(&self, now: BootTime) -> Value {
        let state = match (&self.fact, self.state.armed_until) {
            (Fence::Off, _) => "off",
            (Fence::Broken { .. }, _) => "broken",
            (Fence::Working, Some(_)) => "armed",
            (Fence::Working, None) => "ready",
        };
        let mut out = json!({"mode": self.mode.word(), "state": state, "firings": self.state.firings});
        if let Fence::Broken { why, .. } = &self.fact {
            out["why"] = json!(why);
        }
        if let Some(until) = self.state.armed_until {
            out["seconds_left"] = json!(until.since(now).as_secs_f64());
        }
        if let Some(fired) = self.state.fired {
            out["last_fired"] = json!({
                "seconds_ago": now.since(fired.at).as_secs_f64(),
                "processes": fired.processes,
                "silent_after_ms": fired.silent_after_us as f64 / 1000.0,
                "gone": fired.gone,
            });
        }
        out
    }
}

#[derive(Clone)]
pub struct FenceKeeper {
    want: Arc<watch::Sender<Want>>,
    state: watch::Receiver<FenceState>,
    lease: watch::Receiver<LeaseState>,
}

impl FenceKeeper {
    /// `inherited`: until when an earlier agent may have let this server go on; its fence may be gone.
    pub fn start(
        data_dir: &Path,
        programs: Vec<String>,
        mode: FenceMode,
        lease: watch::Receiver<LeaseState>,
        inherited: Option<BootTime>,
    ) -> FenceKeeper {
        let (want, wanted) = watch::channel(Want { mode, guard: None, postmaster: None });
        let (tx, state) = watch::channel(FenceState::default());
        let keeper = Keeper {
            data_dir: data_dir.to_owned(),
            programs,
            state: tx,
            place: None,
            client: None,
            told: None,
            until: inherited,
            explained: false,
        };
        tokio::spawn(keeper.run(wanted, lease.clone()));
        FenceKeeper { want: Arc::new(want), state, lease }
    }

    pub fn set_mode(&self, mode: FenceMode) {
        self.want.send_if_modified(|w| std::mem::replace(&mut w.mode, mode) != mode);
    }

    /// Whether this server is to be guarded, and who it is.
    pub fn guard(&self, guard: bool, postmaster: Option<Postmaster>) {
        self.want.send_if_modified(|w| {
            let next = Want { guard: Some(guard), postmaster, ..w.clone() };
            std::mem::replace(w, next.clone()) != next
        });
    }

    pub fn mode(&self) -> FenceMode {
        self.want.borrow().mode
    }

    pub fn shown(&self) -> Shown {
        Shown { fact: self.fact(), mode: self.mode(), state: self.state.borrow().clone() }
    }

    pub fn subscribe(&self) -> watch::Receiver<FenceState> {
        self.state.clone()
    }

    pub fn fact(&self) -> Fence {
        let mode = self.mode();
        match (mode, &self.state.borrow().works) {
            (FenceMode::Off, _) => Fence::Off,
            (_, Some(Ok(()))) => Fence::Working,
            (_, works) => Fence::Broken {
                required: mode == FenceMode::Required,
                why: works.as_ref().and_then(|w| w.clone().err()).unwrap_or_else(|| "it is being started".into()),
            },
        }
    }

    /// Returns when it is known whether there is a fence, or when that takes too long.
    pub async fn settled(&self) {
        let mut state = self.state.clone();
        if self.mode() != FenceMode::Off {
            let _ = timeout(PATIENCE, state.wait_for(|s| s.works.is_some())).await;
        }
    }

    /// Returns when the fence knows how long the lead is good for: from here on this server may accept writes.
    pub async fn armed(&self) -> Result<(), String> {
        if self.mode() == FenceMode::Off {
            return Ok(());
        }
        self.want.send_if_modified(|w| w.guard.replace(true) != Some(true));
        let Some(until) = self.lease.borrow().lead.map(|l| l.until) else {
            return Err("the leader lock is gone".into());
        };
        let mut state = self.state.clone();
        let armed = |s: &FenceState| {
            self.mode() == FenceMode::Off
                || s.armed_until.is_some_and(|at| at >= until)
                || matches!(s.works, Some(Err(_)))
        };
        let confirmed = timeout(CONFIRM, state.wait_for(armed)).await.is_ok();
        match self.fact() {
            Fence::Broken { required: true, why } => Err(format!("the fence does not work: {why}")),
            Fence::Broken { required: false, .. } | Fence::Off => Ok(()),
            Fence::Working if confirmed => Ok(()),
            Fence::Working => Err("the fence did not confirm the end of the lead in time".into()),
        }
    }

    /// The end of the lead is known to the fence, or there is no fence by choice.
    pub fn guards(&self) -> bool {
        match self.fact() {
            Fence::Working => self.state.borrow().armed_until.is_some(),
            Fence::Broken { required, .. } => !required,
            Fence::Off => true,
        }
    }

    /// Ends the fence of a server that was stopped in order, or that is to be left alone.
    pub async fn close(&self) {
        self.set_mode(FenceMode::Off);
        let mut state = self.state.clone();
        let _ = timeout(CONFIRM, state.wait_for(|s| s.works.is_none())).await;
    }
}

struct Keeper {
    data_dir: PathBuf,
    programs: Vec<String>,
    state: watch::Sender<FenceState>,
    place: Option<(Meeting, Vec<String>)>,
    client: Option<FenceClient>,
    /// What the fence was last told and has confirmed.
    told: Option<Ask>,
    /// The end of the lead that counts, kept when the lead is lost: a primary that still runs must have ended by then.
    until: Option<BootTime>,
    /// The log has told how well the fence stands.
    explained: bool,
}

impl Keeper {
    async fn run(mut self, mut wanted: watch::Receiver<Want>, mut lease: watch::Receiver<LeaseState>) {
        loop {
            let want = wanted.borrow_and_update().clone();
            let lead = lease.borrow_and_update().lead;
            if want.mode == FenceMode::Off {
                self.end().await;
                if wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let done = match self.client {
                None => self.open().await,
                Some(_) => self.tell(&want, lead.map(|l| l.until)).await,
            };
            if let Err(e) = done {
                self.broken(&e);
                tokio::select! {
                    () = sleep(AGAIN) => {}
                    changed = wanted.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let Some(client) = &mut self.client else { continue };
            let up_to_date = self.told.is_some() || want.guard.is_none();
            if !up_to_date {
                continue;
            }
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                changed = lease.changed() => if changed.is_err() { return },
                () = client.gone() => self.broken(&FenceError::ended()),
            }
        }
    }

    /// Adopts the fence of an earlier run, or starts one.
    async fn open(&mut self) -> Result<(), FenceError> {
        if self.place.is_none() {
            let data_dir = self.data_dir.clone();
            let found = tokio::task::spawn_blocking(move || {
                let data_dir = resolved(&data_dir)?;
                Ok::<_, std::io::Error>((Meeting::of(&data_dir)?, data_dir))
            });
            let found = timeout(PATIENCE, found).await;
            let (meeting, data_dir) = match found {
                Ok(Ok(Ok(found))) => found,
                Ok(Ok(Err(e))) => return Err(FenceError::new(format!("{}: {e}", self.data_dir.display()))),
                _ => return Err(FenceError::new(format!("{} does not answer", self.data_dir.display()))),
            };
            let mut arguments = vec!["fence".to_owned(), "--guard".to_owned(), data_dir.display().to_string()];
            arguments.extend(self.programs.iter().cloned());
            self.place = Some((meeting, arguments));
        }
        let Some((meeting, arguments)) = &self.place else { return Ok(()) };
        let (client, state) = FenceClient::open(meeting, &own_program(), arguments).await?;
        self.client = Some(client);
        self.told = None;
        // What an earlier run left counts until there is a lead of my own.
        self.until = self.until.max(state.until);
        if !self.explained {
            self.explained = true;
            match state.standing.missing() {
                missing if missing.is_empty() => info!("the fence works (pid {})", state.pid),
                missing => {
                    info!("the fence works (pid {}), not as well as it could: {}", state.pid, missing.join("; "))
                }
            }
        } else {
            info!("the fence works again (pid {})", state.pid);
        }
        self.publish(&state);
        Ok(())
    }

    async fn tell(&mut self, want: &Want, lead: Option<BootTime>) -> Result<(), FenceError> {
        let Some(guard) = want.guard else { return Ok(()) };
        self.until = if guard { lead.or(self.until) } else { None };
        let ask = match self.until {
            Some(until) => Ask::Arm { until, postmaster: want.postmaster },
            None => Ask::Disarm,
        };
        if self.told.as_ref() == Some(&ask) {
            return Ok(());
        }
        let Some(client) = &mut self.client else { return Ok(()) };
        let state = client.ask(&ask).await?;
        self.told = Some(ask);
        self.publish(&state);
        Ok(())
    }

    /// Also for an agent that ends and leaves its server running unguarded on purpose (paused).
    async fn end(&mut self) {
        if let Some(mut client) = self.client.take()
            && let Err(e) = client.ask(&Ask::Quit).await
        {
            warn!("the fence could not be told to end: {e}");
        }
        (self.told, self.until) = (None, None);
        self.state.send_modify(|s| (s.works, s.armed_until) = (None, None));
    }

    fn broken(&mut self, e: &FenceError) {
        self.client = None;
        self.told = None;
        let why = e.to_string();
        self.state.send_if_modified(|s| {
            let news = !matches!(&s.works, Some(Err(before)) if *before == why);
            if news {
                warn!("{why}; starting another");
            }
            (s.works, s.armed_until) = (Some(Err(why)), None);
            news
        });
    }

    fn publish(&self, state: &State) {
        self.state.send_modify(|s| {
            s.works = Some(Ok(()));
            s.armed_until = state.until;
            let Some(fired) = state.fired else { return };
            if s.fired.is_none_or(|before| before.at != fired.at) {
                s.firings += 1;
                error!(
                    "the fence ended PostgreSQL: the lead ended at {} and was not prolonged; {} processes, {:.1} ms after its end{}",
                    fired.deadline,
                    fired.processes,
                    fired.silent_after_us as f64 / 1000.0,
                    if fired.gone { "" } else { "; some wait for a disk and end when it answers" }
                );
            }
            s.fired = Some(fired);
        });
    }
}
