//! What a change of the dynamic configuration would do, member by member: pure, from the two documents and from what
//! the members say of their settings.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use surus_api::{MemberSettings, ServerSetting};
use surus_config::{
    DynamicConfig, Effective, Finding, LocalConfig, RoleOverlay, judge_parameter, on_command_line, parameter_default,
    parse_bool, parse_int,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The value cannot be used; what holds then is the default.
    Refused,
    /// PostgreSQL has to be restarted: until then a restart is pending.
    Restart,
    Reload,
    AtOnce,
    /// Something comes before the dynamic configuration there, or it is so already.
    None,
}

impl Effect {
    pub fn words(self) -> &'static str {
        match self {
            Effect::Refused => "refused",
            Effect::Restart => "restart",
            Effect::Reload => "reload",
            Effect::AtOnce => "at once",
            Effect::None => "no effect",
        }
    }
}

/// One changed key on one member, or on all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `None`: on every member.
    pub member: Option<String>,
    pub role: Option<String>,
    pub setting: String,
    /// In the document.
    pub from: Option<String>,
    pub to: Option<String>,
    /// What the server runs with, where that may be shown.
    pub now: Option<String>,
    /// Where the value in force comes from.
    pub source: String,
    pub effect: Effect,
    pub why: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Any,
    /// A standby whose limit is lower than its primary's stops replaying.
    ReplicasFirst,
    LeaderFirst,
    /// Some limits rise and some fall.
    InTwoSteps,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub rows: Vec<Row>,
    pub order: Option<Order>,
    /// Those to restart, in that order.
    pub restarts: Vec<String>,
}

/// Limits that a standby must not have lower than its primary.
pub const LIMITS: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

struct Change {
    path: Vec<String>,
    from: Option<Value>,
    to: Option<Value>,
}

impl Change {
    fn key(&self) -> String {
        self.path.join(".")
    }

    /// The parameter, and the suffix of the role that it is for.
    fn parameter(&self) -> Option<(&str, &str)> {
        match self.path.as_slice() {
            [section, parameters, name] if section == "postgresql" => {
                Some((name.as_str(), parameters.strip_prefix("parameters")?))
            }
            _ => None,
        }
    }
}

pub fn plan(before: &Value, after: &Value, members: &[MemberSettings]) -> Plan {
    let known = DynamicConfig::read(before).1;
    let refused: Vec<Finding> = DynamicConfig::read(after).1.into_iter().filter(|f| !known.contains(f)).collect();
    let mut changes = Vec::new();
    compare(&[], Some(before), Some(after), &mut changes);
    let mut rows = Vec::new();
    for change in &changes {
        let key = change.key();
        let complaint = refused.iter().find(|f| key == f.path || key.starts_with(&format!("{}.", f.path)));
        if let Some(complaint) = complaint {
            rows.push(everywhere(change, Effect::Refused, complaint.message.clone()));
            continue;
        }
        match (change.parameter(), change.path.as_slice()) {
            (Some((name, suffix)), _) => rows.extend(members.iter().map(|m| parameter(change, name, suffix, m))),
            (None, [section, key, ..]) if section == "postgresql" => {
                rows.extend(members.iter().map(|m| other_setting(change, key, m)));
            }
            _ => rows.push(everywhere(change, Effect::AtOnce, String::new())),
        }
    }
    // What is wrong with several values together belongs to a key that may not have changed.
    let told: BTreeSet<String> = rows.iter().map(|row| row.why.clone()).collect();
    for finding in refused.iter().filter(|f| !told.contains(&f.message)) {
        rows.push(Row {
            member: None,
            role: None,
            setting: finding.path.clone(),
            from: None,
            to: None,
            now: None,
            source: "dynamic configuration".to_owned(),
            effect: Effect::Refused,
            why: finding.message.clone(),
        });
    }
    let order = order(&rows);
    let restarts = order.as_ref().map_or_else(Vec::new, |order| restarts(&rows, order));
    Plan { rows, order, restarts }
}

/// Leaves that differ; lists are leaves.
fn compare(path: &[String], from: Option<&Value>, to: Option<&Value>, out: &mut Vec<Change>) {
    let map = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    // What is in a map that comes or goes is told key by key as well.
    let empty = |value: Option<&Value>| value.is_none_or(|v| v.is_null() || v.is_object());
    if (map(from).is_some() || map(to).is_some()) && empty(from) && empty(to) {
        let (from, to) = (map(from).unwrap_or_default(), map(to).unwrap_or_default());
        let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
        for key in keys {
            let path = [path, std::slice::from_ref(key)].concat();
            compare(&path, from.get(key), to.get(key), out);
        }
        return;
    }
    let null = Value::Null;
    if !surus_config::deep_equal(from.unwrap_or(&null), to.unwrap_or(&null)) {
        out.push(Change { path: path.to_vec(), from: from.cloned(), to: to.cloned() });
    }
}

fn text(value: &Option<Value>) -> Option<String> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::Bool(on)) => Some(if *on { "on" } else { "off" }.to_owned()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    }
}

fn everywhere(change: &Change, effect: Effect, why: String) -> Row {
    Row {
        member: None,
        role: None,
        setting: change.key(),
        from: text(&change.from),
        to: text(&change.to),
        now: None,
        source: "dynamic configuration".to_owned(),
        effect,
        why,
    }
}

fn on_member(change: &Change, member: &MemberSettings, source: &str, effect: Effect, why: String) -> Row {
    Row {
        member: Some(member.name.clone()),
        role: Some(member.role.clone()),
        source: source.to_owned(),
        ..everywhere(change, effect, why)
    }
}

fn parameter(change: &Change, name: &str, suffix: &str, member: &MemberSettings) -> Row {
    let name = name.to_lowercase();
    let configured = member.configured.get(&name);
    let server = member.server.as_ref().and_then(|all| all.get(&name));
    let source = configured.map_or("PostgreSQL's default", |c| c.from.as_str());
    let row =
        |effect, why: String| Row { now: server.and_then(shown), ..on_member(change, member, source, effect, why) };
    if !suffix.is_empty() && suffix != format!("_{}", member.role) {
        return row(Effect::None, format!("counts while it is {}", suffix.trim_start_matches('_')));
    }
    if !suffix.is_empty() && member.local.contains_key(&format!("parameters{suffix}")) {
        let place = &member.local[&format!("parameters{suffix}")];
        return row(Effect::None, format!("{place} has parameters{suffix} of its own, which replace these"));
    }
    if let Some(local) = configured.filter(|c| c.local) {
        return row(Effect::None, format!("{} comes before the dynamic configuration", local.from));
    }
    let (effect, why) = on_server(&name, text(&change.to).as_deref(), member);
    row(effect, why)
}

/// What a server does with another value of a parameter; `None`: back to the default.
fn on_server(name: &str, wanted: Option<&str>, member: &MemberSettings) -> (Effect, String) {
    let Some(all) = &member.server else {
        return (Effect::Restart, "the server does not answer; it will have it when it starts".to_owned());
    };
    if let Some(Err(why)) = wanted.and_then(|wanted| judge_parameter(name, wanted)) {
        return (Effect::Refused, why);
    }
    let Some(setting) = all.get(name) else {
        let version = member.server_version.map_or_else(String::new, |v| format!(" {}", v / 10_000));
        return match name.contains('.') {
            true => (Effect::Reload, String::new()),
            false => (Effect::Refused, format!("PostgreSQL{version} has no parameter of this name")),
        };
    };
    if setting.altered && !on_command_line(name) {
        let value = shown(setting).map_or_else(String::new, |value| format!(" to {value}"));
        return (Effect::None, format!("ALTER SYSTEM set it{value}; ALTER SYSTEM RESET {name} first"));
    }
    if let Some(why) = wanted.and_then(|wanted| unreadable(wanted, setting)) {
        return (Effect::Refused, why);
    }
    let next = wanted.or(parameter_default(name));
    match setting.context.as_str() {
        "internal" => (Effect::Refused, "PostgreSQL does not let it be set".to_owned()),
        _ if next.is_some_and(|next| same(next, setting)) => (Effect::None, "it is so already".to_owned()),
        "postmaster" => (Effect::Restart, String::new()),
        _ => (Effect::Reload, String::new()),
    }
}

/// What a reload of a member's own file would do, which it has not read yet.
pub fn of_file(local: &LocalConfig, dynamic: &DynamicConfig, member: &MemberSettings) -> Plan {
    let role = match member.role.as_str() {
        "primary" | "promoted" => RoleOverlay::Primary,
        "replica" | "demoted" => RoleOverlay::Replica,
        "standby_leader" => RoleOverlay::StandbyLeader,
        _ => RoleOverlay::None,
    };
    let effective = Effective::build_for(local, dynamic, member.server_version, role);
    let names: BTreeSet<&String> = effective.file.keys().chain(member.configured.keys()).collect();
    let mut rows = Vec::new();
    for name in names {
        let (new, old) = (effective.file.get(name), member.configured.get(name));
        let source = effective.source_of(name).map_or_else(|| "PostgreSQL's default".to_owned(), ToString::to_string);
        let was = old.and_then(|old| old.value.clone());
        // Texts are not told: only that one came or went shows.
        let changed = match (new, old) {
            (Some(new), Some(_)) => was.as_ref().is_some_and(|was| !alike(new, was)),
            _ => true,
        };
        if !changed {
            continue;
        }
        let (effect, why) = on_server(name, new.map(String::as_str), member);
        rows.push(Row {
            member: Some(member.name.clone()),
            role: Some(member.role.clone()),
            setting: name.clone(),
            from: was,
            to: new.cloned(),
            now: member.server.as_ref().and_then(|all| shown(all.get(name)?)),
            source,
            effect,
            why,
        });
    }
    let restarts: Vec<String> =
        rows.iter().filter(|row| row.effect == Effect::Restart).filter_map(|row| row.member.clone()).take(1).collect();
    Plan { order: (!restarts.is_empty()).then_some(Order::Any), rows, restarts }
}

fn alike(a: &str, b: &str) -> bool {
    a == b || (parse_bool(a).is_some() && parse_bool(a) == parse_bool(b))
}

fn other_setting(change: &Change, key: &str, member: &MemberSettings) -> Row {
    let reload = key.starts_with("pg_hba") || key.starts_with("pg_ident");
    match member.local.get(key) {
        Some(place) if key != "use_slots" => {
            let why = format!("{place} has {key} of its own, which comes before the dynamic configuration");
            on_member(change, member, place, Effect::None, why)
        }
        _ => {
            let effect = if reload { Effect::Reload } else { Effect::AtOnce };
            on_member(change, member, "dynamic configuration", effect, String::new())
        }
    }
}

/// In the largest unit that divides it, as `SHOW` tells it.
fn shown(setting: &ServerSetting) -> Option<String> {
    let value = setting.value.as_ref()?;
    let (Some(unit), Ok(number)) = (setting.unit.as_deref(), value.parse::<i64>()) else { return Some(value.clone()) };
    let digits = unit.chars().take_while(char::is_ascii_digit).count();
    let (factor, unit) = unit.split_at(digits);
    let units: [(&str, i64); 9] = [
        ("B", 1024),
        ("kB", 1024),
        ("MB", 1024),
        ("GB", 1024),
        ("TB", 0),
        ("ms", 1000),
        ("s", 60),
        ("min", 60),
        ("h", 0),
    ];
    let known = units.iter().position(|(name, _)| *name == unit);
    // What is off or without limit has no unit.
    let (Some(mut at), true) = (known, number > 0) else { return Some(value.clone()) };
    let mut number = number.saturating_mul(factor.parse().unwrap_or(1));
    while units[at].1 > 0 && number % units[at].1 == 0 {
        number /= units[at].1;
        at += 1;
    }
    Some(format!("{number}{}", units[at].0))
}

fn unreadable(wanted: &str, setting: &ServerSetting) -> Option<String> {
    let number = || wanted.trim().starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let good = match setting.vartype.as_str() {
        "bool" => parse_bool(wanted.trim()).is_some(),
        "integer" | "real" => number(),
        _ => true,
    };
    let expected = if setting.vartype == "bool" { "on or off" } else { "a number" };
    (!good).then(|| format!("expected {expected}, found {wanted:?}"))
}

fn same(wanted: &str, setting: &ServerSetting) -> bool {
    let Some(now) = setting.value.as_deref().filter(|_| !setting.pending_restart) else { return false };
    match setting.vartype.as_str() {
        "bool" => parse_bool(now) == parse_bool(wanted.trim()),
        "integer" if setting.unit.is_none() => parse_int(now).is_some() && parse_int(now) == parse_int(wanted),
        "enum" => now.eq_ignore_ascii_case(wanted.trim()),
        _ => false,
    }
}

fn leads(row: &Row) -> bool {
    matches!(row.role.as_deref(), Some("primary" | "standby_leader" | "promoted"))
}

fn order(rows: &[Row]) -> Option<Order> {
    let restarts: Vec<&Row> = rows.iter().filter(|row| row.effect == Effect::Restart).collect();
    if restarts.is_empty() {
        return None;
    }
    let (mut rise, mut fall) = (false, false);
    for row in restarts {
        let name = row.setting.rsplit('.').next().unwrap_or_default();
        let number = |text: &Option<String>| text.as_deref().and_then(parse_int);
        let to = number(&row.to).or_else(|| parse_int(parameter_default(name)?));
        if let (true, Some(now), Some(to)) = (LIMITS.contains(&name), number(&row.now), to) {
            rise |= to > now;
            fall |= to < now;
        }
    }
    Some(match (rise, fall) {
        (true, true) => Order::InTwoSteps,
        (true, false) => Order::ReplicasFirst,
        (false, true) => Order::LeaderFirst,
        (false, false) => Order::Any,
    })
}

fn restarts(rows: &[Row], order: &Order) -> Vec<String> {
    let of = |leading: bool| {
        let rows = rows.iter().filter(move |row| row.effect == Effect::Restart && leads(row) == leading);
        rows.filter_map(|row| row.member.clone()).collect::<BTreeSet<String>>()
    };
    let (leaders, replicas) = (of(true), of(false));
    match order {
        Order::LeaderFirst => leaders.into_iter().chain(replicas).collect(),
        _ => replicas.into_iter().chain(leaders).collect(),
    }
}

#[cfg(test)]
mod tests;
