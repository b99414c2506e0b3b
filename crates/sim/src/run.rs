//! One run: the world and the processes in it, until an invariant is violated or all is well again.

use std::sync::Arc;

use crate::bug::Bug;
use crate::exec::{Executor, Pid, Work};
use crate::history::Violation;
use crate::plan::Plan;
use crate::said;
use crate::trace::Trace;
use crate::world::clock::{MS, SECOND, True};
use crate::world::{Sim, World};

pub struct Ended {
    pub violation: Option<Violation>,
    /// How much time passed in the world.
    pub simulated: True,
    pub trace: Trace,
    pub promotions: u64,
    pub acknowledged: u64,
    pub decisions: u64,
}

pub fn run(plan: &Plan, bug: Option<Bug>, traced: bool) -> Ended {
    let sim = Sim::new(World::new(Arc::new(plan.clone()), bug, traced));
    sim.with(|w| {
        for node in 0..plan.members {
            let wait = w.random.below(1500 * MS);
            w.after(wait, move |w| w.start_agent(node));
        }
        for (at, action) in &plan.actions {
            let action = *action;
            w.at(*at, move |w| w.act(action));
        }
        w.at(plan.heal_at, World::heal);
        w.tick();
    });
    let mut player = Player::new(sim.clone());
    while player.advance() && !sim.lock().over {}
    player.end()
}

/// More turns than that within one simulated second, and somebody does the same again and again instead of waiting.
const TURNS: u64 = 200_000;

/// What the executor is to know after something happened; taken at once, because most of what happens wakes nobody.
struct Follows {
    now: True,
    spawned: Vec<(Pid, Work)>,
    killed: Vec<Pid>,
    thawed: bool,
    violated: bool,
}

impl Follows {
    fn take(w: &mut World) -> Follows {
        Follows {
            now: w.now,
            spawned: std::mem::take(&mut w.spawned),
            killed: std::mem::take(&mut w.killed),
            thawed: std::mem::take(&mut w.thawed),
            violated: w.history.violation.is_some(),
        }
    }
}

/// Lets time pass in a world.
pub struct Player {
    pub sim: Sim,
    executor: Executor,
    /// The simulated second that is going on, and the turns taken in it.
    turns: (True, u64),
    _listens: tracing::subscriber::DefaultGuard,
}

impl Player {
    pub fn new(sim: Sim) -> Player {
        Player {
            sim,
            executor: Executor::default(),
            turns: (0, 0),
            _listens: tracing::subscriber::set_default(said::Listener),
        }
    }

    /// Until the next event, and what follows from it. `false`: an invariant is violated, or nothing is left to happen.
    pub fn advance(&mut self) -> bool {
        let mut follows = {
            let mut w = self.sim.lock();
            if !w.happen() {
                return false;
            }
            Follows::take(&mut w)
        };
        loop {
            let now = follows.now;
            follows.killed.into_iter().for_each(|pid| self.executor.drop_process(pid));
            follows.spawned.into_iter().for_each(|(pid, work)| self.executor.spawn(pid, work));
            if follows.thawed {
                self.executor.thawed();
            }
            let sim = &self.sim;
            let ran = self.executor.run_one(|pid| sim.with(|w| w.may(pid)));
            if self.spins(now) {
                return false;
            }
            if !ran {
                return !follows.violated;
            }
            follows = Follows::take(&mut self.sim.lock());
        }
    }

    /// A world in which time does not pass would never end.
    fn spins(&mut self, now: True) -> bool {
        let second = now / SECOND;
        self.turns = if second == self.turns.0 { (second, self.turns.1 + 1) } else { (second, 0) };
        let spins = self.turns.1 > TURNS;
        if spins {
            self.sim.with(|w| {
                let what = format!("more than {TURNS} turns in one second: somebody does not wait");
                w.history.violation.get_or_insert(Violation { invariant: "time passes", at: w.now, what });
            });
        }
        spins
    }

    pub fn end(self) -> Ended {
        // The tasks hold the world, and the world what the tasks wait for.
        drop(self.executor);
        let mut w = self.sim.lock();
        Ended {
            violation: w.history.violation.take(),
            simulated: w.now,
            trace: std::mem::take(&mut w.trace),
            promotions: w.history.promotions,
            acknowledged: w.history.acknowledged,
            decisions: w.history.decisions,
        }
    }
}
