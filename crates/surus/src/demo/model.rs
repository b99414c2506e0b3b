//! What is shown: the members as last seen, and what happened.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use surus_api::{PatroniStatus, XlogStatus};
use surus_core::cluster::{MemberRole, MemberState};

use super::plan::Plan;
use super::watch::Seen;

pub struct Model {
    pub members: Vec<Shown>,
    pub events: Vec<Event>,
    pub psql: String,
    pub dir: PathBuf,
    pub store: &'static str,
    begin: Instant,
    leader: Option<usize>,
}

pub struct Event {
    pub after: Duration,
    pub text: String,
}

pub struct Shown {
    pub name: String,
    pub port: u16,
    seen: Seen,
    /// The demo has killed it, or its agent has ended.
    down: Option<&'static str>,
    told: String,
}

impl Model {
    pub fn new(plan: &Plan, dir: &Path) -> Model {
        let shown = |node: &super::plan::PlannedNode| Shown {
            name: node.name.clone(),
            port: node.postgres,
            seen: Seen::default(),
            down: None,
            told: String::new(),
        };
        Model {
            members: plan.nodes.iter().map(shown).collect(),
            events: Vec::new(),
            psql: plan.psql(),
            dir: dir.to_owned(),
            store: plan.store.name(),
            begin: Instant::now(),
            leader: None,
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    pub fn event(&mut self, text: String) {
        self.events.push(Event { after: self.elapsed(), text });
    }

    /// Who is primary, by what the members say.
    pub fn leader(&self) -> Option<usize> {
        self.members.iter().position(Shown::is_primary)
    }

    pub fn saw(&mut self, node: usize, seen: Seen) {
        if self.members[node].down.is_some() {
            // An answer that was on its way when the member was killed.
            return;
        }
        self.members[node].seen = seen;
        self.tell(node);
    }

    pub fn killed(&mut self, node: usize) {
        self.gone(node, "killed");
        let name = self.members[node].name.clone();
        self.event(format!("{name}: killed, agent and PostgreSQL at once"));
    }

    pub fn started(&mut self, node: usize) {
        self.members[node].down = None;
        let name = self.members[node].name.clone();
        self.event(format!("{name}: started again"));
    }

    pub fn ended(&mut self, node: usize, status: &ExitStatus, last_words: String) {
        self.gone(node, "ended");
        let name = self.members[node].name.clone();
        let log = self.dir.join(&name).join("agent.log");
        self.event(format!("{name}: its agent ended by itself, {status}; last in {}: {last_words}", log.display()));
    }

    fn gone(&mut self, node: usize, how: &'static str) {
        self.members[node].down = Some(how);
        self.members[node].seen = Seen::default();
        self.members[node].told = String::new();
        if self.leader == Some(node) {
            self.leader = None;
        }
    }

    /// Makes events of what is new.
    fn tell(&mut self, node: usize) {
        let member = &mut self.members[node];
        let now = member.summary();
        // That a member which has just been started does not answer yet is no news.
        if now != member.told && (member.is_up() || !member.told.is_empty()) {
            member.told.clone_from(&now);
            let text = format!("{}: {now}", member.name);
            self.event(text);
        }
        let leader = self.leader();
        if leader.is_some() && leader != self.leader {
            self.leader = leader;
            if let Some(name) = leader.map(|leader| self.members[leader].name.clone()) {
                self.event(format!("{name} is the primary"));
            }
        }
    }

    /// WAL that a replica has yet to replay, in bytes.
    pub fn lag(&self, node: usize) -> Option<u64> {
        let written = match self.members[self.leader()?].xlog()? {
            XlogStatus::Primary { location } => location.0,
            XlogStatus::Standby { .. } => return None,
        };
        match self.members[node].xlog()? {
            XlogStatus::Standby { replayed_location, .. } => Some(written.saturating_sub(replayed_location.0)),
            XlogStatus::Primary { .. } => None,
        }
    }
}

impl Shown {
    fn status(&self) -> Option<&PatroniStatus> {
        self.seen.status.as_ref()
    }

    fn xlog(&self) -> Option<&XlogStatus> {
        self.status()?.xlog.as_ref()
    }

    pub fn is_up(&self) -> bool {
        self.seen.status.is_some()
    }

    pub fn is_primary(&self) -> bool {
        self.status().is_some_and(|s| s.role == MemberRole::Primary && s.state == MemberState::Running)
    }

    pub fn role(&self) -> &'static str {
        self.status().map_or("", |status| status.role.as_str())
    }

    /// State, or how it streams, which says more.
    pub fn state(&self) -> &str {
        match (self.down, self.status()) {
            (Some(down), _) => down,
            (None, None) => "no answer",
            (None, Some(status)) => match &status.replication_state {
                Some(replication) if status.state == MemberState::Running => replication,
                _ => status.state.as_str(),
            },
        }
    }

    pub fn timeline(&self) -> Option<u32> {
        self.status()?.timeline.flatten().map(|timeline| timeline.0)
    }

    /// The long operation that runs, else what it decided last.
    pub fn doing(&self) -> String {
        let Some(status) = self.status() else { return String::new() };
        if let Some(progress) = &status.progress {
            let percent = progress.percent().map(|p| format!(", {p}%")).unwrap_or_default();
            let of = progress.total_bytes.map(|total| format!(" of {}", bytes(total))).unwrap_or_default();
            let left = progress.eta_seconds.map(|s| format!(", {s} s left")).unwrap_or_default();
            return format!("{}: {}{of}{percent}{left}", progress.what, bytes(progress.done_bytes));
        }
        status.task.clone().or_else(|| self.seen.goal.clone()).unwrap_or_default()
    }

    /// What makes an event when it changes: no positions and no progress.
    fn summary(&self) -> String {
        let Some(status) = self.status() else { return self.state().to_owned() };
        let mut text = format!("{}, {}", status.role.as_str(), self.state());
        if let Some(timeline) = self.timeline() {
            text.push_str(&format!(", timeline {timeline}"));
        }
        if status.pause {
            text.push_str(", paused");
        }
        match (&status.progress, &status.task, &self.seen.goal) {
            (Some(progress), ..) => text.push_str(&format!("; {}", progress.what)),
            (None, Some(task), _) => text.push_str(&format!("; {task}")),
            (None, None, Some(goal)) => text.push_str(&format!("; {goal}")),
            (None, None, None) => {}
        }
        text
    }
}

pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::plan::{Plan, PlannedNode};
    use super::*;

    fn model() -> Model {
        let node = |i: u16| PlannedNode { name: format!("node{i}"), postgres: i, rest: i, raft: i };
        let plan = Plan { store: Store::Embedded, nodes: vec![node(1), node(2)], etcd: None, password: "x".into() };
        Model::new(&plan, Path::new("/x"))
    }

    fn seen(json: &str) -> Seen {
        Seen { status: Some(serde_json::from_str(json).unwrap()), goal: None }
    }

    #[test]
    fn changes_become_events_once() {
        let mut model = model();
        let primary = r#"{"state":"running","role":"primary","xlog":{"location":5000},"timeline":1}"#;
        let replica = r#"{"state":"running","role":"replica","replication_state":"streaming","timeline":1,
            "xlog":{"received_location":2952,"replayed_location":2952,"replayed_timestamp":null,"paused":false}}"#;
        for _ in 0..3 {
            model.saw(0, seen(primary));
            model.saw(1, seen(replica));
        }
        assert_eq!(model.lag(1), Some(2048));
        model.killed(0);
        model.saw(0, seen(primary));
        assert_eq!(model.leader(), None, "an answer from before the kill does not count");
        let texts: Vec<&str> = model.events.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "node1: primary, running, timeline 1",
                "node1 is the primary",
                "node2: replica, streaming, timeline 1",
                "node1: killed, agent and PostgreSQL at once",
            ]
        );
    }

    #[test]
    fn sizes() {
        assert_eq!(
            (bytes(0), bytes(1023), bytes(2048), bytes(5 << 30)),
            ("0 B".into(), "1023 B".into(), "2.0 kB".into(), "5.0 GB".into())
        );
    }
}
