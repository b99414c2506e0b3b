//! Carries out what a step ordered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use surus_conduct::member::{Deed, PROBE};
use surus_conduct::task::{Phase, TaskContext};
use surus_config::RoleOverlay;
use surus_core::cluster::KeyVersion;
use surus_core::facts::{Facts, PeerFact};
use surus_core::order::Task;
use surus_core::{BootTime, MemberName};
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Agent, TaskHandle};
use crate::hands::{self, RealHands};

impl Agent {
    /// `Some`: the process is to end with that.
    pub(super) async fn carry_out(&mut self, facts: &Facts) -> Option<Result<(), String>> {
        while let Some(deed) = self.member.next(facts, self.lease.lead(), boot_now()) {
            match deed {
                Deed::Begin { task, start_timeout } => self.begin(task.task, start_timeout, facts),
                Deed::Cancel => {
                    if let Some(task) = &self.task {
                        task.cancel.cancel();
                    }
                }
                Deed::TakeLead { firm: true, .. } if !self.failsafe.give_myself(true) => {}
                Deed::TakeLead { again, beside, limit, .. } => {
                    let take = async { if again { self.lease.retake().await } else { self.lease.take(beside).await } };
                    let taken = timeout(limit, take).await.ok();
                    let leaderless = self.member.memory().leaderless_since.filter(|_| !again);
                    if let (Some(Ok(true)), Some(since)) = (&taken, leaderless) {
                        let planned = facts.store.view.as_ref().is_some_and(|v| v.failover.is_some());
                        self.measures.phase(Phase::Race, planned, boot_now().since(since));
                    }
                    self.member.lead_taken(taken, facts, boot_now());
                }
                Deed::ReleaseLead { limit } => {
                    let released = timeout(limit, self.lease.release(None)).await.ok();
                    self.member.lead_released(released);
                }
                Deed::Probe { at, whom } => self.probe(at, whom),
                Deed::AskConsent { at, whom, firm } => self.ask_consent(at, whom, firm),
                Deed::ClearFailover { version, limit } => clear_failover(&self.store, version, limit).await,
                Deed::ClearFailoverLater { version, limit } => {
                    let store = self.store.clone();
                    tokio::spawn(async move { clear_failover(&store, version, limit).await });
                }
                Deed::NameCandidate { version, text, limit } => {
                    let named = self.store.compare_and_put("failover", Some(version), text, limit).await;
                    self.member.candidate_named(named, boot_now());
                }
                Deed::Write(order) => self.upkeep.add(order),
                Deed::SetNames { names, limit } => self.set_names(names, limit),
                Deed::WriteSync { state, version, limit } => self.write_sync(state, version, limit),
                Deed::Answer { whom, said } => drop(whom.send(said.into())),
            }
        }
        self.member.take_end()
    }

    fn begin(&mut self, task: Task, start_timeout: Duration, facts: &Facts) {
        // What the server is to become decides on its settings, not what it was.
        match &task {
            Task::Bootstrap | Task::StartPrimary | Task::Promote => self.set_overlay(RoleOverlay::Primary),
            Task::StartStandby { .. } if facts.settings.standby_cluster && facts.lead.is_some() => {
                self.set_overlay(RoleOverlay::StandbyLeader);
            }
            Task::StartStandby { .. } => self.set_overlay(RoleOverlay::Replica),
            _ => {}
        }
        let cancel = CancellationToken::new();
        let context = TaskContext {
            me: self.me.clone(),
            patience: self.settings.pg_ctl_timeout(),
            start_timeout,
            settings: facts.settings.clone(),
            founding_document: self.settings.founding_document().to_string(),
            post_bootstrap: self.settings.local.bootstrap.as_ref().and_then(|b| b.post_bootstrap.clone()),
            data_dir: self.settings.data_dir().display().to_string(),
            is_primary: facts.postgres.is_primary(),
            inherited: facts.inherited.is_some(),
            view: facts.store.view.clone(),
        };
        let hands = RealHands {
            instance: self.instance.clone(),
            callbacks: self.callbacks.clone(),
            methods: self.settings.replica_methods(),
            remote_methods: self.settings.remote_methods(),
            store: self.store.clone(),
            lease: self.lease.clone(),
            fence: self.fence.clone(),
            left_alone: self.left_alone.clone(),
            watchdog: self.watchdog.clone(),
            deadline: self.deadline.clone(),
            api: self.api.clone(),
            progress: self.progress.clone(),
            measures: self.measures.clone(),
            cancel: cancel.clone(),
        };
        let end = tokio::spawn(hands::perform(task, context, hands));
        self.task = Some(TaskHandle { cancel, end });
    }

    /// The loop wakes when all have answered or ran out of time.
    fn probe(&self, asked: BootTime, whom: BTreeMap<MemberName, Option<String>>) {
        for (name, url) in whom {
            let (api, tx) = (self.api.clone(), self.answers.0.clone());
            tokio::spawn(async move {
                let answer = match url {
                    Some(url) => hands::ask(&api, &url, PROBE).await,
                    None => Err("publishes no api_url".into()),
                };
                let _ = tx.send((name, PeerFact { asked, answer })).await;
            });
        }
    }
}

async fn clear_failover(store: &Arc<ClusterStore>, version: KeyVersion, limit: Duration) {
    if let Err(e) = store.compare_and_put("failover", Some(version), "{}".into(), limit).await {
        warn!("the failover key could not be cleared: {e}");
    }
}
