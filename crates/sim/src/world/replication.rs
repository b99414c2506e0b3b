//! Commits, who acknowledges them, and how they get to standbys.

use super::World;
use super::clock::{MS, True};
use super::node::Disk;
use super::remote::FAR;
use super::wal::Place;
use crate::exec::Pid;
use crate::history::Ack;
use surus_core::postgres::WalSender;
use surus_core::synchronous::Names;

/// A commit that waits for a standby before its client is told.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    pub place: Place,
    pub sent: True,
}

impl World {
    /// Clients write to every server that lets them, without asking who leads: the worst that clients can be.
    pub fn commits(&mut self, node: usize, pid: Pid) {
        let postgres = &self.nodes[node].postgres;
        if !postgres.is_server(pid) && !postgres.orphans {
            return;
        }
        if self.acknowledges(node) {
            let bytes = self.random.between(40, self.plan.commit_bytes);
            if let Some(data) = &mut self.nodes[node].postgres.data {
                let place = data.log.append(bytes);
                self.committed(node, place);
            }
        }
        let pause = self.random.between(10 * MS, 90 * MS);
        self.after(pause, move |w| w.commits(node, pid));
    }

    fn committed(&mut self, node: usize, place: Place) {
        let waits = self.nodes[node].postgres.data.as_ref().is_some_and(|d| d.names != Names::Nobody);
        if waits {
            self.history.waiting[node].push(Waiting { place, sent: self.now });
            self.acknowledge_synchronous(node);
        } else {
            self.acknowledged(Ack { at: self.now, node, place, synchronous: false });
        }
    }

    /// Of the commits that wait for standbys, those that enough of them have.
    pub fn acknowledge_synchronous(&mut self, node: usize) {
        if self.history.waiting[node].is_empty() || !self.acknowledges(node) {
            return;
        }
        let waiting = std::mem::take(&mut self.history.waiting[node]);
        let Some(data) = &self.nodes[node].postgres.data else { return };
        let has = |name: &str, place: Place| {
            let standby = (0..self.nodes.len()).find(|n| self.nodes[*n].name.as_str() == name);
            standby.is_some_and(|s| {
                self.nodes[s].postgres.log().is_some_and(|l| l.contains(place)) && self.streams_from(s, node)
            })
        };
        let held = |names: &Names, place: Place| match names {
            Names::Nobody | Names::Foreign(_) => true,
            Names::Blocked { .. } => false,
            Names::Of { count, names, .. } => names.iter().filter(|n| has(n, place)).count() >= *count,
        };
        let enough = |w: &Waiting| {
            [Some(&data.names), data.names_before.as_ref()].into_iter().flatten().any(|n| held(n, w.place))
        };
        let (done, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(enough);
        self.history.waiting[node] = rest;
        for waiting in done {
            self.acknowledged(Ack { at: self.now, node, place: waiting.place, synchronous: true });
        }
    }

    /// The setting is written and the server told. Each of its processes takes it over in its own time.
    pub fn set_names(&mut self, node: usize, names: Names, takes: True) {
        let Some(data) = &mut self.nodes[node].postgres.data else { return };
        if data.names == names && data.names_before.is_none() {
            return;
        }
        let before = std::mem::replace(&mut data.names, names);
        data.names_before.get_or_insert(before);
        self.acknowledge_synchronous(node);
        self.after(takes, move |w| {
            if let Some(data) = &mut w.nodes[node].postgres.data {
                data.names_before = None;
            }
            w.nodes[node].stir();
        });
    }

    /// What `pg_stat_replication` shows.
    pub fn senders(&self, node: usize) -> Vec<WalSender> {
        let names = self.nodes[node].postgres.data.as_ref().map(|d| &d.names);
        (0..self.nodes.len())
            .filter(|s| *s != node && self.streams_from(*s, node))
            .map(|s| {
                let (name, log) = (&self.nodes[s].name, self.nodes[s].postgres.log());
                let at = log.map(|l| l.lsn());
                let state = match names {
                    Some(Names::Of { any: true, names, .. }) if names.contains(name.as_str()) => "quorum",
                    Some(Names::Of { names, .. }) if names.contains(name.as_str()) => "sync",
                    _ => "async",
                };
                WalSender {
                    pid: i32::try_from(s).unwrap_or(0),
                    user: None,
                    application_name: name.to_string(),
                    client_addr: None,
                    state: "streaming".into(),
                    sync_state: state.into(),
                    sync_priority: i32::from(state != "async"),
                    sent_lsn: at,
                    write_lsn: at,
                    flush_lsn: at,
                    replay_lsn: at,
                }
            })
            .collect()
    }

    pub fn streams_from(&self, standby: usize, upstream: usize) -> bool {
        let postgres = &self.nodes[standby].postgres;
        postgres.server.as_ref().is_some_and(|s| s.streaming)
            && postgres.data.as_ref().is_some_and(|d| d.upstream == Some(upstream))
    }

    /// One round of a standby's WAL receiver.
    pub fn stream(&mut self, node: usize, pid: Pid) {
        if !self.nodes[node].postgres.is_server(pid) {
            return;
        }
        let n = &self.nodes[node];
        let (Some(server), Some(data)) = (&n.postgres.server, &n.postgres.data) else { return };
        if server.primary {
            return;
        }
        let data_upstream = data.upstream;
        let upstream = data.upstream.filter(|u| self.sends_to(node, *u));
        let able = n.powered && !n.suspended && n.disk == Disk::Works && !server.frozen;
        let (lag, was) = (n.lag, server.streaming);
        let follows = |source: usize| {
            let source = self.postgres_of(source).and_then(|p| p.data.as_ref());
            source.is_some_and(|s| s.system_id == data.system_id && data.log.continues_into(&s.log))
        };
        let source = upstream.filter(|u| able && follows(*u));
        let streaming = source.is_some();
        self.receive(node, source);
        if streaming != was {
            self.nodes[node].stir();
        }
        if let Some(u) = data_upstream.filter(|u| *u != FAR && was && !streaming) {
            // The walsender ends, and its agent holds it by a pidfd.
            if let Some(agent) = &mut self.nodes[u].agent {
                agent.inbox.wake = true;
            }
            self.nodes[u].stir();
        }
        if let Some(u) = upstream.filter(|u| *u != FAR && streaming) {
            self.acknowledge_synchronous(u);
        }
        // A stopping primary waits for the last records, and they are sent at once.
        let hurry = upstream.and_then(|u| self.postgres_of(u)).is_some_and(|p| !p.serves());
        let pause = match (streaming, hurry) {
            (true, true) => self.random.between(MS, 20 * MS) + lag,
            (true, false) => self.random.between(5 * MS, 60 * MS) + lag,
            (false, _) => self.random.between(50 * MS, 300 * MS),
        };
        self.after(pause, move |w| w.stream(node, pid));
    }

    fn receive(&mut self, node: usize, source: Option<usize>) {
        let (postgres, log) = match source {
            Some(FAR) => (&mut self.nodes[node].postgres, self.remote.as_ref().and_then(|r| r.postgres.log())),
            Some(u) => match self.nodes.get_disjoint_mut([node, u]) {
                Ok([n, source]) => (&mut n.postgres, source.postgres.log()),
                Err(_) => return,
            },
            None => (&mut self.nodes[node].postgres, None),
        };
        if let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) {
            server.streaming = source.is_some();
            if let Some(log) = log {
                data.log.receive(log, log.end);
            }
        }
    }
}
