//! `bootstrap` (`spec/config.md §4.5`).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::dynamic;
use crate::options;
use crate::reader::{Reader, Section, is_empty};
use crate::tree::{Node, NodeValue};

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

pub(super) fn read(root: &mut Section<'_>, r: &mut Reader) -> Option<Bootstrap> {
    let mut s = root.section(r, "bootstrap");
    if !s.exists() {
        return None;
    }
    let dcs = s.section(r, "dcs");
    let document = dcs.node().map_or_else(|| Value::Object(serde_json::Map::new()), Node::to_json);
    // Read for its faults; the values are read again from the document once it is stored.
    dynamic::read(dcs, r, document.clone());
    let method = s.text(r, "method").filter(|m| m != "initdb");
    let custom = method.and_then(|name| custom(&mut s, r, &name));
    let initdb = options::INITDB.read(&mut s, r, "initdb").unwrap_or_default();
    let pg_hba = s.texts(r, "pg_hba").unwrap_or_default();
    let (post_bootstrap, post_init) = (s.text(r, "post_bootstrap"), s.text(r, "post_init"));
    if let Some(users) = s.take("users").filter(|n| !is_empty(n)) {
        r.warn(
            &users.place,
            &s.below("users"),
            "no users are created from this section any more; create them with post_bootstrap",
        );
    }
    // Sections of methods that are not chosen.
    for entry in s.rest().filter(|e| e.node.get("command").is_some()).collect::<Vec<_>>() {
        s.knows(&[&entry.key]);
    }
    s.finish(r);
    Some(Bootstrap { dcs: document, method: custom, initdb, pg_hba, post_bootstrap: post_bootstrap.or(post_init) })
}

fn custom(s: &mut Section<'_>, r: &mut Reader, name: &str) -> Option<CustomBootstrap> {
    let place = s.take("method").map_or(s.place.clone(), |n| n.place.clone());
    let path = s.below("method");
    let mut m = s.section(r, name);
    let Some(command) = m.text(r, "command") else {
        r.warn(&place, &path, format!("there is no section `bootstrap.{name}` with a `command`, so initdb is used"));
        return None;
    };
    let no_params = m.bool(r, "no_params").unwrap_or(false);
    let keep_existing_recovery_conf = m.bool(r, "keep_existing_recovery_conf").unwrap_or(false);
    let recovery_conf = m.text_map(r, "recovery_conf").map(|pairs| pairs.into_iter().map(|(k, v, _)| (k, v)).collect());
    m.knows(&["scope", "datadir"]);
    let arguments = arguments(&m, r);
    Some(CustomBootstrap {
        name: name.to_owned(),
        command,
        no_params,
        keep_existing_recovery_conf,
        recovery_conf,
        arguments,
    })
}

/// What is left of a method's section, each key to become `--key=value`.
pub(super) fn arguments(s: &Section<'_>, r: &mut Reader) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for entry in s.rest().filter(|e| !e.node.is_null()) {
        let text = match entry.node.value {
            // As scripts know it from Patroni.
            NodeValue::Bool(on) => Some(if on { "True" } else { "False" }.to_owned()),
            _ => entry.node.scalar_text(),
        };
        match text {
            Some(text) => out.push((entry.key.clone(), text)),
            None => r.fault(
                &entry.node.place,
                &s.below(&entry.key),
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
