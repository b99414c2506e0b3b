//! A generated configuration as a file to go on with: sections in the order a reader expects, and a word on what counts
//! only once.

use serde_json::{Map, Value};

use crate::yaml;

const ORDER: [&str; 17] = [
    "scope",
    "namespace",
    "name",
    "log",
    "restapi",
    "ctl",
    "citus",
    "consul",
    "etcd",
    "etcd3",
    "exhibitor",
    "kubernetes",
    "raft",
    "zookeeper",
    "bootstrap",
    "postgresql",
    "watchdog",
];

const FIRST_OF_DCS: [&str; 3] = ["loop_wait", "retry_timeout", "ttl"];

pub fn render(document: &Value) -> String {
    let Some(document) = document.as_object() else { return String::new() };
    let ordered = ORDER.iter().filter_map(|key| document.get_key_value(*key));
    let rest = document.iter().filter(|(key, _)| !ORDER.contains(&key.as_str()));
    let mut out = String::new();
    for (key, value) in ordered.chain(rest) {
        if value.is_object() && !out.is_empty() {
            out.push('\n');
        }
        match (key.as_str(), value) {
            ("bootstrap", Value::Object(section)) => bootstrap(&mut out, section),
            _ => out.push_str(&block(key, value)),
        }
    }
    out
}

fn block(key: &str, value: &Value) -> String {
    yaml::block(&Value::Object(Map::from_iter([(key.to_owned(), value.clone())])))
}

fn bootstrap(out: &mut String, section: &Map<String, Value>) {
    out.push_str("# How a new cluster is made. Once the cluster is there, changes in this section have no effect.\n");
    out.push_str("# Change the dynamic configuration with `surus edit-config` or `patronictl edit-config`.\n");
    out.push_str("bootstrap:\n");
    if let Some(Value::Object(dcs)) = section.get("dcs") {
        out.push_str("  # The dynamic configuration that the new cluster begins with, for all of its members.\n");
        out.push_str("  # It is kept in the store. Limits of PostgreSQL that a standby must not have lower than\n");
        out.push_str("  # its primary, such as max_connections, count here alone, and not in the section\n");
        out.push_str("  # postgresql.parameters of a member.\n");
        out.push_str("  dcs:\n");
        let first = FIRST_OF_DCS.iter().filter_map(|key| dcs.get_key_value(*key));
        let mut rest: Vec<_> = dcs.iter().filter(|(key, _)| !FIRST_OF_DCS.contains(&key.as_str())).collect();
        rest.sort_by_key(|(key, _)| *key);
        for (key, value) in first.chain(rest) {
            indented(out, 4, &block(key, value));
        }
    }
    for (key, value) in section.iter().filter(|(key, _)| *key != "dcs") {
        indented(out, 2, &block(key, value));
    }
}

fn indented(out: &mut String, by: usize, text: &str) {
    for line in text.lines() {
        out.push_str(&format!("{}{line}\n", " ".repeat(by)));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sections_come_in_order() {
        let document = json!({
            "tags": {"a": 1}, "postgresql": {"pg_hba": ["local all all peer"]}, "name": "n1", "scope": "#FIXME",
            "bootstrap": {"dcs": {"ttl": 30, "a": {"b": 1}, "loop_wait": 10}, "initdb": ["data-checksums"]},
        });
        let text = render(&document);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("# ")).collect();
        assert_eq!(
            lines,
            [
                "scope: '#FIXME'",
                "name: n1",
                "",
                "bootstrap:",
                "  dcs:",
                "    loop_wait: 10",
                "    ttl: 30",
                "    a:",
                "      b: 1",
                "  initdb:",
                "  - data-checksums",
                "",
                "postgresql:",
                "  pg_hba:",
                "  - local all all peer",
                "",
                "tags:",
                "  a: 1",
            ]
        );
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), document);
    }
}
