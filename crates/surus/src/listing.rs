//! The member table (`spec/cli.md §2`), for people and for programs.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use surus_api::{ClusterMember, ClusterRole, Position};
use surus_core::MemberName;
use surus_core::cluster::Initialize;
use surus_core::postgres::Progress;

use crate::cli::Format;
use crate::context::{Cluster, Reading};
use crate::failure::Outcome;
use crate::table;
use crate::terminal::Terminal;
use crate::yaml;

/// Beyond this many characters a reason is hidden in tables.
const LONGEST_REASON: usize = 50;
const EXTRA: [&str; 6] = ["Pending restart", "Pending restart reason", "Scheduled restart", "Tags", "Fence", "Disk"];
const OURS: [&str; 2] = ["Fence", "Disk"];

#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    pub extended: bool,
    pub topology: bool,
}

pub type Progresses = BTreeMap<MemberName, Progress>;

struct Row {
    columns: Vec<(&'static str, Value)>,
}

pub fn show(
    terminal: &mut Terminal,
    cluster: &Cluster,
    reading: &Reading,
    format: Format,
    layout: Layout,
    progresses: &Progresses,
) -> Outcome {
    let rows = rows(&cluster.name, cluster.group, reading, layout, progresses, format);
    match format {
        Format::Pretty => {
            terminal.write(&pretty(
                &title(&cluster.name, cluster.group, reading),
                cluster.group.is_some(),
                layout,
                &rows,
            ))?;
            terminal.write(&footer(reading))
        }
        Format::Tsv => {
            let columns = header(&rows, cluster.group.is_some(), layout);
            let cells = rows.iter().map(|row| columns.iter().map(|c| row.text(c, true)).collect());
            terminal.write(&table::tsv(&columns, cells))
        }
        Format::Json | Format::Yaml => {
            let objects = rows.iter().map(|row| row.object(progresses)).collect();
            table::objects_out(terminal, format, &Value::Array(objects))
        }
    }
}

/// The table other commands show before they do something.
pub fn show_topology(terminal: &mut Terminal, cluster: &Cluster, reading: &Reading) -> Outcome {
    show(terminal, cluster, reading, Format::Pretty, Layout::default(), &Progresses::new())
}

impl Row {
    fn get(&self, column: &str) -> &Value {
        self.columns.iter().find(|(name, _)| *name == column).map_or(&Value::Null, |(_, value)| value)
    }

    fn text(&self, column: &str, one_line: bool) -> String {
        match self.get(column) {
            Value::Object(tags) if tags.is_empty() => String::new(),
            tags @ Value::Object(_) if one_line => yaml::flow(tags),
            tags @ Value::Object(_) => yaml::block(tags).trim_end().to_owned(),
            other => table::text(other),
        }
    }

    fn object(&self, progresses: &Progresses) -> Value {
        let mut object: Map<String, Value> = self
            .columns
            .iter()
            .filter(|(name, _)| !self.text(name, true).is_empty())
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        let name = MemberName(table::text(self.get("Member")));
        if let Some(progress) = progresses.get(&name).and_then(|p| serde_json::to_value(p).ok()) {
            object.insert("Progress".to_owned(), progress);
        }
        Value::Object(object)
    }
}

fn header(rows: &[Row], group: bool, layout: Layout) -> Vec<&'static str> {
    let mut columns = vec!["Cluster"];
    columns.extend(group.then_some("Group"));
    columns.extend(["Member", "Host", "Role", "State", "TL", "Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag"]);
    // Scripts know the extended table of Patroni, so what is ours shows only when there is something to say.
    let wanted = |column: &&str| {
        (layout.extended && !OURS.contains(column)) || rows.iter().any(|row| !row.text(column, true).is_empty())
    };
    columns.extend(EXTRA.into_iter().filter(wanted));
    columns
}

fn pretty(title: &str, group: bool, layout: Layout, rows: &[Row]) -> String {
    let skipped = if group { 2 } else { 1 };
    let columns = header(rows, group, layout);
    let shown: Vec<&str> = columns[skipped..].iter().map(|c| if c.ends_with(" Lag") { "Lag" } else { *c }).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns[skipped..].iter().map(|c| row.text(c, layout.topology)).collect()).collect();
    table::draw(Some(title), &shown, &cells)
}

pub fn title(name: &str, group: Option<u32>, reading: &Reading) -> String {
    let id = match &reading.view.initialize {
        Initialize::Done(id) => id.to_string(),
        Initialize::InProgress => "initializing".to_owned(),
        Initialize::Absent => "uninitialized".to_owned(),
    };
    match group {
        Some(group) => format!("Citus cluster: {name} (group: {group}, {id})"),
        None => format!("Cluster: {name} ({id})"),
    }
}

fn footer(reading: &Reading) -> String {
    let mut out = String::new();
    if reading.document.pause {
        out.push_str(" Maintenance mode: on\n");
    }
    if let Some(scheduled) = &reading.document.scheduled_switchover {
        out.push_str(&format!(" Switchover scheduled at: {}\n", scheduled.at));
        for (label, name) in [("from", &scheduled.from), ("to", &scheduled.to)] {
            if let Some(name) = name {
                out.push_str(&format!("{label:>24}: {name}\n"));
            }
        }
    }
    if let Some(name) = reading.view.unguarded.as_ref().map(|u| &u.value).filter(|_| reading.view.leader.is_none()) {
        out.push_str(&format!(
            " Nobody leads, because {name} was left alone in a pause and may still accept writes: start its agent, or,\n \
             if its PostgreSQL certainly does not run any more: surus failover --candidate NAME\n"
        ));
    }
    for member in reading.view.members.values() {
        if let Some(what) = &member.forked {
            out.push_str(&format!(
                " {} is not to lead, {what}\n (out of it: surus reinit {} {})\n",
                member.name, reading.document.scope, member.name
            ));
        }
        if let Some(loss) = &member.loss {
            out.push_str(&format!(" Lost on {}, not acknowledged: {loss} (surus loss list)\n", member.name));
        }
    }
    for (name, remembered) in &reading.view.losses {
        if reading.view.members.get(name).is_none_or(|m| m.loss.is_none()) {
            let n = remembered.value.len();
            out.push_str(&format!(
                " Lost on {name}, not acknowledged: {n} receipt{}, not on its disk (surus loss list)\n",
                if n == 1 { "" } else { "s" }
            ));
        }
    }
    out
}

fn rows(
    cluster: &str,
    group: Option<u32>,
    reading: &Reading,
    layout: Layout,
    progresses: &Progresses,
    format: Format,
) -> Vec<Row> {
    let pretty = format == Format::Pretty;
    let members = &reading.document.members;
    let mut hosts: Vec<&str> = members.iter().filter_map(|m| m.host.as_deref()).collect();
    let count = hosts.len();
    hosts.sort_unstable();
    hosts.dedup();
    let with_port = hosts.len() < count || members.iter().any(|m| m.port.is_some_and(|p| p != 5432));
    let flat = || members.iter().map(|member| Branch { shown: member.name.to_string(), member }).collect();
    let ordered = if layout.topology { tree(members) } else { flat() };
    ordered
        .into_iter()
        .map(|Branch { shown, member }| {
            let host = match (&member.host, member.port) {
                (Some(host), Some(port)) if with_port => format!("{host}:{port}"),
                (Some(host), _) => host.clone(),
                (None, _) => String::new(),
            };
            let state = match progresses.get(&member.name).filter(|_| pretty) {
                Some(progress) => format!("{} {}", member.state, describe(progress)).trim().to_owned(),
                None => member.state.clone(),
            };
            let [receive_lsn, receive_lag, replay_lsn, replay_lag] = positions(member);
            let mut columns: Vec<(&'static str, Value)> = vec![("Cluster", cluster.into())];
            columns.extend(group.map(|g| ("Group", Value::from(g))));
            columns.extend([
                ("Member", Value::from(shown)),
                ("Host", host.into()),
                ("Role", role(member.role).into()),
                ("State", state.into()),
                ("TL", member.timeline.map_or(Value::Null, |t| t.0.into())),
                ("Receive LSN", receive_lsn),
                ("Receive Lag", receive_lag),
                ("Replay LSN", replay_lsn),
                ("Replay Lag", replay_lag),
                ("Pending restart", if member.pending_restart { "*".into() } else { Value::Null }),
                ("Pending restart reason", reasons(member, pretty)),
                ("Scheduled restart", scheduled_restart(member)),
                ("Tags", Value::Object(member.tags.0.clone())),
                ("Fence", member.fence.clone().map_or(Value::Null, Value::from)),
                ("Disk", member.disk.clone().map_or(Value::Null, Value::from)),
            ]);
            Row { columns }
        })
        .collect()
}

pub fn role(role: ClusterRole) -> &'static str {
    match role {
        ClusterRole::Leader => "Leader",
        ClusterRole::StandbyLeader => "Standby Leader",
        ClusterRole::QuorumStandby => "Quorum Standby",
        ClusterRole::SyncStandby => "Sync Standby",
        ClusterRole::Replica => "Replica",
    }
}

fn positions(member: &ClusterMember) -> [Value; 4] {
    let Some(known) = member.positions else { return [const { Value::Null }; 4] };
    let (mut receive, mut replay) = (known.receive, known.replay);
    // Members of older versions publish one position only.
    if receive.is_none() && replay.is_none() {
        if member.state == "streaming" {
            receive = known.total;
        } else {
            replay = known.total;
        }
    }
    let lsn = |p: Option<Position>| p.map_or(Value::from("unknown"), |p| p.lsn.to_string().into());
    let lag = |p: Option<Position>| p.map_or(Value::Null, |p| megabytes(p.lag).into());
    [lsn(receive), lag(receive), lsn(replay), lag(replay)]
}

/// Bytes that a member has not replayed yet.
pub fn lag(member: &ClusterMember) -> Option<u64> {
    member.positions.and_then(|p| p.replay.or(p.total)).map(|p| p.lag)
}

/// Bytes that a member does not have yet.
pub fn received_lag(member: &ClusterMember) -> Option<u64> {
    member.positions.and_then(|p| p.total.or(p.receive)).map(|p| p.lag)
}

/// Rounded, halves to the even side.
fn megabytes(bytes: u64) -> u64 {
    let (whole, rest, half) = (bytes >> 20, bytes & 0xF_FFFF, 1 << 19);
    if rest > half || (rest == half && whole % 2 == 1) { whole + 1 } else { whole }
}

fn reasons(member: &ClusterMember, shorten: bool) -> Value {
    let lines: Vec<String> = member
        .pending_restart_reason
        .iter()
        .map(|(parameter, change)| {
            let line = format!("{parameter}: {}->{}", change.old_value, change.new_value);
            if shorten && line.chars().count() > LONGEST_REASON {
                format!("{parameter}: [hidden - too long]")
            } else {
                line
            }
        })
        .collect();
    if lines.is_empty() { Value::Null } else { lines.join("\n").into() }
}

fn scheduled_restart(member: &ClusterMember) -> Value {
    let Some(restart) = &member.scheduled_restart else { return Value::Null };
    match restart.filters.get("postgres_version").and_then(Value::as_str) {
        Some(version) => format!("{} if version < {version}", restart.schedule).into(),
        None => restart.schedule.clone().into(),
    }
}

/// A member and its name as the tree shows it.
pub struct Branch<'a> {
    pub shown: String,
    pub member: &'a ClusterMember,
}

/// Depth first from the leader; who replicates from nobody known replicates from the leader. Members
/// that replicate from each other in a circle cannot be reached and are left out.
pub fn tree(members: &[ClusterMember]) -> Vec<Branch<'_>> {
    let root = members.iter().find(|m| m.role.is_leader());
    let parent = |member: &ClusterMember| -> Option<MemberName> {
        let other = member.tags.replicatefrom().filter(|name| *name != member.name);
        let known = other.filter(|name| members.iter().any(|m| m.name == *name && !m.role.is_leader()));
        known.or_else(|| root.map(|r| r.name.clone()))
    };
    let mut out = Vec::new();
    let mut pending: Vec<(usize, &ClusterMember)> = Vec::new();
    match root {
        Some(root) => pending.push((0, root)),
        None => {
            let top = members.iter().filter(|m| parent(m).is_none());
            pending.extend(top.map(|m| (1, m)).collect::<Vec<_>>().into_iter().rev());
        }
    }
    while let Some((depth, member)) = pending.pop() {
        let shown = match depth {
            0 => member.name.to_string(),
            depth => format!("{}+ {}", "  ".repeat(depth - 1), member.name),
        };
        out.push(Branch { shown, member });
        let children = members.iter().filter(|m| !m.role.is_leader() && parent(m).as_ref() == Some(&member.name));
        pending.extend(children.map(|m| (depth + 1, m)).collect::<Vec<_>>().into_iter().rev());
    }
    out
}

/// `45% (1.2 GB of 2.7 GB, 12 s left)`.
pub fn describe(progress: &Progress) -> String {
    let mut parts = vec![match progress.total_bytes {
        Some(total) => format!("{} of {}", size(progress.done_bytes), size(total)),
        None if progress.done_bytes == 0 => String::new(),
        None => size(progress.done_bytes),
    }];
    parts.retain(|part| !part.is_empty());
    parts.extend(progress.eta_seconds.map(|s| format!("{} left", duration(s))));
    let parts = parts.join(", ");
    progress.percent().map_or(parts.clone(), |percent| format!("{percent}% ({parts})"))
}

pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1024.0 {
            let digits = usize::from(unit != "B" && value < 10.0);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TB")
}

pub fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests;
