//! Reads typed values out of a tree, collects every fault with its place, and notices keys nobody asked for.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::{self, HostPort};
use crate::finding::{Finding, Place, Severity};
use crate::secret::Secret;
use crate::tree::{Entry, Node, NodeValue};
use crate::value;

/// Where findings go, and how grave a value is that cannot be used.
pub(crate) struct Reader {
    pub findings: Vec<Finding>,
    /// The stored document is read without ever failing: what cannot be used is ignored and told.
    lenient: bool,
}

impl Reader {
    pub fn strict() -> Reader {
        Reader { findings: Vec::new(), lenient: false }
    }

    pub fn lenient() -> Reader {
        Reader { findings: Vec::new(), lenient: true }
    }

    pub fn is_lenient(&self) -> bool {
        self.lenient
    }

    pub fn fault(&mut self, place: &Place, path: &str, message: impl Into<String>) {
        let mut message = message.into();
        let severity = if self.lenient {
            message.push_str("; it is ignored");
            Severity::Warning
        } else {
            Severity::Error
        };
        self.findings.push(Finding { severity, place: place.clone(), path: path.to_owned(), message });
    }

    pub fn warn(&mut self, place: &Place, path: &str, message: impl Into<String>) {
        self.findings.push(Finding {
            severity: Severity::Warning,
            place: place.clone(),
            path: path.to_owned(),
            message: message.into(),
        });
    }
}

/// One map of the tree; also one that is absent, of which every key is.
pub(crate) struct Section<'a> {
    pub path: String,
    pub place: Place,
    node: Option<&'a Node>,
    known: BTreeSet<String>,
}

impl<'a> Section<'a> {
    pub fn new(node: &'a Node, path: &str) -> Section<'a> {
        let node_is_map = node.entries().is_some();
        Section {
            path: path.to_owned(),
            place: node.place.clone(),
            node: node_is_map.then_some(node),
            known: BTreeSet::new(),
        }
    }

    pub fn exists(&self) -> bool {
        self.node.is_some()
    }

    pub fn node(&self) -> Option<&'a Node> {
        self.node
    }

    pub fn below(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn knows(&mut self, keys: &[&str]) {
        self.known.extend(keys.iter().map(|k| (*k).to_owned()));
    }

    /// The value, unless absent or null. From now on the key counts as known.
    pub fn take(&mut self, key: &str) -> Option<&'a Node> {
        self.known.insert(key.to_owned());
        self.node?.get(key).filter(|n| !n.is_null())
    }

    pub fn has(&self, key: &str) -> bool {
        self.node.is_some_and(|n| n.get(key).is_some())
    }

    /// Entries no getter has asked for.
    pub fn rest(&self) -> impl Iterator<Item = &'a Entry> {
        let known = self.known.clone();
        self.node.and_then(Node::entries).unwrap_or_default().iter().filter(move |e| !known.contains(&e.key))
    }

    pub fn section(&mut self, r: &mut Reader, key: &str) -> Section<'a> {
        let path = self.below(key);
        let place = self.place.clone();
        match self.take(key) {
            Some(node) if node.entries().is_some() => Section::new(node, &path),
            found => {
                if let Some(node) = found.filter(|n| !is_empty(n)) {
                    r.fault(&node.place, &path, format!("expected a map of keys and values, found {}", node.kind()));
                }
                let place = found.map_or(place, |n| n.place.clone());
                Section { path, place, node: None, known: BTreeSet::new() }
            }
        }
    }

    fn expected(&self, r: &mut Reader, key: &str, node: &Node, what: &str) {
        r.fault(&node.place, &self.below(key), format!("expected {what}, found {}", found(node)));
    }

    pub fn missing(&self, r: &mut Reader, key: &str, what: &str) {
        r.fault(&self.place, &self.below(key), format!("is missing; expected {what}"));
    }

    /// An empty text counts as absent.
    pub fn text(&mut self, r: &mut Reader, key: &str) -> Option<String> {
        let node = self.take(key)?;
        match node.scalar_text() {
            Some(text) => Some(text).filter(|t| !t.is_empty()),
            None => {
                self.expected(r, key, node, "text");
                None
            }
        }
    }

    pub fn required_text(&mut self, r: &mut Reader, key: &str, what: &str) -> Option<String> {
        let before = r.findings.len();
        let text = self.text(r, key);
        if text.is_none() && r.findings.len() == before {
            self.missing(r, key, what);
        }
        text
    }

    pub fn secret(&mut self, r: &mut Reader, key: &str) -> Option<Secret> {
        self.text(r, key).map(Secret::new)
    }

    pub fn path(&mut self, r: &mut Reader, key: &str) -> Option<PathBuf> {
        self.text(r, key).map(PathBuf::from)
    }

    pub fn bool(&mut self, r: &mut Reader, key: &str) -> Option<bool> {
        let node = self.take(key)?;
        let value = match &node.value {
            NodeValue::Bool(b) => Some(*b),
            _ => node.scalar_text().and_then(|t| value::parse_bool(t.trim())),
        };
        if value.is_none() && !is_empty(node) {
            self.expected(r, key, node, "true or false");
        }
        value
    }

    pub fn int(&mut self, r: &mut Reader, key: &str, what: &str, range: RangeInclusive<i64>) -> Option<i64> {
        let node = self.take(key)?;
        let value = whole_number(node).filter(|n| range.contains(n));
        if value.is_none() && !is_empty(node) {
            self.expected(r, key, node, what);
        }
        value
    }

    /// A number of seconds, whole or not.
    pub fn seconds(&mut self, r: &mut Reader, key: &str) -> Option<Duration> {
        let node = self.take(key)?;
        let number = match &node.value {
            NodeValue::Number(n) => n.as_f64(),
            NodeValue::Text(t) => t.trim().parse().ok(),
            _ => None,
        };
        // The bound keeps sums with a point in time from overflowing.
        let value = number.filter(|n| *n < 1e9).and_then(|n| Duration::try_from_secs_f64(n).ok());
        if value.is_none() {
            self.expected(r, key, node, "a number of seconds, 0 or more");
        }
        value
    }

    pub fn choice<T: Copy>(&mut self, r: &mut Reader, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let node = self.take(key)?;
        let text = node.scalar_text().map(|t| t.trim().to_lowercase());
        let value = text.as_ref().and_then(|t| choices.iter().find(|(name, _)| name == t)).map(|(_, v)| *v);
        if value.is_none() && !is_empty(node) {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.expected(r, key, node, &format!("one of {}", names.join(", ")));
        }
        value
    }

    pub fn address(&mut self, r: &mut Reader, key: &str, default_port: Option<u16>) -> Option<HostPort> {
        let node = self.take(key)?;
        let text = node.scalar_text().filter(|t| !t.is_empty());
        if text.is_none() && is_empty(node) {
            return None;
        }
        match text.as_deref().map(|t| address::split_one(t, default_port)) {
            Some(Ok(address)) => Some(address),
            Some(Err(why)) => {
                self.expected(r, key, node, &format!("host:port ({why})"));
                None
            }
            None => {
                self.expected(r, key, node, "host:port");
                None
            }
        }
    }

    /// A list of scalars, as text.
    pub fn texts(&mut self, r: &mut Reader, key: &str) -> Option<Vec<String>> {
        let node = self.take(key)?;
        let path = self.below(key);
        match &node.value {
            NodeValue::List(items) => Some(list_texts(r, items, &path)),
            _ => {
                self.expected(r, key, node, "a list (one `- item` per line)");
                None
            }
        }
    }

    /// A list of scalars, or one text with commas between.
    pub fn texts_or_csv(&mut self, r: &mut Reader, key: &str) -> Option<Vec<(String, Place)>> {
        let node = self.take(key)?;
        let path = self.below(key);
        match &node.value {
            NodeValue::List(items) => {
                let mut out = Vec::new();
                for (i, item) in items.iter().enumerate() {
                    match item.scalar_text() {
                        Some(text) => out.push((text.trim().to_owned(), item.place.clone())),
                        None => r.fault(
                            &item.place,
                            &format!("{path}.{i}"),
                            format!("expected text, found {}", found(item)),
                        ),
                    }
                }
                Some(out)
            }
            NodeValue::Text(text) => Some(
                text.split(',')
                    .map(|t| (t.trim().to_owned(), node.place.clone()))
                    .filter(|(t, _)| !t.is_empty())
                    .collect(),
            ),
            _ => {
                self.expected(r, key, node, "a list, or text with commas between");
                None
            }
        }
    }

    /// A map of scalars as PostgreSQL reads them; null values are left out.
    pub fn text_map(&mut self, r: &mut Reader, key: &str) -> Option<Vec<(String, String, Place)>> {
        let section = self.section(r, key);
        let entries = section.node()?.entries()?;
        let mut out = Vec::new();
        for entry in entries.iter().filter(|e| !e.node.is_null()) {
            match postgres_text(&entry.node) {
                Some(text) => out.push((entry.key.clone(), text, entry.node.place.clone())),
                None => r.fault(
                    &entry.node.place,
                    &section.below(&entry.key),
                    format!("expected one value, found {}", entry.node.kind()),
                ),
            }
        }
        Some(out)
    }

    /// Reports keys nobody asked for, with the nearest that somebody would have.
    pub fn finish(self, r: &mut Reader) {
        for entry in self.rest() {
            let near = nearest(&entry.key, self.known.iter().map(String::as_str));
            let hint = near.map_or_else(
                || "remove it, or look it up in the documentation".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            r.warn(&entry.key_place, &self.below(&entry.key), format!("is not a known key and is ignored; {hint}"));
        }
    }
}

fn list_texts(r: &mut Reader, items: &[Node], path: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (i, item) in items.iter().enumerate() {
        match item.scalar_text() {
            Some(text) => out.push(text),
            None => r.fault(&item.place, &format!("{path}.{i}"), format!("expected text, found {}", found(item))),
        }
    }
    out
}

/// Only scalars are shown: a map or a list may contain a secret.
pub(crate) fn found(node: &Node) -> String {
    match (&node.value, node.scalar_text()) {
        (NodeValue::Text(text), _) => {
            let clipped: String = text.chars().take(60).collect();
            let ellipsis = if clipped.len() < text.len() { "..." } else { "" };
            format!("{clipped:?}{ellipsis}")
        }
        (_, Some(text)) => text,
        (_, None) => node.kind().to_owned(),
    }
}

pub(crate) fn whole_number(node: &Node) -> Option<i64> {
    match &node.value {
        NodeValue::Number(n) => n.as_i64(),
        NodeValue::Text(t) => value::parse_int(t),
        _ => None,
    }
}

/// A scalar as PostgreSQL reads it in a configuration file.
pub(crate) fn postgres_text(node: &Node) -> Option<String> {
    match &node.value {
        NodeValue::Bool(b) => Some(if *b { "on" } else { "off" }.to_owned()),
        NodeValue::Number(n) => Some(n.to_string()),
        NodeValue::Text(t) => Some(t.clone()),
        NodeValue::Null | NodeValue::List(_) | NodeValue::Map(_) => None,
    }
}

/// What counts as "nothing here" wherever a section or a value may be left out.
pub(crate) fn is_empty(node: &Node) -> bool {
    match &node.value {
        NodeValue::Null => true,
        NodeValue::Text(t) => t.trim().is_empty(),
        NodeValue::List(items) => items.is_empty(),
        NodeValue::Map(entries) => entries.is_empty(),
        NodeValue::Bool(_) | NodeValue::Number(_) => false,
    }
}

pub(crate) fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let key = key.to_lowercase();
    let allowed = (key.chars().count() / 3).clamp(1, 3);
    known
        .map(|k| (strsim::damerau_levenshtein(&key, &k.to_lowercase()), k))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, k)| k)
}
