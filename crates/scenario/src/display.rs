//! Statements back to the words they are written in, so that a run found by a machine can be kept as a file.

use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

use crate::parse::ROLES;
use crate::statement::{
    Condition, Expectation, Hold, LinkState, Operation, Part, Place, Role, Scenario, Setup, Statement, Step, Store,
    Target, Who,
};

impl Display for Scenario {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for line in &self.about {
            writeln!(f, "# {line}")?;
        }
        writeln!(f, "{}", self.setup)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl Display for Setup {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "cluster {} members", self.members)?;
        match self.store {
            Some(Store::Embedded) => write!(f, ", store embedded")?,
            Some(Store::Etcd(servers)) => write!(f, ", store etcd of {servers}")?,
            Some(Store::ZooKeeper(servers)) => write!(f, ", store zookeeper of {servers}")?,
            Some(Store::Consul(servers)) => write!(f, ", store consul of {servers}")?,
            None => {}
        }
        self.settings.iter().try_for_each(|(key, value)| write!(f, ", {key} {value}"))
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.statement.fmt(f)
    }
}

impl Display for Who {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Who::Named(name) => f.write_str(name),
            Who::Role(role) => role.fmt(f),
        }
    }
}

impl Display for Role {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        // Of several phrases the last is the shortest.
        let phrase = ROLES.iter().rev().find(|(_, role)| role == self).map(|(phrase, _)| *phrase);
        f.write_str(phrase.unwrap_or("?"))
    }
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Part::Node => "node",
            Part::Agent => "agent",
            Part::Fence => "fence",
            Part::Postmaster => "postmaster",
            Part::Backend => "backend",
            Part::Walsenders => "walsenders",
            Part::Store => "store",
        })
    }
}

impl<N: Display> Display for Target<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let of = self.of.to_string();
        // Members of the store are named as such.
        let whole = self.parts == [Part::Node]
            || self.parts == [Part::Store] && ["store", "all stores"].iter().any(|word| of.starts_with(word));
        if !whole {
            let parts: Vec<String> = self.parts.iter().map(Part::to_string).collect();
            write!(f, "{} of ", parts.join(" and "))?;
        }
        self.of.fmt(f)
    }
}

impl<N: Display> Display for Statement<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Statement::At(time) => write!(f, "at {}", Time(*time)),
            Statement::After(time) => write!(f, "after {}", Time(*time)),
            Statement::StartAll => f.write_str("start"),
            Statement::Start(target) => write!(f, "start {target}"),
            Statement::Stop(who) => write!(f, "stop {who}"),
            Statement::Kill(target) => write!(f, "kill {target}"),
            Statement::Freeze(target) => write!(f, "freeze {target}"),
            Statement::Thaw(target) => write!(f, "thaw {target}"),
            Statement::Link { from, to, one_way, state } => {
                let verb = match state {
                    LinkState::Cut => "cut",
                    LinkState::Stalled => "stall",
                    LinkState::Slow(_) => "slow",
                    LinkState::Flaky => "disturb",
                };
                write!(f, "{verb} {from} from ")?;
                match to {
                    Place::Store => f.write_str("store")?,
                    Place::Member(who) => who.fmt(f)?,
                    Place::Everything => f.write_str("everything")?,
                }
                if let LinkState::Slow(by) = state {
                    write!(f, " by {}", Time(*by))?;
                }
                f.write_str(if *one_way { " one way" } else { "" })
            }
            Statement::Heal => f.write_str("heal"),
            Statement::FillDisk(who) => write!(f, "fill disk of {who}"),
            Statement::HangDisk(who) => write!(f, "hang disk of {who}"),
            Statement::FreeDisk(who) => write!(f, "free disk of {who}"),
            Statement::StepClock { of, by, back } => {
                write!(f, "step clock of {of}{} by {}", if *back { " back" } else { "" }, Time(*by))
            }
            Statement::Operate { operation, wait } => {
                write!(f, "{}{operation}", if *wait { "" } else { "request " })
            }
            Statement::Write => f.write_str("write"),
            Statement::StopWriting => f.write_str("stop writing"),
            Statement::Remember { who, name } => write!(f, "remember {who} as {name}"),
            Statement::Mark => f.write_str("mark"),
            Statement::Expect(expectation) => write!(f, "expect {expectation}"),
            Statement::Try(statement) => write!(f, "try {statement}"),
        }
    }
}

impl<N: Display> Display for Operation<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Operation::SwitchOver { to: None } => f.write_str("switch over"),
            Operation::SwitchOver { to: Some(to) } => write!(f, "switch over to {to}"),
            Operation::FailOver { to } => write!(f, "fail over to {to}"),
            Operation::Pause => f.write_str("pause"),
            Operation::Resume => f.write_str("resume"),
            Operation::Restart(who) => write!(f, "restart {who}"),
            Operation::Reinit(who) => write!(f, "reinit {who}"),
            Operation::Set { key, value } => write!(f, "set {key} to {value}"),
        }
    }
}

impl<N: Display> Display for Expectation<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.condition.fmt(f)?;
        match self.hold {
            Hold::Now => Ok(()),
            Hold::Within(time) => write!(f, " within {}", Time(time)),
            Hold::For(time) => write!(f, " for {}", Time(time)),
        }
    }
}

impl<N: Display> Display for Condition<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Condition::Primary => f.write_str("primary"),
            Condition::PrimaryIs(who) => write!(f, "primary is {who}"),
            Condition::PrimaryIsNot(who) => write!(f, "primary is not {who}"),
            Condition::AllStreaming => f.write_str("all streaming"),
            Condition::SynchronousStandby => f.write_str("a synchronous standby"),
            Condition::Streaming(who) => write!(f, "{who} streaming"),
            Condition::Running(who) => write!(f, "{who} running"),
            Condition::Down(who) => write!(f, "{who} down"),
            Condition::ReadOnly(who) => write!(f, "{who} read-only"),
            Condition::Writes => f.write_str("writes"),
            Condition::NoTwoWriters => f.write_str("no two writers"),
            Condition::NothingLost => f.write_str("nothing acknowledged is lost"),
            Condition::LossWithinSettings => f.write_str("losses within settings"),
            Condition::NoFailover => f.write_str("no failover"),
        }
    }
}

/// The largest unit that says it exactly.
struct Time(Duration);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let millis = self.0.as_millis();
        let units = [("h", 3_600_000), ("min", 60_000), ("s", 1000)];
        match units.iter().find(|(_, scale)| millis > 0 && millis.is_multiple_of(*scale)) {
            Some((unit, scale)) => write!(f, "{}{unit}", millis / scale),
            None => write!(f, "{millis}ms"),
        }
    }
}
