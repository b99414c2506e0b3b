//! One member: its log, its pretended server and what its agent knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use surus_core::cluster::ClusterView;
use surus_core::facts::{Answer, FinishedTask, Lead, PeerFact, PostgresFact, RunningTask};
use surus_core::memory::Memory;
use surus_core::postgres::{ControlState, DataDir, ProcessState};
use surus_core::{BootTime, MemberName};

use crate::scenario::{data, primary_at, standby_at};

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub timelines: Vec<(u64, u64)>,
    pub end: u64,
}

impl Log {
    /// `self` is a beginning of `other`, or equal.
    pub(super) fn continues_into(&self, other: &Log) -> bool {
        let shared = self.timelines.iter().zip(&other.timelines).take_while(|(a, b)| a == b).count();
        let fork = other.timelines.get(shared).map_or(other.end, |(start, _)| *start);
        shared == self.timelines.len() && self.end <= fork
    }

    pub(super) fn timeline(&self) -> u32 {
        u32::try_from(self.timelines.len()).expect("few timelines")
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    Down,
    Primary,
    Standby { of: Option<MemberName> },
}

pub struct Node {
    pub name: MemberName,
    /// The machine is on. When it goes off, so does its server.
    pub up: bool,
    pub exited: bool,
    pub cut: bool,
    pub shutdown: bool,
    pub log: Option<Log>,
    pub server: Server,
    pub clean: bool,
    pub standby_signal: bool,
    pub streaming: bool,
    pub promotion_fails: bool,
    pub handover_fails: bool,
    pub memory: Memory,
    pub lead: Option<Lead>,
    pub(super) session: Option<u64>,
    pub(super) state_since: u64,
    pub(super) task: Option<(RunningTask, u64, u8)>,
    pub(super) finished: Option<FinishedTask>,
    pub(super) view: Option<ClusterView>,
    pub(super) readings: Vec<(u64, ClusterView)>,
    pub(super) broken: Option<u64>,
    pub(super) peers: BTreeMap<MemberName, PeerFact>,
    pub(super) asked: BTreeMap<MemberName, (u64, u64)>,
    pub(super) next: u64,
}

impl Node {
    pub(super) fn new(name: &str) -> Node {
        Node {
            name: name.into(),
            up: true,
            exited: false,
            cut: false,
            shutdown: false,
            log: None,
            server: Server::Down,
            clean: true,
            standby_signal: false,
            streaming: false,
            promotion_fails: false,
            handover_fails: false,
            memory: Memory::default(),
            lead: None,
            session: None,
            state_since: 0,
            task: None,
            finished: None,
            view: None,
            readings: vec![],
            broken: None,
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.log.as_ref().map_or(0, |l| l.end)
    }

    pub fn serve(&mut self, server: Server, now: u64) {
        if server == Server::Down {
            self.streaming = false;
        }
        self.standby_signal = match server {
            Server::Primary => false,
            Server::Standby { .. } => true,
            Server::Down => self.standby_signal,
        };
        self.clean = server == Server::Down;
        self.server = server;
        self.state_since = now;
    }

    pub(super) fn postgres(&self) -> PostgresFact {
        let state = match (&self.server, self.standby_signal, self.clean) {
            (Server::Primary, ..) | (_, false, false) => ControlState::InProduction,
            (Server::Down, false, true) => ControlState::ShutDown,
            (Server::Down, true, true) => ControlState::ShutDownInRecovery,
            _ => ControlState::InArchiveRecovery,
        };
        let at = BootTime::from_millis(self.state_since);
        let timeline = self.log.as_ref().map_or(1, Log::timeline);
        PostgresFact {
            data_dir: if self.log.is_some() { data(state, self.standby_signal) } else { DataDir::Empty },
            process: if self.server == Server::Down { ProcessState::NotRunning } else { ProcessState::Accepting },
            since: at,
            orphans: false,
            replay: None,
            stand_alone: false,
            answer: match &self.server {
                Server::Down => Answer::Unknown(at, "down".into()),
                Server::Primary => Answer::Known(Arc::new(primary_at(self.end(), timeline))),
                Server::Standby { of } => {
                    let from = of.as_ref().map(MemberName::as_str);
                    let host = from.map(|name| name.trim_end_matches(":5432"));
                    let mut observed = standby_at(self.end(), timeline, self.name.as_str(), host, self.streaming);
                    // No slot is named in the section of a standby cluster.
                    observed.primary_slot_name.take_if(|_| from == Some(super::FAR));
                    Answer::Known(Arc::new(observed))
                }
            },
        }
    }
}
