//! Carries out what a plan says: faults begin and end, operators do what they do.

mod half;

use serde_json::Value;
use surus_config::DynamicConfig;
use surus_core::MemberName;
use surus_core::cluster::FailoverRequest;
use surus_core::failsafe::SETTING;
use surus_core::order::Request;
use surus_store::kv::{Compare, Op, Txn};

use crate::history::Happened;
use crate::plan::{Action, ELECTION, Who};
use crate::world::World;
use crate::world::clock::{MS, SECOND, True};
use crate::world::group::Group;
use crate::world::network::End;
use crate::world::node::Disk;

impl World {
    /// The number of the machine that is meant now.
    pub fn who(&self, who: Who) -> usize {
        let leader = || {
            let led = self.store.view().leader_name().and_then(|n| self.number(n));
            led.or_else(|| self.nodes.iter().position(|n| n.postgres.writes())).unwrap_or(0)
        };
        match who {
            Who::Node(i) => i % self.nodes.len(),
            Who::Leader => leader(),
            Who::StoreLeader => self.group.as_ref().and_then(Group::leads).unwrap_or_else(leader),
            Who::Other(k) => {
                let leader = leader();
                let others: Vec<usize> = (0..self.nodes.len()).filter(|i| *i != leader).collect();
                others.get(k % others.len().max(1)).copied().unwrap_or(leader)
            }
        }
    }

    fn undo(&mut self, lasts: True, undo: impl FnOnce(&mut World) + Send + 'static) {
        self.after(lasts, move |w| {
            if w.healed.is_none() {
                undo(w);
            }
        });
    }

    fn disturbs(&mut self, node: Option<usize>, store_only: bool, lasts: True) {
        self.happened(Happened::Disturbed { node, store_only, lasts });
    }

    /// An embedded store that was stopped, or lost its leader, elects one after that.
    fn disturbs_store(&mut self, lasts: True) {
        let election = if self.group.is_some() { ELECTION } else { 0 };
        self.disturbs(None, true, lasts + election);
    }

    pub fn act(&mut self, mut action: Action) {
        use Action as A;
        if self.healed.is_some() {
            return;
        }
        self.tell_action(action);
        if !action.is_of_store() {
            let lasts = action.lasts().copied().unwrap_or(0);
            self.disturbs(None, false, lasts + 60 * SECOND);
        }
        match action {
            A::KillAgent { who, down } => {
                let n = self.who(who);
                self.kill_agent(n);
                self.undo(down, move |w| w.start_agent(n));
            }
            A::UpgradeAgent { who } => {
                let n = self.who(who);
                self.kill_agent(n);
                self.undo(150 * MS, move |w| w.start_agent(n));
            }
            A::FreezeAgent { who, lasts } => {
                let n = self.who(who);
                self.freeze_agent(n);
                self.undo(lasts, move |w| w.thaw_agent(n));
            }
            A::EndAgent { who } => {
                let n = self.who(who);
                if let Some(agent) = &mut self.nodes[n].agent {
                    agent.inbox.shutdown = true;
                }
                self.nodes[n].stir();
            }
            A::PowerOff { who, down } => {
                let n = self.who(who);
                self.power_off(n);
                self.links_changed();
                self.undo(down, move |w| w.power_on(n));
            }
            A::Suspend { who, lasts } => {
                let n = self.who(who);
                self.suspend(n);
                self.undo(lasts, move |w| w.wake_up(n));
            }
            A::StepWall { who, by_ms } => {
                let n = self.who(who);
                self.nodes[n].clock.step_wall(by_ms);
            }
            A::KillPostmaster { who, outlive } => {
                let n = self.who(who);
                self.kill_postmaster(n, outlive);
            }
            A::CrashServer { who } => {
                let n = self.who(who);
                self.crash_server(n, "it crashed");
            }
            A::FreezePostmaster { who, lasts } => {
                let n = self.who(who);
                self.freeze_postmaster(n);
                self.undo(lasts, move |w| w.thaw_postmaster(n));
            }
            A::KillFence { who } => {
                let n = self.who(who);
                self.kill_fence(n);
            }
            A::CutPair { a, b, one_way, lasts } => {
                let (a, b) = (End::Node(self.who(a)), End::Node(self.who(b)));
                self.cut(a, b, one_way, lasts);
            }
            A::CutStore { who, one_way, lasts } => {
                let n = self.who(who);
                if self.group.is_some() {
                    self.cut_from_group(n, true);
                    return self.undo(lasts, move |w| w.cut_from_group(n, false));
                }
                let n = End::Node(n);
                let (from, to) = if self.random.percent(50) { (n, End::Store) } else { (End::Store, n) };
                self.cut(from, to, one_way, lasts);
            }
            A::Isolate { who, lasts } => {
                let n = self.who(who);
                self.isolate(n, true);
                self.undo(lasts, move |w| w.isolate(n, false));
            }
            A::SlowNetwork { who, by, lasts } => {
                let n = End::Node(self.who(who));
                self.network.set_slow(n, by);
                self.undo(lasts, move |w| w.network.set_slow(n, 0));
            }
            A::SlowStore { by, lasts } => {
                self.disturbs_store(lasts);
                self.store.slow = by;
                self.undo(lasts, |w| w.store.slow = 0);
            }
            A::StoreOutage { lasts, again } => {
                self.disturbs_store(lasts);
                self.store.down = true;
                self.cut_group(true);
                self.links_changed();
                self.undo(lasts, move |w| {
                    w.cut_group(false);
                    w.store_back(again);
                });
            }
            A::LoseAnswers { percent, lasts } => {
                self.disturbs_store(lasts);
                self.store.lose_answers = percent;
                self.undo(lasts, |w| w.store.lose_answers = 0);
            }
            A::ReadOnlyStore { who, refuses, lasts } => self.read_only_store(who, refuses, lasts),
            A::StoreErrors { who, percent, lasts } => self.failing_store(who, percent, lasts),
            A::FlapStore { who, away, back, lasts } => self.flapping_store(who, away, back, lasts),
            A::LoseWitness { lasts } => {
                self.disturbs_store(0);
                self.run_witness(false);
                self.undo(lasts, |w| w.run_witness(true));
            }
            A::Partition { side, with_store, lasts } => {
                self.part(side, with_store, true);
                self.undo(lasts, move |w| w.part(side, with_store, false));
            }
            A::StallWatch { who, lasts } => {
                let n = self.who(who);
                self.store.stalled[n] = true;
                self.undo(lasts, move |w| w.unstall(n));
            }
            A::BreakWatch { who, lasts } => {
                let n = self.who(who);
                self.store.watch_broken[n] = true;
                self.links_changed();
                self.undo(lasts, move |w| {
                    w.store.watch_broken[n] = false;
                    w.links_changed();
                });
            }
            A::HangDisk { who, lasts } => {
                let n = self.who(who);
                self.set_disk(n, Disk::Hangs);
                self.undo(lasts, move |w| w.set_disk(n, Disk::Works));
            }
            A::FillDisk { who, lasts } => {
                let n = self.who(who);
                self.set_disk(n, Disk::Full);
                self.undo(lasts, move |w| w.set_disk(n, Disk::Works));
            }
            A::SlowNode { who, percent, lasts } => {
                let n = self.who(who);
                self.nodes[n].slowness = percent;
                self.undo(lasts, move |w| w.nodes[n].slowness = 100);
            }
            A::Lag { who, by, lasts } => {
                let n = self.who(who);
                self.nodes[n].lag = by;
                self.undo(lasts, move |w| w.nodes[n].lag = 0);
            }
            A::PromotionFails { who, lasts } => {
                let n = self.who(who);
                self.nodes[n].promotion_fails = true;
                self.undo(lasts, move |w| w.nodes[n].promotion_fails = false);
            }
            A::Switchover { to } => {
                let leader = self.store.view().leader_name().cloned();
                let to = to.map(|to| self.name(to));
                if leader.is_some() && to != leader {
                    self.ask_failover(leader, to);
                }
            }
            A::Failover { to } => {
                let to = self.name(to);
                self.ask_failover(None, Some(to));
            }
            A::Pause { lasts } => {
                self.configure("pause", true.into());
                self.undo(lasts, World::resume_cluster);
            }
            A::Set { setting, value } => {
                let value = if setting == "check_timeline" { (value != 0).into() } else { value.into() };
                self.configure(setting, value);
            }
            A::Failsafe { mode } => _ = self.configure(SETTING, mode.map_or(Value::Null, Value::Bool)),
            A::RemoteFails { lasts } => {
                self.remote_fails(true);
                self.undo(lasts, |w| w.remote_fails(false));
            }
            A::RemoteFailsOver { lost } => self.remote_fails_over(lost),
            A::CutRemote { who, lasts } => {
                let n = self.who(who);
                self.cut_remote(n, true);
                self.undo(lasts, move |w| w.cut_remote(n, false));
            }
            A::PromoteCluster => self.promote_cluster(),
            A::DemoteCluster { hasty } => self.demote_cluster(hasty),
            A::Restart { who } => {
                let n = self.who(who);
                self.request(n, Request::Restart);
            }
            A::Reinit { who, force } => {
                let n = self.who(who);
                self.request(n, Request::Reinitialize { force, from_leader: false });
            }
        }
    }

    fn name(&self, who: Who) -> MemberName {
        self.nodes[self.who(who)].name.clone()
    }

    fn cut(&mut self, from: End, to: End, one_way: bool, lasts: True) {
        let set = move |w: &mut World, cut: bool| {
            w.network.set_cut(from, to, cut);
            if !one_way {
                w.network.set_cut(to, from, cut);
            }
            w.links_changed();
            w.stir_all();
        };
        set(self, true);
        self.undo(lasts, move |w| set(w, false));
    }

    fn part(&mut self, side: u8, with_store: bool, cut: bool) {
        let ends: Vec<End> = (0..self.nodes.len()).map(End::Node).chain([End::Store]).collect();
        let here = |end: &End| match end {
            End::Node(n) => (side >> n) & 1 == 1,
            End::Store => with_store,
        };
        let (these, others): (Vec<End>, Vec<End>) = ends.into_iter().partition(here);
        for (a, b) in these.iter().flat_map(|a| others.iter().map(|b| (*a, *b))) {
            self.network.set_cut(a, b, cut);
            self.network.set_cut(b, a, cut);
        }
        self.links_changed();
        self.stir_all();
    }

    pub fn isolate(&mut self, node: usize, cut: bool) {
        let ends: Vec<End> = (0..self.nodes.len()).filter(|i| *i != node).map(End::Node).chain([End::Store]).collect();
        for end in ends {
            self.network.set_cut(End::Node(node), end, cut);
            self.network.set_cut(end, End::Node(node), cut);
        }
        self.links_changed();
        self.stir_all();
    }

    pub fn stir_all(&mut self) {
        self.nodes.iter_mut().for_each(|n| n.stir());
    }

    pub fn power_on(&mut self, node: usize) {
        if !std::mem::replace(&mut self.nodes[node].powered, true) {
            self.tell(node, || "the machine is on again".into());
        }
        self.start_agent(node);
        self.stir_all();
    }

    pub fn wake_up(&mut self, node: usize) {
        if self.nodes[node].suspended {
            self.happened(Happened::Woke { node });
            self.resume(node);
        }
    }

    pub fn unstall(&mut self, node: usize) {
        self.store.stalled[node] = false;
        self.go_on(node);
    }

    pub fn request(&mut self, node: usize, request: Request) {
        if let Some(agent) = &mut self.nodes[node].agent {
            agent.inbox.request = Some(request);
        }
        self.nodes[node].stir();
    }

    pub fn ask_failover(&mut self, leader: Option<MemberName>, candidate: Option<MemberName>) -> bool {
        let text = FailoverRequest { leader, candidate, scheduled_at: None }.to_text();
        let key = self.store.layout.key("failover");
        self.store_txn(Txn { compare: vec![], then: vec![Op::Put { key, value: text.into(), lease: None }] }).is_some()
    }

    /// An operator changes the configuration of the cluster. `Null` takes the setting out.
    pub fn configure(&mut self, setting: &str, value: Value) -> bool {
        let Some(config) = self.store.view().config.clone() else { return false };
        let mut document = config.value;
        if let Some(map) = document.as_object_mut() {
            if value.is_null() {
                map.remove(setting);
            } else {
                map.insert(setting.to_owned(), value);
            }
        }
        let key = self.store.layout.key("config");
        let compare = vec![Compare::Version { key: key.clone(), version: config.version }];
        let put = Op::Put { key, value: document.to_string().into(), lease: None };
        self.store_txn(Txn { compare, then: vec![put] }).is_some()
    }

    /// An operator ends a pause, as soon as there is a store to say so to.
    fn resume_cluster(&mut self) {
        let paused = self.store.view().config.as_ref().is_some_and(|c| c.value.get("pause").is_some());
        if paused && !self.configure("pause", Value::Null) {
            self.after(500 * MS, World::resume_cluster);
        }
    }

    /// What forked and may not be mended waits for somebody who gives it up, once there is a leader to copy.
    pub fn operator_comes(&mut self) {
        let leads = self.store.view().leader_name().and_then(|name| self.number(name));
        let document = self.store.view().config.as_ref().map(|c| c.value.clone()).unwrap_or_default();
        let settings = DynamicConfig::read(&document).0.settings;
        let mends = settings.use_pg_rewind || settings.remove_data_directory_on_diverged_timelines;
        for node in 0..self.nodes.len() {
            let forked = self.nodes[node].agent.as_ref().is_some_and(|agent| agent.forked.is_some());
            if forked && !mends && leads.is_some_and(|leads| leads != node) {
                self.tell(node, || "an operator reinitialises what forked".into());
                self.request(node, Request::Reinitialize { force: true, from_leader: false });
            }
        }
        self.after(10 * SECOND, World::operator_comes);
    }

    /// No more faults: everything works, and whatever should run is started.
    pub fn heal(&mut self) {
        self.tell_world(|| "faults stop".into());
        self.network.heal();
        if let Some(group) = &mut self.group {
            group.heal();
        }
        self.store.slow = 0;
        self.store.lose_answers = 0;
        self.store_errors(None, 0);
        self.store_writes_again(None);
        let again = self.random.percent(50);
        self.store_back(again);
        for node in 0..self.nodes.len() {
            self.store.watch_broken[node] = false;
            self.wake_up(node);
            // What was held back arrives now: nothing else may happen that would bring a newer view.
            self.unstall(node);
            self.nodes[node].slowness = 100;
            self.nodes[node].lag = 0;
            self.nodes[node].promotion_fails = false;
            self.set_disk(node, Disk::Works);
            self.thaw_postmaster(node);
            self.thaw_agent(node);
            self.power_on(node);
        }
        self.links_changed();
        self.heal_remote();
        self.resume_cluster();
        self.healed = Some(self.now);
        self.after(60 * SECOND, World::operator_comes);
        self.stir_all();
    }
}
