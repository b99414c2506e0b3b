//! `bootstrap` (`spec/config.md §4.5`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::definition::{self, BOOTSTRAP_METHOD};
use crate::dynamic;
use crate::reader::{Reader, Section};
use crate::tree::{Entry, Node, NodeValue};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// As written; see [`crate::new_cluster_document`] for what is stored of it.
    pub dcs: Value,
    /// `None`: `initdb`.
    pub method: Option<CustomBootstrap>,
    /// Ready arguments: `--encoding=UTF8`, `--data-checksums`.
    pub initdb: Vec<String>,
    pub pg_hba: Vec<String>,
    /// A command line, to be split as a shell would, without a shell.
    pub post_bootstrap: Option<String>,
}

/// A bootstrap method that is not `initdb` (`spec/postgres.md §13.2`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomBootstrap {
    pub name: String,
    pub command: String,
    pub no_params: bool,
    pub keep_existing_recovery_conf: bool,
    pub recovery_conf: Option<BTreeMap<String, String>>,
    /// Further keys in the order written, each to become `--key=value`.
    pub arguments: Vec<(String, String)>,
}

pub(super) fn read(root: &Section<'_>, r: &mut Reader) -> Option<Bootstrap> {
    let s = root.section("bootstrap");
    if !s.exists() {
        return None;
    }
    let dcs = s.section("dcs");
    let document = dcs.node().map_or_else(|| Value::Object(serde_json::Map::new()), Node::to_json);
    // Read for its faults; the values are read again from the document once it is stored.
    dynamic::read(&dcs, r, document.clone());
    Some(Bootstrap {
        dcs: document,
        method: s.text("method").filter(|m| m != "initdb").and_then(|name| custom(&s, r, &name)),
        initdb: s.options(r, "initdb").unwrap_or_default(),
        pg_hba: s.texts("pg_hba").unwrap_or_default(),
        post_bootstrap: s.text("post_bootstrap").or_else(|| s.text("post_init")),
    })
}

fn custom(s: &Section<'_>, r: &mut Reader, name: &str) -> Option<CustomBootstrap> {
    let path = s.below(name);
    let section = s.rest().find(|e| e.key == name && e.node.entries().is_some());
    let section =
        section.map(|e| Section::new(&e.node, &path, BOOTSTRAP_METHOD)).filter(|m| m.text("command").is_some());
    let Some(m) = section else {
        let message = format!("there is no section `bootstrap.{name}` with a `command`, so initdb is used");
        r.warn(&s.place_of("method"), &s.below("method"), message);
        return None;
    };
    definition::check::method(&m, r);
    let recovery_conf = m.text_map("recovery_conf").map(|pairs| pairs.into_iter().map(|(k, v, _)| (k, v)).collect());
    Some(CustomBootstrap {
        name: name.to_owned(),
        command: m.text("command")?,
        no_params: m.bool("no_params"),
        keep_existing_recovery_conf: m.bool("keep_existing_recovery_conf"),
        recovery_conf,
        arguments: arguments(m.rest(), &path, r),
    })
}

/// What is left of a method's section, each key to become `--key=value`.
pub(super) fn arguments<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    path: &str,
    r: &mut Reader,
) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for entry in entries.filter(|e| !e.node.is_null()) {
        let text = match entry.node.value {
            // As scripts know it from Patroni.
            NodeValue::Bool(on) => Some(if on { "True" } else { "False" }.to_owned()),
            _ => entry.node.scalar_text(),
        };
        match text {
            Some(text) => out.push((entry.key.clone(), text)),
            None => r.fault(
                &entry.node.place,
                &format!("{path}.{}", entry.key),
                format!(
                    "expected one value, because it is passed as --{}=value, found {}",
                    entry.key,
                    entry.node.kind()
                ),
            ),
        }
    }
    out
}
