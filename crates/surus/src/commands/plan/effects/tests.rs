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
        ("shared_buffers", ServerSetting { unit: Some("8kB".to_owned()), ..setting("16384", "integer", "postmaster") }),
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
    let plan = plan(&json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}), &after, std::slice::from_ref(member));
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
    let found = one(with("shared_buffers", json!("1GB")), &MemberSettings { server: None, ..member("n", "replica") });
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
