//! Carrying orders out: at once, or as a task that takes a while.

use surus_core::cluster::{History, HistoryEntry, Initialize, Leader, Versioned};
use surus_core::facts::{FinishedTask, Lead, RunningTask, TaskDone};
use surus_core::order::{Demote, Order, Task};
use surus_core::{Lsn, MemberName, Timeline};

use super::node::{Log, Server};
use super::{MARGIN, TICK, TTL, World, after};

impl World {
    pub(super) fn carry_out(&mut self, i: usize, order: Order) {
        let (now, reaches) = (self.now, self.reaches(i));
        let name = self.nodes[i].name.clone();
        match order {
            Order::Begin { task, epoch } => {
                assert!(self.nodes[i].task.is_none(), "{task:?} beside another task");
                let ms = self.random(100, 900);
                self.nodes[i].task = Some((RunningTask { task, epoch, since: self.time() }, now + ms, 0));
            }
            Order::Cancel { why, .. } => match &self.nodes[i].task {
                // Past the point of no return there is nothing to leave.
                Some((running, ..)) if matches!(running.task, Task::Promote) => self.finish(i, Err(why)),
                Some((running, _, 0)) if matches!(running.task, Task::Demote(_) | Task::StartPrimary) => {
                    self.finish(i, Err(why));
                }
                Some((running, ..)) if running.task == Task::Restart => self.finish(i, Err(why)),
                _ => {}
            },
            Order::TakeLead => self.take_lead(i),
            Order::RetakeLead if self.store.leader_name() == Some(&name) => self.take_lead(i),
            Order::ReleaseLead => self.release(i),
            Order::Probe { members } => {
                for member in members.into_iter().filter(|m| *m != name) {
                    let delay = if self.at(&member).up { self.random(50, 300) } else { 2000 };
                    self.nodes[i].asked.entry(member).or_insert((now, now + delay));
                }
            }
            Order::WriteSystemId { id } if reaches => {
                self.put(|store, _| store.initialize = Initialize::Done(id));
            }
            Order::WriteHistory if reaches => {
                let log = self.nodes[i].log.clone().expect("a primary has data");
                let entry = |(i, (start, _)): (usize, &(u64, u64))| HistoryEntry {
                    timeline: Timeline(u32::try_from(i).expect("few") + 1),
                    switch_lsn: Lsn(*start),
                    reason: "promoted".into(),
                    timestamp: None,
                    new_leader: None,
                };
                let rows = log.timelines.iter().skip(1).enumerate().map(entry).collect();
                self.put(|store, _| store.history = Some(History(rows)));
            }
            Order::ClearFailover { version } if reaches => {
                self.put(|store, _| _ = store.failover.take_if(|f| f.version == version));
            }
            Order::NameCandidate { version, request }
                if reaches && self.store.failover.as_ref().is_some_and(|f| f.version == version) =>
            {
                self.put(|store, version| store.failover = Some(Versioned { value: request, version }));
            }
            Order::Exit(Ok(())) => (self.nodes[i].exited, self.nodes[i].lead) = (true, None),
            Order::Exit(Err(why)) => panic!("{name} ends: {why}\n{}", self.story()),
            _ => {}
        }
    }

    /// Whoever wins the lead clears the request with it; while paused it keeps naming the candidate.
    fn take_lead(&mut self, i: usize) {
        let name = self.nodes[i].name.clone();
        let free = self.store.leader.as_ref().is_none_or(|l| l.name == name);
        if !self.reaches(i) || !free {
            return;
        }
        let lease = self.nodes[i].session;
        let version = self.put(|store, version| {
            store.leader = Some(Leader { name: name.clone(), version, lease });
            store.failover = None;
        });
        self.nodes[i].lead = Some(Lead { until: after(self.now, TTL - MARGIN), version });
        self.nodes[i].next = self.now + TICK;
    }

    fn release(&mut self, i: usize) {
        if self.reaches(i) && self.store.leader_name() == Some(&self.nodes[i].name) {
            let name = self.nodes[i].name.clone();
            self.put(|store, _| {
                store.leader = None;
                store.unguarded.take_if(|u| u.value == name);
            });
        }
        self.nodes[i].lead = None;
    }

    fn finish(&mut self, i: usize, outcome: Result<TaskDone, String>) {
        let at = self.time();
        if let Some((running, ..)) = self.nodes[i].task.take() {
            self.nodes[i].finished = Some(FinishedTask { task: running.task, epoch: running.epoch, at, outcome });
        }
    }

    /// The running task's next stage, when its time has come.
    pub(super) fn work(&mut self, i: usize) {
        let now = self.now;
        let Some((running, due, stage)) = self.nodes[i].task.clone() else { return };
        if now < due {
            return;
        }
        let from = |w: &World, name: &MemberName| w.at(name).log.clone().filter(|_| w.at(name).server != Server::Down);
        let outcome = match (&running.task, stage) {
            (Task::Bootstrap, 0) if !self.reaches(i) || self.store.initialize != Initialize::Absent => {
                Ok(TaskDone::LostRace)
            }
            (Task::Bootstrap, 0) => {
                self.put(|store, _| store.initialize = Initialize::InProgress);
                return self.later(i, 2000);
            }
            (Task::Bootstrap, _) if self.settings.standby_cluster => {
                let Some(log) = from(self, &super::FAR.into()) else {
                    self.put(|store, _| store.initialize = Initialize::Absent);
                    return self.finish(i, Err("the remote node does not answer".into()));
                };
                (self.nodes[i].log, self.nodes[i].standby_signal) = (Some(log), true);
                let id = crate::scenario::system_id(crate::scenario::OURS);
                self.put(|store, _| store.initialize = Initialize::Done(id));
                self.take_lead(i);
                Ok(TaskDone::Done)
            }
            (Task::Bootstrap, _) => {
                self.nodes[i].log = Some(Log { timelines: vec![(0, 0)], end: 100 });
                self.nodes[i].serve(Server::Primary, now);
                self.reigns.push(self.nodes[i].name.clone());
                let id = crate::scenario::system_id(crate::scenario::OURS);
                self.put(|store, _| store.initialize = Initialize::Done(id));
                self.take_lead(i);
                Ok(TaskDone::Done)
            }
            (Task::Clone { from: up } | Task::Reinitialize { from: up } | Task::Rewind { from: up }, 0) => {
                self.nodes[i].serve(Server::Down, now);
                match from(self, &up.name) {
                    Some(_) => return self.later(i, 1500),
                    None => Err("upstream does not answer".to_owned()),
                }
            }
            (Task::Clone { from: up } | Task::Reinitialize { from: up } | Task::Rewind { from: up }, _) => {
                match from(self, &up.name) {
                    Some(log) => {
                        self.nodes[i].log = Some(log);
                        self.nodes[i].standby_signal = true;
                        Ok(TaskDone::Done)
                    }
                    None => Err("upstream went away".to_owned()),
                }
            }
            (Task::CloneWithoutLeader, _) => Err("there is no backup here".to_owned()),
            (Task::StartPrimary, _) => {
                self.nodes[i].serve(Server::Primary, now);
                Ok(TaskDone::Done)
            }
            (Task::CopySlots { .. }, _) => Ok(TaskDone::Done),
            (Task::StartStandby { upstream } | Task::Follow { upstream }, _) => {
                self.nodes[i].serve(Server::Standby { of: upstream.as_ref().map(|u| u.name.clone()) }, now);
                Ok(TaskDone::Done)
            }
            (Task::Promote, _) if self.nodes[i].promotion_fails => Err("pre_promote".to_owned()),
            (Task::Promote, _) => {
                let id = self.random(1, u64::MAX);
                let log = self.nodes[i].log.as_mut().expect("a standby has data");
                log.timelines.push((log.end, id));
                self.nodes[i].serve(Server::Primary, now);
                self.reigns.push(self.nodes[i].name.clone());
                Ok(TaskDone::Done)
            }
            (Task::CheckDivergence { from: up }, _) => {
                let mine = self.nodes[i].log.clone().expect("data to compare");
                match from(self, &up.name) {
                    None => Ok(TaskDone::Undecided("no answer".into())),
                    Some(theirs) if mine.continues_into(&theirs) => Ok(TaskDone::NotDiverged),
                    Some(_) => Ok(TaskDone::Diverged("fork".into())),
                }
            }
            (Task::Demote(Demote::Handover { .. }), 0) if self.nodes[i].handover_fails => {
                Ok(TaskDone::GivenUp("the checkpoint takes too long".into()))
            }
            (Task::Demote(Demote::Handover { to, .. }), _) => match self.stop_and_wait(i, stage, Some(to)) {
                true => Ok(TaskDone::Released),
                false => return,
            },
            (Task::Shutdown { to }, _) => match self.stop_and_wait(i, stage, to.as_ref()) {
                true => Ok(TaskDone::Done),
                false => return,
            },
            (Task::Demote(kind), _) => {
                self.nodes[i].serve(Server::Down, now);
                if *kind == Demote::Release {
                    self.release(i);
                }
                Ok(TaskDone::Done)
            }
            (Task::Restart | Task::KillOrphans, _) => Ok(TaskDone::Done),
        };
        self.finish(i, outcome);
    }

    /// Stops, then gives the lead up once the successor has everything, or has had time for it.
    fn stop_and_wait(&mut self, i: usize, stage: u8, to: Option<&MemberName>) -> bool {
        self.nodes[i].serve(Server::Down, self.now);
        // While the walsenders finish, the successor receives what is left.
        let log = self.nodes[i].log.clone();
        if let Some(name) = to.cloned() {
            let streams = self.at(&name).streaming && self.at(&name).up;
            if streams && stage < 20 {
                self.node(name.as_str()).log = log;
            } else if stage < 20 {
                self.later(i, 100);
                return false;
            }
        }
        self.release(i);
        true
    }

    fn later(&mut self, i: usize, ms: u64) {
        if let Some((_, due, stage)) = &mut self.nodes[i].task {
            (*due, *stage) = (self.now + ms, *stage + 1);
        }
    }
}
