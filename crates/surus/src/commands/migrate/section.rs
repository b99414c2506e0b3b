//! The section of the new store for each member. Only that of the embedded store differs between them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use surus_core::MemberName;

use crate::failure::{Outcome, failed};

const STORES: [&str; 4] = ["consul", "etcd3", "raft", "zookeeper"];

pub struct Sections(BTreeMap<MemberName, Value>);

impl Sections {
    /// `members` says where the REST API of each is. `document` has one store section, and may have below `members` what is
    /// another for one of them.
    pub fn read(document: &Value, members: &BTreeMap<MemberName, String>) -> Outcome<Sections> {
        let named: Vec<&str> = STORES.into_iter().filter(|name| document.get(name).is_some()).collect();
        let [store] = named.as_slice() else {
            return failed(match named.len() {
                0 => format!("the file of the new store has none of the sections {}", STORES.join(", ")),
                _ => format!("the file of the new store has more than one: {}", named.join(", ")),
            });
        };
        let own = document.get("members").and_then(Value::as_object).cloned().unwrap_or_default();
        // One that is away now gets its section when it is back; its address belongs to those of the embedded store.
        let away = own.iter().filter(|(name, _)| !members.contains_key(&MemberName::from(name.as_str())));
        let away: Vec<Value> = away.filter_map(|(_, own)| own.get(*store)?.get("self_addr").cloned()).collect();
        let mut all = BTreeMap::new();
        for (name, url) in members {
            let mut section = document[*store].as_object().cloned().unwrap_or_default();
            let over = own.get(name.as_str()).and_then(|own| own.get(*store)).and_then(Value::as_object);
            section.extend(over.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())));
            if *store == "raft" {
                complete(&mut section, name, url)?;
            }
            all.insert(name.clone(), json!({*store: section}));
        }
        if *store == "raft" {
            partners(&mut all, &away)?;
        }
        Ok(Sections(all))
    }

    pub fn of(&self, name: &MemberName) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }

    pub fn all(&self) -> impl Iterator<Item = (&MemberName, &Value)> {
        self.0.iter()
    }
}

/// The address of this member among those of all.
fn complete(section: &mut Map<String, Value>, name: &MemberName, url: &str) -> Outcome {
    if !section.get("data_dir").and_then(Value::as_str).is_some_and(|dir| dir.starts_with('/')) {
        return failed(format!("raft.data_dir for {name}: name the directory of the embedded store by its whole path"));
    }
    if section.contains_key("self_addr") {
        return Ok(());
    }
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let all = section.get("partner_addrs").and_then(Value::as_array).cloned().unwrap_or_default();
    let here: Vec<&Value> = all
        .iter()
        .filter(|a| a.as_str().and_then(|a| a.rsplit_once(':')).is_some_and(|(there, _)| there == host))
        .collect();
    let [one] = here.as_slice() else {
        return failed(format!(
            "which of raft.partner_addrs is {name}'s cannot be told by its host {host}; write it below \
             `members: {{{name}: {{raft: {{self_addr: HOST:PORT}}}}}}`"
        ));
    };
    section.insert("self_addr".into(), (*one).clone());
    Ok(())
}

/// Where only the members' own addresses are given, the others' follow.
fn partners(all: &mut BTreeMap<MemberName, Value>, away: &[Value]) -> Outcome {
    let own = all.values().map(|section| section["raft"]["self_addr"].clone());
    let own: Vec<Value> = own.chain(away.iter().cloned()).collect();
    for (at, address) in own.iter().enumerate() {
        if own[..at].contains(address) {
            return failed(format!("raft.self_addr {address} is given to more than one member"));
        }
    }
    for section in all.values_mut().filter(|section| section["raft"].get("partner_addrs").is_none()) {
        let others: Vec<Value> = own.iter().filter(|a| **a != section["raft"]["self_addr"]).cloned().collect();
        section["raft"]["partner_addrs"] = Value::Array(others);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> BTreeMap<MemberName, String> {
        [
            ("a".into(), "http://10.0.0.1:8008/patroni".to_owned()),
            ("b".into(), "http://10.0.0.2:8008/patroni".to_owned()),
        ]
        .into()
    }

    fn read(document: Value) -> Result<Sections, String> {
        Sections::read(&document, &members()).map_err(|e| format!("{e:?}"))
    }

    #[test]
    fn each_member_gets_its_own() {
        let all = read(json!({"etcd3": {"hosts": "x:1"}})).unwrap();
        assert_eq!(all.of(&"a".into()), &json!({"etcd3": {"hosts": "x:1"}}));
        let addresses = json!(["10.0.0.1:9000", "10.0.0.2:9000"]);
        let all = read(json!({"raft": {"data_dir": "/r", "partner_addrs": addresses}})).unwrap();
        assert_eq!(all.of(&"b".into())["raft"]["self_addr"], "10.0.0.2:9000");
        let own = json!({"a": {"raft": {"self_addr": "h:1"}}, "b": {"raft": {"self_addr": "h:2", "data_dir": "/b"}}});
        let all = read(json!({"raft": {"data_dir": "/r"}, "members": own.clone()})).unwrap();
        let a = json!({"raft": {"data_dir": "/r", "self_addr": "h:1", "partner_addrs": ["h:2"]}});
        let away = json!({"z": {"raft": {"self_addr": "h:3"}}, "a": own["a"], "b": own["b"]});
        let more = read(json!({"raft": {"data_dir": "/r"}, "members": away})).unwrap();
        assert_eq!(more.of(&"a".into())["raft"]["partner_addrs"], json!(["h:2", "h:3"]));
        assert_eq!((all.of(&"a".into()), &all.of(&"b".into())["raft"]["data_dir"]), (&a, &json!("/b")));
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        for (document, why) in [
            (json!({"scope": "x"}), "none of the sections"),
            (json!({"etcd3": {}, "raft": {}}), "more than one"),
            (json!({"raft": {"partner_addrs": []}}), "whole path"),
            (json!({"raft": {"data_dir": "/r", "partner_addrs": ["x:1"]}}), "cannot be told"),
            (json!({"raft": {"data_dir": "/r", "self_addr": "h:1"}}), "more than one member"),
        ] {
            let said = read(document.clone()).err().unwrap_or_default();
            assert!(said.contains(why), "{document}: {said}");
        }
    }
}
