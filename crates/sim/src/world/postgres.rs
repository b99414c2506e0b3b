//! One PostgreSQL: its data directory, its server process, and how that starts, stops, promotes and dies.

use std::collections::BTreeMap;
use std::sync::Arc;

use surus_core::facts::Replay;
use surus_core::postgres::{ControlData, ControlState, DataDir, Observed, ProcessState, WalReceiver};
use surus_core::server::{StartAs, StopMode};
use surus_core::synchronous::Names;
use surus_core::{Lsn, SystemId, Timeline};

use super::World;
use super::clock::{MS, SECOND, True};
use super::node::Disk;
use super::wal::Log;
use crate::bug::Bug;
use crate::exec::Pid;
use crate::history::{Ending, Happened};

/// What a record of a checkpoint takes.
pub const CHECKPOINT: u64 = 120;

#[derive(Clone, Debug)]
pub struct Data {
    pub system_id: SystemId,
    pub log: Log,
    pub control: ControlState,
    pub standby_signal: bool,
    pub checkpoint: (Timeline, u64),
    /// `primary_conninfo` names this machine.
    pub upstream: Option<usize>,
    pub slot: Option<String>,
    /// `synchronous_standby_names`.
    pub names: Names,
    /// Some of its processes still go by this one.
    pub names_before: Option<Names>,
    /// A rewind broke off, and the histories parted there: no server starts on it as it is.
    pub torn: Option<u64>,
    /// Numbers before this one are left out by a promotion: there are history files for them that lead nowhere.
    pub skips_to: Option<Timeline>,
}

impl Data {
    /// A copy, as a base backup makes it.
    pub fn standby_of(source: Data, upstream: Option<usize>) -> Data {
        Data {
            control: ControlState::InArchiveRecovery,
            standby_signal: true,
            upstream,
            slot: None,
            names: Names::Nobody,
            names_before: None,
            torn: None,
            skips_to: None,
            ..source
        }
    }

    pub fn next_timeline(&self) -> Timeline {
        self.skips_to.map_or(self.log.next_timeline(), |to| to.max(self.log.next_timeline()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Serving,
    Stopping,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub pid: Pid,
    pub phase: Phase,
    pub primary: bool,
    pub since: True,
    /// The postmaster is stopped by SIGSTOP: its backends go on.
    pub frozen: bool,
    pub streaming: bool,
    pub promoting: bool,
    /// Told to stop while it was frozen.
    pub told: Option<StopMode>,
    /// Killed, but in the hands of a disk that hangs.
    pub doomed: bool,
    /// It replays what a crash left: when that is done.
    pub recovers: Option<True>,
    checkpointed: True,
}

impl Server {
    /// A primary of which nothing else is to be told.
    pub fn serving(pid: Pid, since: True) -> Server {
        Server {
            pid,
            phase: Phase::Serving,
            primary: true,
            since,
            frozen: false,
            streaming: false,
            promoting: false,
            told: None,
            doomed: false,
            recovers: None,
            checkpointed: since,
        }
    }
}

/// What was written down beside the data directory before something went.
#[derive(Clone, Debug)]
pub struct Receipt {
    pub log: Log,
    pub from: u64,
}

#[derive(Default)]
pub struct Postgres {
    pub receipts: Vec<Receipt>,
    pub data: Option<Data>,
    pub server: Option<Server>,
    /// Backends that outlived their postmaster still finish commits.
    pub orphans: bool,
}

impl Postgres {
    /// Accepts writes, as far as the server itself is concerned.
    pub fn writes(&self) -> bool {
        self.server.as_ref().is_some_and(|s| s.phase == Phase::Serving && s.primary && !s.doomed)
    }

    pub fn serves(&self) -> bool {
        self.server.as_ref().is_some_and(|s| s.phase == Phase::Serving && !s.doomed)
    }

    /// Sends its log to standbys; also while it stops.
    pub fn sends(&self) -> bool {
        self.server.as_ref().is_some_and(|s| s.phase != Phase::Starting && !s.doomed)
    }

    pub fn is_server(&self, pid: Pid) -> bool {
        self.server.as_ref().is_some_and(|s| s.pid == pid)
    }

    pub fn log(&self) -> Option<&Log> {
        self.data.as_ref().map(|d| &d.log)
    }

    pub fn process(&self) -> ProcessState {
        match &self.server {
            None => ProcessState::NotRunning,
            Some(s) if s.phase == Phase::Serving => ProcessState::Accepting,
            Some(_) => ProcessState::NotAccepting,
        }
    }

    pub fn data_dir(&self) -> DataDir {
        let Some(data) = &self.data else { return DataDir::Empty };
        let recovery = data.standby_signal.then_some(data.log.timeline());
        DataDir::Present {
            major_version: 15,
            standby_signal: data.standby_signal,
            control: ControlData {
                system_id: data.system_id.clone(),
                state: data.control,
                checkpoint_timeline: data.checkpoint.0,
                checkpoint_lsn: Lsn(data.checkpoint.1),
                min_recovery_timeline: recovery,
                min_recovery_lsn: recovery.map_or(Lsn::INVALID, |_| data.log.lsn()),
                data_checksums: true,
                wal_log_hints: false,
                wal_level_minimal: false,
                wal_segment: 16 << 20,
                limits: BTreeMap::new(),
            },
        }
    }
}

impl World {
    /// Whether a commit can be acknowledged there now.
    pub fn acknowledges(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        n.powered
            && !n.suspended
            && n.disk == Disk::Works
            && n.postgres.data.is_some()
            && (n.postgres.writes() || n.postgres.orphans)
    }

    /// The answer to the monitoring query.
    pub fn observed(&self, node: usize) -> Option<Observed> {
        let postgres = &self.nodes[node].postgres;
        let (server, data) = (postgres.server.as_ref()?, postgres.data.as_ref()?);
        let upstream = data.upstream.filter(|_| !server.primary).map(|u| self.host_of(u));
        let at = if server.primary { (data.log.lsn(), Lsn::INVALID) } else { (Lsn::INVALID, data.log.lsn()) };
        let receiver = upstream.as_ref().map(|host| WalReceiver {
            status: if server.streaming { "streaming".into() } else { "waiting".into() },
            received_timeline: Some(data.log.timeline()),
            sender_host: Some(host.clone()),
            sender_port: Some(5432),
            slot_name: data.slot.clone(),
            latest_end_lsn: Some(data.log.lsn()),
        });
        Some(Observed {
            at: self.boot(node),
            server_version: 150_000,
            postmaster_start_time: String::new(),
            in_recovery: !server.primary,
            timeline: Some(data.log.timeline()),
            flush_lsn: at.0,
            flush_waiters: 0,
            receive_lsn: at.1,
            replay_lsn: at.1,
            replay_timestamp: None,
            replay_timeline: Some(data.log.timeline()).filter(|_| !server.primary && !self.is(Bug::ForksNotSeen)),
            replay_paused: false,
            receiver,
            senders: self.senders(node),
            slots: vec![],
            primary_conninfo: upstream.as_ref().map(|host| format!("host={host} port=5432 user=replicator")),
            primary_slot_name: data.slot.clone().filter(|_| upstream.is_some()),
            restore_command: None,
            synchronous_standby_names: data.names.text().unwrap_or_default(),
            synchronous_commit: String::new(),
            pending_restart: BTreeMap::new(),
        })
    }

    fn takes(&mut self, node: usize, from: True, to: True) -> True {
        let slowness = self.nodes[node].slowness;
        self.random.between(from, to) * slowness / 100
    }

    /// Waits for the machine, its disk, or a frozen postmaster. `true`: not now, it is done then.
    fn held_up(&mut self, node: usize, pid: Pid, again: fn(&mut World, usize, Pid)) -> bool {
        let n = &self.nodes[node];
        let frozen = n.postgres.server.as_ref().is_some_and(|s| s.frozen);
        // What was killed while its disk hung dies before it does anything else.
        if n.postgres.server.as_ref().is_some_and(|s| s.doomed) {
            return true;
        }
        let held = n.suspended || n.disk == Disk::Hangs || frozen;
        if held {
            self.defer(node, Box::new(move |w| again(w, node, pid)));
        }
        held
    }

    pub fn start_server(&mut self, node: usize, role: &StartAs) -> Result<Pid, String> {
        let upstream = match role {
            StartAs::Standby { upstream: Some(u), .. } => self.source(&u.name),
            _ => None,
        };
        let (now, pid) = (self.now, self.new_pid());
        let starts_torn = self.is(Bug::HalfRewoundStarts);
        let n = &mut self.nodes[node];
        let Some(data) = n.postgres.data.as_mut() else { return Err("there is no data directory".into()) };
        if n.postgres.server.is_some() {
            return Err("a postmaster runs already".into());
        }
        if n.postgres.orphans {
            return Err("pre-existing shared memory block is still in use".into());
        }
        if n.disk == Disk::Full {
            return Err("could not write lock file: no space left on device".into());
        }
        if data.torn.is_some() && !starts_torn {
            return Err("could not locate a valid checkpoint record".into());
        }
        // Whoever waited for a commit of an earlier server has lost its connection.
        self.history.waiting[node].clear();
        data.standby_signal = !role.is_primary();
        data.names_before = None;
        if !role.is_primary() {
            data.skips_to = None;
            data.names = Names::Nobody;
        }
        data.upstream = upstream;
        data.slot = match role {
            StartAs::Standby { slot, .. } => slot.clone(),
            // Nothing is restored from a backup here.
            StartAs::Primary | StartAs::Recovery { .. } => None,
        };
        let clean = matches!(data.control, ControlState::ShutDown | ControlState::ShutDownInRecovery);
        n.postgres.server = Some(Server {
            pid,
            phase: Phase::Starting,
            primary: role.is_primary(),
            since: now,
            frozen: false,
            streaming: false,
            promoting: false,
            told: None,
            doomed: false,
            recovers: None,
            checkpointed: 0,
        });
        let takes = if clean { self.takes(node, 40 * MS, 400 * MS) } else { self.takes(node, 200 * MS, 3 * SECOND) };
        if let Some(server) = self.nodes[node].postgres.server.as_mut().filter(|s| s.primary && !clean) {
            server.recovers = Some(now + takes);
        }
        self.after(takes, move |w| w.server_up(node, pid));
        if !role.is_primary() {
            self.after(5 * MS, move |w| w.stream(node, pid));
        }
        self.nodes[node].stir();
        self.tell(node, || {
            format!("postgres: starts as {}", if role.is_primary() { "the primary" } else { "a standby" })
        });
        Ok(pid)
    }

    fn server_up(&mut self, node: usize, pid: Pid) {
        if !self.nodes[node].postgres.is_server(pid) || self.held_up(node, pid, World::server_up) {
            return;
        }
        let postgres = &mut self.nodes[node].postgres;
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        if server.phase != Phase::Starting {
            return;
        }
        server.phase = Phase::Serving;
        server.since = self.now;
        server.recovers = None;
        if server.primary {
            if data.control != ControlState::ShutDown {
                data.checkpoint = (data.log.timeline(), data.log.end);
                data.log.append(CHECKPOINT);
            }
            data.control = ControlState::InProduction;
            self.begins_to_write(node, pid);
        } else {
            data.control = ControlState::InArchiveRecovery;
        }
        self.nodes[node].stir();
        self.tell(node, || "postgres: accepts connections".into());
    }

    /// What the startup process of a server that recovers shows: whole segments, and here those are small.
    pub fn replay(&self, node: usize) -> Option<Replay> {
        const SEGMENT: u64 = 4096;
        let postgres = &self.nodes[node].postgres;
        let (server, data) = (postgres.server.as_ref()?, postgres.data.as_ref()?);
        let until = server.recovers.filter(|until| *until > server.since)?;
        let (from, end) = (data.checkpoint.1 / SEGMENT * SEGMENT, data.log.end);
        let passed = (self.now - server.since).min(until - server.since);
        let at = from + (end - from) * passed / (until - server.since);
        Some(Replay {
            since: self.nodes[node].clock.boot(server.since),
            from: Lsn(from),
            at: Lsn(at / SEGMENT * SEGMENT),
            segment: SEGMENT,
            end: Some(Lsn(end)),
        })
    }

    fn begins_to_write(&mut self, node: usize, pid: Pid) {
        self.after(MS, move |w| w.commits(node, pid));
        self.began_to_write(node);
    }

    /// Told to stop; it goes on stopping by itself.
    pub fn stop_server(&mut self, node: usize, mode: StopMode) {
        let Some(server) = self.nodes[node].postgres.server.as_mut() else { return };
        if server.frozen {
            server.told = Some(mode);
            return;
        }
        let (pid, before) = (server.pid, server.phase);
        if mode == StopMode::Immediate {
            server.phase = Phase::Stopping;
            let takes = self.random.between(5 * MS, 60 * MS);
            self.after(takes, move |w| w.quits(node, pid));
            return;
        }
        if before == Phase::Stopping {
            return;
        }
        server.phase = Phase::Stopping;
        let (primary, fresh) = (server.primary, self.now - server.checkpointed.min(self.now) < 5 * SECOND);
        self.tell(node, || "postgres: stops".into());
        match (before, primary) {
            (Phase::Serving, true) => {
                let takes =
                    if fresh { self.takes(node, 20 * MS, 150 * MS) } else { self.takes(node, 150 * MS, 2500 * MS) };
                self.after(takes, move |w| w.shutdown_checkpoint(node, pid));
            }
            (Phase::Serving, false) => {
                let takes = self.takes(node, 20 * MS, 250 * MS);
                self.after(takes, move |w| w.standby_stopped(node, pid));
            }
            _ => {
                let takes = self.takes(node, 20 * MS, 250 * MS);
                self.after(takes, move |w| w.quits(node, pid));
            }
        }
    }

    fn shutdown_checkpoint(&mut self, node: usize, pid: Pid) {
        if !self.nodes[node].postgres.is_server(pid) || self.held_up(node, pid, World::shutdown_checkpoint) {
            return;
        }
        if let Some(data) = &mut self.nodes[node].postgres.data {
            data.control = ControlState::ShutDown;
            data.checkpoint = (data.log.timeline(), data.log.end);
            data.log.append(CHECKPOINT);
        }
        let end = self.now + 10 * SECOND;
        self.drain(node, pid, end);
    }

    /// A stopping primary lets connected standbys receive everything, up to `wal_sender_timeout`.
    fn drain(&mut self, node: usize, pid: Pid, end: True) {
        if !self.nodes[node].postgres.is_server(pid) {
            return;
        }
        if self.nodes[node].suspended {
            return self.defer(node, Box::new(move |w| w.drain(node, pid, end)));
        }
        let log_end = self.nodes[node].postgres.log().map_or(0, |l| l.end);
        let behind = |n: &super::node::Node| {
            n.postgres.server.as_ref().is_some_and(|s| s.streaming)
                && n.postgres.data.as_ref().is_some_and(|d| d.upstream == Some(node) && d.log.end < log_end)
        };
        if self.now < end && self.nodes.iter().any(behind) {
            self.after(10 * MS, move |w| w.drain(node, pid, end));
        } else {
            self.exit_server(node, Ending::Stopped);
        }
    }

    fn standby_stopped(&mut self, node: usize, pid: Pid) {
        if !self.nodes[node].postgres.is_server(pid) || self.held_up(node, pid, World::standby_stopped) {
            return;
        }
        if let Some(data) = &mut self.nodes[node].postgres.data {
            data.control = ControlState::ShutDownInRecovery;
        }
        self.exit_server(node, Ending::Stopped);
    }

    fn quits(&mut self, node: usize, pid: Pid) {
        if self.nodes[node].postgres.is_server(pid) && !self.held_up(node, pid, World::quits) {
            self.exit_server(node, Ending::Stopped);
        }
    }

    fn exit_server(&mut self, node: usize, how: Ending) {
        self.happened(Happened::ServerEnded { node, how });
        self.nodes[node].postgres.server = None;
        self.history.waiting[node].clear();
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.inbox.exited = true;
        }
        self.nodes[node].stir();
        self.tell(node, || format!("postgres: {how:?}"));
    }

    /// SIGKILL to the postmaster and everything below it.
    pub fn kill_server(&mut self, node: usize, why: &'static str) {
        let hangs = self.nodes[node].disk == Disk::Hangs && self.nodes[node].powered;
        let postgres = &mut self.nodes[node].postgres;
        if postgres.server.is_none() && !postgres.orphans {
            return;
        }
        if let Some(server) = postgres.server.as_mut().filter(|_| hangs && why != "the machine went off") {
            if !std::mem::replace(&mut server.doomed, true) {
                let pid = server.pid;
                self.defer(node, Box::new(move |w| w.doom(node, pid)));
            }
            return;
        }
        postgres.orphans = false;
        self.exit_server(node, Ending::Killed(why));
    }

    fn doom(&mut self, node: usize, pid: Pid) {
        if self.nodes[node].postgres.is_server(pid) {
            // It may still hang: then this waits once more.
            if let Some(server) = &mut self.nodes[node].postgres.server {
                server.doomed = false;
            }
            self.kill_server(node, "killed while the disk hung");
        }
    }

    /// Dies by itself, with all its backends.
    pub fn crash_server(&mut self, node: usize, why: &'static str) {
        if self.nodes[node].postgres.server.is_some() {
            self.exit_server(node, Ending::Crashed(why));
        }
    }

    /// The postmaster alone is killed: its backends may outlive it for a while.
    pub fn kill_postmaster(&mut self, node: usize, outlive: True) {
        let writes = self.nodes[node].postgres.writes();
        if self.nodes[node].postgres.server.is_none() {
            return;
        }
        self.nodes[node].postgres.orphans = writes && outlive > 0;
        self.exit_server(node, Ending::Crashed("the postmaster was killed"));
        if self.nodes[node].postgres.orphans {
            let id = self.new_pid();
            self.after(MS, move |w| w.commits(node, id));
            self.after(outlive, move |w| w.nodes[node].postgres.orphans = false);
        }
    }

    pub fn freeze_postmaster(&mut self, node: usize) {
        if let Some(server) = &mut self.nodes[node].postgres.server {
            server.frozen = true;
        }
    }

    pub fn thaw_postmaster(&mut self, node: usize) {
        let Some(server) = self.nodes[node].postgres.server.as_mut().filter(|s| s.frozen) else { return };
        server.frozen = false;
        if let Some(mode) = server.told.take() {
            self.stop_server(node, mode);
        }
        self.go_on(node);
    }

    pub fn begin_promotion(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].promotion_fails {
            return Err("pre_promote failed".into());
        }
        let Some(server) = self.nodes[node].postgres.server.as_mut() else { return Err("no server runs".into()) };
        if server.phase != Phase::Serving {
            return Err("the server does not accept connections".into());
        }
        if server.primary || std::mem::replace(&mut server.promoting, true) {
            return Ok(());
        }
        let pid = server.pid;
        let takes = if self.random.percent(40) {
            self.takes(node, 10 * MS, 60 * MS)
        } else {
            self.takes(node, 60 * MS, 900 * MS)
        };
        self.after(takes, move |w| w.promoted(node, pid));
        Ok(())
    }

    fn promoted(&mut self, node: usize, pid: Pid) {
        if !self.nodes[node].postgres.is_server(pid) || self.held_up(node, pid, World::promoted) {
            return;
        }
        let id = self.new_id();
        let postgres = &mut self.nodes[node].postgres;
        let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) else { return };
        if server.phase != Phase::Serving {
            return;
        }
        (server.primary, server.promoting, server.streaming) = (true, false, false);
        let before = data.log.clone();
        data.log.branch(data.next_timeline(), id);
        data.skips_to = None;
        data.log.append(CHECKPOINT);
        data.standby_signal = false;
        data.control = ControlState::InProduction;
        self.promotion_done(node, id, &before);
        self.nodes[node].stir();
        self.begins_to_write(node, pid);
    }

    /// Ends after a while by itself, like the checkpoint of an SQL session that went away.
    pub fn begin_checkpoint(&mut self, node: usize) -> Option<Pid> {
        let pid = self.nodes[node].postgres.server.as_ref().filter(|s| s.phase == Phase::Serving)?.pid;
        let takes = self.takes(node, 20 * MS, 1200 * MS);
        self.after(takes, move |w| w.checkpoint_done(node, pid));
        Some(pid)
    }

    fn checkpoint_done(&mut self, node: usize, pid: Pid) {
        if !self.nodes[node].postgres.is_server(pid) || self.held_up(node, pid, World::checkpoint_done) {
            return;
        }
        let now = self.now;
        let postgres = &mut self.nodes[node].postgres;
        if let (Some(server), Some(data)) = (&mut postgres.server, &mut postgres.data) {
            server.checkpointed = now;
            if server.primary {
                data.checkpoint = (data.log.timeline(), data.log.end);
                data.log.append(CHECKPOINT);
            }
        }
        self.nodes[node].stir();
    }

    pub fn checkpointed_since(&self, node: usize, pid: Pid, at: True) -> Option<bool> {
        let server = self.nodes[node].postgres.server.as_ref().filter(|s| s.pid == pid)?;
        Some(server.checkpointed >= at)
    }

    pub fn make_data(&mut self, node: usize) {
        let data = self.new_data();
        self.nodes[node].postgres.data = Some(data);
        self.tell(node, || "initdb".into());
    }

    pub fn new_data(&mut self) -> Data {
        let id = self.new_id();
        let system_id = SystemId::parse(&format!("{}", 7_000_000_000_000_000_000_u64 + id)).expect("digits");
        let log = Log::new(id);
        Data {
            checkpoint: (log.timeline(), log.end - CHECKPOINT),
            log,
            system_id,
            control: ControlState::ShutDown,
            standby_signal: false,
            upstream: None,
            slot: None,
            names: Names::Nobody,
            names_before: None,
            torn: None,
            skips_to: None,
        }
    }

    pub fn observed_arc(&self, node: usize) -> Option<Arc<Observed>> {
        self.observed(node).map(Arc::new)
    }
}
