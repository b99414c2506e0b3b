//! Does what the shipped conduct hands out, one deed after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use surus_conduct::member::{Deed, PROBE};
use surus_conduct::race::first;
use surus_conduct::task::{TaskContext, perform};
use surus_core::facts::{Facts, PeerFact};
use surus_core::order::Task;
use surus_core::synchronous::Names;
use surus_core::{BootTime, Lsn, MemberName};

use super::hands::SimHands;
use super::wait::{pause, sleep, until};
use super::{Member, Synced, publish};
use crate::bug::Bug;
use crate::history::Happened;
use crate::world::clock::{MS, SECOND};

impl Member {
    async fn limited<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        match first(work, sleep(&self.sim, self.node, limit)).await {
            futures_util::future::Either::Left(done) => Some(done),
            futures_util::future::Either::Right(()) => None,
        }
    }

    pub(super) async fn carry_out(self: &Arc<Member>, facts: &Facts) {
        loop {
            let (lead, now) = self.sim.with(|w| (w.lease(self.node).lead, w.boot(self.node)));
            let Some(deed) = self.mind().conduct.next(facts, lead, now) else { return };
            match deed {
                Deed::Begin { task, start_timeout } => self.begin(task.task, start_timeout, facts),
                Deed::Cancel => {
                    self.mind().cancel.store(true, Ordering::Relaxed);
                    self.sim.with(|w| w.nodes[self.node].stir());
                }
                Deed::TakeLead { firm: true, .. } if !self.promise_to_myself(true) => {}
                Deed::TakeLead { again, beside, limit, .. } => {
                    let taken = self.limited(limit, self.take_lead(again, beside)).await;
                    let now = self.now();
                    self.mind().conduct.lead_taken(taken, facts, now);
                }
                Deed::ReleaseLead { limit } => {
                    let released = self.limited(limit, self.release_lead(None)).await;
                    self.mind().conduct.lead_released(released);
                }
                Deed::Probe { at, whom } => self.probe(at, whom),
                Deed::AskConsent { at, whom, firm } => self.ask_consent(at, whom, firm),
                Deed::ClearFailover { version, limit } => {
                    let _ = self.store.compare_and_put("failover", Some(version), "{}".into(), limit).await;
                }
                Deed::ClearFailoverLater { version, limit } => {
                    let store = self.store.clone();
                    let clear = async move {
                        let _ = store.compare_and_put("failover", Some(version), "{}".into(), limit).await;
                    };
                    self.sim.with(|w| w.spawn(self.pid, Box::pin(clear)));
                }
                Deed::NameCandidate { version, text, limit } => {
                    let named = self.store.compare_and_put("failover", Some(version), text, limit).await;
                    let now = self.now();
                    self.mind().conduct.candidate_named(named, now);
                }
                Deed::Write(order) => self.write_for_cluster(order, facts),
                Deed::SetNames { names, limit } => {
                    let member = self.clone();
                    self.step_of_sync(async move {
                        let set = member.names_in_force(names.unwrap_or(Names::Nobody), limit).await;
                        Synced::Names(set)
                    });
                }
                Deed::WriteSync { state, version, limit } => {
                    let store = self.store.clone();
                    self.step_of_sync(async move { Synced::Written(store.write_sync(state, version, limit).await) });
                }
                Deed::Answer { .. } => {}
            }
        }
    }

    fn begin(self: &Arc<Member>, task: Task, start_timeout: Duration, facts: &Facts) {
        let cancel = Arc::new(AtomicBool::new(false));
        self.mind().cancel = cancel.clone();
        let context = TaskContext {
            me: self.me.clone(),
            patience: Duration::from_secs(60),
            start_timeout,
            settings: facts.settings.clone(),
            founding_document: self.sim.with(|w| w.founding.document.to_string()),
            post_bootstrap: None,
            data_dir: "data".into(),
            is_primary: facts.postgres.is_primary(),
            inherited: facts.inherited.is_some(),
            view: facts.store.view.clone(),
        };
        let hands = SimHands { member: self.clone(), task: task.clone(), cancel };
        let member = self.clone();
        let run = async move {
            let outcome = perform(task.clone(), context, hands).await;
            member.sim.with(|w| {
                w.happened(Happened::TaskEnded { node: member.node, task: &task, outcome: &outcome });
                w.tell(member.node, || format!("{} ends: {outcome:?}", task.name()));
                if let Some(agent) = &mut w.nodes[member.node].agent {
                    agent.inbox.ended = Some(outcome);
                }
                w.nodes[member.node].stir();
            });
        };
        self.sim.with(|w| w.spawn(self.pid, Box::pin(run)));
    }

    fn probe(self: &Arc<Member>, asked: BootTime, whom: BTreeMap<MemberName, Option<String>>) {
        for (name, url) in whom {
            let member = self.clone();
            let ask = async move {
                let answer = match url {
                    Some(url) => member.ask(&url, PROBE).await,
                    None => Err("publishes no api_url".into()),
                };
                member.sim.with(|w| {
                    if let Some(agent) = &mut w.nodes[member.node].agent {
                        agent.inbox.answers.push((name, PeerFact { asked, answer }));
                    }
                    w.nodes[member.node].stir();
                });
            };
            self.sim.with(|w| w.spawn(self.pid, Box::pin(ask)));
        }
    }

    fn step_of_sync(self: &Arc<Member>, work: impl Future<Output = Synced> + Send + 'static) {
        let member = self.clone();
        let run = async move {
            let synced = work.await;
            member.sim.with(|w| {
                if let Some(agent) = &mut w.nodes[member.node].agent {
                    agent.inbox.synced.push(synced);
                }
                w.nodes[member.node].stir();
            });
        };
        self.sim.with(|w| w.spawn(self.pid, Box::pin(run)));
    }

    /// Returns once no process of the server goes by an older value: how far the log is then.
    pub(super) async fn names_in_force(&self, names: Names, limit: Duration) -> Result<Lsn, String> {
        let (early, us) = self.sim.with(|w| (w.is(Bug::NamesNotInForce), w.random.between(2 * MS, 40 * MS)));
        pause(&self.sim, us / 2).await;
        let takes = if early { 5 * SECOND } else { us };
        self.sim.with(|w| w.set_names(self.node, names, takes));
        let done = until(&self.sim, self.node, |w| {
            let data = w.nodes[self.node].postgres.data.as_ref()?;
            (data.names_before.is_none() || early).then(|| data.log.lsn())
        });
        let flushed = self.limited(limit, done).await.ok_or("the server does not take the setting over")?;
        // Of another server, or of none: it will find the setting when it starts.
        Ok(flushed)
    }

    /// Work beside the decisions, one of a kind at a time.
    pub(super) fn aside(self: &Arc<Member>, kind: usize, work: impl Future<Output = ()> + Send + 'static) {
        if std::mem::replace(&mut self.mind().busy[kind], true) {
            return;
        }
        let member = self.clone();
        let run = async move {
            work.await;
            member.mind().busy[kind] = false;
            member.sim.with(|w| {
                if let Some(agent) = &mut w.nodes[member.node].agent {
                    agent.inbox.wake |= kind == publish::CHECKPOINT || kind == publish::UNGUARDED;
                }
                w.nodes[member.node].stir();
            });
        };
        self.sim.with(|w| w.spawn(self.pid, Box::pin(run)));
    }
}
