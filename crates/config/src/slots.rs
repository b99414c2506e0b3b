//! Replication slots of the dynamic configuration (`spec/config.md §6.4`).

use std::collections::BTreeMap;

use surus_core::slots::{IgnoreSlot, PermanentSlot};

use crate::definition::IGNORE_SLOT;
use crate::reader::{Reader, Section, is_empty};
use crate::tree::{Node, NodeValue};
use crate::value::parse_bool;

/// Under the first of three names that is there.
pub(crate) fn read_slots(s: &Section<'_>, r: &mut Reader) -> BTreeMap<String, PermanentSlot> {
    let names = ["permanent_replication_slots", "permanent_slots", "slots"];
    let key = names.into_iter().find(|name| s.has(name)).unwrap_or("slots");
    let section = s.section(key);
    let mut slots = BTreeMap::new();
    for entry in section.node().and_then(Node::entries).unwrap_or_default() {
        let path = section.below(&entry.key);
        if !valid_name(&entry.key) {
            let message = "expected a slot name of 1 to 63 lower-case letters, digits and underscores";
            r.fault(&entry.key_place, &path, message);
            continue;
        }
        match slot(&entry.node) {
            Ok(slot) => {
                slots.insert(entry.key.clone(), slot);
            }
            Err(why) => r.fault(&entry.node.place, &path, why),
        }
    }
    slots
}

fn valid_name(name: &str) -> bool {
    (1..=63).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn slot(node: &Node) -> Result<PermanentSlot, String> {
    let everywhere = PermanentSlot::Physical { on_primary_cluster: true, on_standby_cluster: true };
    let falsy = match &node.value {
        NodeValue::Bool(b) => !b,
        NodeValue::Number(n) => n.as_f64() == Some(0.0),
        _ => is_empty(node),
    };
    if falsy {
        return Ok(everywhere);
    }
    if node.entries().is_none() {
        return Err(format!("expected a map such as {{type: physical}}, found {}", node.kind()));
    }
    let text = |key: &str| node.get(key).and_then(Node::scalar_text).filter(|t| !t.is_empty());
    let (database, plugin) = (text("database"), text("plugin"));
    let inferred = if database.is_some() && plugin.is_some() { "logical" } else { "physical" };
    match (text("type").as_deref().unwrap_or(inferred), database, plugin) {
        ("logical", Some(database), Some(plugin)) => {
            let failover = text("failover").map(|word| {
                parse_bool(&word).ok_or_else(|| format!("expected `failover` to be true or false, found {word:?}"))
            });
            Ok(PermanentSlot::Logical { database, plugin, failover: failover.transpose()? })
        }
        ("logical", ..) => Err("a logical slot needs `database` and `plugin`".to_owned()),
        ("physical", ..) => match text("cluster_type").as_deref() {
            None => Ok(everywhere),
            Some("primary") => Ok(PermanentSlot::Physical { on_primary_cluster: true, on_standby_cluster: false }),
            Some("standby") => Ok(PermanentSlot::Physical { on_primary_cluster: false, on_standby_cluster: true }),
            Some(other) => Err(format!("expected cluster_type primary or standby, found {other:?}")),
        },
        (other, ..) => Err(format!("expected type physical or logical, found {other:?}")),
    }
}

pub(crate) fn read_ignore_slots(s: &Section<'_>) -> Vec<IgnoreSlot> {
    let path = s.below("ignore_slots");
    let items = match s.take("ignore_slots").map(|node| &node.value) {
        Some(NodeValue::List(items)) => items.as_slice(),
        _ => &[],
    };
    let maps = items.iter().filter(|item| item.entries().is_some());
    let entry = |item| {
        let entry = Section::new(item, &path, IGNORE_SLOT);
        IgnoreSlot {
            name: entry.text("name"),
            kind: entry.text("type"),
            database: entry.text("database"),
            plugin: entry.text("plugin"),
        }
    };
    maps.map(entry).collect()
}
