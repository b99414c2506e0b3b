//! What readers and other members get to see.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use surus_core::cluster::{MemberRole, MemberState, Status};
use surus_core::facts::{Answer, Facts};
use surus_core::postgres::{DataDir, Observed};
use surus_core::report::Report;
use surus_core::rules::Leads;
use surus_postgres::Instance;
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use tracing::{debug, info};

use super::Agent;
use crate::failsafe::Failsafe;
use crate::handle::{Counters, Published};
use crate::lease::LeaseState;
use crate::measure::Measures;
use crate::member::{self, Extra};
use crate::settings::Settings;

/// Decisions kept for `GET /explain`.
const DECISIONS: usize = 50;

pub fn initial(settings: &Settings, store: &ClusterStore, measures: &Arc<Measures>, failsafe: Failsafe) -> Published {
    Published {
        at: boot_now(),
        name: settings.local.name.clone(),
        scope: settings.local.scope.clone(),
        state: MemberState::Stopped,
        role: MemberRole::Uninitialized,
        system_id: None,
        tags: settings.local.tags.clone(),
        observed: None,
        settings: Arc::new(settings.effective.settings.clone()),
        view: None,
        store_last_seen: 0,
        lease_until: None,
        failsafe,
        fence: Default::default(),
        watchdog: Default::default(),
        stalls: Default::default(),
        wal: Default::default(),
        losses: Default::default(),
        forked: None,
        wanting: Default::default(),
        pending_restart: std::collections::BTreeMap::new(),
        scheduled_restart: None,
        progress: None,
        task: None,
        next_step: boot_now() + Duration::from_secs(10),
        decisions: Arc::new(vec![]),
        store: store.kv().health(),
        counters: Counters::default(),
        measures: measures.clone(),
    }
}

/// Live questions to PostgreSQL for the REST server; whoever asks while one is under way shares it.
pub struct Observer {
    instance: Instance,
    last: tokio::sync::Mutex<Option<Arc<Observed>>>,
}

impl Observer {
    pub fn new(instance: Instance) -> Arc<Observer> {
        Arc::new(Observer { instance, last: tokio::sync::Mutex::new(None) })
    }

    pub async fn observe(&self) -> Option<Arc<Observed>> {
        let asked = boot_now();
        let limit = Duration::from_secs(2);
        let answer = tokio::time::timeout(limit, async {
            let mut last = self.last.lock().await;
            if let Some(observed) = last.clone().filter(|o| o.at >= asked) {
                return Some(observed);
            }
            *last = self.instance.observe(limit).await.ok().map(Arc::new);
            last.clone()
        });
        answer.await.ok().flatten()
    }
}

impl Agent {
    pub(super) fn publish(&mut self, facts: &Facts) {
        let lease = self.lease_state.borrow().clone();
        self.leave_deadline(&lease);
        let extra = Extra {
            pending_restart: &self.pending_restart,
            scheduled_restart: self.scheduled_restart.as_ref().map(|s| &s.0),
            server: surus_conduct::publish::Server {
                checkpoint_pending: self.upkeep.checkpoint_pending,
                start_failed: self.member.memory().start_failures > 0,
                crashed: self.crashed,
            },
            loss: self.losses.shown().remark(),
            forked: surus_core::forked::told(facts, self.member.memory()),
            disk: self.upkeep.slots.wal().room.and_then(|room| facts.settings.disk_guard.remark(room)),
        };
        // A task may have begun in this step: readers should see it at once.
        let mut shown = facts.clone();
        shown.task = self.member.task().cloned();
        if self.member.memory().leaving_since.is_some() {
            shown.tags = shown.tags.off_duty();
        }
        let member = member::member(&shown, &self.settings.local, &self.settings.effective, &extra);
        self.counters.journal = self.recorder.counters();
        self.counters.lease_renewals = lease.renewals;
        self.counters.lease_renewal_failures = lease.failures;
        self.counters.last_lease_renewal = lease.renewed.map(|r| r.1);
        let published = Published {
            at: facts.now,
            name: self.me.clone(),
            scope: self.settings.local.scope.clone(),
            state: member.state,
            role: member.role,
            system_id: match &facts.postgres.data_dir {
                DataDir::Present { control, .. } => Some(control.system_id.clone()),
                _ => None,
            },
            tags: shown.tags.clone(),
            observed: match &facts.postgres.answer {
                Answer::Known(o) => Some(o.clone()),
                Answer::Unknown(..) => None,
            },
            settings: Arc::new(facts.settings.clone()),
            view: self.member.seen().view.clone().map(|v| (v, self.member.seen().known_at(facts.now))),
            store_last_seen: self.store_last_seen(),
            lease_until: lease.lead.map(|l| l.until),
            failsafe: self.failsafe.clone(),
            fence: self.fence.shown(),
            watchdog: self.watchdog.shown(),
            stalls: self.stalls.shown(),
            wal: self.upkeep.slots.wal(),
            losses: self.losses.shown(),
            forked: member.forked.clone(),
            wanting: self.upkeep.wanting.shown(),
            pending_restart: self.pending_restart.clone(),
            scheduled_restart: self.scheduled_restart.as_ref().map(|s| s.0.clone()),
            progress: self.progress.borrow().clone(),
            task: shown.task.as_ref().map(|t| t.task.name()),
            next_step: self.member.again_at(),
            decisions: Arc::new(self.decisions.iter().cloned().collect()),
            store: self.store.kv().health(),
            counters: self.counters,
            measures: self.measures.clone(),
        };
        self.show_vouchers(facts, &member);
        self.replace(published);
        let leads = facts.postgres.is_primary() || facts.settings.standby_cluster;
        let status = (lease.lead.is_some() && leads && self.member.task().is_none())
            .then(|| facts.postgres.observed().map(|o| self.upkeep.slots.status(facts, o, &self.settings.dynamic)))
            .flatten();
        // A leader without a member key shows up as a member that publishes nothing.
        let missing_at = self
            .member
            .seen()
            .view
            .as_deref()
            .filter(|v| self.member.seen().is_current() && v.members.get(&self.me).is_none_or(|m| m.api_url.is_none()))
            .map(|v| v.revision);
        self.keys.send_if_modified(|desired| {
            let before = desired.clone();
            desired.member = lease.session.then_some(member);
            desired.session_number = lease.session_number;
            desired.missing_at = missing_at;
            desired.status = status.as_ref().map(Status::to_text);
            *desired != before
        });
    }

    fn replace(&self, published: Published) {
        self.published.store(Arc::new(published));
        self.changed.send_modify(|n| *n += 1);
    }

    fn store_last_seen(&self) -> i64 {
        let behind = boot_now().since(self.member.seen().known_at(boot_now()));
        if self.member.seen().view.is_none() {
            0
        } else {
            jiff::Timestamp::now().as_second() - i64::try_from(behind.as_secs()).unwrap_or(0)
        }
    }

    /// A new reading of the store that no decision turns on.
    pub(super) fn publish_view(&self) {
        let now = boot_now();
        let mut published = Published::clone(&self.published.load());
        published.view = self.member.seen().view.clone().map(|v| (v, self.member.seen().known_at(now)));
        published.store_last_seen = self.store_last_seen();
        self.replace(published);
    }

    pub(super) fn publish_lease(&mut self, lease: &LeaseState) {
        let mut published = Published::clone(&self.published.load());
        published.lease_until = lease.lead.map(|l| l.until);
        published.fence = self.fence.shown();
        published.watchdog = self.watchdog.shown();
        published.stalls = self.stalls.shown();
        published.counters.lease_renewals = lease.renewals;
        published.counters.lease_renewal_failures = lease.failures;
        published.counters.last_lease_renewal = lease.renewed.map(|r| r.1);
        published.view = self.member.seen().view.clone().map(|v| (v, self.member.seen().known_at(boot_now())));
        published.store_last_seen = self.store_last_seen();
        self.published.store(Arc::new(published));
        self.leave_deadline(lease);
    }

    /// For a successor of this process.
    fn leave_deadline(&self, lease: &LeaseState) {
        self.deadline.leave(self.member.leaves(lease.lead, self.settings.effective.settings.pause));
    }

    /// Logs a decision when it differs from the one before, and keeps it for `GET /explain`.
    pub(super) fn record(&mut self, facts: &Facts, report: &Report) {
        let key = (report.rule, surus_journal::uncounted(&report.goal));
        let repeated = self.last_goal.as_ref() == Some(&key);
        if repeated {
            debug!("{} [rule {}]", report.goal, report.rule);
        } else {
            info!("{} [rule {}]", report.goal, report.rule);
            for c in &report.candidates {
                info!("  {}: {} ({})", c.name, if c.fit { "fit" } else { "not fit" }, c.why);
            }
            self.last_goal = Some(key);
        }
        self.measures.rule(report.rule, facts.now);
        let at = jiff::Timestamp::now().to_string();
        let mut entry = serde_json::to_value(report).unwrap_or(Value::Null);
        if let Value::Object(map) = &mut entry {
            map.insert("at".into(), Value::String(at.clone()));
            map.insert("facts".into(), summary(facts));
        }
        if repeated && let Some(Value::Object(front)) = self.decisions.front_mut() {
            // The same decision again: only its facts are newer.
            let since = front.get("since").or_else(|| front.get("at")).cloned().unwrap_or(Value::Null);
            let times = front.get("times").and_then(Value::as_u64).unwrap_or(1) + 1;
            if let Value::Object(map) = &mut entry {
                map.insert("since".into(), since);
                map.insert("times".into(), times.into());
            }
            self.decisions.pop_front();
        }
        self.decisions.push_front(entry);
        self.decisions.truncate(DECISIONS);
    }
}

fn summary(facts: &Facts) -> Value {
    let view = facts.store.view.as_deref();
    let leads = match surus_core::rules::Ctx::new(facts, &surus_core::memory::Memory::default()).leads {
        Leads::Me => json!("me"),
        Leads::MeBefore => json!("me, from an earlier run"),
        Leads::Other(name) => json!(name),
        Leads::Nobody => Value::Null,
    };
    let observed = facts.postgres.observed();
    json!({
        "leader": leads,
        "lease_left_ms": facts.lead.map(|l| u64::try_from(l.until.since(facts.now).as_millis()).unwrap_or(0)),
        "store_revision": view.map(|v| v.revision),
        "store_trouble": facts.store.broken.as_ref().map(|b| &b.1),
        "paused": facts.settings.pause,
        "data_dir": match &facts.postgres.data_dir {
            DataDir::Empty => "empty".to_owned(),
            DataDir::Present { control, standby_signal, .. } => format!("{:?}{}", control.state, if *standby_signal { ", standby" } else { "" }),
            DataDir::Foreign(why) | DataDir::Unreadable(why) => why.clone(),
        },
        "process": facts.postgres.process,
        "in_recovery": observed.map(|o| o.in_recovery),
        "position": observed.map(|o| o.position().to_string()),
        "timeline": observed.and_then(|o| o.timeline),
        "streaming": observed.filter(|o| o.in_recovery).map(|o| o.is_streaming()),
        "task": facts.task.as_ref().map(|t| t.task.name()),
        "failover_request": view.and_then(|v| v.failover.as_ref()).map(|f| &f.value),
        "members": view.map(|v| v.members.keys().collect::<Vec<_>>()),
    })
}
