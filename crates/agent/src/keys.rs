//! Writes the keys that only say how things are: this member's key, and the leader's `status`.
//!
//! They are written from a task of their own, so that a slow store never delays a decision. Only the
//! newest text counts; what changed only in a WAL position is written once per `loop_wait`, else
//! members would wake each other for ever.

use std::sync::Arc;
use std::time::Duration;

use surus_core::BootTime;
use surus_core::cluster::Member;
use surus_store::clock::boot_now;
use surus_store::cluster::ClusterStore;
use tokio::sync::watch;
use tracing::{debug, warn};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub member: Option<Member>,
    pub session_number: u64,
    /// Only while I lead.
    pub status: Option<String>,
    pub loop_wait: Duration,
}

pub fn start(store: Arc<ClusterStore>, desired: watch::Receiver<Desired>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(Writer { store, member: None, status: None }.run(desired))
}

struct Writer {
    store: Arc<ClusterStore>,
    member: Option<(Member, u64, BootTime)>,
    status: Option<(String, BootTime)>,
}

impl Writer {
    async fn run(mut self, mut desired: watch::Receiver<Desired>) {
        let mut retry = false;
        loop {
            let want = desired.borrow_and_update().clone();
            let again = self.bring_up_to_date(&want).await;
            match again {
                Ok(pause) => {
                    retry = false;
                    let timer = tokio::time::sleep(pause.unwrap_or(Duration::from_secs(3600)));
                    tokio::select! {
                        changed = desired.changed() => if changed.is_err() { return },
                        () = timer => {}
                    }
                }
                Err(e) => {
                    if !retry {
                        warn!("my keys in the store could not be written: {e}");
                    }
                    retry = true;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    if desired.has_changed().is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// `Some`: a change that can wait is due after that time.
    async fn bring_up_to_date(&mut self, want: &Desired) -> Result<Option<Duration>, surus_store::StoreError> {
        let limit = Duration::from_secs(2);
        let now = boot_now();
        let mut due = None;
        let mut later = |last: BootTime| {
            let left = want.loop_wait.saturating_sub(now.since(last));
            if left.is_zero() {
                true
            } else {
                due = Some(due.map_or(left, |d: Duration| d.min(left)));
                false
            }
        };
        if let Some(member) = &want.member {
            let write = match &self.member {
                Some((written, session, at)) if *session == want.session_number => {
                    written != member && (positionless(written) != positionless(member) || later(*at))
                }
                _ => true,
            };
            if write {
                self.store.write_member(member.to_text(), limit).await?;
                debug!("member key written");
                self.member = Some((member.clone(), want.session_number, now));
            }
        }
        match &want.status {
            None => self.status = None,
            Some(status) => {
                let write = self.status.as_ref().is_none_or(|(written, at)| written != status && later(*at));
                if write {
                    self.store.write_as_leader("status", status.clone(), limit).await?;
                    self.status = Some((status.clone(), now));
                }
            }
        }
        Ok(due)
    }
}

fn positionless(member: &Member) -> Member {
    Member { xlog_location: None, receive_lsn: None, replay_lsn: None, ..member.clone() }
}

/// Whether two views differ in anything that a decision could turn on. Positions and the status key
/// change all the time, and are looked at when a decision is due anyway.
pub fn differ(a: &surus_core::cluster::ClusterView, b: &surus_core::cluster::ClusterView) -> bool {
    a.initialize != b.initialize
        || a.leader != b.leader
        || a.config != b.config
        || a.failover != b.failover
        || a.sync != b.sync
        || a.history != b.history
        || a.garbage != b.garbage
        || a.members.len() != b.members.len()
        || a.members.values().zip(b.members.values()).any(|(x, y)| positionless(x) != positionless(y))
}
