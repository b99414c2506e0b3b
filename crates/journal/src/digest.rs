//! A decision in few words: what `explain` and `timeline` show of it, and what makes it differ from the one before.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use surus_core::cluster::{ClusterView, FailoverRequest, MemberState};
use surus_core::facts::{Answer, Facts, TaskDone};
use surus_core::order::{Order, Request};
use surus_core::postgres::{DataDir, ProcessState};
use surus_core::report::{Candidate, Section};
use surus_core::{Lsn, MemberName, Timeline};

use crate::read::{Item, Problem};
use crate::record::{Header, Recorded, Took};

/// What a person would call a change, when it changes. Positions, revisions and times are not in it: they always do.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Landmarks {
    pub leader: Option<MemberName>,
    /// Of the leader key: tells two terms of one leader apart.
    pub leader_version: Option<u64>,
    pub holds_lead: bool,
    pub inherited: bool,
    pub session: bool,
    pub store_trouble: Option<String>,
    pub paused: bool,
    pub shutdown: bool,
    pub request: Option<FailoverRequest>,
    pub request_version: Option<u64>,
    pub data_dir: String,
    /// `stopped`, `not accepting`, `accepting`.
    pub process: String,
    pub orphans: bool,
    pub answers: bool,
    pub in_recovery: Option<bool>,
    pub timeline: Option<Timeline>,
    /// The member, or `host:port` if nobody published that.
    pub streams_from: Option<String>,
    /// Name of the task that runs.
    pub task: Option<String>,
    pub finished: Option<Finished>,
    pub asked: Option<Request>,
    /// State and role as published.
    pub members: BTreeMap<MemberName, String>,
}

/// The end of a task.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Finished {
    pub task: String,
    /// It worked out.
    pub well: bool,
    pub how: String,
    /// Boot-time clock, milliseconds.
    pub at: u64,
}

/// One decision of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub n: u64,
    /// Wall clock, Unix milliseconds.
    pub at: i64,
    /// Boot-time clock, milliseconds.
    pub now: u64,
    pub times: u64,
    pub took: Took,
    pub rule: u16,
    pub section: Section,
    pub name: String,
    pub goal: String,
    pub why: String,
    pub candidates: Vec<Candidate>,
    pub waiting_for: Vec<String>,
    pub orders: Vec<Order>,
    pub seen: Landmarks,
    pub revision: Option<u64>,
    pub position: Option<Lsn>,
    /// For how long the lead was certainly held then, in milliseconds.
    pub lease_left: Option<u64>,
}

/// One thing in the journal of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The agent started.
    Started(Header),
    Decided(Box<Entry>),
    /// Nothing new until then: the decision before was made so many times.
    Same {
        at: i64,
        times: u64,
    },
    /// So many decisions could not be recorded.
    Lost {
        at: i64,
        lost: u64,
        why: String,
    },
}

/// What one member's journal tells about a stretch of time.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    pub scope: String,
    pub member: MemberName,
    /// Oldest first.
    pub events: Vec<Event>,
    /// What of the journal cannot be read.
    pub problems: Vec<String>,
    /// There was more, and the oldest of it is left out.
    pub shortened: bool,
}

impl Landmarks {
    pub fn of(facts: &Facts) -> Landmarks {
        let view = facts.store.view.as_deref();
        let observed = facts.postgres.observed();
        let member = |m: &surus_core::cluster::Member| match m.state {
            MemberState::Running => m.role.as_str().to_owned(),
            state => state.as_str().to_owned(),
        };
        Landmarks {
            leader: view.and_then(|v| v.leader_name().cloned()),
            leader_version: view.and_then(|v| v.leader.as_ref()).map(|l| l.version),
            holds_lead: facts.lead.is_some(),
            inherited: facts.inherited.is_some(),
            session: facts.store.session,
            store_trouble: facts.store.broken.as_ref().map(|b| b.1.clone()),
            paused: facts.settings.pause,
            shutdown: facts.shutdown,
            request: view.and_then(|v| v.failover.as_ref()).map(|f| f.value.clone()),
            request_version: view.and_then(|v| v.failover.as_ref()).map(|f| f.version),
            data_dir: match &facts.postgres.data_dir {
                DataDir::Empty => "empty".to_owned(),
                DataDir::Present { standby_signal: true, .. } => "standby".to_owned(),
                DataDir::Present { .. } => "primary".to_owned(),
                DataDir::Foreign(why) | DataDir::Unreadable(why) => why.clone(),
            },
            process: match facts.postgres.process {
                ProcessState::NotRunning => "stopped",
                ProcessState::NotAccepting => "not accepting",
                ProcessState::Accepting => "accepting",
            }
            .to_owned(),
            orphans: facts.postgres.orphans,
            answers: matches!(facts.postgres.answer, Answer::Known(_)),
            in_recovery: observed.map(|o| o.in_recovery),
            timeline: observed.and_then(|o| o.timeline),
            streams_from: observed
                .filter(|o| o.in_recovery && o.is_streaming())
                .and_then(|o| o.receiver.as_ref())
                .and_then(|r| Some(sender(view, r.sender_host.as_deref()?, r.sender_port?))),
            task: facts.task.as_ref().map(|t| t.task.name()),
            finished: facts.finished.as_ref().map(|f| Finished {
                task: f.task.name(),
                well: matches!(&f.outcome, Ok(done) if !matches!(done, TaskDone::GivenUp(_))),
                how: how(&f.outcome),
                at: f.at.as_millis(),
            }),
            asked: facts.request,
            members: view
                .map(|v| v.members.values().map(|m| (m.name.clone(), member(m))).collect())
                .unwrap_or_default(),
        }
    }

    /// It accepts writes as the leader.
    pub fn leads_and_writes(&self) -> bool {
        self.holds_lead && self.process == "accepting" && self.in_recovery == Some(false)
    }
}

fn sender(view: Option<&ClusterView>, host: &str, port: u16) -> String {
    let member = view
        .into_iter()
        .flat_map(|v| v.members.values())
        .find(|m| m.upstream().is_some_and(|u| u.host == host && u.port == port));
    member.map_or_else(|| format!("{host}:{port}"), |m| m.name.to_string())
}

fn how(outcome: &Result<TaskDone, String>) -> String {
    match outcome {
        Ok(TaskDone::Done) => "done".to_owned(),
        Ok(TaskDone::Released) => "done, the lead is released".to_owned(),
        Ok(TaskDone::NotDiverged) => "the histories agree".to_owned(),
        Ok(TaskDone::LostRace) => "another member was first".to_owned(),
        Ok(TaskDone::GivenUp(why)) => format!("given up: {why}"),
        Ok(TaskDone::Diverged(what) | TaskDone::SameNumber(what) | TaskDone::Undecided(what)) => what.clone(),
        Err(why) => format!("failed: {why}"),
    }
}

impl Entry {
    pub fn of(recorded: &Recorded) -> Entry {
        let (facts, step) = (&recorded.decision.facts, &recorded.decision.step);
        let report = step.report.clone();
        Entry {
            n: recorded.n,
            at: facts.unix_ms,
            now: facts.now.as_millis(),
            times: recorded.times,
            took: recorded.took,
            rule: report.rule,
            section: report.section,
            name: report.name,
            goal: report.goal,
            why: report.why,
            candidates: report.candidates,
            waiting_for: report.waiting_for,
            orders: step.orders.clone(),
            seen: Landmarks::of(facts),
            revision: facts.store.view.as_deref().map(|v| v.revision),
            position: facts.postgres.observed().map(|o| o.position()),
            lease_left: facts.lead.map(|l| u64::try_from(l.until.since(facts.now).as_millis()).unwrap_or(0)),
        }
    }
}

impl Event {
    /// Wall clock, Unix milliseconds.
    pub fn at(&self) -> i64 {
        match self {
            Event::Started(header) => header.at,
            Event::Decided(entry) => entry.at,
            Event::Same { at, .. } | Event::Lost { at, .. } => *at,
        }
    }
}

/// The last `most` events since then, each journal entry read once. What stood at the beginning is the last decision
/// before it.
pub fn account(items: impl Iterator<Item = Result<Item, Problem>>, since: i64, most: usize) -> Account {
    let mut account = Account::default();
    let mut events = VecDeque::new();
    let mut before: Option<Event> = None;
    for item in items {
        let event = match item {
            Err(problem) => {
                account.problems.push(problem.to_string());
                continue;
            }
            Ok(Item::Header(header)) => {
                account.scope.clone_from(&header.scope);
                account.member = header.member.clone();
                Event::Started(header)
            }
            Ok(Item::Decision(recorded)) => Event::Decided(Box::new(Entry::of(&recorded))),
            Ok(Item::Same { at, times, .. }) => {
                // Only the last word counts.
                if let Some(Event::Same { .. }) = events.back() {
                    events.pop_back();
                }
                Event::Same { at, times }
            }
            Ok(Item::Lost { at, lost, why }) => Event::Lost { at, lost, why },
        };
        if event.at() < since {
            if matches!(event, Event::Decided(_)) {
                before = Some(event);
            }
            continue;
        }
        if let Some(before) = before.take() {
            events.push_back(before);
        }
        events.push_back(event);
        if events.len() > most {
            events.pop_front();
            account.shortened = true;
        }
    }
    events.extend(before.filter(|_| events.is_empty()));
    account.events = events.into();
    account
}
