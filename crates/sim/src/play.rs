//! Scenario files in the simulated world: the same words that `surus-testbed` plays on real processes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use surus_core::MemberName;
use surus_core::failsafe::SETTING;
use surus_core::order::Request;
use surus_core::settings::Timing;
use surus_scenario::{
    Condition, End, LinkState, Operation, Part, Place, Role, Scenario, Setup, Step, Store, Trouble, World as Stage,
    now_or_never, run,
};

use crate::history::Happened;
use crate::invariant::well;
use crate::plan::{Plan, StoreKind, us};
use crate::run::Player;
use crate::world::clock::{MS, SECOND, True};
use crate::world::network::End as Side;
use crate::world::node::Disk;
use crate::world::{Sim, World};

type Done = Result<(), Trouble>;

/// Plays a scenario on the world of a seed. Returns how it ended, and all lines of the run if they are wanted.
pub fn play(scenario: &Scenario, seed: u64, traced: bool) -> (Result<(), End>, Vec<String>) {
    let mut stage = Simulated { seed, traced, player: None, stores: vec![true], leads_store: 0, mark: 0 };
    let ended = now_or_never(run(scenario, &mut stage)).expect("nothing here waits for anything but simulated time");
    let lines = stage.player.map(|p| p.end().trace.lines).unwrap_or_default();
    (ended, lines)
}

struct Simulated {
    seed: u64,
    traced: bool,
    player: Option<Player>,
    /// Which members of the store run, and which of them leads it.
    stores: Vec<bool>,
    leads_store: usize,
    /// The leader key had moved so often at the last mark.
    mark: u64,
}

fn unavailable(what: &str) -> Done {
    Err(Trouble::NotAvailable(format!("{what} is not simulated")))
}

impl Simulated {
    fn player(&mut self) -> Result<&mut Player, Trouble> {
        self.player.as_mut().ok_or_else(|| Trouble::Failed("there is no cluster yet".into()))
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut World) -> T) -> Result<T, Trouble> {
        Ok(self.player()?.sim.with(work))
    }

    /// Does it to the machine of that name.
    fn to(&mut self, of: &str, work: impl FnOnce(&mut World, usize)) -> Done {
        self.with(|w| {
            let node = w.number(&MemberName::from(of)).ok_or_else(|| Trouble::Failed(format!("no member {of}")))?;
            work(w, node);
            Ok(())
        })?
    }

    /// Lets time pass.
    fn until(&mut self, at: True) -> Done {
        let player = self.player()?;
        while player.sim.with(|w| w.next_at()).is_some_and(|next| next <= at) {
            if !player.advance() {
                let why = player.sim.with(|w| w.history.violation.clone());
                let why = why.map_or("nothing is left to happen".into(), |v| format!("{}: {}", v.invariant, v.what));
                return Err(Trouble::Failed(why));
            }
        }
        player.sim.with(|w| w.now = w.now.max(at));
        Ok(())
    }

    fn pass(&mut self, time: True) -> Done {
        let at = self.with(|w| w.now)? + time;
        self.until(at)
    }

    fn wait_for(&mut self, limit: True, what: &str, mut done: impl FnMut(&mut World) -> bool) -> Done {
        let end = self.with(|w| w.now)? + limit;
        while !self.with(&mut done)? {
            if self.with(|w| w.now)? >= end {
                return Err(Trouble::Failed(format!("{what}: not within {} s", limit / SECOND)));
            }
            self.pass(20 * MS)?;
        }
        Ok(())
    }

    /// A member of the store goes or comes.
    fn store(&mut self, of: &str, up: bool) -> Done {
        let number = of.strip_prefix("store").and_then(|n| n.parse::<usize>().ok()).filter(|n| *n <= self.stores.len());
        let Some(number) = number else { return unavailable("a member of the embedded store of its own") };
        self.stores[number - 1] = up;
        let (alive, led) = (self.stores.iter().filter(|s| **s).count(), self.stores[self.leads_store]);
        if let Some(next) = self.stores.iter().position(|s| *s) {
            self.leads_store = if led { self.leads_store } else { next };
        }
        let majority = alive > self.stores.len() / 2;
        self.with(|w| {
            if !majority || !led {
                w.store.down = true;
                w.links_changed();
            }
            if majority {
                // What is left elects a leader, which starts the leases' time again.
                let election = w.random.between(300 * MS, 1500 * MS);
                w.after(election, |w| w.store_back(true));
            }
        })
    }

    fn link_set(w: &mut World, from: Side, to: Side, one_way: bool, cut: bool) {
        w.network.set_cut(from, to, cut);
        if !one_way {
            w.network.set_cut(to, from, cut);
        }
    }
}

/// Who has this role in an embedded store.
fn embedded(w: &World, role: Role) -> Option<Result<Vec<String>, Trouble>> {
    let leads = w.group.as_ref()?.leads();
    let named = |which: &dyn Fn(usize) -> bool| {
        (0..w.nodes.len()).filter(|n| which(*n)).map(|n| w.nodes[n].name.to_string()).collect::<Vec<_>>()
    };
    let found = match role {
        Role::StoreLeader => named(&|n| Some(n) == leads),
        Role::StoreFollower => named(&|n| Some(n) != leads).into_iter().take(1).collect(),
        Role::AllStores => named(&|_| true),
        _ => return None,
    };
    Some(if found.is_empty() { Err(Trouble::Failed("nobody leads the store".into())) } else { Ok(found) })
}

impl Stage for Simulated {
    async fn cluster(&mut self, setup: &Setup) -> Done {
        if !(2..=7).contains(&setup.members) {
            return unavailable("a cluster of that size");
        }
        // To the simulator they are all one kind.
        if let Some(servers) = setup.store.map(Store::servers).filter(|servers| *servers > 0) {
            self.stores = vec![true; servers];
        }
        let seconds = |key: &str, usual: Duration| {
            setup.setting(key).and_then(|v| v.parse().ok()).map_or(usual, Duration::from_secs)
        };
        let usual = Timing::NEW_CLUSTER;
        let timing = Timing {
            ttl: seconds("ttl", usual.ttl),
            loop_wait: seconds("loop_wait", usual.loop_wait),
            retry_timeout: seconds("retry_timeout", usual.retry_timeout),
        };
        let mut plan = Plan::calm(self.seed, setup.members, timing);
        for key in ["synchronous_mode", "synchronous_mode_strict", "synchronous_node_count", SETTING] {
            if let Some(value) = setup.setting(key) {
                plan.set(key, value.into());
            }
        }
        if setup.store == Some(Store::Embedded) {
            plan.store = StoreKind::Embedded { voters: setup.members, witness: false };
        }
        let mut world = World::new(Arc::new(plan), None, self.traced);
        world.supervised = false;
        let sim = Sim::new(world);
        // A scenario says itself whether a failover is needless.
        sim.with(|w| {
            w.happened(Happened::Disturbed { node: None, store_only: false, lasts: 24 * 3600 * SECOND });
            w.tick();
        });
        self.player = Some(Player::new(sim));
        Ok(())
    }

    async fn start_all(&mut self) -> Done {
        self.with(|w| {
            for node in 0..w.nodes.len() {
                let wait = w.random.below(1500 * MS);
                w.after(wait, move |w| w.start_agent(node));
            }
        })?;
        self.wait_for(60 * SECOND, "the cluster to come up", |w| well(w).is_ok())?;
        self.mark = self.with(|w| w.history.leader_moves)?;
        Ok(())
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.player.as_ref().map_or(0, |p| p.sim.with(|w| w.now)))
    }

    async fn wait_until(&mut self, time: Duration) -> Done {
        self.until(us(time))
    }

    async fn pause_looking(&mut self) {
        // What goes wrong meanwhile is seen by the next look.
        let _ = self.pass(20 * MS);
    }

    fn begins(&mut self, step: &Step) {
        let line = step.to_string();
        let _ = self.with(|w| w.tell_world(|| format!("*** {line}")));
    }

    async fn find(&mut self, role: Role) -> Result<Vec<String>, Trouble> {
        let stores = |of: &[usize]| of.iter().map(|n| format!("store{}", n + 1)).collect::<Vec<_>>();
        let (leads_store, alive) = (self.leads_store, self.stores.len());
        if let Some(found) = self.with(|w| embedded(w, role))? {
            return found;
        }
        if matches!(role, Role::StoreLeader | Role::StoreFollower | Role::AllStores) {
            return Ok(match role {
                Role::StoreLeader => stores(&[leads_store]),
                Role::StoreFollower => stores(&[(leads_store + 1) % alive]),
                _ => stores(&(0..alive).collect::<Vec<_>>()),
            });
        }
        self.with(|w| {
            let names: Vec<String> = w.nodes.iter().map(|n| n.name.to_string()).collect();
            let primary = w.nodes.iter().position(|n| {
                n.postgres.writes() && w.store.view().leader_name().is_none_or(|leader| *leader == n.name)
            });
            let others = || (0..names.len()).filter(|n| Some(*n) != primary).map(|n| names[n].clone());
            let found: Vec<String> = match role {
                Role::All => names.clone(),
                Role::Primary => primary.map(|n| names[n].clone()).into_iter().collect(),
                Role::Replica => others().take(1).collect(),
                Role::AnotherReplica => others().skip(1).take(1).collect(),
                _ => others().collect(),
            };
            if found.is_empty() { Err(Trouble::Failed(format!("nobody is {role}"))) } else { Ok(found) }
        })?
    }

    async fn start(&mut self, part: Part, of: &str) -> Done {
        match part {
            Part::Node => self.to(of, |w, n| {
                w.power_on(n);
                w.links_changed();
            }),
            Part::Agent => self.to(of, |w, n| w.start_agent(n)),
            Part::Store => self.store(of, true),
            _ => unavailable("starting that by itself"),
        }
    }

    async fn stop(&mut self, of: &str) -> Done {
        self.to(of, |w, n| {
            if let Some(agent) = &mut w.nodes[n].agent {
                agent.inbox.shutdown = true;
            }
            w.nodes[n].stir();
        })
    }

    async fn kill(&mut self, part: Part, of: &str) -> Done {
        match part {
            Part::Node => self.to(of, |w, n| {
                w.power_off(n);
                w.links_changed();
            }),
            Part::Agent => self.to(of, |w, n| w.kill_agent(n)),
            Part::Fence => self.to(of, |w, n| w.kill_fence(n)),
            Part::Postmaster => self.to(of, |w, n| w.kill_postmaster(n, 300 * MS)),
            Part::Store => self.store(of, false),
            Part::Backend | Part::Walsenders => unavailable("the death of a single server process"),
        }
    }

    async fn freeze(&mut self, part: Part, of: &str) -> Done {
        match part {
            Part::Node => self.to(of, |w, n| w.suspend(n)),
            Part::Agent => self.to(of, |w, n| w.freeze_agent(n)),
            Part::Postmaster => self.to(of, |w, n| w.freeze_postmaster(n)),
            Part::Store => self.store(of, false),
            _ => unavailable("freezing that"),
        }
    }

    async fn thaw(&mut self, part: Part, of: &str) -> Done {
        match part {
            Part::Node => self.to(of, |w, n| w.wake_up(n)),
            Part::Agent => self.to(of, |w, n| w.thaw_agent(n)),
            Part::Postmaster => self.to(of, |w, n| w.thaw_postmaster(n)),
            Part::Store => self.store(of, true),
            _ => unavailable("thawing that"),
        }
    }

    async fn link(&mut self, from: &str, to: &Place<String>, one_way: bool, state: LinkState) -> Done {
        if state == LinkState::Flaky {
            return unavailable("connections that are lost at random");
        }
        let far = match to {
            Place::Member(name) => {
                let name = MemberName::from(name.as_str());
                self.with(|w| w.number(&name))?.map(Side::Node).into_iter().collect()
            }
            Place::Store if self.with(|w| w.group.is_some())? => {
                return match state {
                    LinkState::Slow(_) => unavailable("a slow link of the embedded store alone"),
                    _ => self.to(from, |w, n| w.cut_from_group(n, true)),
                };
            }
            Place::Store => vec![Side::Store],
            Place::Everything => {
                let all = self.with(|w| w.nodes.len())?;
                (0..all).map(Side::Node).chain([Side::Store]).collect::<Vec<_>>()
            }
        };
        self.to(from, |w, n| {
            for end in far.into_iter().filter(|end| *end != Side::Node(n)) {
                match state {
                    LinkState::Cut | LinkState::Stalled => Simulated::link_set(w, Side::Node(n), end, one_way, true),
                    LinkState::Slow(by) => w.network.set_slow(Side::Node(n), us(by)),
                    LinkState::Flaky => {}
                }
            }
            w.links_changed();
            w.stir_all();
        })
    }

    async fn heal(&mut self) -> Done {
        self.with(|w| {
            w.network.heal();
            if let Some(group) = &mut w.group {
                group.heal();
            }
            w.links_changed();
            w.stir_all();
        })
    }

    async fn fill_disk(&mut self, of: &str) -> Done {
        self.to(of, |w, n| w.set_disk(n, Disk::Full))
    }

    async fn hang_disk(&mut self, of: &str) -> Done {
        self.to(of, |w, n| w.set_disk(n, Disk::Hangs))
    }

    async fn free_disk(&mut self, of: &str) -> Done {
        self.to(of, |w, n| w.set_disk(n, Disk::Works))
    }

    async fn step_clock(&mut self, of: &str, by: Duration, back: bool) -> Done {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.to(of, |w, n| w.nodes[n].clock.step_wall(if back { -ms } else { ms }))
    }

    async fn operate(&mut self, operation: &Operation<String>, wait: bool) -> Done {
        let name = |of: &String| MemberName::from(of.as_str());
        let limit = 60 * SECOND;
        match operation {
            Operation::SwitchOver { .. } | Operation::FailOver { .. } => {
                let before = self.with(|w| w.store.view().leader_name().cloned())?;
                let asked = match operation {
                    Operation::FailOver { to } => self.with(|w| w.ask_failover(None, Some(name(to))))?,
                    Operation::SwitchOver { to } => {
                        let (leader, to) = (before.clone(), to.as_ref().map(name));
                        self.with(|w| leader.is_some() && w.ask_failover(leader, to))?
                    }
                    _ => false,
                };
                if !wait {
                    return Ok(());
                }
                if !asked {
                    return Err(Trouble::Failed("the request could not be written".into()));
                }
                self.wait_for(limit, "the switchover", |w| {
                    let leader = w.store.view().leader_name().cloned();
                    let serves = |n: MemberName| w.number(&n).is_some_and(|n| w.nodes[n].postgres.writes());
                    w.store.view().failover.is_none() && leader != before && leader.is_some_and(serves)
                })
            }
            Operation::Pause | Operation::Resume | Operation::Set { .. } => {
                let (key, value) = match operation {
                    Operation::Set { key, value } => {
                        (key.as_str(), serde_json::from_str(value).unwrap_or_else(|_| Value::from(value.as_str())))
                    }
                    Operation::Pause => ("pause", Value::Bool(true)),
                    _ => ("pause", Value::Null),
                };
                if !self.with(|w| w.configure(key, value))? {
                    return Err(Trouble::Failed("the configuration could not be written".into()));
                }
                // Until those that run have seen it.
                if wait { self.pass(SECOND) } else { Ok(()) }
            }
            Operation::Restart(of) => {
                let server = |w: &World, n: usize| w.nodes[n].postgres.server.as_ref().map(|s| s.pid);
                let node = self.with(|w| w.number(&name(of)))?.unwrap_or(0);
                let before = self.with(|w| server(w, node))?;
                self.with(|w| w.request(node, Request::Restart))?;
                if !wait {
                    return Ok(());
                }
                self.wait_for(limit, "the restart", |w| server(w, node) != before && w.nodes[node].postgres.serves())
            }
            Operation::Reinit(of) => {
                let node = self.with(|w| w.number(&name(of)))?.unwrap_or(0);
                self.with(|w| w.request(node, Request::Reinitialize { force: true, from_leader: false }))?;
                if wait { self.pass(SECOND) } else { Ok(()) }
            }
        }
    }

    /// Clients write all the time, to whoever lets them.
    async fn write(&mut self) -> Done {
        Ok(())
    }

    async fn stop_writing(&mut self) -> Done {
        unavailable("a cluster without writers")
    }

    async fn mark(&mut self) -> Done {
        self.mark = self.with(|w| w.history.leader_moves)?;
        Ok(())
    }

    async fn look(&mut self, condition: &Condition<String>, since: Duration) -> Result<Result<(), String>, Trouble> {
        let (mark, since) = (self.mark, us(since));
        self.with(|w| {
            if let Some(violation) = &w.history.violation {
                return Err(Trouble::Failed(format!("{}: {}", violation.invariant, violation.what)));
            }
            let number = |of: &String| w.number(&MemberName::from(of.as_str())).unwrap_or(0);
            let leads =
                w.store.view().leader_name().and_then(|n| w.number(n)).filter(|n| w.nodes[*n].postgres.writes());
            let so = |holds: bool, otherwise: &str| if holds { Ok(()) } else { Err(otherwise.to_owned()) };
            Ok(match condition {
                Condition::Primary => so(leads.is_some(), "nobody leads and accepts writes"),
                Condition::PrimaryIs(of) => so(leads == Some(number(of)), "somebody else, or nobody"),
                Condition::PrimaryIsNot(of) => so(leads.is_some_and(|n| n != number(of)), "it is, or nobody is"),
                Condition::AllStreaming => well(w).map(drop),
                Condition::SynchronousStandby => {
                    let view = w.store.view();
                    let named = view.sync.as_ref().is_some_and(|sync| !sync.value.standbys.is_empty());
                    so(named, "no standby is synchronous")
                }
                Condition::Streaming(of) => {
                    so(leads.is_some_and(|leads| w.streams_from(number(of), leads)), "it does not stream")
                }
                Condition::Running(of) => so(w.nodes[number(of)].postgres.serves(), "it does not serve"),
                Condition::Down(of) => {
                    let postgres = &w.nodes[number(of)].postgres;
                    so(postgres.server.is_none() && !postgres.orphans, "it runs")
                }
                Condition::ReadOnly(of) => so(!w.acknowledges(number(of)), "it acknowledges commits"),
                Condition::Writes => {
                    let last = w.history.last_ack.filter(|(at, node)| *at > since && Some(*node) == leads);
                    so(last.is_some(), "no commit was acknowledged by the leader since")
                }
                // The invariants see to these at every moment.
                Condition::NoTwoWriters | Condition::LossWithinSettings => Ok(()),
                Condition::NothingLost => so(w.history.lost == 0, "acknowledged commits are missing on the primary"),
                Condition::NoFailover => so(w.history.leader_moves == mark, "the lead has moved"),
            })
        })?
    }
}
