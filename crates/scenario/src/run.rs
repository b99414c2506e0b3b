//! Plays a scenario on a world.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::statement::{Condition, Expectation, Hold, Operation, Part, Place, Scenario, Statement, Step, Target, Who};
use crate::world::{Trouble, World};

/// How it ended when not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub line: usize,
    pub statement: String,
    pub trouble: Trouble,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.statement, self.trouble)
    }
}

impl std::error::Error for End {}

pub async fn run(scenario: &Scenario, world: &mut impl World) -> Result<(), End> {
    let made = world.cluster(&scenario.setup).await;
    made.map_err(|trouble| End { line: 1, statement: scenario.setup.to_string(), trouble })?;
    play(&scenario.steps, world).await
}

/// Further steps in a world that has its cluster.
pub async fn play(steps: &[Step], world: &mut impl World) -> Result<(), End> {
    let mut play = Play { world, remembered: BTreeMap::new(), zero: None };
    for step in steps {
        play.world.begins(step);
        let done = play.step(&step.statement).await;
        done.map_err(|trouble| End { line: step.line, statement: step.to_string(), trouble })?;
    }
    Ok(())
}

struct Play<'a, W> {
    world: &'a mut W,
    remembered: BTreeMap<String, String>,
    /// When the cluster was started.
    zero: Option<Duration>,
}

impl<W: World> Play<'_, W> {
    async fn step(&mut self, statement: &Statement<Who>) -> Result<(), Trouble> {
        match statement {
            Statement::At(time) => {
                let zero = self.zero();
                self.world.wait_until(zero + *time).await
            }
            Statement::After(time) => {
                let now = self.world.now();
                self.world.wait_until(now + *time).await
            }
            Statement::StartAll => {
                self.world.start_all().await?;
                self.zero = Some(self.world.now());
                Ok(())
            }
            Statement::Start(target) => {
                for (part, of) in self.targets(target).await? {
                    self.world.start(part, &of).await?;
                }
                self.zero();
                Ok(())
            }
            Statement::Stop(who) => {
                for of in self.all(who).await? {
                    self.world.stop(&of).await?;
                }
                Ok(())
            }
            Statement::Kill(target) => {
                for (part, of) in self.targets(target).await? {
                    self.world.kill(part, &of).await?;
                }
                Ok(())
            }
            Statement::Freeze(target) => {
                for (part, of) in self.targets(target).await? {
                    self.world.freeze(part, &of).await?;
                }
                Ok(())
            }
            Statement::Thaw(target) => {
                for (part, of) in self.targets(target).await? {
                    self.world.thaw(part, &of).await?;
                }
                Ok(())
            }
            Statement::Link { from, to, one_way, state } => {
                let from = self.all(from).await?;
                let to = match to {
                    Place::Store => vec![Place::Store],
                    Place::Everything => vec![Place::Everything],
                    Place::Member(who) => self.all(who).await?.into_iter().map(Place::Member).collect(),
                };
                for from in &from {
                    for to in to.iter().filter(|to| **to != Place::Member(from.clone())) {
                        self.world.link(from, to, *one_way, *state).await?;
                    }
                }
                Ok(())
            }
            Statement::Heal => self.world.heal().await,
            Statement::FillDisk(who) => {
                let of = self.one(who).await?;
                self.world.fill_disk(&of).await
            }
            Statement::HangDisk(who) => {
                let of = self.one(who).await?;
                self.world.hang_disk(&of).await
            }
            Statement::FreeDisk(who) => {
                let of = self.one(who).await?;
                self.world.free_disk(&of).await
            }
            Statement::StepClock { of, by, back } => {
                let of = self.one(of).await?;
                self.world.step_clock(&of, *by, *back).await
            }
            Statement::Operate { operation, wait } => {
                let operation = match operation {
                    Operation::SwitchOver { to: None } => Operation::SwitchOver { to: None },
                    Operation::SwitchOver { to: Some(to) } => Operation::SwitchOver { to: Some(self.one(to).await?) },
                    Operation::FailOver { to } => Operation::FailOver { to: self.one(to).await? },
                    Operation::Pause => Operation::Pause,
                    Operation::Resume => Operation::Resume,
                    Operation::Restart(who) => Operation::Restart(self.one(who).await?),
                    Operation::Reinit(who) => Operation::Reinit(self.one(who).await?),
                    Operation::Set { key, value } => Operation::Set { key: key.clone(), value: value.clone() },
                };
                self.world.operate(&operation, *wait).await
            }
            Statement::Write => self.world.write().await,
            Statement::StopWriting => self.world.stop_writing().await,
            Statement::Remember { who, name } => {
                let who = self.one(who).await?;
                self.remembered.insert(name.clone(), who);
                Ok(())
            }
            Statement::Mark => self.world.mark().await,
            Statement::Expect(expectation) => self.expect(expectation).await,
            Statement::Try(statement) => {
                let _ = Box::pin(self.step(statement)).await;
                Ok(())
            }
        }
    }

    fn zero(&mut self) -> Duration {
        *self.zero.get_or_insert(self.world.now())
    }

    async fn expect(&mut self, expectation: &Expectation<Who>) -> Result<(), Trouble> {
        let since = self.world.now();
        let seen = |why: String, after: &str| Trouble::Failed(format!("not so{after}: {why}"));
        match expectation.hold {
            Hold::Now => self.holds(&expectation.condition, since).await?.map_err(|why| seen(why, "")),
            Hold::Within(limit) => loop {
                let late = self.world.now() >= since + limit;
                match self.holds(&expectation.condition, since).await? {
                    Ok(()) => return Ok(()),
                    Err(why) if late => return Err(seen(why, " in that time")),
                    Err(_) => self.world.pause_looking().await,
                }
            },
            Hold::For(time) => loop {
                let over = self.world.now() >= since + time;
                self.holds(&expectation.condition, since).await?.map_err(|why| seen(why, " all the time"))?;
                if over {
                    return Ok(());
                }
                self.world.pause_looking().await;
            },
        }
    }

    /// Roles are looked up at every look: who leads may change meanwhile.
    async fn holds(&mut self, condition: &Condition<Who>, since: Duration) -> Result<Result<(), String>, Trouble> {
        type With = fn(String) -> Condition<String>;
        let (who, with): (&Who, With) = match condition {
            Condition::Primary => return self.world.look(&Condition::Primary, since).await,
            Condition::AllStreaming => return self.world.look(&Condition::AllStreaming, since).await,
            Condition::SynchronousStandby => return self.world.look(&Condition::SynchronousStandby, since).await,
            Condition::Writes => return self.world.look(&Condition::Writes, since).await,
            Condition::NoTwoWriters => return self.world.look(&Condition::NoTwoWriters, since).await,
            Condition::NothingLost => return self.world.look(&Condition::NothingLost, since).await,
            Condition::LossWithinSettings => return self.world.look(&Condition::LossWithinSettings, since).await,
            Condition::NoFailover => return self.world.look(&Condition::NoFailover, since).await,
            Condition::PrimaryIs(who) => (who, Condition::PrimaryIs),
            Condition::PrimaryIsNot(who) => (who, Condition::PrimaryIsNot),
            Condition::Streaming(who) => (who, Condition::Streaming),
            Condition::Running(who) => (who, Condition::Running),
            Condition::Down(who) => (who, Condition::Down),
            Condition::ReadOnly(who) => (who, Condition::ReadOnly),
        };
        let all = match self.all(who).await {
            Ok(all) => all,
            Err(Trouble::Failed(why)) => return Ok(Err(why)),
            Err(unavailable) => return Err(unavailable),
        };
        for name in all {
            if let Err(why) = self.world.look(&with(name), since).await? {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    async fn targets(&mut self, target: &Target<Who>) -> Result<Vec<(Part, String)>, Trouble> {
        let all = self.all(&target.of).await?;
        Ok(all.into_iter().flat_map(|of| target.parts.iter().map(move |part| (*part, of.clone()))).collect())
    }

    async fn all(&mut self, who: &Who) -> Result<Vec<String>, Trouble> {
        match who {
            Who::Role(role) => self.world.find(*role).await,
            Who::Named(name) => Ok(vec![self.remembered.get(name).unwrap_or(name).clone()]),
        }
    }

    async fn one(&mut self, who: &Who) -> Result<String, Trouble> {
        let mut all = self.all(who).await?;
        match all.len() {
            1 => Ok(all.remove(0)),
            _ => Err(Trouble::Failed(format!("{who} are several: {}", all.join(", ")))),
        }
    }
}

/// Runs a future whose world never makes it wait, as a simulated one.
pub fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}
