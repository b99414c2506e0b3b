//! From the orders of a step to single deeds.

use std::collections::BTreeMap;
use std::time::Duration;

use surus_core::cluster::KeyVersion;
use surus_core::facts::{Facts, Lead, RunningTask};
use surus_core::order::{Epoch, Order, Request, Task};
use surus_core::store::{Announce, Beside, StoreError, StoreResult, TxnOutcome};
use surus_core::synchronous::Names;
use surus_core::{BootTime, MemberName, Timeline};
use tracing::{debug, info, warn};

use super::{Member, Running, Said};

/// A peer that takes longer to answer is not in a state to lead.
pub const PROBE: Duration = Duration::from_secs(1);
/// One compare-and-set on behalf of a step.
pub const WRITE: Duration = Duration::from_secs(1);
/// Pause after one that failed.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, PartialEq)]
pub enum Deed<T> {
    /// Begin this task; its end is told by [`Member::ended`].
    Begin {
        task: RunningTask,
        start_timeout: Duration,
    },
    /// Tell the running task to end.
    Cancel,
    /// Ask the lease keeper, wait at most `limit`, and tell [`Member::lead_taken`].
    TakeLead {
        /// Only if the key carries my name still.
        again: bool,
        /// What was decided on.
        beside: Beside,
        /// It rests on a promise to myself: from here on I break it for nobody, and if it is broken already the lead is not
        /// taken.
        firm: bool,
        limit: Duration,
    },
    /// Ask the lease keeper, wait at most `limit`, and tell [`Member::lead_released`].
    ReleaseLead {
        limit: Duration,
    },
    /// Ask these members, all at once and without waiting, each at its `api_url` if it is known. Each answer is told by
    /// [`Member::answered`], and there is one for each in the end.
    Probe {
        at: BootTime,
        whom: BTreeMap<MemberName, Option<String>>,
    },
    /// Promise myself that I vouch for nobody else, and ask these to promise me that, each at its URL, without waiting. Each
    /// answer is told by [`Member::consented`]. `firm`: see [`Deed::TakeLead`].
    AskConsent {
        at: BootTime,
        whom: BTreeMap<MemberName, String>,
        firm: bool,
    },
    /// Write `{}` to the `failover` key if it still has this version.
    ClearFailover {
        version: KeyVersion,
        limit: Duration,
    },
    /// The same without waiting for it.
    ClearFailoverLater {
        version: KeyVersion,
        limit: Duration,
    },
    /// Write this text to the `failover` key if it still has this version, and tell [`Member::candidate_named`].
    NameCandidate {
        version: KeyVersion,
        text: String,
        limit: Duration,
    },
    /// Write one of the cluster's keys in the background.
    Write(Order),
    /// Bring this into force in the background, and tell [`Member::names_set`].
    SetNames {
        /// `None`: what is configured.
        names: Option<Names>,
        limit: Duration,
    },
    /// Write the `sync` key in the background, and tell [`Member::sync_written`].
    WriteSync {
        state: Option<String>,
        version: Option<KeyVersion>,
        limit: Duration,
    },
    Answer {
        whom: T,
        said: Said,
    },
}

impl<T> Member<T> {
    /// The next thing to do on account of the latest decision. `None`: that was all.
    pub fn next(&mut self, facts: &Facts, lead: Option<Lead>, now: BootTime) -> Option<Deed<T>> {
        if let Some(version) = self.met.take() {
            return Some(Deed::ClearFailoverLater { version, limit: WRITE });
        }
        let limit = self.spare(now, lead, &facts.settings.timing, WRITE);
        while let Some(order) = self.orders.pop_front() {
            let deed = match order {
                Order::Begin { task, epoch } => self.begin(task, epoch, facts, now),
                Order::Cancel { epoch, why } => self.cancel(epoch, &why),
                Order::TakeLead | Order::RetakeLead => {
                    let view = facts.store.view.as_deref();
                    let unguarded = view.and_then(|v| v.unguarded.as_ref()).map(|u| u.version);
                    let announce = self.announce(facts).filter(|_| order == Order::TakeLead);
                    let config = view.and_then(|v| v.config.as_ref()).map(|c| c.version);
                    let vouching = view.map(|v| v.vouching_version);
                    let beside = Beside { unguarded, vouching, sync: view.map(|v| v.sync_version), config, announce };
                    let firm = facts.failsafe.given.as_ref().is_some_and(|p| p.to == self.me);
                    self.took_on = None;
                    Some(Deed::TakeLead { again: order == Order::RetakeLead, beside, firm, limit })
                }
                Order::ReleaseLead => Some(Deed::ReleaseLead { limit }),
                Order::Probe { members } => self.probe(&members, facts, now),
                Order::AskConsent { members } => Some(self.ask_consent(&members, facts, now)),
                Order::ClearFailover { version } => {
                    info!("Cleaning up failover key");
                    Some(Deed::ClearFailover { version, limit })
                }
                Order::NameCandidate { version, request } => {
                    Some(Deed::NameCandidate { version, text: request.to_text(), limit })
                }
                Order::WriteSystemId { .. }
                | Order::WriteConfig { .. }
                | Order::WriteHistory
                | Order::RequestSwitchover { .. } => Some(Deed::Write(order)),
                Order::SetNames { names } => Some(self.set_names(names, lead)),
                Order::WriteSync { state, version } => Some(self.write_sync(state, version, lead)),
                Order::Exit(result) => {
                    self.end = Some(result);
                    None
                }
            };
            if deed.is_some() {
                return deed;
            }
        }
        self.answer_request()
    }

    /// What a standby says along with taking the lead: its promotion follows at once, and need not write it then.
    fn announce(&self, facts: &Facts) -> Option<Announce> {
        let (view, server) = (facts.store.view.as_deref()?, facts.postgres.observed()?);
        let timeline = server.timeline.filter(|_| server.in_recovery && !facts.settings.standby_cluster)?;
        let next = Timeline(timeline.0.saturating_add(1));
        Some(Announce { timeline: view.timeline_for(&self.me, next), over: view.announced_version })
    }

    fn answer_request(&mut self) -> Option<Deed<T>> {
        let reply = self.reply.take()?;
        let asked = self.asked.take()?;
        match (reply, asked.request, self.begun) {
            // A restart is answered when it is over.
            (Ok(_), Request::Restart, Some(epoch)) => {
                self.answering = Some((epoch, asked.whom));
                None
            }
            (said, ..) => Some(Deed::Answer { whom: asked.whom, said }),
        }
    }

    fn begin(&mut self, task: Task, epoch: Epoch, facts: &Facts, now: BootTime) -> Option<Deed<T>> {
        if self.running.is_some() {
            warn!("{} was ordered while another task runs; please report it as a BUG", task.name());
            self.reply = self.reply.take().map(|_| Err("another task runs".into()));
            return None;
        }
        let start_timeout = match self.asked.as_ref().and_then(|a| a.timeout) {
            Some(timeout) => timeout,
            None if facts.settings.primary_start_timeout.is_zero() => Duration::from_secs(300),
            None => facts.settings.primary_start_timeout,
        };
        self.begun = Some(epoch);
        let task = RunningTask { task, epoch, since: now };
        self.running = Some(Running { task: task.clone(), cancelled: false });
        Some(Deed::Begin { task, start_timeout })
    }

    fn cancel(&mut self, epoch: Epoch, why: &str) -> Option<Deed<T>> {
        let running = self.running.as_mut().filter(|r| r.task.epoch == epoch && !r.cancelled)?;
        running.cancelled = true;
        warn!("cancelling {}: {why}", running.task.task.name());
        Some(Deed::Cancel)
    }

    fn ask_consent(&mut self, members: &[MemberName], facts: &Facts, now: BootTime) -> Deed<T> {
        let list = facts.store.view.as_deref().and_then(|v| v.failsafe.as_ref());
        let url = |name: &MemberName| Some((name.clone(), list?.get(name)?.clone()));
        let whom: BTreeMap<MemberName, String> = members.iter().filter_map(url).collect();
        self.consents.retain(|name, _| !whom.contains_key(name));
        Deed::AskConsent { at: now, whom, firm: facts.lead.is_some() }
    }

    /// Each member is asked once at a time.
    fn probe(&mut self, members: &[MemberName], facts: &Facts, now: BootTime) -> Option<Deed<T>> {
        let view = facts.store.view.as_deref();
        let whom: BTreeMap<MemberName, Option<String>> = members
            .iter()
            .filter(|name| self.asking.get(*name).is_none_or(|at| now.since(*at) > PROBE * 3))
            .map(|name| {
                let before = self.memory.known_members.get(name).and_then(|m| m.api_url.clone());
                let known = view.and_then(|v| v.members.get(name)).and_then(|m| m.api_url.clone());
                (name.clone(), known.or(before))
            })
            .collect();
        self.asking.extend(whom.keys().map(|name| (name.clone(), now)));
        if self.asking.is_empty() {
            self.again_at = now;
        }
        (!whom.is_empty()).then_some(Deed::Probe { at: now, whom })
    }

    /// What the lease keeper said, `None` if nothing in time: what comes of it later shows in its state.
    pub fn lead_taken(&mut self, taken: Option<StoreResult<bool>>, facts: &Facts, now: BootTime) {
        if let Some(Ok(_)) = &taken {
            self.taking_fails.over();
        }
        match taken {
            // A store that hangs must not keep a primary without the lead from being stopped.
            None => info!("the store is slow to answer who has the leader lock"),
            Some(Ok(true)) => {
                info!("acquired session lock as a leader");
                self.again_at = now;
                // Whatever was asked for has happened now; but what was asked of me in an earlier run is still to be
                // done.
                let view = facts.store.view.as_deref();
                // The store compared who may vouch with what I have read: nothing newer has to be waited for.
                self.took_on = view.filter(|v| v.leader_name() != Some(&self.me)).map(|v| v.revision);
                self.met = view
                    .filter(|v| v.failover.is_some() && v.leader_name() != Some(&self.me))
                    .and_then(|v| v.failover_version);
            }
            Some(Ok(false)) => info!("Could not take out TTL lock: another member was faster"),
            Some(Err(StoreError::LeaseGone)) => {
                warn!("could not take the leader lock: my session in the store ended, opening a new one");
            }
            Some(Err(e)) if self.taking_fails.is_news(&e) => warn!("could not take the leader lock: {e}"),
            Some(Err(e)) => debug!("could not take the leader lock: {e}"),
        }
    }

    pub fn lead_released(&mut self, released: Option<StoreResult<()>>) {
        match released {
            Some(Ok(())) => info!("leader lock released"),
            Some(Err(e)) => warn!("the leader lock could not be released, it ends with its ttl: {e}"),
            None => info!("the store is slow to release the leader lock"),
        }
    }

    /// Nothing is handed over on account of a request that was withdrawn or replaced meanwhile, or may have been: the
    /// orders behind the naming are dropped.
    pub fn candidate_named(&mut self, named: StoreResult<TxnOutcome>, now: BootTime) {
        match named {
            Ok(TxnOutcome::Applied(_)) => return,
            Ok(TxnOutcome::Conflict) => info!("the failover key changed meanwhile, looking at it again"),
            Err(e) => {
                warn!("the candidate could not be named in the failover key, trying again: {e}");
                self.sooner(now + AGAIN);
            }
        }
        self.orders.clear();
    }
}
