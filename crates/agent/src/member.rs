//! What this member publishes about itself.

use surus_conduct::publish::{self, Server};
use surus_config::{Effective, LocalConfig};
use surus_core::cluster::{Member, ScheduledRestart};
use surus_core::facts::Facts;

use crate::rest::version::COMPATIBLE_VERSION;

pub struct Extra<'a> {
    pub pending_restart: &'a std::collections::BTreeMap<String, surus_core::cluster::PendingRestart>,
    pub scheduled_restart: Option<&'a ScheduledRestart>,
    pub server: Server,
    /// Of receipts that nobody has acknowledged.
    pub loss: Option<String>,
    pub disk: Option<String>,
    pub forked: Option<String>,
}

pub fn member(facts: &Facts, local: &LocalConfig, effective: &Effective, extra: &Extra) -> Member {
    let scheme = if local.restapi.tls.is_some() { "https" } else { "http" };
    let address = |a: &surus_config::HostPort| {
        if a.host.contains(':') { format!("[{}]:{}", a.host, a.port) } else { format!("{}:{}", a.host, a.port) }
    };
    Member {
        conn_url: Some(format!("postgres://{}/{}", address(&effective.connect_address), effective.database)),
        api_url: Some(format!("{scheme}://{}/patroni", address(&local.restapi.connect_address))),
        version: Some(COMPATIBLE_VERSION.into()),
        proxy_url: effective
            .proxy_address
            .as_ref()
            .map(|a| format!("postgres://{}/{}", address(a), effective.database)),
        pending_restart: !extra.pending_restart.is_empty(),
        pending_restart_reason: extra.pending_restart.clone(),
        scheduled_restart: extra.scheduled_restart.cloned(),
        loss: extra.loss.clone(),
        disk: extra.disk.clone(),
        forked: extra.forked.clone(),
        ..publish::member(facts, &extra.server)
    }
}

#[cfg(test)]
mod tests {
    use surus_core::cluster::ClusterView;
    use surus_core::order::{Demote, Task};
    use surus_core::postgres::{DataDir, Observed, ProcessState};

    use super::*;
    use crate::rest::testing::{primary, replica};
    use crate::sample::{during, facts};

    fn published(facts: &Facts, start_failed: bool, crashed: bool) -> String {
        let server = Server { start_failed, crashed, ..Server::default() };
        format!("{}, {}", publish::role(facts).as_str(), publish::state(facts, &server).as_str())
    }

    #[test]
    fn role_and_state_as_peers_know_them() {
        let at = |observed: Option<Observed>| facts(ClusterView::default(), observed);
        let handover = || Task::Demote(Demote::Handover { to: "b".into(), upstream: None });
        let starting = || {
            let mut facts = at(None);
            facts.postgres.process = ProcessState::NotAccepting;
            facts
        };
        let empty = || {
            let mut facts = at(None);
            facts.postgres.data_dir = DataDir::Empty;
            facts
        };
        let from = || surus_core::cluster::Upstream { name: "b".into(), host: "h".into(), port: 1, remote: false };
        for (facts, expected) in [
            (at(Some(primary())), "primary, running"),
            (at(Some(replica())), "replica, running"),
            (at(None), "demoted, stopped"),
            (empty(), "uninitialized, stopped"),
            (starting(), "primary, starting"),
            (during(Task::Promote, at(Some(replica()))), "promoted, running"),
            (during(Task::Promote, at(Some(primary()))), "primary, running"),
            // It serves while it makes the checkpoint before the stop.
            (during(handover(), at(Some(primary()))), "primary, running"),
            (during(handover(), starting()), "demoted, stopping"),
            (during(handover(), at(None)), "demoted, stopped"),
            (during(Task::Shutdown { to: None }, at(Some(primary()))), "primary, running"),
            (during(Task::Demote(Demote::Deposed), at(Some(primary()))), "demoted, stopping"),
            (during(Task::Restart, at(Some(primary()))), "primary, restarting"),
            (during(Task::Clone { from: from() }, empty()), "uninitialized, creating replica"),
            (during(Task::Bootstrap, empty()), "uninitialized, initializing new cluster"),
            (during(Task::StartStandby { upstream: None }, at(None)), "replica, starting"),
            (during(Task::Rewind { from: from() }, at(None)), "demoted, stopped"),
        ] {
            assert_eq!(published(&facts, false, false), expected, "{:?}", facts.task);
        }
        assert_eq!(published(&at(None), true, true), "demoted, start failed");
        assert_eq!(published(&at(None), false, true), "demoted, crashed");
    }
}
