//! Any history of a small cluster: commits, standbys that come and go, steps that break off half-way, answers that get
//! lost, agents that start again, settings that change, leaders that die. At every moment, whoever could be elected has
//! every acknowledged commit.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use surus_core::cluster::SyncState;
use surus_core::settings::{ClusterSettings, SynchronousMode};
use surus_core::synchronous::{Key, Move, Names, Situation, Standby, before_first_commit, next};

const ALL: [&str; 4] = ["a", "b", "c", "d"];

/// A position: the reign it was written in, and how far. Where a later reign began is in `World::forks`.
type Position = (usize, u64);

struct World {
    leader: usize,
    reign: usize,
    /// Where each reign left the one before.
    forks: Vec<Position>,
    logs: [Position; 4],
    connected: BTreeSet<usize>,
    settings: ClusterSettings,
    key: Option<Key>,
    /// What processes of the server may still, or already, go by.
    names: Vec<Names>,
    shown: Names,
    in_force: Option<(Names, u64)>,
    acknowledged: Vec<Position>,
    story: Vec<String>,
    /// Leave a safeguard out.
    bug: Option<Bug>,
}

#[derive(Clone, Copy, PartialEq)]
enum Bug {
    /// What was said before a setting is trusted under it.
    NotConfirmed,
    /// `/sync` follows before the setting is in force.
    NotInForce,
    /// `/sync` is not looked at by whoever is promoted.
    Unlisted,
}

impl World {
    fn new(mode: SynchronousMode, bug: Option<Bug>) -> World {
        World {
            leader: 0,
            reign: 0,
            forks: vec![(0, 0)],
            logs: [(0, 1); 4],
            connected: [1, 2, 3].into(),
            settings: ClusterSettings { synchronous_mode: mode, ..ClusterSettings::default() },
            key: None,
            names: vec![Names::Nobody],
            shown: Names::Nobody,
            in_force: None,
            acknowledged: vec![],
            story: vec![],
            bug,
        }
    }

    fn has(&self, node: usize, commit: Position) -> bool {
        let (reign, end) = self.logs[node];
        // Everything up to where the next reign forked off is part of it.
        reign >= commit.0 && end >= commit.1 && (commit.0 + 1..=reign).all(|r| self.forks[r].1 >= commit.1)
    }

    fn commit(&mut self) {
        self.logs[self.leader].1 += 1;
        self.acknowledge();
    }

    fn acknowledge(&mut self) {
        let end = self.logs[self.leader].1;
        let commit = (self.reign, end);
        let enough = |names: &Names| match names {
            Names::Nobody | Names::Foreign(_) => true,
            Names::Blocked { .. } => false,
            Names::Of { count, names, .. } => {
                let have = |n: &&String| {
                    let node = ALL.iter().position(|a| a == n).expect("a member");
                    node != self.leader && self.connected.contains(&node) && self.has(node, commit)
                };
                names.iter().filter(have).count() >= *count
            }
        };
        // Without `/sync` nothing is promised yet.
        let promised = self.key.is_some() && self.settings.synchronous_mode != SynchronousMode::Off;
        if promised && self.names.iter().any(enough) && !self.acknowledged.contains(&commit) {
            self.acknowledged.push(commit);
        }
    }

    fn receive(&mut self, node: usize) {
        if node != self.leader && self.connected.contains(&node) {
            self.logs[node] = self.logs[self.leader];
            self.acknowledge();
        }
    }

    fn situation(&self) -> Situation {
        let flushed = self.in_force.as_ref().map(|f| f.1);
        let mut active: Vec<Standby> = self
            .connected
            .iter()
            .filter(|n| **n != self.leader)
            .map(|n| Standby {
                name: ALL[*n].to_owned(),
                confirmed: flushed.is_some_and(|f| self.has(*n, (self.reign, f)))
                    || self.bug == Some(Bug::NotConfirmed),
            })
            .collect();
        let quorum_mode = self.settings.synchronous_mode == SynchronousMode::Quorum;
        let want = self.settings.synchronous_node_count as usize;
        if !quorum_mode {
            active.truncate(want);
        }
        Situation {
            me: ALL[self.leader].to_owned(),
            quorum_mode,
            strict: self.settings.synchronous_mode_strict,
            want,
            key: self.key.clone(),
            names: self.in_force.as_ref().map(|f| f.0.clone()),
            shown: self.shown.clone(),
            active,
            patient: false,
        }
    }

    fn step(&mut self, fate: u8) {
        if self.settings.synchronous_mode == SynchronousMode::Off {
            return;
        }
        let step = next(&self.situation());
        self.story.push(format!("{step:?}, fate {fate}"));
        match step {
            Move::Settled | Move::Wait(_) => {}
            Move::Write(key) if fate != 0 => self.key = Some(key),
            Move::Write(_) => {}
            Move::Set(names) => {
                self.names = vec![self.shown.clone(), names.clone()];
                if fate == 0 && self.bug != Some(Bug::NotInForce) {
                    // It breaks off, and nobody knows which of the two it is.
                    self.in_force = None;
                    return;
                }
                self.shown = names.clone();
                self.in_force = Some((names.clone(), self.logs[self.leader].1));
                if self.bug != Some(Bug::NotInForce) || fate != 0 {
                    self.names = vec![names];
                }
            }
        }
    }

    fn members(&self) -> Option<(&Key, BTreeSet<usize>)> {
        let key = self.key.as_ref()?;
        let number = |n: &String| ALL.iter().position(|a| a == n).expect("a member");
        Some((key, key.voters.iter().chain([&key.leader]).map(number).collect()))
    }

    /// Whether this one may take the lead when it reaches those.
    fn may_win(&self, candidate: usize, reached: &BTreeSet<usize>) -> bool {
        let Some((key, members)) = self.members().filter(|_| self.bug != Some(Bug::Unlisted)) else { return true };
        let leads = ALL[candidate] == key.leader;
        if self.settings.synchronous_mode == SynchronousMode::On && !members.contains(&candidate) {
            return false;
        }
        let others: Vec<usize> = reached.iter().copied().filter(|n| *n != candidate && members.contains(n)).collect();
        let former = ALL.iter().position(|n| *n == key.leader);
        if others.iter().any(|n| self.logs[*n] > self.logs[candidate] && Some(*n) != former) {
            return false;
        }
        let votes = others.iter().filter(|n| self.logs[**n] <= self.logs[candidate]).count();
        let votes = if members.contains(&candidate) { votes + 1 } else { votes };
        leads || votes > key.quorum
    }

    fn check(&self) -> Result<(), String> {
        if self.settings.synchronous_mode == SynchronousMode::Off || self.key.is_none() {
            return Ok(());
        }
        for bits in 0..16_u32 {
            // The one that leads is as good as dead, else nobody else would be elected.
            let reached: BTreeSet<usize> = (0..4).filter(|n| bits & (1 << n) != 0 && *n != self.leader).collect();
            for candidate in reached.iter().copied() {
                if !self.may_win(candidate, &reached) {
                    continue;
                }
                if let Some(lost) = self.acknowledged.iter().find(|c| !self.has(candidate, **c)) {
                    return Err(format!(
                        "{} wins with {reached:?} and lacks {lost:?}; logs {:?}, key {:?}, waits for {:?}\n{}",
                        ALL[candidate],
                        self.logs,
                        self.key,
                        self.names,
                        self.story.join("\n")
                    ));
                }
            }
        }
        Ok(())
    }

    fn fail_over(&mut self, candidate: usize, bits: u8) {
        let reached: BTreeSet<usize> = (0..4).filter(|n| bits & (1 << n) != 0 && *n != self.leader).collect();
        if candidate == self.leader || self.key.is_none() || !self.may_win(candidate, &reached) {
            return;
        }
        let state: Option<SyncState> = self.key.as_ref().map(Key::state);
        let (names, write) = before_first_commit(&ALL[candidate].into(), &self.settings, state.as_ref());
        if let Some(state) = write {
            self.key = Some(Key {
                leader: state.leader.as_str().to_owned(),
                voters: state.standbys.into_iter().collect(),
                quorum: state.quorum as usize,
            });
        }
        self.story.push(format!("{} is promoted, waits for {names:?}, key {:?}", ALL[candidate], self.key));
        self.reign += 1;
        self.forks.push(self.logs[candidate]);
        self.logs[candidate] = (self.reign, self.logs[candidate].1);
        self.connected.clear();
        self.leader = candidate;
        (self.shown, self.names, self.in_force) = (names.clone(), vec![names], None);
        self.commit();
    }

    fn does(&mut self, what: (u8, u8, u8)) {
        let node = usize::from(what.1 % 4);
        match what.0 % 16 {
            0..=2 => self.commit(),
            3..=5 => self.receive(node),
            6..=11 => self.step(what.1 % 6),
            12 if node != self.leader => {
                self.story.push(format!("{} goes", ALL[node]));
                self.connected.remove(&node);
            }
            13 if node != self.leader => {
                // It follows, if need be after a rewind, which leaves it with what the leader has then.
                self.story.push(format!("{} comes", ALL[node]));
                self.connected.insert(node);
                let fork = self.forks[self.logs[node].0..].iter().skip(1).map(|f| f.1).min();
                if fork.is_some_and(|f| self.logs[node].1 > f) {
                    self.logs[node] = self.logs[self.leader];
                }
                self.acknowledge();
            }
            14 => match what.1 % 8 {
                0 => self.in_force = None,
                1 => self.settings.synchronous_node_count = 1 + u32::from(what.2 % 3),
                2 => self.settings.synchronous_mode_strict = what.2 & 1 == 1,
                3 => {
                    self.story.push("another mode".into());
                    self.settings.synchronous_mode =
                        [SynchronousMode::On, SynchronousMode::Quorum][usize::from(what.2 & 1)];
                }
                _ => {}
            },
            15 => self.fail_over(node, what.2),
            _ => {}
        }
    }
}

fn plays(quorum: bool, events: &[(u8, u8, u8)], bug: Option<Bug>) -> Result<World, String> {
    let mode = if quorum { SynchronousMode::Quorum } else { SynchronousMode::On };
    let mut world = World::new(mode, bug);
    for event in events {
        world.does(*event);
        world.check()?;
    }
    Ok(world)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost(quorum: bool, events in prop::collection::vec(any::<(u8, u8, u8)>(), 1..120)) {
        if let Err(why) = plays(quorum, &events, None) {
            prop_assert!(false, "{}", why);
        }
    }
}

/// Without these the walk would prove nothing.
#[test]
fn each_safeguard_left_out_is_noticed() {
    for (bug, quorum) in [
        (Bug::NotConfirmed, false),
        (Bug::NotConfirmed, true),
        (Bug::NotInForce, false),
        (Bug::NotInForce, true),
        (Bug::Unlisted, false),
        (Bug::Unlisted, true),
    ] {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let events = prop::collection::vec(any::<(u8, u8, u8)>(), 1..120);
        let found = (0..6_000).find(|_| {
            let events = events.new_tree(&mut runner).expect("it generates").current();
            plays(quorum, &events, Some(bug)).is_err()
        });
        assert!(found.is_some(), "bug {} in mode quorum {quorum} was not noticed", bug as u8);
    }
}

/// And without these it would have walked nowhere.
#[test]
fn the_walk_gets_somewhere() {
    let mut seen = BTreeMap::<&str, usize>::new();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let events = prop::collection::vec(any::<(u8, u8, u8)>(), 60..120);
    for i in 0..300 {
        let world = plays(i % 2 == 0, &events.new_tree(&mut runner).expect("it generates").current(), None);
        let world = world.expect("no loss");
        *seen.entry("acknowledged").or_default() += world.acknowledged.len();
        *seen.entry("failovers").or_default() += world.reign;
        *seen.entry("listed").or_default() += usize::from(world.key.is_some_and(|k| !k.voters.is_empty()));
    }
    assert!(seen["acknowledged"] > 1_000 && seen["failovers"] > 100 && seen["listed"] > 100, "{seen:?}");
}
