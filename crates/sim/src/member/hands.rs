//! The hands that the shipped procedures work with here: a simulated server, store, network and clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use surus_conduct::member::Inherited;
use surus_conduct::task::{Hands, Launched, Made};
use surus_core::cluster::{ClusterView, KeyVersion, Upstream};
use surus_core::facts::{Lead, PeerAnswer};
use surus_core::loss::{Destroying, Recorded};
use surus_core::order::{Demote, Task};
use surus_core::postgres::{ControlState, DataDir};
use surus_core::server::{Divergence, FollowOutcome, Killed, ShutdownPosition, StartAs, StopMode, Stopped};
use surus_core::slots::{LogicalSlot, SlotCopy};
use surus_core::store::{Announce, Beside, StoreResult, TxnOutcome};
use surus_core::synchronous::Names;
use surus_core::{BootTime, Lsn, MemberName, SystemId, Timeline};

use super::Member;
use super::wait::{pause, sleep, sleep_until, until};
use crate::bug::Bug;
use crate::history::{Happened, Operation};
use crate::said;
use crate::world::World;
use crate::world::clock::{MS, SECOND, True};
use crate::world::node::Disk;
use crate::world::postgres::{Data, Phase, Receipt};

pub struct SimHands {
    pub member: Arc<Member>,
    pub task: Task,
    pub cancel: Arc<AtomicBool>,
}

impl SimHands {
    fn with<T>(&self, work: impl FnOnce(&mut World, usize) -> T) -> T {
        self.member.sim.with(|w| work(w, self.member.node))
    }

    async fn until<T>(&self, mut look: impl FnMut(&mut World, usize) -> Option<T>) -> T {
        let node = self.member.node;
        until(&self.member.sim, node, |w| look(w, node)).await
    }

    async fn takes(&self, from: True, to: True) {
        let us = self.with(|w, n| w.random.between(from, to) * w.nodes[n].slowness / 100);
        pause(&self.member.sim, us).await;
    }

    async fn disk(&self) {
        self.until(|w, n| (w.nodes[n].disk != Disk::Hangs).then_some(())).await;
    }

    fn operate(&self, operation: Operation) {
        self.with(|w, node| w.happened(Happened::Operates { node, operation, task: Some(&self.task) }));
    }

    /// The machine of that name, if a connection to its server can be made now.
    fn serving(&self, w: &World, node: usize, name: &MemberName) -> Option<usize> {
        w.source(name).filter(|peer| w.lets_in(node, *peer))
    }

    async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        surus_conduct::race::within(self, limit, work).await
    }

    /// Copies for a while, as long as the source serves and nobody says stop.
    async fn copies(&self, from: &Upstream, shortest: True, longest: True) -> Made<usize> {
        let rounds = 5;
        let server = |w: &World, peer: usize| w.postgres_of(peer)?.server.as_ref().map(|s| s.pid);
        let first = self.with(|w, n| self.serving(w, n, &from.name).and_then(|peer| server(w, peer)));
        let us = self.with(|w, n| w.random.between(shortest, longest) * w.nodes[n].slowness / 100 / rounds);
        for _ in 0..rounds {
            pause(&self.member.sim, us).await;
            self.disk().await;
            if self.is_cancelled() {
                return Err("given up on request".into());
            }
            if self.with(|w, n| w.nodes[n].disk == Disk::Full) {
                return Err("no space left on device".into());
            }
            if self.with(|w, n| self.serving(w, n, &from.name).and_then(|peer| server(w, peer))) != first
                || first.is_none()
            {
                return Err(format!("the connection to {} was lost", from.name));
            }
        }
        self.with(|w, n| self.serving(w, n, &from.name)).ok_or_else(|| format!("{} does not answer", from.name))
    }

    fn destroys(&self, told: Option<&str>) {
        self.with(|w, node| {
            if let Some(log) = w.nodes[node].postgres.log().cloned() {
                w.happened(Happened::Destroys { node, log: &log, told });
            }
        });
    }
}

impl Hands for SimHands {
    fn now(&self) -> BootTime {
        self.member.now()
    }

    async fn sleep(&self, time: Duration) {
        sleep(&self.member.sim, self.member.node, time).await;
    }

    async fn sleep_until(&self, at: BootTime) {
        sleep_until(&self.member.sim, self.member.node, at).await;
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    async fn cancelled(&self) {
        self.until(|_, _| self.is_cancelled().then_some(())).await;
    }

    fn tell(&self, what: String) {
        self.with(|w, n| w.tell(n, || format!("task: {what}")));
    }

    fn lead(&self) -> Option<Lead> {
        self.with(|w, n| w.lease(n).lead)
    }

    async fn lead_changed(&self, known: Option<Lead>) {
        self.until(|w, n| (w.lease(n).lead != known).then_some(())).await;
    }

    async fn take_lead(&self) -> StoreResult<bool> {
        self.member.take_lead(false, Beside::default()).await
    }

    fn announced(&self) -> Option<Timeline> {
        self.with(|w, n| match &w.nodes[n].postgres.data {
            Some(data) if w.is(Bug::TimelineNotAnnounced) => Some(data.next_timeline()),
            _ => w.lease(n).announced,
        })
    }

    async fn announce(&self, what: Announce, limit: Duration) -> StoreResult<TxnOutcome> {
        self.member.store.announce(what, limit).await
    }

    async fn release_lead(&self, status: Option<String>) -> StoreResult<()> {
        self.member.release_lead(status).await
    }

    fn left_alone(&self) -> bool {
        let seen = self.with(|w, n| w.nodes[n].agent.as_ref().is_some_and(|a| a.left_alone));
        seen && !self.with(|w, _| w.is(Bug::RestartArmsTheFence))
    }

    async fn arm_fence(&self) -> Made {
        self.takes(MS, 5 * MS).await;
        if self.within(Duration::from_secs(1), self.disk()).await.is_none() {
            return Err("a write has not returned within 1 s".into());
        }
        self.with(|w, n| {
            let lead = w.lease(n).lead;
            let left = &mut w.nodes[n].left;
            if let Some(lead) = lead.filter(|_| *left != Some(Inherited::Unguarded)) {
                *left = Some(Inherited::Until(lead.until));
            }
        });
        self.with(|w, n| {
            if let Some(agent) = &mut w.nodes[n].agent {
                agent.guard = Some(true);
            }
            w.keep_fence(n);
            if w.lease(n).lead.is_none() {
                return Err("the leader lock is gone".into());
            }
            if !w.nodes[n].fence.alive {
                return Err("the fence does not work".into());
            }
            Ok(())
        })
    }

    async fn claim_cluster(&self, limit: Duration) -> StoreResult<TxnOutcome> {
        self.member.store.claim_cluster(limit).await
    }

    async fn found_cluster(
        &self,
        claim: KeyVersion,
        id: &SystemId,
        document: &str,
        limit: Duration,
    ) -> StoreResult<TxnOutcome> {
        self.member.store.found_cluster(claim, id, document.to_owned(), limit).await
    }

    async fn abandon_claim(&self, claim: KeyVersion, limit: Duration) -> StoreResult<TxnOutcome> {
        self.member.store.abandon_claim(claim, limit).await
    }

    async fn read_store(&self, limit: Duration) -> StoreResult<ClusterView> {
        self.member.store.read(limit).await
    }

    async fn write_sync(
        &self,
        state: Option<String>,
        version: Option<KeyVersion>,
        limit: Duration,
    ) -> StoreResult<TxnOutcome> {
        self.member.store.write_sync(state, version, limit).await.map(|(outcome, _)| outcome)
    }

    async fn wait_for(&self, names: Option<&Names>) -> Made {
        let Some(names) = names else {
            self.with(|w, n| w.set_names(n, Names::Nobody, MS));
            return Ok(());
        };
        // One that does not run finds it when it starts.
        self.member.names_in_force(names.clone(), Duration::from_secs(5)).await.map(|_| ())
    }

    async fn probe(&self, api_url: &str, limit: Duration) -> Made<PeerAnswer> {
        self.member.ask(api_url, limit).await
    }

    async fn reach(&self, upstream: &Upstream) -> Made {
        self.takes(MS, 3 * MS).await;
        let there = self.with(|w, n| self.serving(w, n, &upstream.name)).is_some();
        there.then_some(()).ok_or_else(|| "connection refused".into())
    }

    async fn data_dir(&self) -> DataDir {
        self.disk().await;
        self.with(|w, n| w.nodes[n].postgres.data_dir())
    }

    async fn initdb(&self) -> Made {
        self.operate(Operation::Initdb);
        self.takes(500 * MS, 2 * SECOND).await;
        self.disk().await;
        if self.is_cancelled() {
            return Err("given up on request".into());
        }
        if self.with(|w, n| w.nodes[n].disk == Disk::Full) {
            return Err("no space left on device".into());
        }
        self.with(|w, n| w.make_data(n));
        Ok(())
    }

    async fn create_roles(&self) -> Made {
        self.takes(5 * MS, 50 * MS).await;
        self.with(|w, n| w.nodes[n].postgres.serves()).then_some(()).ok_or_else(|| "no connection".into())
    }

    async fn post_bootstrap(&self, _command: &str) -> Made {
        Ok(())
    }

    async fn start(&self, role: &StartAs, watched: Duration) -> Made<Launched> {
        let begun = self.now();
        self.disk().await;
        self.operate(if role.is_primary() { Operation::StartPrimary } else { Operation::StartStandby });
        let pid = self.with(|w, n| w.start_server(n, role))?;
        let up = self.until(|w, n| match w.nodes[n].postgres.server.as_ref().filter(|s| s.pid == pid) {
            None => Some(Err("the server ended while it was starting".to_owned())),
            Some(s) if s.phase == Phase::Serving => Some(Ok(())),
            Some(_) => None,
        });
        match self.within(watched, up).await {
            Some(up) => up.map(|()| Launched::Up { took: self.now().since(begun) }),
            None => Ok(Launched::Starting("it is still starting".into())),
        }
    }

    async fn stop(&self, mode: StopMode, limit: Duration) -> Made<Stopped> {
        let begun = self.now();
        let Some(pid) = self.with(|w, n| w.nodes[n].postgres.server.as_ref().map(|s| s.pid)) else {
            return Ok(Stopped::NotRunning);
        };
        self.operate(Operation::Stop);
        self.with(|w, n| w.stop_server(n, mode));
        let handover = matches!(self.task, Task::Demote(Demote::Handover { .. }));
        if handover && self.with(|w, _| w.is(Bug::SuccessorNotAwaited)) {
            return Ok(Stopped::Exited { took: Duration::ZERO });
        }
        let gone = self.until(|w, n| (!w.nodes[n].postgres.is_server(pid)).then_some(()));
        Ok(match self.within(limit, gone).await {
            Some(()) => Stopped::Exited { took: self.now().since(begun) },
            None => Stopped::TimedOut,
        })
    }

    async fn kill_hard(&self) -> Made {
        self.operate(Operation::Kill);
        self.takes(MS, 20 * MS).await;
        self.with(|w, n| w.kill_server(n, "by its agent"));
        let gone = self.until(|w, n| w.nodes[n].postgres.server.is_none().then_some(()));
        self.within(Duration::from_secs(5), gone).await.ok_or_else(|| "the server does not end".into())
    }

    async fn silence(&self) -> Made<Killed> {
        self.operate(Operation::Kill);
        self.takes(MS, 20 * MS).await;
        self.with(|w, n| w.kill_server(n, "by its agent"));
        let gone = self.until(|w, n| w.nodes[n].postgres.server.is_none().then_some(()));
        let gone = self.within(Duration::from_millis(600), gone).await;
        Ok(gone.map_or_else(|| Killed::Silent("it waits for a disk that hangs".into()), |()| Killed::Gone))
    }

    async fn kill_orphans(&self) -> Made {
        if self.with(|w, n| w.nodes[n].postgres.orphans) {
            self.operate(Operation::KillOrphans);
            self.takes(MS, 20 * MS).await;
            self.with(|w, n| w.nodes[n].postgres.orphans = false);
        }
        Ok(())
    }

    async fn checkpoint(&self, limit: Duration) -> Made {
        self.member.checkpoint(limit).await
    }

    async fn shutdown_position(&self) -> Made<Option<ShutdownPosition>> {
        if self.with(|w, _| w.is(Bug::SuccessorNotAwaited)) {
            let checkpoint = Lsn(0);
            return Ok(Some(ShutdownPosition { timeline: Timeline(1), checkpoint, publish: checkpoint }));
        }
        self.disk().await;
        self.takes(5 * MS, 20 * MS).await;
        Ok(self.with(|w, n| {
            let data = w.nodes[n].postgres.data.as_ref().filter(|d| d.control == ControlState::ShutDown)?;
            let (timeline, checkpoint) = (data.checkpoint.0, Lsn(data.checkpoint.1));
            Some(ShutdownPosition { timeline, checkpoint, publish: checkpoint })
        }))
    }

    async fn next_timeline(&self) -> Made<Timeline> {
        self.disk().await;
        self.with(|w, n| w.nodes[n].postgres.data.as_ref().map(Data::next_timeline)).ok_or_else(|| "no data".into())
    }

    async fn skip_timelines(&self, _: Timeline, to: Timeline) -> Made {
        self.disk().await;
        self.takes(MS, 10 * MS).await;
        self.with(|w, n| {
            if w.nodes[n].disk == Disk::Full {
                return Err("no space left on device".into());
            }
            let blind = w.is(Bug::AnnouncedTimelineTaken);
            if let Some(data) = w.nodes[n].postgres.data.as_mut().filter(|_| !blind) {
                data.skips_to = Some(to);
            }
            Ok(())
        })
    }

    async fn promote(&self) -> Made {
        self.takes(MS, 10 * MS).await;
        self.operate(Operation::Promote);
        self.with(|w, n| w.begin_promotion(n))
    }

    async fn wait_promoted(&self, limit: Duration) -> Made<Timeline> {
        let done = self.until(|w, n| {
            let postgres = &w.nodes[n].postgres;
            match &postgres.server {
                None => Some(Err("the server ended during the promotion".to_owned())),
                Some(s) if s.primary => Some(Ok(postgres.log().map_or(Timeline(0), |l| l.timeline()))),
                Some(_) => None,
            }
        });
        self.within(limit, done).await.unwrap_or_else(|| Err("the promotion takes too long".into()))
    }

    async fn follow(&self, upstream: Option<&Upstream>, slot: Option<&str>) -> Made<FollowOutcome> {
        self.disk().await;
        self.takes(2 * MS, 15 * MS).await;
        self.operate(Operation::Follow);
        self.with(|w, n| {
            let upstream = upstream.and_then(|u| w.source(&u.name));
            if let Some(data) = &mut w.nodes[n].postgres.data {
                (data.upstream, data.slot) = (upstream, slot.map(str::to_owned));
            }
        });
        Ok(FollowOutcome::Reloaded)
    }

    async fn fetch_slots(&self, from: &Upstream, _: &[LogicalSlot], _: Duration) -> Made<Vec<SlotCopy>> {
        Err(format!("{} has no logical slots in simulation", from.name))
    }

    async fn put_slots(&self, _: Vec<SlotCopy>) -> Made {
        Ok(())
    }

    async fn divergence(&self, from: &Upstream, limit: Duration) -> Made<Divergence> {
        self.disk().await;
        let compared = async {
            self.takes(5 * MS, 60 * MS).await;
            self.with(|w, n| {
                let peer = self.serving(w, n, &from.name).ok_or_else(|| format!("{} does not answer", from.name))?;
                let torn = w.nodes[n].postgres.data.as_ref().and_then(|data| data.torn);
                if let Some(fork) = torn.filter(|_| !w.is(Bug::HalfRewoundStarts)) {
                    return Ok(Divergence::HalfRewound { fork: Lsn(fork) });
                }
                super::histories::compare(w, n, peer)
            })
        };
        self.within(limit, compared).await.unwrap_or_else(|| Err("no answer in time".into()))
    }

    async fn basebackup(&self, from: &Upstream) -> Made {
        self.operate(Operation::Clone);
        let peer = self.copies(from, 400 * MS, 3 * SECOND).await?;
        self.with(|w, n| {
            let source = w.postgres_of(peer).and_then(|p| p.data.clone()).ok_or("the source has no data")?;
            w.nodes[n].postgres.data = Some(Data::standby_of(source, Some(peer)));
            Ok(())
        })
    }

    async fn record_loss(&self, against: &Upstream, destroying: Destroying, _limit: Duration) -> Made<Recorded> {
        self.disk().await;
        self.takes(10 * MS, 100 * MS).await;
        self.disk().await;
        let left_out = match destroying {
            Destroying::Rewind => Bug::ReceiptAfterTheRewind,
            Destroying::Removal => Bug::ReceiptLeftOut,
        };
        self.with(|w, n| {
            let Some(log) = w.nodes[n].postgres.log().cloned() else {
                return Ok(Recorded::Undecided("there is no data".into()));
            };
            let compared = match self.serving(w, n, &against.name) {
                Some(peer) => super::histories::fork(w, n, peer),
                None => Err(format!("{} does not answer", against.name)),
            };
            let from = match (compared, destroying) {
                (Ok(None), _) => return Ok(Recorded::Nothing("no fork".into())),
                (Ok(Some(from)), _) => from,
                (Err(why), Destroying::Rewind) => return Ok(Recorded::Undecided(why)),
                (Err(_), Destroying::Removal) => 0,
            };
            if w.nodes[n].disk == Disk::Full {
                return Err("no space left on device".into());
            }
            if !w.is(left_out) {
                w.nodes[n].postgres.receipts.push(Receipt { log, from });
            }
            Ok(Recorded::Receipt(format!("from {from}")))
        })
    }

    async fn archive_pending(&self, _limit: Duration) -> Made<usize> {
        Ok(0)
    }

    async fn recover(&self) -> Made<bool> {
        self.disk().await;
        let clean = [ControlState::ShutDown, ControlState::ShutDownInRecovery];
        if self.with(|w, n| w.nodes[n].postgres.data.as_ref().is_none_or(|d| clean.contains(&d.control))) {
            return Ok(false);
        }
        self.takes(100 * MS, SECOND).await;
        self.disk().await;
        if self.is_cancelled() {
            return Err("given up on request".into());
        }
        self.with(|w, n| match &mut w.nodes[n].postgres.data {
            Some(data) if data.torn.is_some() => Err("recovery failed: the directory is of no use".into()),
            Some(data) => {
                (data.control, data.standby_signal) = (ControlState::ShutDown, false);
                Ok(true)
            }
            None => Err("there is no data".into()),
        })
    }

    async fn rewind(&self, from: &Upstream, _limit: Duration) -> Made {
        self.operate(Operation::Rewind);
        let unfit = self.with(|w, n| {
            let clean = [ControlState::ShutDown, ControlState::ShutDownInRecovery];
            if !w.nodes[n].postgres.data.as_ref().is_some_and(|d| clean.contains(&d.control)) {
                return Some("the target server must be shut down cleanly".to_owned());
            }
            let peer = self.serving(w, n, &from.name);
            let writes = peer.and_then(|peer| w.postgres_of(peer)).is_some_and(|p| p.writes());
            (!writes).then(|| format!("{} is no primary", from.name))
        });
        if let Some(why) = unfit {
            return Err(why);
        }
        let same = |w: &World, n: usize, peer: usize| {
            let timeline = |at: usize| w.postgres_of(at).and_then(|p| p.log()).map(|l| l.timeline());
            timeline(n) == timeline(peer)
        };
        let fork = self.with(|w, n| match self.serving(w, n, &from.name) {
            Some(peer) => super::histories::parted(w, n, peer),
            None => Err(format!("{} does not answer", from.name)),
        })?;
        // As shipped: it is written down before, so that a process that is killed tells too.
        let begun = self.with(|w, n| {
            let forgotten = w.is(Bug::HalfRewoundStarts);
            let data = w.nodes[n].postgres.data.as_mut()?;
            if !forgotten && data.torn.is_some_and(|before| fork.is_none_or(|fork| fork > before)) {
                return None;
            }
            data.torn = fork.or(data.torn);
            Some(())
        });
        if begun.is_none() {
            return Err("it left this history too late to mend what another rewind left".into());
        }
        let peer = self.copies(from, 200 * MS, 2 * SECOND).await?;
        if self.with(|w, n| same(w, n, peer)) {
            // pg_rewind: source and target are on the same timeline, no rewind required.
            self.with(|w, n| w.nodes[n].postgres.data.iter_mut().for_each(|data| data.torn = None));
            return Ok(());
        }
        self.destroys(None);
        self.with(|w, n| {
            let source = w.postgres_of(peer).and_then(|p| p.log()).cloned().ok_or("the source has no data")?;
            if let Some(data) = &mut w.nodes[n].postgres.data {
                data.log = source;
                (data.control, data.standby_signal, data.torn) = (ControlState::InArchiveRecovery, true, None);
            }
            Ok(())
        })
    }

    async fn remove_data_dir(&self) -> Made {
        self.disk().await;
        self.operate(Operation::Remove);
        let silent = self.with(|w, _| w.is(Bug::RemovedInSilence));
        let told = said::last().filter(|text| text.contains("removing the data directory") && !silent);
        self.destroys(told.as_deref());
        self.takes(10 * MS, 200 * MS).await;
        self.with(|w, n| w.nodes[n].postgres.data = None);
        Ok(())
    }

    async fn move_data_dir_aside(&self) -> Made<String> {
        self.disk().await;
        self.operate(Operation::MoveAside);
        self.with(|w, n| w.nodes[n].postgres.data = None);
        Ok("data.aside".into())
    }
}
