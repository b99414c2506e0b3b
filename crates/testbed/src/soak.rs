//! Failures in an order that a seed decides, for as long as wanted, with clients that keep account.
//!
//! The schedule is written in the language of scenarios: what was played until a failure is a file that can be played
//! again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use surus_scenario::{Store, parse, play, run};

use crate::cluster::StoreKind;
use crate::history::Verdict;
use crate::stage::{Needs, Stage};

#[derive(Clone, Debug)]
pub struct Plan {
    pub binary: PathBuf,
    pub store: Stores,
    pub seed: u64,
    pub time: Duration,
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    Embedded,
    /// A group of three.
    Etcd,
    /// An ensemble of three.
    ZooKeeper,
    /// A group of three.
    Consul,
}

impl Stores {
    pub const ALL: [Stores; 4] = [Stores::Embedded, Stores::Etcd, Stores::ZooKeeper, Stores::Consul];

    pub fn name(self) -> &'static str {
        match self {
            Stores::Embedded => "embedded",
            Stores::Etcd => "etcd",
            Stores::ZooKeeper => "zookeeper",
            Stores::Consul => "consul",
        }
    }

    pub fn kind(self) -> StoreKind {
        match self {
            Stores::Embedded => StoreKind::Embedded,
            Stores::Etcd => StoreKind::Etcd,
            Stores::ZooKeeper => StoreKind::ZooKeeper,
            Stores::Consul => StoreKind::Consul,
        }
    }

    /// As a scenario's first line names it.
    pub fn named(self) -> Store {
        match self {
            Stores::Embedded => Store::Embedded,
            Stores::Etcd => Store::Etcd(3),
            Stores::ZooKeeper => Store::ZooKeeper(3),
            Stores::Consul => Store::Consul(3),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All verbs.
    Everything,
    /// The leader of the store killed or frozen every 30 s, and nothing else: no reason to move the lead.
    StoreLeader,
}

#[derive(Debug)]
pub struct Outcome {
    pub rounds: usize,
    pub verdict: Verdict,
    /// Faults that this machine cannot make, and why; they were not made.
    pub unavailable: Vec<String>,
    /// The statement at which it failed.
    pub failure: Option<String>,
    /// What was played, as a scenario file.
    pub played: String,
    /// Kept after a failure.
    pub dir: Option<PathBuf>,
}

impl Outcome {
    pub fn good(&self) -> bool {
        self.failure.is_none() && self.verdict.violations.is_empty()
    }
}

/// `tell` hears each statement as it begins.
pub async fn soak(plan: &Plan, tell: impl FnMut(String) + 'static) -> Result<Outcome> {
    let begin = Instant::now();
    let mut schedule = Schedule::new(plan);
    let everything = plan.mode == Mode::Everything;
    let needs = Needs { links: true, disks: everything, clocks: everything, small_segments: everything };
    let kind = plan.store.kind();
    let mut stage = Stage::new(&plan.binary, kind, needs, tell);
    let mut outcome = Outcome {
        rounds: 0,
        verdict: Verdict::default(),
        unavailable: Vec::new(),
        failure: None,
        played: schedule.opening(),
        dir: None,
    };
    let opening = parse(&outcome.played).context("the opening of a soak is no scenario")?;
    outcome.failure = run(&opening, &mut stage).await.err().map(|end| end.to_string());
    while outcome.failure.is_none() && begin.elapsed() < plan.time {
        let round = schedule.round();
        outcome.rounds += 1;
        outcome.played.push_str(&round);
        let text = format!("{}\n{round}", schedule.header);
        let scenario = parse(&text).with_context(|| format!("a round of a soak is no scenario:\n{text}"))?;
        outcome.failure = play(&scenario.steps, &mut stage).await.err().map(|end| end.to_string());
    }
    stage.stop_clients();
    outcome.unavailable = stage.unavailable();
    match stage.verdict().await {
        Ok(verdict) => outcome.verdict = verdict,
        Err(error) if outcome.failure.is_none() => outcome.failure = Some(format!("no verdict: {error:#}")),
        Err(_) => {}
    }
    let interruptions = outcome.verdict.reigns.len().saturating_sub(1);
    if plan.mode == Mode::StoreLeader && interruptions > 0 && outcome.failure.is_none() {
        // Also one that the same member takes up again: its clients have seen an outage.
        let what = format!("the primary was interrupted {interruptions} times, and only the store was in trouble");
        outcome.failure = Some(what);
    }
    if outcome.good() {
        stage.passed();
    } else {
        outcome.dir = stage.keep();
    }
    Ok(outcome)
}

struct Schedule {
    header: String,
    dice: Dice,
    mode: Mode,
    store: Stores,
    rounds: usize,
}

impl Schedule {
    fn new(plan: &Plan) -> Schedule {
        let store = match plan.store {
            Stores::Embedded => "embedded",
            Stores::Etcd => "etcd of 3",
            Stores::ZooKeeper => "zookeeper of 3",
            Stores::Consul => "consul of 3",
        };
        // The store leader's soak runs with the timing of a new cluster, the other with the shortest, to see more.
        let timing = match plan.mode {
            Mode::Everything => ", ttl 5, loop_wait 1, retry_timeout 2",
            Mode::StoreLeader => "",
        };
        let header = format!("cluster 3 members, store {store}{timing}");
        Schedule { header, dice: Dice(plan.seed), mode: plan.mode, store: plan.store, rounds: 0 }
    }

    fn opening(&self) -> String {
        format!("# A soak, written down by its schedule.\n{}\nstart\nwrite\nexpect writes within 10s\n", self.header)
    }

    /// Ends with the cluster whole again.
    fn round(&mut self) -> String {
        self.rounds += 1;
        match self.mode {
            Mode::StoreLeader => self.store_leader(),
            Mode::Everything => self.everything(),
        }
    }

    fn store_leader(&mut self) -> String {
        // A part of the embedded store dies with its agent, which is started again at once, as a service manager does.
        let (dead, frozen) =
            if self.store == Stores::Embedded { ("", "after 2s\n") } else { ("after 8s\n", "after 8s\n") };
        let strike = if self.dice.of(2) == 0 {
            format!("kill store leader\n{dead}start store of s\n")
        } else {
            format!("freeze store leader\n{frozen}thaw store of s\n")
        };
        let rest = if self.store == Stores::Embedded { 28 } else { 22 };
        format!("remember store leader as s\n{strike}after {rest}s\nexpect no two writers\n")
    }

    fn everything(&mut self) -> String {
        let mut text = format!("# round {}\nremember primary as p\nremember a replica as r\n", self.rounds);
        let first = self.fault();
        // One in three: the next happens before the first is over.
        let second = if self.dice.of(3) == 0 { Some(self.fault()) } else { None };
        let second = second.filter(|second| !first.leaves_nobody_to_end_it(second));
        let both: Vec<Fault> = [Some(first), second].into_iter().flatten().collect();
        for fault in &both {
            text.push_str("try ");
            text.push_str(&fault.begin);
            text.push_str(&format!("after {}ms\n", self.dice.of(9_000) + 200));
        }
        // In any order: an agent may be started while it is cut off.
        let (mut one, mut other) = (0, both.len() - 1);
        if self.dice.of(2) == 0 {
            std::mem::swap(&mut one, &mut other);
        }
        // Except that what was killed on a dead disk ends when the disk answers, and not before.
        if both[other].begin.starts_with("hang disk") {
            std::mem::swap(&mut one, &mut other);
        }
        text.push_str(&both[one].end);
        if both.len() > 1 {
            text.push_str(&both[other].end);
        }
        text.push_str(
            "heal\nexpect writes within 60s\nexpect all streaming within 120s\nexpect losses within settings within 30s\n",
        );
        text
    }

    fn fault(&mut self) -> Fault {
        let whom = ["p", "p", "p", "r"][self.dice.of(4)];
        let plain = |begin: String, end: String| Fault { begin, end };
        match self.dice.of(18) {
            0 | 1 => plain(format!("kill agent of {whom}\n"), format!("start {whom}\n")),
            2 => plain(format!("freeze agent of {whom}\n"), format!("thaw {whom}\n")),
            3 => plain(format!("freeze agent and postmaster of {whom}\n"), format!("thaw {whom}\n")),
            4 => plain(format!("freeze postmaster of {whom}\n"), format!("thaw {whom}\n")),
            5 => plain(format!("kill postmaster of {whom}\n"), String::new()),
            6 => plain("kill backend of p\n".to_owned(), String::new()),
            7 => plain(format!("kill {whom}\n"), format!("start {whom}\n")),
            8 => plain(format!("freeze {whom}\n"), format!("thaw {whom}\n")),
            9 => plain(format!("cut {whom} from store\n"), "heal\n".to_owned()),
            10 => plain(format!("cut {whom} from everything\n"), "heal\n".to_owned()),
            11 => plain(format!("cut {whom} from everything one way\n"), "heal\n".to_owned()),
            12 => plain(format!("stall {whom} from store\n"), "heal\n".to_owned()),
            13 => plain("cut p from r\n".to_owned(), "heal\n".to_owned()),
            14 if self.store != Stores::Embedded => match self.dice.of(2) {
                0 => plain("kill store2\n".to_owned(), "start store2\n".to_owned()),
                _ => plain("freeze all stores\n".to_owned(), "thaw all stores\n".to_owned()),
            },
            14 => plain(format!("slow {whom} from store by 300ms\n"), "heal\n".to_owned()),
            15 => match self.dice.of(3) {
                0 => plain(format!("hang disk of {whom}\n"), format!("try free disk of {whom}\n")),
                1 => plain(format!("fill disk of {whom}\n"), format!("try free disk of {whom}\n")),
                _ => plain(format!("step clock of {whom} by 1h\n"), format!("try step clock of {whom} back by 1h\n")),
            },
            16 => plain("kill fence of p\n".to_owned(), String::new()),
            _ => plain("request switch over\n".to_owned(), String::new()),
        }
    }
}

struct Fault {
    begin: String,
    end: String,
}

impl Fault {
    /// The agent of the primary and its fence, both at once: what no software on that machine is there to mend
    /// (docs/proof.md, what it does not cover). A fence that dies alone is replaced by its agent.
    fn leaves_nobody_to_end_it(&self, other: &Fault) -> bool {
        let fence = |fault: &Fault| fault.begin.starts_with("kill fence of p");
        let agent = |fault: &Fault| {
            ["kill agent of p", "freeze agent of p", "freeze agent and postmaster of p", "freeze p"]
                .iter()
                .any(|what| fault.begin.trim_end() == *what)
        };
        (fence(self) && agent(other)) || (agent(self) && fence(other))
    }
}

/// SplitMix64: the same numbers on every machine and in every version.
struct Dice(u64);

impl Dice {
    fn of(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64, store: Stores, mode: Mode) -> Plan {
        Plan { binary: PathBuf::new(), store, seed, time: Duration::ZERO, mode }
    }

    #[test]
    fn fence_and_agent_of_the_primary_are_not_struck_at_once() {
        let fault = |begin: &str| Fault { begin: format!("{begin}\n"), end: String::new() };
        let fence = fault("kill fence of p");
        for agent in ["kill agent of p", "freeze agent of p", "freeze agent and postmaster of p", "freeze p"] {
            assert!(fence.leaves_nobody_to_end_it(&fault(agent)) && fault(agent).leaves_nobody_to_end_it(&fence));
        }
        for other in ["kill p", "freeze postmaster of p", "freeze agent of r", "cut p from store", "kill fence of p"] {
            assert!(!fence.leaves_nobody_to_end_it(&fault(other)), "{other}");
        }
        let agent =
            ["try kill agent of p", "try freeze agent of p", "try freeze agent and postmaster of p", "try freeze p"];
        let struck = |round: &str| round.lines().any(|line| agent.contains(&line));
        let mut schedule = Schedule::new(&plan(26, Stores::Embedded, Mode::Everything));
        let rounds: Vec<String> = (0..2000).map(|_| schedule.round()).collect();
        assert!(rounds.iter().any(|round| round.contains("try kill fence")));
        assert!(!rounds.iter().any(|round| round.contains("try kill fence") && struck(round)));
    }

    #[test]
    fn a_seed_is_a_schedule_in_the_language() {
        for store in Stores::ALL {
            for mode in [Mode::Everything, Mode::StoreLeader] {
                let play = |seed| {
                    let mut schedule = Schedule::new(&plan(seed, store, mode));
                    let rounds: String = (0..200).map(|_| schedule.round()).collect();
                    schedule.opening() + &rounds
                };
                assert_eq!(play(7), play(7));
                assert_ne!(play(7), play(8));
                parse(&play(7)).unwrap();
            }
        }
    }
}
