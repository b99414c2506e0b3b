//! What the screen shows and what a key means: no clock, no terminal, no network.

use std::collections::{BTreeMap, VecDeque};

use jiff::tz::TimeZone;
use surus_core::MemberName;
use surus_core::report::Candidate;

use super::action::Action;
use super::news;
use crate::context::Reading;
use crate::listing::{self, Branch, Progresses};

/// Samples of lag that are kept for each member: wide screens show them all.
pub const SAMPLES: usize = 240;
const EVENTS: usize = 200;

pub struct Model {
    pub cluster: String,
    pub reading: Option<Reading>,
    pub progresses: Progresses,
    /// Why the store cannot be read now; what is shown is older then.
    pub problem: Option<String>,
    /// Who could take over, the fittest first; not known yet at the beginning.
    pub candidates: Option<Vec<Candidate>>,
    pub events: VecDeque<Event>,
    pub overlay: Option<Overlay>,
    /// By name: rows move when the lead does.
    pub selected: Option<MemberName>,
    lags: BTreeMap<MemberName, VecDeque<Option<u64>>>,
    /// In which the history is told.
    zone: TimeZone,
}

pub struct Event {
    pub at: String,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    Help,
    Confirm(Action),
}

/// One look at the cluster, or at what it depends on.
pub enum Seen {
    Cluster(Box<Reading>, Progresses),
    NoStore(String),
    Candidates(Vec<Candidate>),
    /// An action that was under way has come to this.
    Outcome(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    Char(char),
    Interrupt,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Nothing,
    Quit,
    Do(Action),
}

impl Model {
    pub fn new(cluster: &str, zone: TimeZone) -> Model {
        Model {
            cluster: cluster.to_owned(),
            reading: None,
            progresses: Progresses::new(),
            problem: None,
            candidates: None,
            events: VecDeque::new(),
            overlay: None,
            selected: None,
            lags: BTreeMap::new(),
            zone,
        }
    }

    pub fn event(&mut self, at: &str, text: String) {
        self.events.push_back(Event { at: at.to_owned(), text });
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    pub fn saw(&mut self, at: &str, seen: Seen) {
        match seen {
            Seen::Candidates(candidates) => self.candidates = Some(candidates),
            Seen::Outcome(text) => self.event(at, text),
            Seen::NoStore(problem) => {
                if self.problem.is_none() {
                    self.event(at, format!("the store cannot be read: {problem}"));
                }
                self.problem = Some(problem);
            }
            Seen::Cluster(reading, progresses) => {
                if self.problem.take().is_some() {
                    self.event(at, "the store answers again".to_owned());
                }
                match &self.reading {
                    None => {
                        for (at, text) in news::past(&reading, &self.zone) {
                            self.event(&at, text);
                        }
                    }
                    Some(before) => {
                        for text in news::between(before, &reading) {
                            self.event(at, text);
                        }
                    }
                }
                self.sample(&reading);
                self.progresses = progresses;
                self.reading = Some(*reading);
                let rows = self.rows();
                if !rows.iter().any(|row| Some(&row.member.name) == self.selected.as_ref()) {
                    // Most keys are about a replica.
                    self.selected = rows.get(1).or_else(|| rows.first()).map(|row| row.member.name.clone());
                }
            }
        }
    }

    fn sample(&mut self, reading: &Reading) {
        self.lags.retain(|name, _| reading.view.members.contains_key(name));
        for member in &reading.document.members {
            let lag = listing::lag(member);
            let lags = self.lags.entry(member.name.clone()).or_default();
            lags.push_back(lag);
            if lags.len() > SAMPLES {
                lags.pop_front();
            }
        }
    }

    pub fn lags(&self, name: &MemberName) -> impl DoubleEndedIterator<Item = Option<u64>> {
        self.lags.get(name).into_iter().flatten().copied()
    }

    /// The members as a tree of who replicates from whom.
    pub fn rows(&self) -> Vec<Branch<'_>> {
        self.reading.as_ref().map(|r| listing::tree(&r.document.members)).unwrap_or_default()
    }

    pub fn position(&self) -> Option<usize> {
        self.rows().iter().position(|row| Some(&row.member.name) == self.selected.as_ref())
    }

    fn step(&mut self, by: isize) {
        let rows = self.rows();
        let Some(last) = rows.len().checked_sub(1) else { return };
        let at = self.position().unwrap_or(0).saturating_add_signed(by).min(last);
        self.selected = Some(rows[at].member.name.clone());
    }

    /// `at`: the time of the key, for what it makes happen.
    pub fn key(&mut self, at: &str, key: Key) -> Response {
        if key == Key::Interrupt {
            return Response::Quit;
        }
        match self.overlay.take() {
            Some(Overlay::Confirm(action)) => {
                return match key {
                    Key::Char('y' | 'Y') => Response::Do(action),
                    _ => {
                        self.event(at, format!("left alone: {}", action.short()));
                        Response::Nothing
                    }
                };
            }
            Some(Overlay::Help) => return Response::Nothing,
            None => {}
        }
        match key {
            Key::Char('q') => return Response::Quit,
            Key::Up | Key::Char('k') => self.step(-1),
            Key::Down | Key::Char('j') => self.step(1),
            Key::Char('?' | 'h') => self.overlay = Some(Overlay::Help),
            Key::Char(c) => match self.wanted(c) {
                None => {}
                Some(Ok(action)) => self.overlay = Some(Overlay::Confirm(action)),
                Some(Err(why)) => self.event(at, why),
            },
            Key::Interrupt | Key::Other => {}
        }
        Response::Nothing
    }

    /// What a key asks for, or why that cannot be.
    fn wanted(&self, key: char) -> Option<Result<Action, String>> {
        if !"slrpi".contains(key) {
            return None;
        }
        let (Some(reading), Some(selected)) = (&self.reading, &self.selected) else {
            return Some(Err("nothing is known of the cluster yet".to_owned()));
        };
        let leader = reading.view.leader_name();
        let leads = leader == Some(selected);
        Some(match key {
            's' => match leader {
                None => Err("nobody leads: a switchover needs a leader; see surus failover".to_owned()),
                Some(_) if leads => Err(format!("{selected} leads already: select the member that is to lead next")),
                Some(leader) => Ok(Action::Switchover { leader: leader.clone(), candidate: selected.clone() }),
            },
            'r' => {
                let pending = reading.view.members.values().filter(|m| m.pending_restart);
                let names: Vec<MemberName> = pending.map(|m| m.name.clone()).collect();
                if names.is_empty() {
                    Err("no member waits for a restart".to_owned())
                } else {
                    Ok(Action::Restart(names))
                }
            }
            'l' => Ok(Action::Reload(selected.clone())),
            'p' => Ok(Action::Pause(!reading.settings.pause)),
            _ if leads => Err(format!("{selected} leads: its data is what the others copy; hand the lead over first")),
            _ => Ok(Action::Reinit(selected.clone())),
        })
    }
}
