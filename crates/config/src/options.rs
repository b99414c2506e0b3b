//! Option lists of `initdb`, `basebackup` and `rewind` (`spec/postgres.md §14.3`).

use crate::finding::Place;
use crate::reader::{Reader, Section, is_empty};
use crate::tree::{Node, NodeValue};

#[derive(Debug)]
pub struct Rules {
    /// What Surus sets itself.
    forbidden: &'static [&'static str],
    /// A bad option is told and left out instead of being a fault: a backup without it still runs.
    skip: bool,
}

pub(crate) const INITDB: Rules =
    Rules { forbidden: &["pgdata", "nosync", "pwfile", "sync-only", "version"], skip: false };
pub(crate) const BASEBACKUP: Rules = Rules {
    forbidden: &[
        "pgdata",
        "format",
        "wal-method",
        "xlog-method",
        "gzip",
        "version",
        "dbname",
        "host",
        "port",
        "username",
        "password",
    ],
    skip: true,
};
pub(crate) const REWIND: Rules =
    Rules { forbidden: &["target-pgdata", "source-pgdata", "source-server", "version", "dry-run"], skip: true };

impl Rules {
    /// Ready arguments: `--name` and `--name=value`.
    pub(crate) fn read(&self, section: &Section<'_>, r: &mut Reader, key: &str) -> Option<Vec<String>> {
        let path = section.below(key);
        let node = section.take(key)?;
        let mut out = Vec::new();
        match &node.value {
            NodeValue::Map(entries) => {
                let off = |node: &Node| is_empty(node) || matches!(node.value, NodeValue::Bool(false));
                for entry in entries.iter().filter(|e| !off(&e.node)) {
                    out.extend(self.pair(r, &entry.key, &entry.node, &format!("{path}.{}", entry.key)));
                }
            }
            NodeValue::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    let path = format!("{path}.{i}");
                    match &item.value {
                        NodeValue::Map(entries) if entries.len() == 1 => {
                            out.extend(self.pair(r, &entries[0].key, &entries[0].node, &path));
                        }
                        NodeValue::Text(text) if !text.is_empty() => out.extend(self.flag(r, text, item, &path)),
                        _ => self.complain(
                            r,
                            &item.place,
                            &path,
                            &format!("expected `- option` or `- option: value`, found {}", item.kind()),
                        ),
                    }
                }
            }
            _ if is_empty(node) => {}
            _ => self.complain(
                r,
                &node.place,
                &path,
                &format!("expected a list of `- option` and `- option: value`, found {}", node.kind()),
            ),
        }
        Some(out)
    }

    fn pair(&self, r: &mut Reader, name: &str, value: &Node, path: &str) -> Option<String> {
        let name = name.trim_start_matches('-');
        if !self.allowed(r, name, &value.place, path) {
            return None;
        }
        match (&value.value, value.scalar_text()) {
            (NodeValue::Text(_) | NodeValue::Number(_), Some(text)) => Some(format!("--{name}={}", unquoted(&text))),
            _ => {
                let message =
                    format!("expected text, found {}; an option without a value is written `- {name}`", value.kind());
                self.complain(r, &value.place, path, &message);
                None
            }
        }
    }

    fn flag(&self, r: &mut Reader, text: &str, item: &Node, path: &str) -> Option<String> {
        let option = text.trim_start_matches('-');
        let name = option.split('=').next().unwrap_or(option);
        self.allowed(r, name, &item.place, path).then(|| format!("--{option}"))
    }

    fn allowed(&self, r: &mut Reader, name: &str, place: &Place, path: &str) -> bool {
        let forbidden = self.forbidden.contains(&name);
        if forbidden {
            self.complain(r, place, path, &format!("the option {name} is not yours to set here; remove it"));
        }
        !forbidden
    }

    fn complain(&self, r: &mut Reader, place: &Place, path: &str, message: &str) {
        if self.skip {
            r.warn(place, path, format!("{message}; the option is left out"));
        } else {
            r.fault(place, path, message);
        }
    }
}

/// Quotes meant for a shell that never sees them.
fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}
