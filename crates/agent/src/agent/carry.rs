//! Carries out what a step ordered.

use std::collections::BTreeMap;
use std::time::Duration;

use surus_conduct::task::TaskContext;
use surus_config::RoleOverlay;
use surus_core::MemberName;
use surus_core::facts::{Facts, PeerFact, RunningTask};
use surus_core::order::{Epoch, Order, Task};
use surus_store::clock::boot_now;
use surus_store::{StoreError, TxnOutcome};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ActiveTask, Agent};
use crate::handle::Reply;
use crate::hands::{self, RealHands};

/// A peer that takes longer is not in a state to lead.
const PROBE: Duration = Duration::from_secs(1);
/// One compare-and-set on behalf of a step.
const WRITE: Duration = Duration::from_secs(1);
/// Pause after one that failed.
const AGAIN: Duration = Duration::from_millis(500);

impl Agent {
    pub(super) async fn carry_out(
        &mut self,
        orders: Vec<Order>,
        reply: Option<Result<String, String>>,
        facts: &Facts,
    ) -> Option<Result<(), String>> {
        let mut end = None;
        let mut begun = None;
        for order in orders {
            match order {
                Order::Begin { task, epoch } => {
                    begun = Some(epoch);
                    self.begin(task, epoch, facts);
                }
                Order::Cancel { epoch, why } => {
                    if let Some(task) =
                        self.task.as_ref().filter(|t| t.running.epoch == epoch && !t.cancel.is_cancelled())
                    {
                        warn!("cancelling {}: {why}", task.running.task.name());
                        task.cancel.cancel();
                    }
                }
                Order::TakeLead => self.take_lead(facts).await,
                Order::ReleaseLead => match timeout(self.spare(WRITE), self.lease.release(None)).await {
                    Ok(Ok(())) => info!("leader lock released"),
                    Ok(Err(e)) => warn!("the leader lock could not be released, it ends with its ttl: {e}"),
                    Err(_) => info!("the store is slow to release the leader lock"),
                },
                Order::Probe { members } => self.probe(&members, facts),
                Order::ClearFailover { version } => {
                    info!("Cleaning up failover key");
                    let limit = self.spare(WRITE);
                    let cleared = self.store.compare_and_put("failover", Some(version), "{}".into(), limit).await;
                    if let Err(e) = cleared {
                        warn!("the failover key could not be cleared: {e}");
                    }
                }
                Order::NameCandidate { version, request } => {
                    let limit = self.spare(WRITE);
                    match self.store.compare_and_put("failover", Some(version), request.to_text(), limit).await {
                        Ok(TxnOutcome::Applied(_)) => {}
                        // Withdrawn or replaced meanwhile, or not known: then nothing is handed over on its account.
                        Ok(TxnOutcome::Conflict) => {
                            info!("the failover key changed meanwhile, looking at it again");
                            break;
                        }
                        Err(e) => {
                            warn!("the candidate could not be named in the failover key, trying again: {e}");
                            self.again_at = self.again_at.min(tokio::time::Instant::now() + AGAIN);
                            break;
                        }
                    }
                }
                Order::WriteSystemId { .. } | Order::WriteConfig { .. } | Order::WriteHistory => self.upkeep.add(order),
                Order::Exit(result) => end = Some(result),
            }
        }
        self.answer_request(reply, begun);
        end
    }

    fn answer_request(&mut self, reply: Option<Result<String, String>>, begun: Option<Epoch>) {
        let Some(reply) = reply else { return };
        let Some((request, _, tx)) = self.asked.take() else { return };
        match (reply, request, begun) {
            (Err(why), ..) => drop(tx.send(Reply::Refused(why))),
            // A restart is answered when it is over.
            (Ok(_), surus_core::order::Request::Restart, Some(epoch)) => self.answering = Some((epoch, tx)),
            (Ok(text), ..) => drop(tx.send(Reply::Ok(text))),
        }
    }

    fn begin(&mut self, task: Task, epoch: Epoch, facts: &Facts) {
        if self.task.is_some() {
            warn!("{} was ordered while another task runs; please report it as a BUG", task.name());
            return;
        }
        // What the server is to become decides on its settings, not what it was.
        match &task {
            Task::Bootstrap | Task::StartPrimary | Task::Promote => self.set_overlay(RoleOverlay::Primary),
            Task::StartStandby { .. } => self.set_overlay(RoleOverlay::Replica),
            _ => {}
        }
        let settings = &facts.settings;
        let start_timeout = match &self.asked {
            Some((_, Some(timeout), _)) => *timeout,
            _ if settings.primary_start_timeout.is_zero() => Duration::from_secs(300),
            _ => settings.primary_start_timeout,
        };
        let cancel = CancellationToken::new();
        let context = TaskContext {
            me: self.me.clone(),
            patience: self.settings.pg_ctl_timeout(),
            start_timeout,
            use_slots: settings.use_slots,
            founding_document: self.settings.founding_document().to_string(),
            post_bootstrap: self.settings.local.bootstrap.as_ref().and_then(|b| b.post_bootstrap.clone()),
            data_dir: self.settings.data_dir().display().to_string(),
            is_primary: facts.postgres.is_primary(),
            view: facts.store.view.clone(),
        };
        let hands = RealHands {
            instance: self.instance.clone(),
            store: self.store.clone(),
            lease: self.lease.clone(),
            api: self.api.clone(),
            progress: self.progress.clone(),
            cancel: cancel.clone(),
        };
        let running = RunningTask { task: task.clone(), epoch, since: boot_now() };
        let end = tokio::spawn(hands::perform(task, context, hands));
        self.task = Some(ActiveTask { running, cancel, end });
    }

    async fn take_lead(&mut self, facts: &Facts) {
        // A store that hangs must not keep a primary without the lead from being stopped. What comes of it later
        // shows in the lease's state.
        let Ok(taken) = timeout(self.spare(WRITE), self.lease.take()).await else {
            info!("the store is slow to answer who has the leader lock");
            return;
        };
        match taken {
            Ok(true) => {
                info!("acquired session lock as a leader");
                // Whatever was asked for has happened now; but what was asked of me in an earlier run is still to be done.
                if let Some(version) = facts
                    .store
                    .view
                    .as_deref()
                    .filter(|v| v.failover.is_some() && v.leader_name() != Some(&self.me))
                    .and_then(|v| v.failover_version)
                {
                    let store = self.store.clone();
                    tokio::spawn(async move {
                        if let Err(e) = store.compare_and_put("failover", Some(version), "{}".into(), WRITE).await {
                            warn!("the failover key could not be cleared: {e}");
                        }
                    });
                }
                self.again_at = tokio::time::Instant::now();
            }
            Ok(false) => info!("Could not take out TTL lock: another member was faster"),
            Err(StoreError::LeaseGone) => {
                warn!("could not take the leader lock: my session in the store ended, opening a new one")
            }
            Err(e) => warn!("could not take the leader lock: {e}"),
        }
    }

    /// Asks each member once; the loop wakes when all have answered or ran out of time.
    fn probe(&mut self, members: &[MemberName], facts: &Facts) {
        let view = facts.store.view.as_deref();
        let urls: BTreeMap<MemberName, Option<String>> = members
            .iter()
            .filter(|name| self.asking.get(*name).is_none_or(|at| boot_now().since(*at) > PROBE * 3))
            .map(|name| {
                let member = view.and_then(|v| v.members.get(name)).or_else(|| self.memory.known_members.get(name));
                let known = member.and_then(|m| m.api_url.clone());
                let before = self.memory.known_members.get(name).and_then(|m| m.api_url.clone());
                (name.clone(), known.or(before))
            })
            .collect();
        for (name, url) in urls {
            let asked = boot_now();
            self.asking.insert(name.clone(), asked);
            let (api, tx) = (self.api.clone(), self.answers.0.clone());
            tokio::spawn(async move {
                let answer = match url {
                    Some(url) => hands::ask(&api, &url, PROBE).await,
                    None => Err("publishes no api_url".into()),
                };
                let _ = tx.send((name, PeerFact { asked, answer })).await;
            });
        }
        if self.asking.is_empty() {
            self.again_at = tokio::time::Instant::now();
        }
    }
}
