//! Scripted hands on virtual time: every operation is written down, takes as long and ends as the test says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use surus_core::Lsn;
use surus_core::cluster::{KeyVersion, Member, Status, Tags, Upstream};
use surus_core::facts::{Lead, PeerAnswer};
use surus_core::loss::{Destroying, Recorded};
use surus_core::postgres::{ControlData, ControlState, DataDir};
use surus_core::server::{Divergence, FollowOutcome, Killed, ShutdownPosition, StartAs, StopMode, Stopped};
use surus_core::slots::{LogicalSlot, SlotCopy};
use surus_core::store::{Announce, StoreError, StoreResult, TxnOutcome};
use surus_core::synchronous::Names;
use surus_core::{SystemId, Timeline};

use super::super::*;
use crate::callbacks::Callbacks;

pub const NOW: BootTime = BootTime::from_millis(100_000);
pub const FOREVER: Duration = Duration::from_secs(100_000);

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[derive(Clone, Copy)]
pub enum Event {
    Cancel,
    /// The lead is good until then, counted from [`NOW`]; `None`: it is lost.
    Lead(Option<Duration>),
    PauseEnds,
}

#[derive(Default)]
pub struct State {
    now: BootTime,
    wakes: BTreeSet<BootTime>,
    events: Vec<(BootTime, Event)>,
    pub done: Vec<String>,
    pub phases: Vec<(Phase, bool, Duration)>,
    cancelled: bool,
    lead: Option<Lead>,
    takes: BTreeMap<&'static str, Duration>,
    fails: BTreeMap<&'static str, String>,
    /// When the stop that was asked for is complete.
    stops_at: Option<BootTime>,
    pub running: bool,
    /// Until then nobody who was killed can end.
    pub disk_dead_until: Option<BootTime>,
    pub left_alone: bool,
    /// What peers answer, the last one for ever.
    pub peer: VecDeque<Result<Lsn, String>>,
    pub position: Option<ShutdownPosition>,
    pub founded: VecDeque<StoreResult<TxnOutcome>>,
    pub views: VecDeque<StoreResult<ClusterView>>,
    pub announced: Option<Timeline>,
    pub announcing: VecDeque<StoreResult<TxnOutcome>>,
    pub next_timeline: u32,
    pub released: VecDeque<StoreResult<()>>,
    pub status: Option<String>,
    pub callbacks: Callbacks,
    /// Which of the user's commands there are: written down among what is done.
    pub hooks: bool,
    pub recorded: Option<Recorded>,
    pub rows_lost: bool,
    pub custom_bootstrap: Option<&'static str>,
    pub methods: Vec<ReplicaMethod>,
    pub failing_methods: Vec<String>,
    pub empty: bool,
    /// The data is of a primary that was shut down in order.
    pub shut_down: bool,
}

#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<State>>);

/// A primary that leads, good for a minute, and whose stop ends at once.
pub fn leader() -> Fake {
    let fake = Fake::default();
    let position = ShutdownPosition { timeline: Timeline(1), checkpoint: Lsn(900), publish: Lsn(800) };
    *fake.state() = State {
        now: NOW,
        lead: Some(Lead { until: NOW + Duration::from_secs(60), version: 5 }),
        running: true,
        peer: VecDeque::from([Ok(Lsn(900))]),
        position: Some(position),
        announced: Some(Timeline(2)),
        next_timeline: 2,
        ..State::default()
    };
    fake
}

pub fn context() -> TaskContext {
    let mut view = ClusterView { status: Status { optime: Lsn(1), ..Status::default() }, ..ClusterView::default() };
    let b = Member { api_url: Some("http://b/patroni".into()), ..Member::unknown("b".into()) };
    view.members.insert("b".into(), b);
    TaskContext {
        me: "a".into(),
        patience: Duration::from_secs(10),
        start_timeout: Duration::from_secs(30),
        settings: Default::default(),
        founding_document: "{}".into(),
        post_bootstrap: None,
        data_dir: "/data".into(),
        inherited: false,
        is_primary: true,
        view: Some(Arc::new(view)),
    }
}

pub fn system_id() -> SystemId {
    SystemId::parse("7710904247095016795").unwrap()
}

impl Fake {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn takes(self, what: &'static str, time: Duration) -> Fake {
        self.state().takes.insert(what, time);
        self
    }

    pub fn fails(self, what: &'static str) -> Fake {
        self.state().fails.insert(what, format!("{what} broke"));
        self
    }

    /// At this time after the beginning.
    pub fn at(self, after: Duration, event: Event) -> Fake {
        let mut state = self.state();
        state.events.push((NOW + after, event));
        state.wakes.insert(NOW + after);
        drop(state);
        self.apply();
        self
    }

    pub fn with(self, change: impl FnOnce(&mut State)) -> Fake {
        change(&mut self.state());
        self
    }

    pub fn passed(&self) -> Duration {
        self.state().now.since(NOW)
    }

    pub fn done(&self) -> Vec<String> {
        self.state().done.clone()
    }

    /// Runs a task to its end; time passes whenever everything waits.
    pub fn run(&self, task: Task, cx: TaskContext) -> Outcome {
        let mut work = pin!(perform(task, cx, self.clone()));
        for _ in 0..100_000 {
            if let Poll::Ready(outcome) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return outcome;
            }
            let mut state = self.state();
            let now = state.now;
            state.wakes.retain(|at| *at > now);
            state.now = *state.wakes.first().expect("waits for something that never comes");
            drop(state);
            self.apply();
        }
        panic!("it does not end: {:?}", self.done());
    }

    fn apply(&self) {
        let mut state = self.state();
        let now = state.now;
        let (due, later) = std::mem::take(&mut state.events).into_iter().partition(|(at, _)| *at <= now);
        state.events = later;
        for (_, event) in due {
            match event {
                Event::Cancel => state.cancelled = true,
                Event::PauseEnds => state.left_alone = false,
                Event::Lead(good) => state.lead = good.map(|good| Lead { until: NOW + good, version: 5 }),
            }
        }
        if state.stops_at.is_some_and(|at| at <= now) {
            state.stops_at = None;
            state.running = false;
        }
    }

    async fn until(&self, reached: impl Fn(&State) -> bool) {
        poll_fn(|_| if reached(&self.state()) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    async fn op(&self, what: &'static str, said: impl Into<String>) -> Made {
        let said = said.into();
        self.state().done.push(if said.is_empty() { what.to_owned() } else { format!("{what} {said}") });
        let takes = self.state().takes.get(what).copied();
        if let Some(takes) = takes {
            self.sleep(takes).await;
        }
        match self.state().fails.get(what) {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }
}

fn unavailable(_: String) -> StoreError {
    StoreError::Unavailable("cut".into())
}

impl Hands for Fake {
    fn now(&self) -> BootTime {
        self.state().now
    }

    async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time).await;
    }

    async fn sleep_until(&self, at: BootTime) {
        self.state().wakes.insert(at);
        self.until(|s| s.now >= at).await;
    }

    fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    async fn cancelled(&self) {
        self.until(|s| s.cancelled).await;
    }

    fn tell(&self, _: String) {}

    fn took(&self, phase: Phase, planned: bool, time: Duration) {
        self.state().phases.push((phase, planned, time));
    }

    fn happened(&self, what: Happened) {
        let mut state = self.state();
        let now = state.now;
        if let Some(call) = state.callbacks.happened(what, now).filter(|_| state.hooks) {
            state.done.push(format!("{} {}", call.action.name(), call.role.as_str()));
        }
    }

    async fn pre_promote(&self) -> Made {
        if self.state().hooks { self.op("pre_promote", "").await } else { Ok(()) }
    }

    async fn before_stop(&self) {
        if self.state().hooks {
            let _ = self.op("before_stop", "").await;
        }
    }

    fn lead(&self) -> Option<Lead> {
        self.state().lead
    }

    async fn lead_changed(&self, known: Option<Lead>) {
        self.until(|s| s.lead != known).await;
    }

    async fn take_lead(&self) -> StoreResult<bool> {
        self.op("take", "").await.map(|()| true).map_err(unavailable)
    }

    fn announced(&self) -> Option<Timeline> {
        self.state().announced
    }

    async fn announce(&self, what: Announce, _: Duration) -> StoreResult<TxnOutcome> {
        let _ = self.op("announce", format!("{} {:?}", what.timeline, what.over)).await;
        self.state().announcing.pop_front().expect("no more announcements")
    }

    async fn release_lead(&self, status: Option<String>) -> StoreResult<()> {
        let _ = self.op("release", "").await;
        let mut state = self.state();
        state.lead = None;
        state.status = status;
        state.released.pop_front().unwrap_or(Ok(()))
    }

    fn left_alone(&self) -> bool {
        self.state().left_alone
    }

    async fn arm_fence(&self) -> Made {
        self.op("arm", "").await
    }

    async fn claim_cluster(&self, _: Duration) -> StoreResult<TxnOutcome> {
        self.op("claim", "").await.map(|()| TxnOutcome::Applied(7)).map_err(unavailable)
    }

    async fn found_cluster(&self, claim: KeyVersion, _: &SystemId, _: &str, _: Duration) -> StoreResult<TxnOutcome> {
        let _ = self.op("found", format!("{claim}")).await;
        self.state().founded.pop_front().unwrap_or(Ok(TxnOutcome::Applied(8)))
    }

    async fn abandon_claim(&self, claim: KeyVersion, _: Duration) -> StoreResult<TxnOutcome> {
        self.op("abandon", format!("{claim}")).await.map(|()| TxnOutcome::Applied(9)).map_err(unavailable)
    }

    async fn read_store(&self, _: Duration) -> StoreResult<ClusterView> {
        let _ = self.op("read", "").await;
        self.state().views.pop_front().expect("no more readings")
    }

    async fn write_sync(&self, state: Option<String>, _: Option<KeyVersion>, _: Duration) -> StoreResult<TxnOutcome> {
        self.op("sync", state.unwrap_or_default()).await.map(|()| TxnOutcome::Applied(7)).map_err(unavailable)
    }

    async fn wait_for(&self, names: Option<&Names>) -> Made {
        match names {
            Some(names) => self.op("names", names.text().unwrap_or_default()).await,
            None => Ok(()),
        }
    }

    async fn probe(&self, _: &str, _: Duration) -> Made<PeerAnswer> {
        self.op("probe", "").await?;
        let mut state = self.state();
        let next = if state.peer.len() > 1 { state.peer.pop_front() } else { state.peer.front().cloned() };
        next.expect("an answer").map(|position| PeerAnswer {
            in_recovery: true,
            position,
            timeline: None,
            tags: Tags::default(),
            watchdog_failed: false,
            room: None,
            unready_slots: vec![],
            forked: None,
        })
    }

    async fn reach(&self, _: &Upstream) -> Made {
        self.op("reach", "").await
    }

    async fn data_dir(&self) -> DataDir {
        if self.state().empty {
            return DataDir::Empty;
        }
        let control = ControlData {
            system_id: system_id(),
            state: if self.state().shut_down { ControlState::ShutDown } else { ControlState::InProduction },
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
        DataDir::Present { major_version: 150_000, standby_signal: false, control }
    }

    async fn initdb(&self) -> Made {
        self.op("initdb", "").await
    }

    fn custom_bootstrap(&self) -> Option<String> {
        self.state().custom_bootstrap.map(str::to_owned)
    }

    async fn run_custom_bootstrap(&self) -> Made {
        self.op("custom", "").await
    }

    async fn recover_new_cluster(&self) -> Made {
        self.op("recover", "").await
    }

    async fn end_custom_bootstrap(&self) -> Made {
        self.op("end custom", "").await
    }

    fn replica_methods(&self) -> Vec<ReplicaMethod> {
        let methods = self.state().methods.clone();
        if methods.is_empty() { vec![ReplicaMethod::basebackup()] } else { methods }
    }

    async fn create_replica(&self, method: &ReplicaMethod, from: Option<&Upstream>) -> Made {
        if method.name == BASEBACKUP {
            return self.basebackup(from.expect("a member to copy from")).await;
        }
        let failing = self.state().failing_methods.contains(&method.name);
        self.op("create", format!("{} {}", method.name, from.map_or("", |f| f.name.as_str()))).await?;
        // What is half made counts as nothing.
        self.state().empty = true;
        if failing { Err(format!("{} broke", method.name)) } else { Ok(()) }
    }

    async fn create_roles(&self) -> Made {
        self.op("roles", "").await
    }

    async fn post_bootstrap(&self, command: &str) -> Made {
        self.op("post", command).await
    }

    async fn start(&self, role: &StartAs, watched: Duration) -> Made<Launched> {
        let takes = self.state().takes.get("start").copied().unwrap_or_default();
        self.state().running = true;
        let said = if role.is_primary() { "primary" } else { "standby" };
        if takes > watched {
            self.state().done.push(format!("start {said}"));
            self.sleep(watched).await;
            return Ok(Launched::Starting("not yet".into()));
        }
        self.op("start", said).await.map(|()| Launched::Up { took: takes })
    }

    async fn stop(&self, mode: StopMode, limit: Duration) -> Made<Stopped> {
        self.state().done.push(format!("stop {mode:?}"));
        if !self.state().running {
            return Ok(Stopped::NotRunning);
        }
        let what = if mode == StopMode::Fast { "stop" } else { "stop at once" };
        let (begun, takes) = (self.now(), self.state().takes.get(what).copied().unwrap_or_default());
        let ends = {
            let mut state = self.state();
            let ends = state.stops_at.map_or(begun + takes, |at| at.min(begun + takes));
            state.stops_at = Some(ends);
            state.wakes.insert(ends);
            ends
        };
        self.sleep_until(ends.min(begun + limit)).await;
        self.apply();
        let running = self.state().running;
        Ok(if running { Stopped::TimedOut } else { Stopped::Exited { took: self.now().since(begun) } })
    }

    async fn kill_hard(&self) -> Made {
        self.op("kill", "").await?;
        self.state().running = false;
        Ok(())
    }

    async fn silence(&self) -> Made<Killed> {
        let now = self.now();
        let waits = self.state().disk_dead_until.is_some_and(|until| now < until);
        if waits {
            self.op("kill", "").await?;
            return Ok(Killed::Silent("a process waits for a dead disk".into()));
        }
        self.kill_hard().await.map(|()| Killed::Gone)
    }

    async fn kill_orphans(&self) -> Made {
        self.op("orphans", "").await
    }

    async fn checkpoint(&self, _: Duration) -> Made {
        self.op("checkpoint", "").await
    }

    async fn shutdown_position(&self) -> Made<Option<ShutdownPosition>> {
        self.op("position", "").await?;
        Ok(self.state().position)
    }

    async fn next_timeline(&self) -> Made<Timeline> {
        let state = self.state();
        match state.fails.get("next") {
            Some(why) => Err(why.clone()),
            None => Ok(Timeline(state.next_timeline)),
        }
    }

    async fn skip_timelines(&self, from: Timeline, to: Timeline) -> Made {
        self.op("skip", format!("{from} {to}")).await
    }

    async fn promote(&self) -> Made {
        self.op("promote", "").await
    }

    async fn wait_promoted(&self, _: Duration) -> Made<Timeline> {
        self.op("promoted", "").await.map(|()| Timeline(2))
    }

    async fn follow(&self, _: Option<&Upstream>, slot: Option<&str>) -> Made<FollowOutcome> {
        self.op("follow", slot.unwrap_or_default()).await.map(|()| FollowOutcome::RestartNeeded)
    }

    async fn fetch_slots(&self, _: &Upstream, slots: &[LogicalSlot], _: Duration) -> Made<Vec<SlotCopy>> {
        self.op("fetch slots", "").await?;
        Ok(slots.iter().map(|slot| SlotCopy { slot: slot.clone(), state: vec![] }).collect())
    }

    async fn put_slots(&self, copies: Vec<SlotCopy>) -> Made {
        self.op("put slots", &copies.len().to_string()).await
    }

    async fn divergence(&self, _: &Upstream, _: Duration) -> Made<Divergence> {
        self.op("compare", "").await.map(|()| Divergence::None)
    }

    async fn basebackup(&self, _: &Upstream) -> Made {
        self.op("copy", "").await
    }

    async fn record_loss(&self, _: &Upstream, _: Destroying, _: Duration) -> Made<Recorded> {
        self.op("receipt", "").await?;
        let told = self.state().recorded.clone();
        Ok(told.unwrap_or_else(|| Recorded::Nothing("nothing".into())))
    }

    async fn keep_lost_rows(&self) -> Made<Option<String>> {
        if !self.state().rows_lost {
            return Ok(None);
        }
        self.op("rows", "").await.map(|()| Some("3 rows".into()))
    }

    async fn archive_pending(&self, _: Duration) -> Made<usize> {
        self.op("archive", "").await.map(|()| 0)
    }

    async fn archive_shutdown(&self, _: Duration) -> Made<Option<String>> {
        self.op("archive the end", "").await.map(|()| Some("000000010000000000000009".into()))
    }

    async fn recover(&self) -> Made<bool> {
        self.op("recover", "").await.map(|()| true)
    }

    async fn rewind(&self, _: &Upstream, _: Duration) -> Made {
        self.op("rewind", "").await
    }

    async fn remove_data_dir(&self) -> Made {
        self.op("remove", "").await?;
        self.state().empty = true;
        Ok(())
    }

    async fn move_data_dir_aside(&self) -> Made<String> {
        self.op("aside", "").await.map(|()| "/data.failed".into())
    }
}
