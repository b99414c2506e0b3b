//! The section `consul`.

use surus_config::{ConsulConfig, LocalConfig, StoreConfig};

use crate::support::{MINIMAL, load, load_with, warnings, with_store};

fn consul(config: LocalConfig) -> ConsulConfig {
    match config.store {
        StoreConfig::Consul(consul) => consul,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_agent_in_all_its_spellings() {
    for (section, endpoints) in [
        ("{host: 10.0.0.1}", vec!["http://10.0.0.1:8500"]),
        ("{host: 'a:8501', scheme: https}", vec!["https://a:8501"]),
        ("{host: 'a:1', port: 2}", vec!["http://a:2"]),
        ("{host: '[::1]:8'}", vec!["http://[::1]:8"]),
        ("{hosts: 'a, b:1,a:8500'}", vec!["http://a:8500", "http://b:1"]),
        ("{host: a, hosts: [b, c]}", vec!["http://a:8500", "http://b:8500", "http://c:8500"]),
        ("{url: 'https://a/', host: b, port: 7}", vec!["https://a:8500"]),
        ("{url: 'http://a:1'}", vec!["http://a:1"]),
    ] {
        let config = load(&with_store(&format!("consul: {section}\n"))).unwrap_or_else(|e| panic!("{section}: {e}"));
        assert_eq!(consul(config).endpoints, endpoints, "{section}");
    }
}

#[test]
fn everything_else() {
    let plain = consul(load(&with_store("consul: {host: a}\n")).unwrap());
    assert!(plain.verify && plain.token.is_none() && plain.checks.is_empty() && !plain.service.register);
    assert_eq!((plain.consistency.as_str(), plain.service.check_interval.as_str()), ("default", "5s"));
    let text = with_store(
        "consul: {host: a, scheme: https, token: secret, verify: off, cacert: /ca, cert: /c, key: /k, dc: east, consistency: stale,\n  \
         register_service: on, service_tags: [b, a, b], service_check_interval: 10s, service_check_tls_server_name: db}\n",
    );
    let full = consul(load(&text).unwrap());
    assert_eq!(full.token.as_ref().map(|t| t.expose()), Some("secret"));
    assert!(!full.verify && full.service.register);
    assert_eq!((full.dc.as_deref(), full.consistency.as_str()), (Some("east"), "stale"));
    assert_eq!(full.service.tags, ["a", "b"]);
    assert_eq!(full.service.check_tls_server_name.as_deref(), Some("db"));
    assert!(!format!("{full:?}").contains("secret"));
}

#[test]
fn what_is_wrong_is_told() {
    for (section, expected) in [
        ("{}", "consul: names no agent; expected `host`"),
        ("{token: x}", "consul: names no agent; expected `host`"),
        ("{host: 'a:b'}", "consul.host: expected host:port"),
        ("{url: 'ftp://a'}", "consul.url: expected a URL such as"),
        ("{url: 'http://u:p@a'}", "consul.url: expected a URL such as"),
        ("{host: a, key: /k}", "consul.cert: is missing"),
        ("{host: a, consistency: strong}", "consul.consistency: expected"),
        ("{host: a, scheme: tcp}", "consul.scheme: expected"),
    ] {
        let said = load(&with_store(&format!("consul: {section}\n"))).unwrap_err().to_string();
        assert!(said.contains(expected), "{section}: {said}");
        assert!(!said.contains("u:p"), "{said}");
    }
    let warned = warnings(&with_store("consul: {host: a, cacert: /ca, checks: [serfHealth]}\n"));
    assert!(warned.iter().any(|w| w.contains("consul.cacert: has no effect")), "{warned:?}");
    assert!(warned.iter().any(|w| w.contains("consul.checks: lets a failing check end the lead")), "{warned:?}");
}

#[test]
fn variables() {
    let env = [
        ("PATRONI_CONSUL_HOST", "a:1"),
        ("PATRONI_consul_TOKEN", "secret"),
        ("PATRONI_CONSUL_REGISTER_SERVICE", "on"),
        ("PATRONI_CONSUL_SERVICE_TAGS", "[y, x]"),
        ("PATRONI_CONSUL_CHECKS", ""),
        ("SURUS_CONSUL_CONSISTENCY", "consistent"),
    ];
    // Of the two sections that are there now, the alphabetically first counts.
    let config = consul(load_with(MINIMAL, &env).unwrap());
    assert_eq!(config.endpoints, ["http://a:1"]);
    assert_eq!(config.token.as_ref().map(|t| t.expose()), Some("secret"));
    assert_eq!(config.service.tags, ["x", "y"]);
    assert!(config.service.register && config.checks.is_empty());
    assert_eq!(config.consistency, "consistent");
}

#[test]
fn a_reload_brings_some_of_it_into_force() {
    let load = |section: &str| load(&with_store(&format!("consul: {section}\n"))).unwrap();
    let old = load("{host: a}");
    let new = load("{host: a, token: t, dc: d, consistency: stale, register_service: on, service_tags: x}");
    assert_eq!(old.restart_only_changes(&new), Vec::<&str>::new());
    assert_eq!(old.restart_only_changes(&load("{host: b}")), ["store"]);
}

#[test]
fn a_new_cluster_gets_a_ttl_that_consul_can_keep() {
    let least = load(&with_store("consul: {host: a}\n")).unwrap().store.least_ttl();
    let timing = |written: serde_json::Value| {
        let document = surus_config::new_cluster_document(&written, least, true);
        ["ttl", "loop_wait", "retry_timeout"].map(|key| document[key].as_i64().unwrap())
    };
    assert_eq!(timing(serde_json::json!({})), [20, 5, 7]);
    assert_eq!(timing(serde_json::json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10})), [30, 10, 10]);
    assert_eq!(timing(serde_json::json!({"ttl": 12}))[0], 12, "what is written counts");
}
