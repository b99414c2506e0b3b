//! The one loop: wait for something to happen, gather facts, ask for a step, carry out its orders.
//!
//! Nothing in the loop waits long: long operations are tasks, keys are written by the key writer, the
//! lease is kept by the lease keeper. What the loop does wait for (PostgreSQL's answer, a
//! compare-and-set) has a limit below the time a primary needs to stop before its lease ends.

mod carry;
mod events;
mod failsafe;
mod gather;
mod moving;
mod publish;
mod sync;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use surus_conduct::member::{Inherited, Member};
use surus_conduct::task::Outcome;
use surus_config::StoreConfig;
use surus_core::cluster::{MemberRole, PendingRestart, ScheduledRestart};
use surus_core::facts::{Answer, PeerFact, Replay};
use surus_core::failsafe::Promises;
use surus_core::postgres::{DataDir, ProcessState, Progress};
use surus_core::{BootTime, Lsn, MemberName};
use surus_journal::Recorder;
use surus_postgres::{DataDirLock, Instance, Postmaster};
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use surus_store::follow::{Followed, Follower};
use surus_store::{StoreResult, TxnOutcome};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::callbacks::CallbackRunner;
use crate::failsafe::{Asker, Failsafe, Want};
use crate::fence::{FenceKeeper, FenceState};
use crate::handle::{AgentHandle, Counters, Published, Reply, Request};
use crate::inherited::Deadline;
use crate::journal;
use crate::keys::{self, Desired};
use crate::lease::{LeaseKeeper, LeaseState};
use crate::loss::Losses;
use crate::measure::Measures;
use crate::migrate::{Migrator, Prepared};
use crate::peer_files::{self, PeerFiles};
use crate::rest::{Reloader, RestOptions};
use crate::settings::Settings;
use crate::source::ConfigSource;
use crate::stall::StallWatch;
use crate::store_access::Access;
use crate::stores::consul::Consul;
use crate::watchdog::{WatchdogKeeper, WatchdogState};

pub use events::Signals;

/// Both ends: background work sends, the loop receives.
type Channel<T> = (mpsc::Sender<T>, mpsc::Receiver<T>);

/// How long an ending agent waits for the callbacks of its stop to have begun.
const CALLBACKS: Duration = Duration::from_secs(3);

/// How long an ending leader waits for its successor.
const SUCCESSOR: Duration = Duration::from_secs(5);

/// Of the task that runs.
struct TaskHandle {
    cancel: CancellationToken,
    end: JoinHandle<Outcome>,
}

pub struct Agent {
    me: MemberName,
    source: ConfigSource,
    settings: Settings,
    instance: Instance,
    callbacks: CallbackRunner,
    _lock: Arc<DataDirLock>,
    store: Arc<ClusterStore>,
    /// Kept for as long as it is to follow.
    _follower: Follower,
    followed: watch::Receiver<Arc<Followed>>,
    lease: LeaseKeeper,
    lease_state: watch::Receiver<LeaseState>,
    fence: FenceKeeper,
    /// As of the latest step, for the hands of tasks.
    left_alone: Arc<AtomicBool>,
    failsafe: Failsafe,
    /// Why failsafe mode is not on by default, as it was said.
    kept_out: Option<String>,
    vouchers: watch::Sender<Option<Want>>,
    consents: Channel<(MemberName, Result<BootTime, String>)>,
    vouching: Channel<StoreResult<TxnOutcome>>,
    /// What the lease keeper was told last.
    unvouches: Option<u64>,
    electors: u64,
    stalls: StallWatch,
    losses: Losses,
    fence_state: watch::Receiver<FenceState>,
    watchdog: WatchdogKeeper,
    watchdog_state: watch::Receiver<WatchdogState>,
    deadline: Arc<Deadline>,
    api: Arc<surus_api::Client>,
    peer_files: PeerFiles,
    access: Access,
    migrator: Arc<Migrator>,
    told_of_move: bool,
    /// Held by an attempt to move the cluster.
    moving: Arc<tokio::sync::Mutex<()>>,
    rest: Reloader,
    consul: Option<Consul>,
    keys: watch::Sender<Desired>,

    /// What is remembered, under way and to be done next.
    member: Member<oneshot::Sender<Reply>>,
    postmaster: Option<Postmaster>,
    process: (ProcessState, BootTime),
    /// The server ended without being told to.
    crashed: bool,
    data_dir: DataDir,
    data_dir_read: Option<BootTime>,
    /// No agent has written the server's configuration, as far as is known.
    unmanaged: bool,
    /// The last position that the server here wrote as a primary.
    written: Option<Lsn>,
    replay: Option<Replay>,
    answer: Answer,
    answers: Channel<(MemberName, PeerFact)>,

    synced: Channel<sync::Synced>,
    senders: sync::Senders,
    task: Option<TaskHandle>,
    progress: Arc<watch::Sender<Option<Progress>>>,
    requests: mpsc::Receiver<(Request, oneshot::Sender<Reply>)>,
    scheduled_restart: Option<(ScheduledRestart, crate::handle::RestartFilters, i64)>,
    pending_restart: BTreeMap<String, PendingRestart>,

    published: Arc<ArcSwap<Published>>,
    changed: watch::Sender<u64>,
    decisions: VecDeque<serde_json::Value>,
    last_goal: Option<(u16, String)>,
    recorder: Recorder,
    /// How long gathering the facts of this step took.
    gathered: Duration,
    counters: Counters,
    measures: Arc<Measures>,
    upkeep: upkeep::Upkeep,
    name_checked: bool,
    /// This process ends, and nothing else: a successor goes on where it was.
    leaves_as_it_is: bool,
    shown: crate::shown::Latest,
    /// Background work has something for a step to see.
    wake: Arc<Notify>,
}

/// What the agent needs from outside, opened before it starts.
pub struct Parts {
    pub source: ConfigSource,
    pub settings: Settings,
    pub lock: Arc<DataDirLock>,
    pub store: Arc<ClusterStore>,
    pub consul: Option<Consul>,
    pub api: Arc<surus_api::Client>,
    pub rest: Reloader,
    pub measures: Arc<Measures>,
    pub access: Access,
    pub migrator: Arc<Migrator>,
    pub promises: Option<Promises>,
}

/// What an agent that goes over to another store leaves to the one that goes on.
pub struct Left {
    pub source: ConfigSource,
    pub settings: Settings,
    pub lock: Arc<DataDirLock>,
    pub api: Arc<surus_api::Client>,
    pub rest: Reloader,
    pub measures: Arc<Measures>,
    /// Whom this member has promised not to lead. They know nothing of stores.
    pub promises: Option<Promises>,
}

pub enum End {
    /// `Err` is what it says then.
    Over(Result<(), String>),
    Moved(Box<Left>, Arc<Prepared>),
}

impl Agent {
    pub fn new(parts: Parts) -> (Agent, AgentHandle) {
        let Parts { source, settings, lock, store, consul, api, rest, measures, access, migrator, promises } = parts;
        let me = settings.local.name.clone();
        let instance = Instance::new(settings.instance());
        let (deadline, inherited) = Deadline::open(&settings.data_dir());
        let follower = Follower::start(&store);
        let recorder = journal::start(&settings);
        let timing = settings.effective.settings.timing;
        let lease = LeaseKeeper::start(store.clone(), timing);
        let fence = FenceKeeper::start(
            &settings.data_dir(),
            instance.postgres_names(),
            settings.local.fence,
            lease.subscribe(),
            inherited.and_then(Inherited::until),
        );
        let failsafe = Failsafe::open(&me, &settings.data_dir(), lease.subscribe());
        if let Some(promises) = promises {
            failsafe.inherit(promises);
        }
        let vouchers = watch::Sender::new(None);
        Asker::start(failsafe.clone(), lease.clone(), vouchers.subscribe());
        let watchdog = WatchdogKeeper::start(settings.local.watchdog.clone(), timing, lease.subscribe());
        let peer_files = PeerFiles::start(&settings.local.ctl);
        let wake = Arc::<Notify>::default();
        let stalls = StallWatch::start(instance.clone(), settings.data_dir(), timing, lease.subscribe(), wake.clone());
        let (keys, desired) = watch::channel(Desired { loop_wait: timing.loop_wait, ..Desired::default() });
        if let (Some(consul), StoreConfig::Consul(section)) = (&consul, &settings.local.store) {
            consul.set(section, timing.ttl);
            consul.start(desired.clone());
        }
        keys::start(store.clone(), desired);
        let (request_tx, requests) = mpsc::channel(32);
        let (changed, changed_rx) = watch::channel(0);
        let losses = Losses::new(settings.loss_directory.clone(), me.clone());
        let member = Member::new(me.clone(), follower.current(), inherited, boot_now());
        let published =
            Arc::new(ArcSwap::from_pointee(publish::initial(&settings, &store, &measures, failsafe.clone())));
        let observer = publish::Observer::new(instance.clone());
        let handle = AgentHandle {
            published: published.clone(),
            changed: changed_rx,
            requests: request_tx,
            observe: Arc::new(move || {
                let observer = observer.clone();
                Box::pin(async move { observer.observe().await })
            }),
            store: store.clone(),
            journal: recorder.handle(),
            loss: losses.directory.clone(),
            migrator: Some(migrator.clone()),
            now: boot_now,
        };
        let agent = Agent {
            followed: follower.subscribe(),
            lease_state: lease.subscribe(),
            fence_state: fence.subscribe(),
            fence,
            left_alone: Arc::default(),
            watchdog_state: watchdog.subscribe(),
            watchdog,
            failsafe,
            kept_out: None,
            vouchers,
            consents: mpsc::channel(64),
            vouching: mpsc::channel(4),
            unvouches: None,
            electors: 0,
            stalls,
            losses,
            deadline: Arc::new(deadline),
            member,
            postmaster: None,
            process: (ProcessState::NotRunning, boot_now()),
            crashed: false,
            data_dir: DataDir::Empty,
            data_dir_read: None,
            unmanaged: true,
            written: None,
            replay: None,
            answer: Answer::Unknown(boot_now(), "not asked yet".into()),
            answers: mpsc::channel(64),
            synced: mpsc::channel(4),
            senders: sync::Senders::default(),
            task: None,
            progress: Arc::new(watch::channel(None).0),
            scheduled_restart: None,
            pending_restart: BTreeMap::new(),
            decisions: VecDeque::new(),
            last_goal: None,
            recorder,
            gathered: Duration::ZERO,
            counters: Counters::default(),
            measures,
            upkeep: upkeep::Upkeep::default(),
            name_checked: false,
            leaves_as_it_is: false,
            shown: crate::shown::Latest::default(),
            wake,
            me,
            source,
            settings,
            callbacks: CallbackRunner::start(instance.clone()),
            instance,
            _lock: lock,
            store,
            _follower: follower,
            lease,
            api,
            peer_files,
            access,
            migrator,
            told_of_move: false,
            moving: Arc::default(),
            rest,
            consul,
            keys,
            requests,
            published,
            changed,
        };
        (agent, handle)
    }

    /// Until the agent is told to end, or must, or goes over to another store.
    pub async fn run(mut self, signals: &mut Signals) -> End {
        self.fence.settled().await;
        if self.settings.local.watchdog.mode != surus_config::WatchdogMode::Off {
            self.watchdog.settled().await;
        }
        self.member.inherit(self.fence.shown().state.armed_until);
        if let Some(until) = self.member.inherited() {
            self.lease.promised(until).await;
        }
        loop {
            if let Some(prepared) = self.moves() {
                let left = self.leave_for(&prepared).await;
                return End::Moved(Box::new(left), prepared);
            }
            if let Some(end) = self.step().await {
                self.leave(end.is_ok()).await;
                journal::finish(&self.recorder).await;
                return End::Over(end);
            }
            self.wait(signals).await;
            if self.leaves_as_it_is {
                self.leave_as_it_is().await;
                return End::Over(Ok(()));
            }
        }
    }

    async fn step(&mut self) -> Option<Result<(), String>> {
        self.take_in_view();
        if let Err(why) = self.check_name().await {
            return Some(Err(why));
        }
        let began = std::time::Instant::now();
        let mut facts = self.gather().await;
        self.gathered = began.elapsed();
        self.guard(&facts);
        let mut end = self.decide(&facts).await;
        if end.is_none() && self.member.decide_again(&mut facts, self.lease.lead(), boot_now()) {
            facts.unix_ms = jiff::Timestamp::now().as_millisecond();
            end = self.decide(&facts).await;
        }
        if end.is_none() {
            self.upkeep(&facts);
            self.confirm_arrival(&facts);
            self.watch_senders(&facts);
        }
        self.publish(&facts);
        end
    }

    fn guard(&self, facts: &surus_core::facts::Facts) {
        self.left_alone.store(surus_conduct::pause::left_alone(facts), Ordering::Relaxed);
        let Some(guard) = surus_conduct::fence::guard(facts) else { return };
        self.watchdog.guard(guard);
        let held = self.postmaster.as_ref();
        self.fence.guard(guard, held.map(|p| surus_fence::Postmaster { pid: p.pid, start_ticks: p.start_ticks }));
    }

    async fn decide(&mut self, facts: &surus_core::facts::Facts) -> Option<Result<(), String>> {
        let began = std::time::Instant::now();
        let step = self.member.step(facts);
        self.recorder.record(self.member.memory(), facts, &step, self.gathered, began.elapsed());
        let report = self.member.obey(step, facts, boot_now());
        self.note_clearance(facts).await;
        self.counters.steps += 1;
        self.record(facts, &report);
        self.carry_out(facts).await
    }

    /// As if the agent were killed, which everything is made for: PostgreSQL, its fence and the keys in the store stay, for
    /// as long as the lead is good.
    async fn leave_as_it_is(&mut self) {
        let left = self.lease.lead_until().map(|until| until.since(boot_now()).as_secs());
        match left.filter(|_| !self.settings.effective.settings.pause) {
            Some(left) => info!(
                "ending (SIGUSR1); PostgreSQL and the leader lock stay as they are: an agent that is started within {left} s goes on"
            ),
            None => info!("ending (SIGUSR1); PostgreSQL stays as it is"),
        }
        journal::finish(&self.recorder).await;
    }

    /// Ends the session, so that nobody waits for the ttl. While paused everything stays as it is.
    async fn leave(&mut self, orderly: bool) {
        self.callbacks.started(CALLBACKS).await;
        let paused = self.settings.effective.settings.pause;
        // A primary that nobody knows to be left alone stays guarded by a fence that has its last deadline.
        let guarded = paused && !self.member.unguarded() && self.fence.shown().state.armed_until.is_some();
        if orderly && !guarded {
            self.fence.close().await;
        }
        // A primary that stays guarded is the fence's, which spares the machine. After a disorderly end it counts on.
        if orderly {
            self.watchdog.close().await;
        }
        if orderly && paused {
            info!("leaving the session and PostgreSQL as they are because the cluster is paused");
            return;
        }
        self.keys.send_modify(|d| {
            d.member = None;
            d.status = None;
        });
        self.lease.close().await;
        if orderly && self.member.memory().last_leader.as_ref() == Some(&self.me) {
            self.see_successor().await;
        }
    }

    /// After giving the lead away: waits until somebody else serves. With the embedded store this process may be
    /// the Raft leader, and leaving at once would make those who elect a primary wait for an election first.
    async fn see_successor(&mut self) {
        let me = self.me.clone();
        let alone = self.member.seen().view.as_deref().is_none_or(|v| v.others(&me).all(|m| m.api_url.is_none()));
        if alone {
            return;
        }
        let served = self.followed.wait_for(|followed| {
            let Some(view) = followed.view.as_deref().filter(|_| followed.is_current()) else { return true };
            let serves = |m: &surus_core::cluster::Member| {
                m.name != me && matches!(m.role, MemberRole::Primary | MemberRole::StandbyLeader) && m.is_running()
            };
            // When all of them end, nobody is left to wait for.
            view.others(&me).next().is_none() || view.leader_member().is_some_and(serves)
        });
        if tokio::time::timeout(SUCCESSOR, served).await.is_err() {
            warn!("nobody has taken over within {} s, ending all the same", SUCCESSOR.as_secs());
        }
    }

    /// Another process under my name would fight me for every key.
    async fn check_name(&mut self) -> Result<(), String> {
        if self.name_checked || !self.member.seen().is_current() {
            return Ok(());
        }
        self.name_checked = true;
        self.check_copy()?;
        let own = self.settings.local.restapi.api_url();
        let view = self.member.seen().view.clone();
        let Some(other) = view.as_deref().and_then(|v| v.members.get(&self.me)).and_then(|m| m.api_url.clone()) else {
            return Ok(());
        };
        // I listen on that address myself, so whoever wrote the key is gone.
        if other == own {
            return Ok(());
        }
        match self.api.get(&other, "/liveness", self.spare(Duration::from_secs(3))).await {
            Ok(_) => Err(format!(
                "Can't start; there is already a node named '{}' running (it answers at {other}). Give this member another name, or stop that one",
                self.me
            )),
            Err(_) => Ok(()),
        }
    }

    fn take_in_view(&mut self) {
        let followed = self.followed.borrow_and_update().clone();
        // Nobody leads in a store that the cluster has left, which says nothing about who leads.
        if self.moved(&followed).is_some() {
            return;
        }
        self.tell_of_move(&followed);
        if let Some((revision, nobody)) = self.member.take_in_view(followed.clone(), self.lease.lead()) {
            self.lease.lost(revision, nobody);
        }
        if let Some(view) = &followed.view
            && let Some(config) = &view.config
            && self.settings.set_document(&config.value, config.version)
        {
            self.apply_settings();
        }
    }

    /// How long the loop may wait for one answer, `most` at the most: it must be back in time to stop a primary.
    fn spare(&self, most: Duration) -> Duration {
        self.member.spare(boot_now(), self.lease.lead(), &self.settings.effective.settings.timing, most)
    }

    /// Brings changed settings into force: timing at once, PostgreSQL's by reload.
    fn apply_settings(&mut self) {
        let timing = self.settings.effective.settings.timing;
        self.lease.set_timing(timing);
        self.watchdog.set(&self.settings.local.watchdog, timing);
        self.keys.send_modify(|d| d.loop_wait = timing.loop_wait);
        if let (Some(consul), StoreConfig::Consul(section)) = (&self.consul, &self.settings.local.store) {
            consul.set(section, timing.ttl);
        }
        self.instance.set_config(self.settings.instance());
        self.upkeep.reload_wanted = true;
    }

    /// The certificate that other members are called with is another one now.
    fn renew_peer_client(&mut self) {
        match peer_files::client(&self.settings.local) {
            Ok(client) => {
                info!("calls to other members are made with the certificate that is in the files of ctl now");
                self.api = Arc::new(client.clone());
                let rest = self.rest.clone();
                tokio::spawn(async move { rest.call_others_with(client).await });
            }
            Err(e) => warn!(
                "the files of ctl have changed and cannot be used, calls to other members are made as before: {e:#}"
            ),
        }
    }

    fn reload_local(&mut self) {
        match self.source.load() {
            Ok(local) => {
                if local.name != self.me || local.scope != self.settings.local.scope {
                    warn!("name and scope cannot change while the agent runs; restart it for that");
                    return;
                }
                let (old, new) = (&self.settings.local.postgresql, &local.postgresql);
                if old.data_dir != new.data_dir || old.config_dir != new.config_dir {
                    // The server that runs goes on reading the files it was started with.
                    warn!(
                        "the configuration was not reloaded, the old one stays in force: postgresql.data_dir and \
                         config_dir cannot change while the agent runs; restart it for that"
                    );
                    return;
                }
                for key in self.settings.local.restart_only_changes(&local) {
                    warn!("{key} was changed, which counts after a restart of the agent");
                }
                match peer_files::client(&local) {
                    Ok(client) => self.api = Arc::new(client),
                    Err(e) => warn!("the settings for calls to other members were not reloaded: {e:#}"),
                }
                let (rest, options) =
                    (self.rest.clone(), RestOptions::new(local.restapi.clone(), surus_api::Client::clone(&self.api)));
                // Names in the allowlist may take a while to resolve.
                tokio::spawn(async move {
                    if let Err(e) = rest.reload(options).await {
                        warn!("the REST API was not reloaded, its old settings stay in force: {e}");
                    }
                });
                self.peer_files.set(&local.ctl);
                self.access.set(&local.store);
                self.fence.set_mode(local.fence);
                if !self.settings.set_local(local) {
                    info!("No local configuration items changed.");
                }
                self.apply_settings();
            }
            Err(e) => warn!("the configuration was not reloaded, the old one stays in force:\n{e}"),
        }
    }
}
