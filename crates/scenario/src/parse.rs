//! Text to [`Scenario`].

use crate::statement::{LinkState, Operation, Part, Place, Role, Scenario, Setup, Statement, Step, Store, Target, Who};
use crate::words::{Parsed, SyntaxError, Words};

const STATEMENT: &str = "a statement: at, after, start, stop, kill, freeze, thaw, cut, stall, slow, heal, fill, hang, \
     free, step, switch, fail, pause, resume, restart, reinit, set, request, try, write, remember, mark or expect";
const PART: &str = "what: agent, fence, postmaster, backend, walsenders, store, or a member";

/// Reads a whole file. The first error ends it.
pub fn parse(text: &str) -> Parsed<Scenario> {
    let mut about = Vec::new();
    let mut setup: Option<Setup> = None;
    let mut steps = Vec::new();
    let mut names = Names::default();
    let mut lines = 0;
    for (index, text) in text.lines().enumerate() {
        let line = index + 1;
        lines = line;
        let mut words = Words::of(line, text);
        if words.is_done() {
            if let Some(comment) = text.trim().strip_prefix('#')
                && setup.is_none()
            {
                about.push(comment.trim().to_owned());
            }
            continue;
        }
        if setup.is_none() {
            let first = parse_setup(&mut words)?;
            words.finish()?;
            names = Names::of(&first);
            setup = Some(first);
            continue;
        }
        if words.peek() == Some("cluster") {
            return Err(words.error("one cluster in a file"));
        }
        while let Some(statement) = time(&mut words)? {
            steps.push(Step { line, statement });
        }
        if !words.is_done() {
            let statement = names.statement(&mut words)?;
            if let Statement::Remember { name, .. } = &statement {
                names.remembered.push(name.clone());
            }
            steps.push(Step { line, statement });
        }
        words.finish()?;
    }
    let setup = setup.ok_or(SyntaxError {
        line: lines.max(1),
        column: 1,
        found: None,
        expected: "\"cluster N members\" as the first line".to_owned(),
    })?;
    Ok(Scenario { about, setup, steps })
}

fn parse_setup(words: &mut Words) -> Parsed<Setup> {
    if !words.take("cluster") {
        return Err(words.error("\"cluster N members\" as the first line"));
    }
    let members = words.number("the number of members")?;
    if !words.take("members") && !words.take("member") {
        return Err(words.error("\"members\""));
    }
    let mut setup = Setup { members, store: None, settings: Vec::new() };
    while !words.is_done() {
        if words.take("store") {
            setup.store = Some(store(words)?);
        } else {
            let key = words.word("a setting")?.to_owned();
            let value = match key.as_str() {
                "synchronous" => ("synchronous_mode".to_owned(), "on".to_owned()),
                "quorum" => ("synchronous_mode".to_owned(), "quorum".to_owned()),
                _ => (key, words.word("its value")?.to_owned()),
            };
            setup.settings.push(value);
        }
    }
    Ok(setup)
}

fn store(words: &mut Words) -> Parsed<Store> {
    if words.take("embedded") {
        return Ok(Store::Embedded);
    }
    let kind = if words.take("etcd") {
        Store::Etcd
    } else if words.take("zookeeper") {
        Store::ZooKeeper
    } else if words.take("consul") {
        Store::Consul
    } else {
        return Err(words.error("\"embedded\", \"etcd\", \"zookeeper\" or \"consul\""));
    };
    Ok(kind(if words.take("of") { words.number("the number of servers")? } else { 1 }))
}

fn time(words: &mut Words) -> Parsed<Option<Statement<Who>>> {
    let statement = if words.take("at") {
        Statement::At(words.duration()?)
    } else if words.take("after") {
        Statement::After(words.duration()?)
    } else {
        return Ok(None);
    };
    Ok(Some(statement))
}

/// The names that a line may use.
#[derive(Default)]
pub(crate) struct Names {
    members: usize,
    stores: usize,
    remembered: Vec<String>,
}

impl Names {
    fn of(setup: &Setup) -> Names {
        let stores = setup.store.map_or(0, Store::servers);
        Names { members: setup.members, stores, remembered: Vec::new() }
    }

    fn statement(&self, words: &mut Words) -> Parsed<Statement<Who>> {
        if words.take("try") {
            return Ok(Statement::Try(Box::new(self.statement(words)?)));
        }
        let waits = !words.take("request");
        if let Some(operation) = self.operation(words)? {
            return Ok(Statement::Operate { operation, wait: waits });
        }
        if !waits {
            return Err(words
                .error("what an operator can ask for: switch over, fail over, pause, resume, restart, reinit, set"));
        }
        let verb = words.peek().ok_or_else(|| words.error(STATEMENT))?;
        if !VERBS.contains(&verb) {
            return Err(words.error(STATEMENT));
        }
        words.word(STATEMENT)?;
        Ok(match verb {
            "start" if words.is_done() => Statement::StartAll,
            "start" => Statement::Start(self.target(words)?),
            "stop" if words.take("writing") => Statement::StopWriting,
            "stop" => Statement::Stop(self.who(words)?),
            "kill" => Statement::Kill(self.target(words)?),
            "freeze" => Statement::Freeze(self.target(words)?),
            "thaw" => Statement::Thaw(self.target(words)?),
            "cut" => self.link(words, LinkState::Cut)?,
            "stall" => self.link(words, LinkState::Stalled)?,
            "slow" => self.link(words, LinkState::Slow(std::time::Duration::ZERO))?,
            "disturb" => self.link(words, LinkState::Flaky)?,
            "heal" => Statement::Heal,
            "fill" => Statement::FillDisk(self.disk(words)?),
            "hang" => Statement::HangDisk(self.disk(words)?),
            "free" => Statement::FreeDisk(self.disk(words)?),
            "step" => {
                words.must("clock of")?;
                let of = self.who(words)?;
                let back = words.take("back");
                words.must("by")?;
                Statement::StepClock { of, by: words.duration()?, back }
            }
            "write" => Statement::Write,
            "remember" => {
                let who = self.who(words)?;
                words.must("as")?;
                // A remembered name may be given again.
                let given = |name| numbered(name, "node").or(numbered(name, "store")).is_some();
                let taken = words.peek().is_some_and(|name| given(name) || RESERVED.contains(&name));
                if taken {
                    return Err(words.error("a name that is not taken"));
                }
                Statement::Remember { who, name: words.word("a name")?.to_owned() }
            }
            "mark" => Statement::Mark,
            _ => Statement::Expect(self.expectation(words)?),
        })
    }

    fn operation(&self, words: &mut Words) -> Parsed<Option<Operation<Who>>> {
        let operation = if words.take("switch") {
            words.must("over")?;
            Operation::SwitchOver { to: if words.take("to") { Some(self.who(words)?) } else { None } }
        } else if words.take("fail") {
            words.must("over to")?;
            Operation::FailOver { to: self.who(words)? }
        } else if words.take("pause") {
            Operation::Pause
        } else if words.take("resume") {
            Operation::Resume
        } else if words.take("restart") {
            Operation::Restart(self.who(words)?)
        } else if words.take("reinit") {
            Operation::Reinit(self.who(words)?)
        } else if words.take("set") {
            let key = words.word("a setting")?.to_owned();
            words.must("to")?;
            Operation::Set { key, value: words.word("its value")?.to_owned() }
        } else {
            return Ok(None);
        };
        Ok(Some(operation))
    }

    fn link(&self, words: &mut Words, mut state: LinkState) -> Parsed<Statement<Who>> {
        let from = self.who(words)?;
        words.must("from")?;
        let to = if words.take("everything") {
            Place::Everything
        } else if words.peek() == Some("store") && !["leader", "follower"].iter().any(|next| words.is_next(next)) {
            words.must("store")?;
            Place::Store
        } else {
            Place::Member(self.who(words)?)
        };
        if let LinkState::Slow(by) = &mut state {
            words.must("by")?;
            *by = words.duration()?;
        }
        let one_way = words.take("one way");
        Ok(Statement::Link { from, to, one_way, state })
    }

    fn disk(&self, words: &mut Words) -> Parsed<Who> {
        words.must("disk of")?;
        self.who(words)
    }

    /// `agent and postmaster of primary`, `node1`, `store leader`, `store2`.
    fn target(&self, words: &mut Words) -> Parsed<Target<Who>> {
        let mut parts = Vec::new();
        loop {
            let part = match words.peek().ok_or_else(|| words.error(PART))? {
                "agent" => Part::Agent,
                "fence" => Part::Fence,
                "postmaster" => Part::Postmaster,
                "backend" => Part::Backend,
                "walsenders" => Part::Walsenders,
                "store" if words.is_next("of") => Part::Store,
                _ if parts.is_empty() => break,
                _ => return Err(words.error(PART)),
            };
            words.word(PART)?;
            parts.push(part);
            if !words.take("and") {
                words.must("of")?;
                return Ok(Target { parts, of: self.who(words)? });
            }
        }
        if words.peek() == Some("store") && !words.is_next("leader") && !words.is_next("follower") {
            words.must("store")?;
            return Ok(Target { parts: vec![Part::Store], of: Who::Role(Role::AllStores) });
        }
        let of = self.who(words).map_err(|error| if words.is_done() { error } else { words.error(PART) })?;
        let store = match &of {
            Who::Role(role) => matches!(role, Role::StoreLeader | Role::StoreFollower | Role::AllStores),
            Who::Named(name) => self.is_store(name),
        };
        Ok(Target { parts: vec![if store { Part::Store } else { Part::Node }], of })
    }

    pub(crate) fn who(&self, words: &mut Words) -> Parsed<Who> {
        for (phrase, role) in ROLES {
            if words.take(phrase) {
                return Ok(Who::Role(*role));
            }
        }
        match words.peek() {
            Some(name) if self.named(name) => Ok(Who::Named(words.word("")?.to_owned())),
            _ => {
                let mut known = format!(
                    "a member: node1 to node{}, primary, a replica, another replica, store leader, a store follower, all, all replicas, all stores",
                    self.members
                );
                if self.stores > 0 {
                    known.push_str(&format!(", store1 to store{}", self.stores));
                }
                for name in &self.remembered {
                    known.push_str(", ");
                    known.push_str(name);
                }
                Err(words.error(&known))
            }
        }
    }

    fn is_store(&self, name: &str) -> bool {
        numbered(name, "store").is_some_and(|number| (1..=self.stores).contains(&number))
    }

    fn named(&self, name: &str) -> bool {
        numbered(name, "node").is_some_and(|number| (1..=self.members).contains(&number))
            || self.is_store(name)
            || self.remembered.iter().any(|known| known == name)
    }
}

const VERBS: &[&str] = &[
    "start", "stop", "kill", "freeze", "thaw", "cut", "stall", "slow", "disturb", "heal", "fill", "hang", "free",
    "step", "write", "remember", "mark", "expect",
];

/// Longer phrases first: the first that fits is taken.
pub(crate) const ROLES: &[(&str, Role)] = &[
    ("all replicas", Role::AllReplicas),
    ("all stores", Role::AllStores),
    ("all", Role::All),
    ("the primary", Role::Primary),
    ("primary", Role::Primary),
    ("another replica", Role::AnotherReplica),
    ("a replica", Role::Replica),
    ("the store leader", Role::StoreLeader),
    ("store leader", Role::StoreLeader),
    ("a store follower", Role::StoreFollower),
    ("store follower", Role::StoreFollower),
];

/// Words of the language that a remembered member would make ambiguous.
const RESERVED: &[&str] = &[
    "all",
    "a",
    "the",
    "another",
    "primary",
    "store",
    "agent",
    "fence",
    "postmaster",
    "backend",
    "walsenders",
    "everything",
    "no",
    "nothing",
    "losses",
    "writes",
];

fn numbered(name: &str, prefix: &str) -> Option<usize> {
    name.strip_prefix(prefix)?.parse().ok()
}
