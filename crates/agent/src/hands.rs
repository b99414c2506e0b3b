//! The hands of a task: this member's server, store, peers and clock.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use surus_conduct::task::{
    self, BASEBACKUP, Hands, Happened, Launched, Made, Outcome, Phase, ReplicaMethod, TaskContext,
};
use surus_core::cluster::{ClusterView, KeyVersion, Upstream};
use surus_core::facts::{Lead, PeerAnswer};
use surus_core::loss::{Destroying, Recorded};
use surus_core::order::Task;
use surus_core::postgres::{DataDir, Progress};
use surus_core::server::Killed;
use surus_core::slots::{LogicalSlot, Room, SlotCopy};
use surus_core::synchronous::Names;
use surus_core::{BootTime, SystemId, Timeline};
use surus_postgres::{Divergence, FollowOutcome, Instance, PgError, ShutdownPosition, StartAs, StopMode, Stopped};
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use surus_store::cluster::{Announce, Beside};
use surus_store::{StoreResult, TxnOutcome};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::callbacks::CallbackRunner;
use crate::fence::FenceKeeper;
use crate::inherited::Deadline;
use crate::lease::LeaseKeeper;
use crate::measure::Measures;
use crate::watchdog::WatchdogKeeper;

/// A member stays out that much longer at most for the sake of rows it lost; its log is kept in any case.
const LOST_ROWS: Duration = Duration::from_secs(30);
/// A standby that is to be promoted may be at a restartpoint.
const IN_FORCE: Duration = Duration::from_secs(5);

pub struct RealHands {
    pub instance: Instance,
    pub callbacks: CallbackRunner,
    pub methods: Vec<ReplicaMethod>,
    pub remote_methods: Vec<ReplicaMethod>,
    pub store: Arc<ClusterStore>,
    pub lease: LeaseKeeper,
    pub fence: FenceKeeper,
    pub left_alone: Arc<AtomicBool>,
    pub watchdog: WatchdogKeeper,
    pub deadline: Arc<Deadline>,
    pub api: Arc<surus_api::Client>,
    pub progress: Arc<watch::Sender<Option<Progress>>>,
    pub measures: Arc<Measures>,
    pub cancel: CancellationToken,
}

pub async fn perform(task: Task, context: TaskContext, hands: RealHands) -> Outcome {
    let progress = hands.progress.clone();
    let outcome = task::perform(task, context, hands).await;
    progress.send_replace(None);
    outcome
}

/// Boxed, because they are big: a procedure holds several of them, one within another, and would be too big for a
/// thread's stack.
fn said<'a, T>(work: impl Future<Output = surus_postgres::Result<T>> + Send + 'a) -> Boxed<'a, Made<T>> {
    Box::pin(async move { work.await.map_err(|e: PgError| e.to_string()) })
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asks a peer how it is.
pub async fn ask(api: &surus_api::Client, url: &str, limit: Duration) -> Made<PeerAnswer> {
    let surus_api::PeerStatus {
        in_recovery,
        position,
        timeline,
        tags,
        watchdog_failed,
        wal_disk,
        unready_slots,
        forked,
        ..
    } = api.probe(url, limit).await.map_err(|e| e.to_string())?;
    let room = wal_disk.map(|(free, total)| Room { free, total });
    Ok(PeerAnswer { in_recovery, position, timeline, tags, watchdog_failed, room, unready_slots, forked })
}

impl Hands for RealHands {
    fn now(&self) -> BootTime {
        boot_now()
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    async fn sleep_until(&self, at: BootTime) {
        crate::timer::sleep_until(at).await;
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    fn tell(&self, what: String) {
        self.progress.send_replace(Some(Progress { what, ..Progress::default() }));
    }

    fn took(&self, phase: Phase, planned: bool, time: Duration) {
        self.measures.phase(phase, planned, time);
    }

    fn happened(&self, what: Happened) {
        self.callbacks.happened(what);
    }

    async fn pre_promote(&self) -> Made {
        let Some(command) = self.instance.config().pre_promote.clone() else { return Ok(()) };
        self.tell("running pre_promote".into());
        said(self.instance.run_user_command(&command, Some(&self.cancel))).await?;
        self.tell("promoting".into());
        Ok(())
    }

    async fn before_stop(&self) {
        let Some(command) = self.instance.config().before_stop.clone() else { return };
        if self.instance.process().await.is_none() {
            return;
        }
        self.tell("running before_stop".into());
        if let Err(e) = Box::pin(self.instance.run_user_command(&command, Some(&self.cancel))).await {
            tracing::warn!("going on with the stop: {e}");
        }
    }

    fn lead(&self) -> Option<Lead> {
        self.lease.lead()
    }

    async fn lead_changed(&self, known: Option<Lead>) {
        if self.lease.subscribe().wait_for(|state| state.lead != known).await.is_err() {
            // The keeper is gone: nothing renews the lead any more, and nothing will be heard of it.
            std::future::pending::<()>().await;
        }
    }

    fn left_alone(&self) -> bool {
        self.left_alone.load(Ordering::Relaxed)
    }

    async fn arm_fence(&self) -> Made {
        let Some(lead) = self.lease.lead() else { return Err("the leader lock is gone".into()) };
        let watched = async {
            if self.watchdog.waits_for_a_renewal() {
                self.lease.renew();
            }
            self.watchdog.started().await
        };
        let (armed, left, watched) =
            tokio::join!(Box::pin(self.fence.armed()), Box::pin(self.deadline.write(lead.until)), Box::pin(watched));
        armed.and(left).and(watched)
    }

    async fn take_lead(&self) -> StoreResult<bool> {
        self.lease.take(Beside::default()).await
    }

    fn announced(&self) -> Option<Timeline> {
        self.lease.state().announced
    }

    async fn announce(&self, what: Announce, limit: Duration) -> StoreResult<TxnOutcome> {
        self.store.announce(what, limit).await
    }

    async fn release_lead(&self, status: Option<String>) -> StoreResult<()> {
        self.lease.release(status).await
    }

    async fn claim_cluster(&self, limit: Duration) -> StoreResult<TxnOutcome> {
        self.store.claim_cluster(limit).await
    }

    async fn found_cluster(
        &self,
        claim: KeyVersion,
        id: &SystemId,
        document: &str,
        limit: Duration,
    ) -> StoreResult<TxnOutcome> {
        self.store.found_cluster(claim, id, document.to_owned(), limit).await
    }

    async fn abandon_claim(&self, claim: KeyVersion, limit: Duration) -> StoreResult<TxnOutcome> {
        self.store.abandon_claim(claim, limit).await
    }

    async fn read_store(&self, limit: Duration) -> StoreResult<ClusterView> {
        self.store.read(limit).await
    }

    async fn write_sync(
        &self,
        state: Option<String>,
        version: Option<KeyVersion>,
        limit: Duration,
    ) -> StoreResult<TxnOutcome> {
        self.store.write_sync(state, version, limit).await.map(|(outcome, _)| outcome)
    }

    async fn wait_for(&self, names: Option<&Names>) -> Made {
        let changed = self.instance.choose_names(names.map(|n| n.text().unwrap_or_default()));
        if self.instance.process().await.is_none() {
            return Ok(());
        }
        match names {
            Some(_) => said(self.instance.bring_names_into_force(IN_FORCE)).await.map(|_| ()),
            None if changed => said(self.instance.reload()).await.map(|_| ()),
            None => Ok(()),
        }
    }

    async fn probe(&self, api_url: &str, limit: Duration) -> Made<PeerAnswer> {
        Box::pin(ask(&self.api, api_url, limit)).await
    }

    async fn reach(&self, upstream: &Upstream) -> Made {
        let mut reached = Ok(());
        for one in upstream.each() {
            reached = tokio::net::TcpStream::connect((one.host.as_str(), one.port)).await.map(|_| ());
            if reached.is_ok() {
                break;
            }
        }
        reached.map_err(|e| e.to_string())
    }

    async fn data_dir(&self) -> DataDir {
        Box::pin(self.instance.data_dir()).await
    }

    async fn initdb(&self) -> Made {
        said(self.instance.initdb(&self.cancel)).await
    }

    fn custom_bootstrap(&self) -> Option<String> {
        self.instance.config().custom_bootstrap.as_ref().map(|m| m.name.clone())
    }

    async fn run_custom_bootstrap(&self) -> Made {
        said(self.instance.run_custom_bootstrap(&self.progress, &self.cancel)).await
    }

    async fn recover_new_cluster(&self) -> Made {
        said(self.instance.recover(&self.progress, &self.cancel)).await
    }

    async fn end_custom_bootstrap(&self) -> Made {
        said(self.instance.end_custom_bootstrap()).await
    }

    async fn create_roles(&self) -> Made {
        said(self.instance.create_roles()).await
    }

    async fn post_bootstrap(&self, command: &str) -> Made {
        said(self.instance.post_bootstrap(command, &self.cancel)).await
    }

    async fn start(&self, role: &StartAs, watched: Duration) -> Made<Launched> {
        match Box::pin(self.instance.start(role, watched)).await {
            Ok(started) => {
                tracing::debug!("the postmaster is process {}", started.postmaster.pid);
                Ok(Launched::Up { took: started.took })
            }
            Err(e) if e.is_timeout() => Ok(Launched::Starting(e.to_string())),
            Err(e) => Err(e.to_string()),
        }
    }

    async fn stop(&self, mode: StopMode, limit: Duration) -> Made<Stopped> {
        said(self.instance.stop(mode, Some(limit))).await
    }

    async fn kill_hard(&self) -> Made {
        said(self.instance.kill_hard()).await
    }

    async fn silence(&self) -> Made<Killed> {
        said(self.instance.silence()).await
    }

    async fn kill_orphans(&self) -> Made {
        said(self.instance.kill_orphans()).await.map(|_| ())
    }

    async fn checkpoint(&self, limit: Duration) -> Made {
        said(self.instance.checkpoint(limit)).await
    }

    async fn shutdown_position(&self) -> Made<Option<ShutdownPosition>> {
        said(self.instance.shutdown_position()).await
    }

    async fn next_timeline(&self) -> Made<Timeline> {
        said(self.instance.next_timeline()).await
    }

    async fn skip_timelines(&self, from: Timeline, to: Timeline) -> Made {
        said(self.instance.skip_timelines(from, to)).await
    }

    async fn promote(&self) -> Made {
        said(self.instance.promote()).await
    }

    async fn wait_promoted(&self, limit: Duration) -> Made<Timeline> {
        said(self.instance.wait_promoted(limit)).await
    }

    async fn follow(&self, upstream: Option<&Upstream>, slot: Option<&str>) -> Made<FollowOutcome> {
        said(self.instance.follow(upstream, slot)).await
    }

    async fn fetch_slots(&self, from: &Upstream, slots: &[LogicalSlot], limit: Duration) -> Made<Vec<SlotCopy>> {
        said(self.instance.fetch_slots(from, slots, limit)).await
    }

    async fn put_slots(&self, copies: Vec<SlotCopy>) -> Made {
        said(self.instance.put_slots(copies)).await
    }

    async fn divergence(&self, from: &Upstream, limit: Duration) -> Made<Divergence> {
        said(self.instance.divergence(from, limit)).await
    }

    fn replica_methods(&self) -> Vec<ReplicaMethod> {
        self.methods.clone()
    }

    fn remote_methods(&self) -> Vec<ReplicaMethod> {
        self.remote_methods.clone()
    }

    async fn create_replica(&self, method: &ReplicaMethod, from: Option<&Upstream>) -> Made {
        match from {
            Some(from) if method.name == BASEBACKUP => self.basebackup(from).await,
            _ => said(self.instance.run_replica_method(&method.name, from, &self.progress, &self.cancel)).await,
        }
    }

    async fn basebackup(&self, from: &Upstream) -> Made {
        said(self.instance.basebackup(from, &self.progress, &self.cancel)).await
    }

    async fn record_loss(&self, against: &Upstream, destroying: Destroying, limit: Duration) -> Made<Recorded> {
        said(self.instance.record_loss(against, destroying, limit, &self.cancel)).await
    }

    async fn keep_lost_rows(&self) -> Made<Option<String>> {
        said(self.instance.keep_lost_rows(LOST_ROWS, &self.cancel)).await
    }

    async fn archive_pending(&self, limit: Duration) -> Made<usize> {
        said(self.instance.archive_pending(limit, &self.cancel)).await
    }

    async fn archive_shutdown(&self, limit: Duration) -> Made<Option<String>> {
        said(self.instance.archive_shutdown(limit, &self.cancel)).await
    }

    async fn recover(&self) -> Made<bool> {
        said(async {
            let needed = self.instance.needs_recovery().await?;
            if needed {
                self.tell("crash recovery before pg_rewind".into());
                self.instance.crash_recover_single_user(&self.cancel).await?;
            }
            Ok(needed)
        })
        .await
    }

    async fn rewind(&self, from: &Upstream, limit: Duration) -> Made {
        said(self.instance.rewind(from, limit, &self.progress, &self.cancel)).await
    }

    async fn remove_data_dir(&self) -> Made {
        said(self.instance.remove_data_dir()).await
    }

    async fn give_up_new_data(&self) -> Made<String> {
        said(self.instance.give_up_new_data()).await
    }

    async fn move_data_dir_aside(&self) -> Made<String> {
        said(self.instance.move_data_dir_aside()).await.map(|path| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use surus_core::settings::Timing;
    use surus_store::{Layout, MemoryStore};

    use super::*;

    #[tokio::test]
    async fn a_task_fits_on_a_small_stack() {
        let layout = Layout::new("service", "demo", None);
        let store = Arc::new(ClusterStore::new(Arc::new(MemoryStore::auto()), layout, "a".into()));
        let lease = LeaseKeeper::start(store.clone(), Timing::NEW_CLUSTER);
        let instance = Instance::new(surus_postgres::InstanceConfig::default());
        let hands = RealHands {
            callbacks: CallbackRunner::start(instance.clone()),
            methods: vec![],
            remote_methods: vec![],
            instance,
            left_alone: Arc::default(),
            fence: FenceKeeper::start("".as_ref(), vec![], surus_config::FenceMode::Off, lease.subscribe(), None),
            watchdog: WatchdogKeeper::start(
                surus_config::Watchdog { mode: surus_config::WatchdogMode::Off, ..Default::default() },
                Timing::NEW_CLUSTER,
                lease.subscribe(),
            ),
            deadline: Arc::new(Deadline::open("".as_ref()).0),
            lease,
            store,
            api: Arc::new(surus_api::Client::new(&surus_api::ClientOptions::default()).unwrap()),
            progress: Arc::default(),
            measures: Arc::default(),
            cancel: CancellationToken::new(),
        };
        let context = TaskContext {
            me: "a".into(),
            patience: Duration::ZERO,
            start_timeout: Duration::ZERO,
            settings: Default::default(),
            founding_document: String::new(),
            post_bootstrap: None,
            data_dir: String::new(),
            is_primary: false,
            inherited: false,
            view: None,
        };
        let size = std::mem::size_of_val(&perform(Task::Promote, context, hands));
        assert!(size < 16 * 1024, "{size} bytes, and a debug build copies that around a few times");
    }
}
