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
            let path = [path, &[key.clone()]].concat();
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
mod tests {
    use serde_json::json;
    use surus_api::Configured;

    use super::*;

    fn member(name: &str, role: &str) -> MemberSettings {
        let setting = |value: &str, vartype: &str, context: &str| ServerSetting {
            value: Some(value.to_owned()).filter(|_| vartype != "string"),
            vartype: vartype.to_owned(),
            context: context.to_owned(),
            ..ServerSetting::default()
        };
        let server = [
            ("max_connections", setting("100", "integer", "postmaster")),
            ("max_wal_senders", setting("10", "integer", "postmaster")),
            ("work_mem", ServerSetting { unit: Some("kB".to_owned()), ..setting("4096", "integer", "user") }),
            (
                "shared_buffers",
                ServerSetting { unit: Some("8kB".to_owned()), ..setting("16384", "integer", "postmaster") },
            ),
            ("log_connections", setting("off", "bool", "superuser-backend")),
            ("wal_level", setting("replica", "enum", "postmaster")),
            ("block_size", setting("8192", "integer", "internal")),
            ("archive_command", setting("", "string", "sighup")),
        ];
        MemberSettings {
            name: name.to_owned(),
            role: role.to_owned(),
            server_version: Some(150_004),
            server: Some(server.into_iter().map(|(name, s)| (name.to_owned(), s)).collect()),
            ..MemberSettings::default()
        }
    }

    fn one(after: Value, member: &MemberSettings) -> Vec<(String, Effect, String)> {
        let plan =
            plan(&json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}), &after, std::slice::from_ref(member));
        plan.rows.into_iter().map(|row| (row.setting, row.effect, row.why)).collect()
    }

    fn with(parameter: &str, value: Value) -> Value {
        json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "postgresql": {"parameters": {parameter: value}}})
    }

    #[test]
    fn every_parameter_says_what_it_needs() {
        let primary = member("node1", "primary");
        for (name, value, effect, why) in [
            ("max_connections", json!(200), Effect::Restart, ""),
            ("max_connections", json!(100), Effect::None, "it is so already"),
            ("max_connections", json!(5), Effect::Refused, "expected a whole number, at least 25"),
            ("work_mem", json!("8MB"), Effect::Reload, ""),
            ("work_mem", json!("much"), Effect::Refused, "expected a number"),
            ("shared_buffers", json!("1GB"), Effect::Restart, ""),
            ("log_connections", json!(true), Effect::Reload, ""),
            ("log_connections", json!("perhaps"), Effect::Refused, "expected on or off"),
            ("wal_level", json!("replica"), Effect::None, "it is so already"),
            ("wal_level", json!("logical"), Effect::Restart, ""),
            ("block_size", json!(4096), Effect::Refused, "does not let it be set"),
            ("no_such_thing", json!(1), Effect::Refused, "PostgreSQL 15 has no parameter of this name"),
            ("my.own", json!(1), Effect::Reload, ""),
            ("port", json!(1), Effect::Refused, "it always comes from `postgresql.listen`"),
        ] {
            let found = one(with(name, value.clone()), &primary);
            assert_eq!(found.len(), 1, "{name} {found:?}");
            assert!(found[0].1 == effect && found[0].2.contains(why), "{name} = {value}: {found:?}");
        }
    }

    #[test]
    fn values_have_their_units() {
        for (value, unit, expected) in [
            ("16384", Some("8kB"), "128MB"),
            ("4096", Some("kB"), "4MB"),
            ("1000", Some("kB"), "1000kB"),
            ("1024", Some("MB"), "1GB"),
            ("300", Some("s"), "5min"),
            ("500", Some("ms"), "500ms"),
            ("-1", Some("kB"), "-1"),
            ("0.5", Some("ms"), "0.5"),
            ("100", None, "100"),
        ] {
            let (value, unit) = (Some(value.to_owned()), unit.map(str::to_owned));
            let setting = ServerSetting { value, unit, ..ServerSetting::default() };
            assert_eq!(shown(&setting).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_comes_before_the_document_is_told() {
        let mut node = member("node1", "replica");
        let place = "patroni.yml:12:5";
        let local = Configured { value: None, from: place.to_owned(), local: true };
        node.configured.insert("work_mem".to_owned(), local);
        node.local.insert("pg_hba".to_owned(), place.to_owned());
        let altered = node.server.as_mut().unwrap().get_mut("shared_buffers").unwrap();
        altered.altered = true;
        for (after, words) in [
            (with("work_mem", json!("8MB")), "patroni.yml:12:5 comes before"),
            (with("shared_buffers", json!("1GB")), "ALTER SYSTEM RESET shared_buffers first"),
            (
                json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "postgresql": {"pg_hba": ["a"]}}),
                "has pg_hba of its own",
            ),
            (
                json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "postgresql": {"parameters_primary": {"work_mem": 1}}}),
                "counts while it is primary",
            ),
        ] {
            let found = one(after.clone(), &node);
            assert!(found.len() == 1 && found[0].1 == Effect::None && found[0].2.contains(words), "{after}: {found:?}");
        }
        let found =
            one(with("shared_buffers", json!("1GB")), &MemberSettings { server: None, ..member("n", "replica") });
        assert!(found[0].1 == Effect::Restart && found[0].2.contains("when it starts"), "{found:?}");
    }

    #[test]
    fn a_file_of_ones_own_is_compared_with_what_runs() {
        let text = "scope: s\nname: node1\nrestapi: {listen: '127.0.0.1:1'}\nraft: {self_addr: '127.0.0.1:2'}\npostgresql:\n  listen: 127.0.0.1:3\n  \
                    data_dir: /d\n  parameters: {work_mem: 8MB, log_connections: true, shared_buffers: 1GB, archive_command: new}\n  \
                    authentication: {superuser: {username: a}, replication: {username: b}}\n";
        let env = std::collections::BTreeMap::from([("SURUS_CONFIGURATION".to_owned(), text.to_owned())]);
        let local = LocalConfig::load(None, &env).unwrap();
        let dynamic = DynamicConfig::read(&json!({})).0;
        let mut node = member("node1", "replica");
        for (name, value) in Effective::build(&local, &dynamic, Some(150_004)).file {
            node.configured.insert(name, Configured { value: Some(value), ..Configured::default() });
        }
        assert_eq!(of_file(&local, &dynamic, &node).rows, vec![]);
        node.configured.get_mut("work_mem").unwrap().value = Some("4MB".to_owned());
        node.configured.get_mut("log_connections").unwrap().value = Some("on".to_owned());
        node.configured.get_mut("archive_command").unwrap().value = None;
        node.configured.remove("shared_buffers");
        let plan = of_file(&local, &dynamic, &node);
        let rows: Vec<(&str, Effect)> = plan.rows.iter().map(|row| (row.setting.as_str(), row.effect)).collect();
        assert_eq!(rows, [("shared_buffers", Effect::Restart), ("work_mem", Effect::Reload)]);
        assert!(plan.rows[1].source.contains("SURUS_CONFIGURATION"), "{plan:?}");
    }

    #[test]
    fn sums_and_words_that_will_not_do_are_refused() {
        let node = member("node1", "primary");
        let found = one(json!({"ttl": 20, "loop_wait": 10, "retry_timeout": 10}), &node);
        assert!(found.iter().any(|(_, e, why)| *e == Effect::Refused && why.contains("breaks the rule")), "{found:?}");
        assert!(found.iter().any(|(key, e, _)| key == "ttl" && *e == Effect::AtOnce), "{found:?}");
        let found =
            one(json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "synchronous_mode": "maybe", "tll": 1}), &node);
        assert!(found.iter().all(|(_, e, _)| *e == Effect::Refused) && found.len() == 2, "{found:?}");
    }

    #[test]
    fn limits_rise_on_replicas_first_and_fall_on_the_leader_first() {
        let members = [member("a", "primary"), member("b", "replica"), member("c", "replica")];
        let of = |parameters: Value| {
            let after = json!({"postgresql": {"parameters": parameters}});
            let plan = plan(&json!({}), &after, &members);
            (plan.order, plan.restarts.join(" "))
        };
        assert_eq!(of(json!({"max_connections": 200})), (Some(Order::ReplicasFirst), "b c a".to_owned()));
        assert_eq!(of(json!({"max_connections": 50})), (Some(Order::LeaderFirst), "a b c".to_owned()));
        assert_eq!(of(json!({"max_connections": 50, "max_wal_senders": 20})).0, Some(Order::InTwoSteps));
        assert_eq!(of(json!({"shared_buffers": "1GB"})), (Some(Order::Any), "b c a".to_owned()));
        assert_eq!(of(json!({"work_mem": "1GB"})), (None, String::new()));
        let before = json!({"postgresql": {"parameters": {"max_connections": 100, "wal_level": "replica"}}});
        let plan = plan(&before, &json!({}), &members);
        assert_eq!(plan.order, None, "what goes back to the default it has already: {plan:?}");
    }
}
