//! A configuration as a tree in which every value knows where it was written, before anything is known of its meaning.

mod scalar;
mod yaml;

use serde_json::{Map, Number, Value};

pub(crate) use scalar::resolve;
pub(crate) use yaml::parse;

use crate::finding::{Place, Source};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub value: NodeValue,
    /// A plain scalar that was read as something other than text, as written: `0644`.
    pub raw: Option<String>,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeValue {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    pub key_place: Place,
    pub node: Node,
}

impl Node {
    pub fn new(value: NodeValue, place: Place) -> Node {
        Node { value, raw: None, place }
    }

    /// What stands for a section that is not there.
    pub fn absent() -> Node {
        Node::new(NodeValue::Null, Place::of(Source::Default))
    }

    pub fn from_json(value: &Value, source: &Source) -> Node {
        let place = Place::of(source.clone());
        let value = match value {
            Value::Null => NodeValue::Null,
            Value::Bool(b) => NodeValue::Bool(*b),
            Value::Number(n) => NodeValue::Number(n.clone()),
            Value::String(s) => NodeValue::Text(s.clone()),
            Value::Array(items) => NodeValue::List(items.iter().map(|v| Node::from_json(v, source)).collect()),
            Value::Object(map) => NodeValue::Map(
                map.iter()
                    .map(|(key, v)| Entry {
                        key: key.clone(),
                        key_place: place.clone(),
                        node: Node::from_json(v, source),
                    })
                    .collect(),
            ),
        };
        Node::new(value, place)
    }

    pub fn to_json(&self) -> Value {
        match &self.value {
            NodeValue::Null => Value::Null,
            NodeValue::Bool(b) => Value::Bool(*b),
            NodeValue::Number(n) => Value::Number(n.clone()),
            NodeValue::Text(s) => Value::String(s.clone()),
            NodeValue::List(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            NodeValue::Map(entries) => {
                Value::Object(entries.iter().map(|e| (e.key.clone(), e.node.to_json())).collect::<Map<_, _>>())
            }
        }
    }

    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            NodeValue::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|e| e.key == key).map(|e| &e.node)
    }

    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    pub fn is_null(&self) -> bool {
        self.value == NodeValue::Null
    }

    /// What kind of thing it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::Null => "nothing",
            NodeValue::Bool(_) => "a boolean",
            NodeValue::Number(_) => "a number",
            NodeValue::Text(_) => "text",
            NodeValue::List(_) => "a list",
            NodeValue::Map(_) => "a map",
        }
    }

    /// A scalar as text the way it was written; `None` for null, lists and maps.
    pub fn scalar_text(&self) -> Option<String> {
        match (&self.raw, &self.value) {
            (_, NodeValue::Null | NodeValue::List(_) | NodeValue::Map(_)) => None,
            (Some(raw), _) => Some(raw.clone()),
            (None, NodeValue::Bool(b)) => Some(b.to_string()),
            (None, NodeValue::Number(n)) => Some(n.to_string()),
            (None, NodeValue::Text(s)) => Some(s.clone()),
        }
    }

    /// Puts `value` at `path`, making the maps on the way.
    pub fn insert(&mut self, path: &[&str], value: Node) {
        let Some((key, rest)) = path.split_first() else {
            *self = value;
            return;
        };
        if self.entries().is_none() {
            self.value = NodeValue::Map(Vec::new());
            self.raw = None;
        }
        let NodeValue::Map(entries) = &mut self.value else { return };
        let index = entries.iter().position(|e| e.key == *key).unwrap_or_else(|| {
            entries.push(Entry {
                key: (*key).to_owned(),
                key_place: value.place.clone(),
                node: Node::new(NodeValue::Null, value.place.clone()),
            });
            entries.len() - 1
        });
        entries[index].node.insert(rest, value);
    }

    /// Lays `upper` over `self` by the rules of [`crate::patch`] (`spec/config.md §0`), keeping places.
    pub fn merge(&mut self, upper: Node) {
        let (NodeValue::Map(base), true) = (&mut self.value, upper.entries().is_some()) else {
            *self = upper;
            return;
        };
        let NodeValue::Map(entries) = upper.value else { return };
        for entry in entries {
            let index = base.iter().position(|e| e.key == entry.key);
            match (index, entry.node.is_null()) {
                (Some(index), true) => {
                    base.remove(index);
                }
                (None, true) => {}
                (Some(index), false) => {
                    let current = &mut base[index];
                    if entry.node.entries().is_some() {
                        current.node.merge(entry.node);
                    } else if !crate::document::same_text(&current.node.to_json(), &entry.node.to_json()) {
                        *current = entry;
                    }
                }
                (None, false) => base.push(entry),
            }
        }
    }

    /// Every leaf and its dotted path.
    pub fn leaves(&self, path: &str, visit: &mut impl FnMut(&str, &Node)) {
        match &self.value {
            NodeValue::Map(entries) => {
                for entry in entries {
                    let below = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
                    entry.node.leaves(&below, visit);
                }
            }
            _ => visit(path, self),
        }
    }
}
