//! What can be seen of a handover while it happens, told from successive readings of the store.

use std::future::Future;
use std::time::Duration;

use surus_core::MemberName;
use surus_core::cluster::MemberState;

use crate::commands::handover::leads;
use crate::context::{Cluster, Reading};
use crate::failure::Outcome;
use crate::terminal::{Terminal, say};
use crate::when;

const POLL: Duration = Duration::from_millis(200);

pub struct Phases {
    old: Option<MemberName>,
    old_state: Option<MemberState>,
    leader: Option<MemberName>,
    promoted: bool,
}

impl Phases {
    pub fn new(before: &Reading) -> Phases {
        let old = before.view.leader_name().cloned();
        let old_state = before.view.leader_member().map(|m| m.state);
        Phases { leader: old.clone(), old, old_state, promoted: false }
    }

    /// Waits for `work` and tells what changes meanwhile.
    pub async fn during<T>(
        mut self,
        terminal: &mut Terminal,
        cluster: &Cluster,
        work: impl Future<Output = T>,
    ) -> Outcome<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let done = tokio::select! {
                done = &mut work => Some(done),
                () = tokio::time::sleep(POLL) => None,
            };
            // Telling is a courtesy: a store that does not answer now does not end the handover.
            if let Ok(reading) = cluster.read().await {
                for line in self.changes(&reading) {
                    say!(terminal, "{} {line}", when::stamp());
                }
            }
            if let Some(done) = done {
                return Ok(done);
            }
        }
    }

    fn changes(&mut self, reading: &Reading) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(old) = &self.old {
            let state = reading.view.members.get(old).map(|m| m.state);
            if state != self.old_state && self.leader.as_ref() == Some(old) {
                lines.extend(state.map(|s| format!("{old} is {}", s.as_str())));
            }
            self.old_state = state;
        }
        let leader = reading.view.leader_name();
        if leader != self.leader.as_ref() {
            match leader {
                Some(new) => lines.push(format!("{new} has taken the lead")),
                None => lines.push("the lead is free".to_owned()),
            }
            self.leader = leader.cloned();
            self.promoted = false;
        }
        if let Some(new) = leader
            && self.old.as_ref() != Some(new)
            && !self.promoted
            && leads(reading, new)
        {
            self.promoted = true;
            let timeline = reading.view.leader_member().and_then(|m| m.timeline);
            lines.push(match timeline {
                Some(timeline) => format!("{new} accepts writes on timeline {timeline}"),
                None => format!("{new} accepts writes"),
            });
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::{ClusterView, RawKey};

    use super::*;

    fn reading(leader: Option<&str>, a: &str, b: &str) -> Reading {
        let mut keys = vec![("members/a", a.to_owned()), ("members/b", b.to_owned())];
        keys.extend(leader.map(|l| ("leader", l.to_owned())));
        let raws: Vec<RawKey> = keys
            .into_iter()
            .map(|(key, value)| RawKey { key: key.into(), value: value.into(), version: 1, lease: None })
            .collect();
        let view = ClusterView::read(1, &raws);
        let settings = surus_core::settings::ClusterSettings::default();
        Reading { document: surus_api::cluster_document("x", &view, &settings), view, settings }
    }

    #[test]
    fn each_change_is_told_once() {
        let member = |role: &str, state: &str| format!(r#"{{"role":"{role}","state":"{state}","timeline":2}}"#);
        let standby = member("replica", "running");
        let mut phases = Phases::new(&reading(Some("a"), &member("primary", "running"), &standby));
        let mut told = Vec::new();
        for (leader, a, b) in [
            (Some("a"), member("primary", "running"), standby.clone()),
            (Some("a"), member("primary", "stopping"), standby.clone()),
            (Some("a"), member("primary", "stopping"), standby.clone()),
            (None, member("demoted", "stopped"), standby.clone()),
            (Some("b"), member("demoted", "stopped"), standby.clone()),
            (Some("b"), member("demoted", "starting"), member("primary", "running")),
            (Some("b"), member("replica", "running"), member("primary", "running")),
        ] {
            told.extend(phases.changes(&reading(leader, &a, &b)));
        }
        assert_eq!(
            told,
            [
                "a is stopping",
                "a is stopped",
                "the lead is free",
                "b has taken the lead",
                "b accepts writes on timeline 2"
            ]
        );
    }
}
