//! What other members get to see: the member key, the leader's `status`, and the keys of the cluster.

use std::sync::Arc;
use std::time::Duration;

use surus_core::MemberName;
use surus_core::cluster::{History, HistoryEntry, Initialize, Member as Key, Status};
use surus_core::facts::Facts;
use surus_core::order::Order;
use surus_core::postgres::DataDir;
use surus_core::store::StoreError;

use surus_conduct::member::Inherited;
use surus_conduct::pause::Note;
pub use surus_conduct::publish::Desired;
use surus_conduct::publish::{Next, Server, Written};

use super::Member;
use super::wait::{sleep, until};
use crate::bug::Bug;

const WRITE: Duration = Duration::from_secs(2);
/// Kinds of work beside the decisions.
pub const CHECKPOINT: usize = 0;
const SYSTEM_ID: usize = 1;
const CONFIG: usize = 2;
const HISTORY: usize = 3;
pub const UNGUARDED: usize = 4;

pub fn api_url(name: &MemberName) -> String {
    format!("http://{name}:8008/patroni")
}

impl Member {
    pub(super) fn publish(self: &Arc<Member>, facts: &Facts) {
        let lease = self.sim.with(|w| w.lease(self.node));
        let (member, status, missing_at, leaves, forked) = {
            let mind = self.mind();
            let mut shown = facts.clone();
            shown.task = mind.conduct.task().cloned();
            if mind.conduct.memory().leaving_since.is_some() {
                shown.tags = shown.tags.off_duty();
            }
            let server = Server {
                start_failed: mind.conduct.memory().start_failures > 0,
                crashed: mind.crashed,
                checkpoint_pending: mind.checkpoint_pending,
            };
            let forked = surus_core::forked::told(facts, mind.conduct.memory());
            let member = Key {
                forked: forked.clone(),
                conn_url: Some(format!("postgres://{}:5432/postgres", self.me)),
                api_url: Some(api_url(&self.me)),
                version: Some("4.0.0".into()),
                ..surus_conduct::publish::member(&shown, &server)
            };
            let may = facts.postgres.is_primary() || facts.settings.standby_cluster;
            let leads = lease.lead.is_some() && may && mind.conduct.task().is_none();
            let status = facts.postgres.observed().filter(|_| leads).map(|o| {
                let known = facts.store.view.as_ref().map(|v| v.status.clone()).unwrap_or_default();
                Status { optime: o.position(), ..known }.to_text()
            });
            let seen = mind.conduct.seen();
            let missing = seen
                .view
                .as_deref()
                .filter(|v| seen.is_current() && v.members.get(&self.me).is_none_or(|m| m.api_url.is_none()))
                .map(|v| v.revision);
            let leaves = mind.conduct.leaves(lease.lead, mind.settings.settings.pause);
            (member, status, missing, leaves, forked)
        };
        self.sim.with(|w| {
            // A disk that hangs keeps the file as it was.
            if w.nodes[self.node].disk == crate::world::node::Disk::Works {
                w.nodes[self.node].left = leaves;
            }
            w.keep_fence(self.node);
            if let Some(agent) = &mut w.nodes[self.node].agent {
                agent.forked = forked;
                agent.said = Some(Arc::new(Desired {
                    member: lease.session.then_some(member),
                    session_number: lease.session_number,
                    status,
                    loop_wait: facts.settings.timing.loop_wait,
                    missing_at,
                }));
            }
            w.nodes[self.node].stir();
        });
    }

    /// Writes the member key and the status from a task of its own.
    pub(super) async fn keep_keys(self: Arc<Member>) {
        let mut written = Written::default();
        let mut last: Option<Arc<Desired>> = None;
        loop {
            let want = self.sim.with(|w| w.nodes[self.node].agent.as_ref().and_then(|a| a.said.clone()));
            last.clone_from(&want);
            let again = match &want {
                Some(want) => bring_up_to_date(&mut written, &self, want).await,
                None => Ok(None),
            };
            let time = match again {
                Ok(due) => due.unwrap_or(Duration::from_secs(3600)),
                Err(_) => Duration::from_millis(500),
            };
            let failed = again.is_err();
            let changed = until(&self.sim, self.node, |w| {
                let now = w.nodes[self.node].agent.as_ref().and_then(|a| a.said.clone());
                (!failed && now.as_deref() != last.as_deref()).then_some(())
            });
            surus_conduct::race::first(changed, sleep(&self.sim, self.node, time)).await;
        }
    }

    /// What is kept right beside the decisions.
    pub(super) fn upkeep(self: &Arc<Member>, facts: &Facts) {
        let timeline = facts.postgres.observed().filter(|o| !o.in_recovery).and_then(|o| o.timeline);
        let checkpoint = match &facts.postgres.data_dir {
            DataDir::Present { control, .. } => Some(control.checkpoint_timeline),
            _ => None,
        };
        let pending = timeline.zip(checkpoint).is_some_and(|(now, then)| then < now);
        let busy = {
            let mut mind = self.mind();
            mind.checkpoint_pending = pending;
            mind.conduct.task().is_some()
        };
        if pending && !busy {
            let member = self.clone();
            self.aside(CHECKPOINT, async move {
                if member.checkpoint(Duration::from_secs(3600)).await.is_err() {
                    sleep(&member.sim, member.node, Duration::from_secs(1)).await;
                }
                member.mind().data_dir_read = None;
            });
        }
        self.note_pause(facts);
        self.note_vouching(facts);
        // Without a fence this member does not lead: a new one is started.
        let node = self.node;
        self.sim.with(|w| {
            if !w.nodes[node].fence.alive {
                let takes = w.random.between(5_000, 60_000);
                let pid = self.pid;
                w.after(takes, move |w| {
                    if w.nodes[node].agent.as_ref().is_some_and(|a| a.pid == pid) && !w.nodes[node].fence.alive {
                        w.start_fence(node);
                        w.keep_fence(node);
                        if let Some(agent) = &mut w.nodes[node].agent {
                            agent.inbox.fence = true;
                        }
                        w.nodes[node].stir();
                    }
                });
            }
        });
    }

    /// Has the store know whether this primary is left alone.
    fn note_pause(self: &Arc<Member>, facts: &Facts) {
        let (guarded, inherited) = self.sim.with(|w| {
            let n = &w.nodes[self.node];
            (n.fence.armed.is_some(), n.left == Some(Inherited::Unguarded))
        });
        if surus_conduct::pause::ends(facts) {
            let soon = self.now() + Duration::from_millis(200);
            self.mind().conduct.sooner(soon);
        }
        let Some(note) = surus_conduct::pause::note(facts, guarded, inherited) else { return };
        let member = self.clone();
        self.aside(UNGUARDED, async move {
            let written = match note {
                Note::Write { config, before } => member.store.write_unguarded(config, before, WRITE).await,
                Note::Withdraw { config, version } => member.store.withdraw_unguarded(config, version, WRITE).await,
            };
            if written.is_err() {
                sleep(&member.sim, member.node, Duration::from_millis(500)).await;
            }
        });
    }

    pub(super) fn write_for_cluster(self: &Arc<Member>, order: Order, facts: &Facts) {
        let store = self.store.clone();
        let Some(view) = facts.store.view.clone() else { return };
        match order {
            Order::WriteSystemId { id } => self.aside(SYSTEM_ID, async move {
                let text = id.as_str().to_owned();
                let _ = match view.initialize {
                    Initialize::Absent => store.create_initialize(text, WRITE).await,
                    _ => store.write_as_leader("initialize", text, WRITE).await,
                };
            }),
            Order::WriteConfig { .. } => {
                let document = self.mind().settings.document.to_string();
                self.aside(CONFIG, async move {
                    let _ = store.compare_and_put("config", None, document, WRITE).await;
                });
            }
            Order::WriteHistory => {
                let (log, plain) =
                    self.sim.with(|w| (w.nodes[self.node].postgres.log().cloned(), w.is(Bug::LeftOutNotInHistory)));
                let Some(log) = log else { return };
                let rows = log.history().into_iter().map(|(timeline, switch_lsn)| HistoryEntry {
                    timeline,
                    switch_lsn,
                    reason: "no recovery target specified".into(),
                    timestamp: None,
                    new_leader: None,
                });
                let rows = rows.collect();
                let history = if plain { History(rows) } else { History::of(rows, log.timeline()) };
                let text = history.to_text();
                self.aside(HISTORY, async move {
                    let _ = store.write_as_leader("history", text, WRITE).await;
                });
            }
            _ => {}
        }
    }
}

async fn bring_up_to_date(written: &mut Written, m: &Member, want: &Desired) -> Result<Option<Duration>, StoreError> {
    let now = m.now();
    loop {
        match (written.next(want, now), &want.member, &want.status) {
            (Next::Member, Some(member), _) => {
                m.store.write_member(member.to_text(), WRITE).await?;
                written.member(want, now);
            }
            (Next::Status, _, Some(status)) => {
                m.store.write_as_leader("status", status.clone(), WRITE).await?;
                written.status(want, now);
            }
            (Next::Wait(due), ..) => return Ok(due),
            _ => return Ok(None),
        }
    }
}
