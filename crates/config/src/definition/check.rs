//! Holds a tree against the tables. Everything that one value alone can be wrong about is told here, and nowhere else;
//! what has several values to compare is told by their readers.

use super::kind::{self, Kind, Others};
use super::{BOOTSTRAP_METHOD, Counts, DYNAMIC, Key, METHOD, Only, ROOT, Required, find};
use crate::address;
use crate::finding::Place;
use crate::reader::{Reader, Section, found, is_empty, nearest};
use crate::tree::{Entry, Node, NodeValue};

/// Which document it is that a tree is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    File,
    Stored,
}

/// A member's own file.
pub(crate) fn file(root: &Node, r: &mut Reader) {
    section(root, "", &Table { keys: ROOT, others: Others::Unknown, document: Document::File }, r);
}

/// Of a member's file only what a program uses that is no member; nothing has to be there.
pub(crate) fn parts(root: &Node, names: &[&str], r: &mut Reader) {
    for entry in root.entries().unwrap_or_default().iter().filter(|e| names.contains(&e.key.as_str())) {
        if let Some(key) = find(ROOT, &entry.key) {
            one(key, entry, &entry.key, Document::File, r);
        }
    }
}

/// The document in the store.
pub(crate) fn stored(root: &Node, r: &mut Reader) {
    section(root, "", &Table { keys: DYNAMIC, others: Others::Unknown, document: Document::Stored }, r);
}

struct Table {
    keys: &'static [Key],
    others: Others,
    document: Document,
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn section(node: &Node, path: &str, table: &Table, r: &mut Reader) {
    let entries = node.entries().unwrap_or_default();
    for entry in entries {
        let path = below(path, &entry.key);
        match find(table.keys, &entry.key) {
            Some(key) => one(key, entry, &path, table.document, r),
            None if stranger_is_welcome(entry, node, table.others) => {}
            None => unknown(entry, &path, table, r),
        }
    }
    if table.document == Document::Stored {
        return;
    }
    for key in table.keys {
        if let Required::Yes(what) = key.required
            && !entries.iter().any(|e| e.key == key.name && !is_empty(&e.node))
        {
            r.fault(&node.place, &below(path, key.name), format!("is missing; expected {what}"));
        }
    }
}

fn one(key: &'static Key, entry: &Entry, path: &str, document: Document, r: &mut Reader) {
    let (node, place) = (&entry.node, &entry.node.place);
    match (document, key.only) {
        (Document::Stored, Only::File) if key.older || node.is_null() => return,
        (Document::Stored, Only::File) => {
            return r.warn(place, path, "only counts in a member's own file and is ignored here");
        }
        (Document::File, Only::Stored) => {
            return r.warn(place, path, "only counts in the dynamic configuration and is ignored here");
        }
        _ => {}
    }
    if let Err(message) = key.kind.judge(node) {
        return r.fault(place, path, message);
    }
    if let Counts::Never(why) = key.counts
        && !is_empty(node)
        && kind::boolean(node) != Some(false)
    {
        r.warn(place, path, format!("has no effect: {why}"));
    }
    contents(key, node, path, document, r);
}

/// The section of the bootstrap method in use, whose other keys are arguments.
pub(crate) fn method(s: &Section<'_>, r: &mut Reader) {
    let table = Table { keys: BOOTSTRAP_METHOD, others: Others::Welcome, document: Document::File };
    if let Some(node) = s.node() {
        section(node, &s.path, &table, r);
    }
}

/// What is in a list or a map.
fn contents(key: &'static Key, node: &Node, path: &str, document: Document, r: &mut Reader) {
    let items = match &node.value {
        NodeValue::List(items) => items.as_slice(),
        _ => &[],
    };
    match key.kind {
        Kind::Map(keys, others) if node.entries().is_some() => {
            // What a new cluster is to have is judged as the file it stands in, in the words of the store.
            let document = if path == "bootstrap.dcs" { Document::Stored } else { document };
            section(node, path, &Table { keys, others, document }, r);
        }
        Kind::WordOrMap(_, keys) if node.entries().is_some() => {
            section(node, path, &Table { keys, others: Others::Unknown, document }, r);
        }
        Kind::Maps(keys) => {
            for (i, item) in items.iter().enumerate() {
                let path = format!("{path}.{i}");
                if item.entries().is_some() {
                    section(item, &path, &Table { keys, others: Others::Unknown, document }, r);
                } else {
                    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
                    let expected = format!("expected a map with {}, found {}", names.join(", "), item.kind());
                    r.fault(&item.place, &path, expected);
                }
            }
        }
        Kind::Texts | Kind::TextsOrCsv | Kind::Addresses => {
            for (i, item) in items.iter().enumerate().filter(|(_, item)| item.scalar_text().is_none()) {
                r.fault(&item.place, &format!("{path}.{i}"), format!("expected text, found {}", found(item)));
            }
            if matches!(key.kind, Kind::Addresses) {
                addresses(node, path, r);
            }
        }
        Kind::Settings => {
            for entry in node.entries().unwrap_or_default() {
                if !entry.node.is_null() && entry.node.scalar_text().is_none() {
                    let message = format!("expected one value, found {}", entry.node.kind());
                    r.fault(&entry.node.place, &below(path, &entry.key), message);
                }
            }
        }
        Kind::Words(words) => {
            for entry in node.entries().unwrap_or_default() {
                if let Err(message) = Kind::Word(words).judge(&entry.node) {
                    r.fault(&entry.node.place, &below(path, &entry.key), message);
                }
            }
        }
        _ => {}
    }
}

fn addresses(node: &Node, path: &str, r: &mut Reader) {
    for (i, (text, place)) in crate::reader::several(node).into_iter().enumerate() {
        if let Err(why) = address::split_one(&text, None) {
            r.fault(&place, &format!("{path}.{i}"), format!("expected host:port ({why}), found {text:?}"));
        }
    }
}

/// Whether a key that no table has is nothing to complain about.
fn stranger_is_welcome(entry: &Entry, section: &Node, others: Others) -> bool {
    let has = |name: &str| entry.node.get(name).is_some();
    match others {
        Others::Unknown => false,
        Others::Welcome => true,
        Others::ReplicaMethods => is_method(entry, section),
        // Also of methods that are not chosen.
        Others::BootstrapMethods => has("command"),
    }
}

/// A section of `postgresql` is a method's if the list names it, or if it has what only a method has.
pub(crate) fn is_method(entry: &Entry, section: &Node) -> bool {
    let listed = ["create_replica_methods", "create_replica_method"].into_iter().filter_map(|key| section.get(key));
    let listed = listed.flat_map(crate::reader::several).any(|(name, _)| name == entry.key);
    let marks = METHOD.iter().filter(|key| matches!(key.name, "command" | "no_leader"));
    listed || marks.into_iter().any(|key| entry.node.get(key.name).is_some())
}

fn unknown(entry: &Entry, path: &str, table: &Table, r: &mut Reader) {
    if path == entry.key
        && table.document == Document::File
        && let Some(message) = elsewhere(&entry.key)
    {
        return message.map_or((), |message| r.warn(&entry.node.place, path, message));
    }
    let names = table.keys.iter().map(|key| key.name);
    let others = if path == entry.key { OTHER_SECTIONS } else { &[] };
    let hint = nearest(&entry.key, names.chain(others.iter().copied())).map_or_else(
        || "remove it, or look it up in the documentation".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    r.warn(&entry.key_place as &Place, path, format!("is not a known key and is ignored; {hint}"));
}

/// Sections that are known and refused; their reader says so.
const OTHER_SECTIONS: &[&str] = &["citus", "consul", "etcd", "exhibitor", "kubernetes"];

/// Keys that belong somewhere else than at the top of a file; `Some(None)`: somebody else tells.
fn elsewhere(name: &str) -> Option<Option<&'static str>> {
    if OTHER_SECTIONS.contains(&name) {
        return Some(None);
    }
    find(DYNAMIC, name)?;
    Some(Some(
        "only counts in the dynamic configuration and is ignored here; put it into bootstrap.dcs before the cluster \
         is initialised, or change it with `surus edit-config` afterwards",
    ))
}
