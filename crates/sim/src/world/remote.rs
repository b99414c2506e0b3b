//! The primary of another site, which a standby cluster follows: a server that nobody here has any say over.
//!
//! While the cluster has a primary of its own, the other site is taken to follow it, so that it can take over from there.

use surus_core::postgres::ControlState;
use surus_core::{MemberName, Timeline};

use super::World;
use super::clock::{MS, SECOND};
use super::network::End;
use super::node::Disk;
use super::postgres::{CHECKPOINT, Data, Postgres, Server};
use crate::exec::Pid;

/// Its number among the machines.
pub const FAR: usize = usize::MAX;
pub const HOST: &str = "far";
/// Numbers of timelines are agreed within one site only; here the sites are far apart (`docs/proof.md`).
const NUMBERS: u32 = 100;

#[derive(Default)]
pub struct Remote {
    pub postgres: Postgres,
    /// It is the primary of the two sites, while it is up.
    leads: bool,
    down: bool,
    cut: [bool; 8],
}

impl World {
    /// Another site is there, and leads unless this one begins as a cluster of its own.
    pub fn found_remote(&mut self) {
        let mut remote = Remote::default();
        if follows(&self.plan.document) {
            (remote.postgres.data, remote.leads) = (Some(self.new_data()), true);
        }
        self.remote = Some(remote);
        self.remote_serves();
    }

    /// The machine whose server has this name: a member's, or the other site's.
    pub fn source(&self, name: &MemberName) -> Option<usize> {
        let far = self.remote.is_some() && name.as_str().starts_with(HOST) && name.as_str().contains(':');
        if far { Some(FAR) } else { self.number(name) }
    }

    pub fn host_of(&self, node: usize) -> String {
        if node == FAR { HOST.to_owned() } else { self.nodes[node].name.to_string() }
    }

    pub fn postgres_of(&self, node: usize) -> Option<&Postgres> {
        if node == FAR { self.remote.as_ref().map(|r| &r.postgres) } else { self.nodes.get(node).map(|n| &n.postgres) }
    }

    /// Log can be received from there now.
    pub fn sends_to(&self, node: usize, source: usize) -> bool {
        if source == FAR {
            return self.remote.as_ref().is_some_and(|r| r.postgres.sends() && !r.cut[node]);
        }
        let n = &self.nodes[source];
        n.powered
            && !n.suspended
            && n.postgres.sends()
            && n.disk != Disk::Hangs
            && self.network.both_ways(End::Node(node), End::Node(source))
    }

    /// A connection can be made to the server there now.
    pub fn lets_in(&self, node: usize, source: usize) -> bool {
        let frozen = source != FAR && self.nodes[source].postgres.server.as_ref().is_none_or(|s| s.frozen);
        let serves = self.postgres_of(source).is_some_and(Postgres::serves);
        let up = source == FAR || !self.nodes[source].suspended;
        serves && up && !frozen && self.sends_to(node, source)
    }

    fn remote_serves(&mut self) {
        let (pid, now) = (self.new_pid(), self.now);
        let Some(remote) = self.remote.as_mut().filter(|r| r.leads && !r.down && r.postgres.server.is_none()) else {
            return;
        };
        remote.postgres.server = Some(Server::serving(pid, now));
        if let Some(data) = &mut remote.postgres.data {
            (data.control, data.standby_signal) = (ControlState::InProduction, false);
        }
        self.tell_world(|| "the other site has a primary".into());
        self.remote_commits(pid);
    }

    fn remote_commits(&mut self, pid: Pid) {
        let bytes = self.random.between(40, self.plan.commit_bytes);
        let Some(remote) = self.remote.as_mut().filter(|r| r.postgres.is_server(pid)) else { return };
        if let Some(data) = &mut remote.postgres.data {
            data.log.append(bytes);
        }
        let pause = self.random.between(20 * MS, 200 * MS);
        self.after(pause, move |w| w.remote_commits(pid));
    }

    fn remote_stops(&mut self) {
        if let Some(remote) = &mut self.remote {
            remote.postgres.server = None;
        }
    }

    /// Its primary is away, and comes back as it was.
    pub fn remote_fails(&mut self, down: bool) {
        let Some(remote) = &mut self.remote else { return };
        remote.down = down;
        if down { self.remote_stops() } else { self.remote_serves() }
    }

    /// Another server takes over there, which lacks what the former primary wrote last.
    pub fn remote_fails_over(&mut self, lost: u64) {
        if !self.remote.as_ref().is_some_and(|r| r.postgres.writes()) {
            return;
        }
        self.remote_stops();
        if let Some(data) = self.remote.as_mut().and_then(|r| r.postgres.data.as_mut()) {
            // What it wrote before its own promotion stays.
            let begun = data.log.stretches.last().map_or(0, |s| s.start);
            data.log.end = data.log.end.saturating_sub(lost).max(begun + CHECKPOINT).min(data.log.end);
        }
        self.remote_promoted();
        self.remote_serves();
    }

    fn remote_promoted(&mut self) {
        let here = self.nodes.iter().filter_map(|n| n.postgres.log()).map(|log| log.next_timeline().0).max();
        let id = self.new_id();
        let Some(data) = self.remote.as_mut().and_then(|r| r.postgres.data.as_mut()) else { return };
        let next = here.unwrap_or(1).max(data.log.next_timeline().0);
        data.log.branch(Timeline(next / NUMBERS * NUMBERS + NUMBERS), id);
        data.log.append(CHECKPOINT);
        data.checkpoint = (data.log.timeline(), data.log.end);
        data.log.append(CHECKPOINT);
    }

    pub fn cut_remote(&mut self, node: usize, cut: bool) {
        if let Some(remote) = &mut self.remote {
            remote.cut[node] = cut;
        }
        self.nodes[node].stir();
    }

    pub fn heal_remote(&mut self) {
        if let Some(remote) = &mut self.remote {
            remote.cut.fill(false);
        }
        self.remote_fails(false);
        self.stir_all();
    }

    /// As the configuration in the store says.
    pub fn follows_remote(&self) -> bool {
        self.store.view().config.as_ref().is_some_and(|c| follows(&c.value))
    }

    /// An operator promotes this cluster. He has seen that it has what the other site wrote last, or that it is gone.
    pub fn promote_cluster(&mut self) {
        let leader = self.store.view().leader_name().and_then(|name| self.number(name));
        let timeline = |at: usize| self.postgres_of(at).and_then(Postgres::log).map(|log| log.timeline());
        let same = leader.is_some_and(|leader| timeline(leader) == timeline(FAR));
        if same && self.follows_remote() && self.configure("standby_cluster", serde_json::Value::Null) {
            self.remote_stops();
            self.remote.iter_mut().for_each(|remote| remote.leads = false);
            self.tell_world(|| "the other site has no primary any more".into());
        }
    }

    /// An operator has this cluster follow the other site, and then has that one take over from here: with everything, or
    /// in haste, without what was written here last.
    pub fn demote_cluster(&mut self, hasty: bool) {
        let section = serde_json::json!({"host": HOST, "port": 5432});
        if self.remote.is_none() || self.follows_remote() || !self.configure("standby_cluster", section) {
            return;
        }
        let wait = if hasty { 0 } else { 2 * SECOND };
        self.after(wait, move |w| w.remote_takes_over(hasty));
    }

    fn remote_takes_over(&mut self, hasty: bool) {
        if !self.follows_remote() || self.remote.as_ref().is_none_or(|r| r.leads) {
            return;
        }
        let writes = |n: &super::node::Node| n.postgres.writes() || n.postgres.orphans;
        if !hasty && self.healed.is_none() && self.nodes.iter().any(writes) {
            return self.after(SECOND, move |w| w.remote_takes_over(hasty));
        }
        let newest = self
            .nodes
            .iter()
            .filter_map(|n| n.postgres.data.as_ref())
            .filter(|d| d.torn.is_none())
            .max_by_key(|d| newest_first(d));
        let Some(newest) = newest.cloned() else { return };
        let lost = if hasty { self.plan.commit_bytes } else { 0 };
        let Some(remote) = &mut self.remote else { return };
        let mut data = Data::standby_of(newest, None);
        let begun = data.log.stretches.last().map_or(0, |s| s.start);
        data.log.end = data.log.end.saturating_sub(lost).max(begun).min(data.log.end);
        (remote.postgres.data, remote.leads) = (Some(data), true);
        self.remote_promoted();
        self.remote_serves();
    }
}

/// A configuration of a cluster that follows another site.
pub fn follows(document: &serde_json::Value) -> bool {
    document.get("standby_cluster").is_some_and(|section| !section.is_null())
}

fn newest_first(data: &Data) -> (u32, u64) {
    (data.log.timeline().0, data.log.end)
}
