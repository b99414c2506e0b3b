//! Reads typed values out of a tree that was held against the tables of settings, and collects faults with their places.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use surus_core::settings::Reserve;

use crate::address::{self, HostPort};
use crate::definition::{self, Key, Kind, kind};
use crate::finding::{Finding, Place, Severity, Source};
use crate::secret::Secret;
use crate::timing;
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

/// One map of the tree, with the table of its keys; also one that is absent, of which every key is. Reading a value that
/// cannot be used gives what an absent one gives: [`crate::definition::check`] has told about it.
pub(crate) struct Section<'a> {
    pub path: String,
    pub place: Place,
    node: Option<&'a Node>,
    keys: &'static [Key],
}

impl<'a> Section<'a> {
    pub fn new(node: &'a Node, path: &str, keys: &'static [Key]) -> Section<'a> {
        let is_map = node.entries().is_some();
        Section { path: path.to_owned(), place: node.place.clone(), node: is_map.then_some(node), keys }
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

    /// The value as written, unless absent or null.
    pub fn take(&self, key: &str) -> Option<&'a Node> {
        self.node?.get(key).filter(|n| !n.is_null())
    }

    pub fn has(&self, key: &str) -> bool {
        self.node.is_some_and(|n| n.get(key).is_some())
    }

    /// Where a value is, or where it would be.
    pub fn place_of(&self, key: &str) -> Place {
        self.take(key).map_or_else(|| self.place.clone(), |node| node.place.clone())
    }

    /// Entries that the table does not have.
    pub fn rest(&self) -> impl Iterator<Item = &'a Entry> {
        let keys = self.keys;
        let entries = self.node.and_then(Node::entries).unwrap_or_default();
        entries.iter().filter(move |e| definition::find(keys, &e.key).is_none())
    }

    pub fn section(&self, key: &str) -> Section<'a> {
        let found = self.take(key);
        Section {
            path: self.below(key),
            place: found.map_or_else(|| self.place.clone(), |n| n.place.clone()),
            node: found.filter(|n| n.entries().is_some()),
            keys: self.row(key).keys(),
        }
    }

    pub fn missing(&self, r: &mut Reader, key: &str, what: &str) {
        r.fault(&self.place, &self.below(key), format!("is missing; expected {what}"));
    }

    pub fn knows(&self, key: &str) -> bool {
        definition::find(self.keys, key).is_some()
    }

    fn row(&self, key: &str) -> &'static Key {
        let row = definition::find(self.keys, key);
        row.unwrap_or_else(|| panic!("{} is read and not in the tables of settings", self.below(key)))
    }

    /// The value if it can be used, else the default if it is one that can be written.
    fn value(&self, key: &str) -> Option<Cow<'a, Node>> {
        let row = self.row(key);
        let written = self.take(key).filter(|node| !is_empty(node) && row.kind.judge(node).is_ok());
        written.map(Cow::Borrowed).or_else(|| match row.default {
            definition::Default::Is(text) => {
                Some(Cow::Owned(Node::new(NodeValue::Text(text.to_owned()), Place::of(Source::Default))))
            }
            _ => None,
        })
    }

    /// Without the default: a layer that does not say leaves it to the next.
    fn written(&self, key: &str) -> Option<&'a Node> {
        let row = self.row(key);
        self.take(key).filter(|node| !is_empty(node) && row.kind.judge(node).is_ok())
    }

    pub fn text(&self, key: &str) -> Option<String> {
        self.value(key)?.scalar_text()
    }

    pub fn default_text(&self, key: &str) -> &'static str {
        match self.row(key).default {
            definition::Default::Is(text) => text,
            _ => "",
        }
    }

    pub fn secret(&self, key: &str) -> Option<Secret> {
        self.text(key).map(Secret::new)
    }

    pub fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    pub fn bool(&self, key: &str) -> bool {
        self.value(key).and_then(|node| kind::boolean(&node)).unwrap_or(false)
    }

    pub fn int(&self, key: &str) -> Option<i64> {
        self.value(key).and_then(|node| whole_number(&node))
    }

    /// A number that the table keeps within what `T` holds.
    pub fn number<T: TryFrom<i64>>(&self, key: &str) -> Option<T> {
        T::try_from(self.int(key)?).ok()
    }

    pub fn time(&self, key: &str) -> Option<Duration> {
        self.value(key).and_then(|node| kind::time(&node))
    }

    pub fn size(&self, key: &str) -> Option<u64> {
        self.value(key).and_then(|node| kind::size(&node))
    }

    /// The first of the words of the table that mean the same.
    pub fn word(&self, key: &str) -> Option<&'static str> {
        match self.row(key).kind {
            Kind::Word(words) | Kind::WordOrMap(words, _) => kind::word(words, &*self.value(key)?),
            _ => None,
        }
    }

    pub fn address(&self, key: &str, default_port: Option<u16>) -> Option<HostPort> {
        address::split_one(&self.text(key)?, default_port).ok()
    }

    /// A list of scalars, as text; `Some` also if it is empty.
    pub fn texts(&self, key: &str) -> Option<Vec<String>> {
        match &self.take(key)?.value {
            NodeValue::List(items) => Some(items.iter().filter_map(Node::scalar_text).collect()),
            _ => None,
        }
    }

    /// A list of scalars, or one text with commas between.
    pub fn texts_or_csv(&self, key: &str) -> Option<Vec<(String, Place)>> {
        let node = self.take(key)?;
        matches!(node.value, NodeValue::List(_) | NodeValue::Text(_)).then(|| several(node))
    }

    /// A map of scalars as PostgreSQL reads them; null values are left out.
    pub fn text_map(&self, key: &str) -> Option<Vec<(String, String, Place)>> {
        let entries = self.take(key)?.entries()?;
        let pair = |e: &Entry| Some((e.key.clone(), postgres_text(&e.node)?, e.node.place.clone()));
        Some(entries.iter().filter_map(pair).collect())
    }

    /// Ready arguments for a program of PostgreSQL.
    pub fn options(&self, r: &mut Reader, key: &str) -> Option<Vec<String>> {
        match self.row(key).kind {
            Kind::Options(rules) => rules.read(self, r, key),
            _ => None,
        }
    }

    /// What this layer says, without the default: the next layer may say something.
    pub fn said(&self) -> Said<'a, '_> {
        Said(self)
    }
}

/// Getters for layers of which another lies beneath.
pub(crate) struct Said<'a, 's>(&'s Section<'a>);

impl Said<'_, '_> {
    pub fn text(&self, key: &str) -> Option<String> {
        self.0.written(key)?.scalar_text()
    }

    pub fn path(&self, key: &str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    pub fn bool(&self, key: &str) -> Option<bool> {
        self.0.written(key).and_then(kind::boolean)
    }

    pub fn seconds(&self, key: &str) -> Option<Duration> {
        self.0.written(key).and_then(kind::seconds)
    }

    pub fn whole_seconds(&self, key: &str) -> Option<i64> {
        self.0.written(key).and_then(|node| timing::whole_seconds(&node.to_json()))
    }

    pub fn int(&self, key: &str) -> Option<i64> {
        self.0.written(key).and_then(whole_number)
    }

    pub fn reserve(&self, key: &str) -> Option<Reserve> {
        self.0.written(key).and_then(kind::reserve)
    }
}

/// The texts of a list, or of one text with commas between.
pub(crate) fn several(node: &Node) -> Vec<(String, Place)> {
    match &node.value {
        NodeValue::List(items) => {
            items.iter().filter_map(|item| Some((item.scalar_text()?.trim().to_owned(), item.place.clone()))).collect()
        }
        NodeValue::Text(text) => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(|part| (part.to_owned(), node.place.clone())).collect()
        }
        _ => Vec::new(),
    }
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
