//! Every setting there is, once: where it stands, what it may be, its default, its variable, when a change counts, and
//! a sentence about it. Checking ([`check`]), reading (`Section`), the environment, the reference pages and the JSON
//! schema are all driven by these tables, so none of them can say something else than the others.
//!
//! A table is a list of [`Key`]s; a section is a key whose kind is [`Kind::Map`]. Everything is static data.

pub(crate) mod check;
mod consul;
mod dynamic;
pub(crate) mod kind;
mod local;
mod postgresql;
mod stores;

pub(crate) use dynamic::{DYNAMIC, IGNORE_SLOT};
pub use kind::{Kind, Others, Word};
pub(crate) use local::{BOOTSTRAP_METHOD, LEVELS, ROOT};
pub(crate) use postgresql::METHOD;
pub(crate) use stores::STORES;

/// One setting. `says` is a sentence without its full stop, as it stands in the reference.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: Default,
    pub required: Required,
    pub counts: Counts,
    pub only: Only,
    pub variable: Variable,
    /// Not known to Patroni.
    pub ours: bool,
    /// Read for files of older versions, and left out of the reference.
    pub older: bool,
    pub says: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    None,
    /// As it would be written.
    Is(&'static str),
    /// What stands in for it, in words.
    Says(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Required {
    No,
    /// What is expected there.
    Yes(&'static str),
    /// Its reader tells, because more than the key itself decides.
    ByReader,
}

/// When a change of a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Of the file: after a reload; of the stored document: at once.
    Reload,
    /// After a restart of the agent.
    AgentRestart,
    /// When a cluster is initialised, and never again.
    Once,
    /// Never, and why. Who sets it is told.
    Never(&'static str),
    /// Never, and why; nobody misses it.
    Moot(&'static str),
}

/// In which of the two documents a key counts that both may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    Both,
    File,
    Stored,
}

/// The environment variable, without its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    None,
    /// The path in capitals, with `_` for `.`.
    OfPath,
    Named(&'static str),
}

pub(crate) const fn key(name: &'static str, kind: Kind, says: &'static str) -> Key {
    Key {
        name,
        kind,
        default: Default::None,
        required: Required::No,
        counts: Counts::Reload,
        only: Only::Both,
        variable: Variable::None,
        ours: false,
        older: false,
        says,
    }
}

impl Key {
    const fn is(self, default: &'static str) -> Key {
        Key { default: Default::Is(default), ..self }
    }

    const fn otherwise(self, what: &'static str) -> Key {
        Key { default: Default::Says(what), ..self }
    }

    const fn required(self, what: &'static str) -> Key {
        Key { required: Required::Yes(what), ..self }
    }

    const fn required_by_reader(self) -> Key {
        Key { required: Required::ByReader, ..self }
    }

    const fn agent_restart(self) -> Key {
        Key { counts: Counts::AgentRestart, ..self }
    }

    const fn once(self) -> Key {
        Key { counts: Counts::Once, ..self }
    }

    const fn never(self, why: &'static str) -> Key {
        Key { counts: Counts::Never(why), ..self }
    }

    const fn moot(self, why: &'static str) -> Key {
        Key { counts: Counts::Moot(why), ..self }
    }

    const fn file_only(self) -> Key {
        Key { only: Only::File, ..self }
    }

    const fn stored_only(self) -> Key {
        Key { only: Only::Stored, ..self }
    }

    const fn variable(self) -> Key {
        Key { variable: Variable::OfPath, ..self }
    }

    const fn named(self, variable: &'static str) -> Key {
        Key { variable: Variable::Named(variable), ..self }
    }

    const fn ours(self) -> Key {
        Key { ours: true, ..self }
    }

    const fn older(self) -> Key {
        Key { older: true, ..self }
    }

    /// Of a section, or of the maps of a list: the keys.
    pub fn keys(&self) -> &'static [Key] {
        match self.kind {
            Kind::Map(keys, _) | Kind::WordOrMap(_, keys) | Kind::Maps(keys) => keys,
            _ => &[],
        }
    }
}

pub(crate) fn find(keys: &'static [Key], name: &str) -> Option<&'static Key> {
    keys.iter().find(|key| key.name == name)
}

/// All keys below `keys` with their dotted paths, sections before what is in them. The stored document within
/// `bootstrap.dcs` is not gone into, because its keys have paths of their own, nor are older places of a section.
pub(crate) fn each(keys: &'static [Key], path: &str, visit: &mut impl FnMut(&str, &'static Key)) {
    for key in keys {
        let below = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        visit(&below, key);
        if below != "bootstrap.dcs" && !key.older {
            each(key.keys(), &below, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::finding::{Place, Source};
    use crate::tree::{Node, NodeValue};

    fn all() -> Vec<(String, &'static Key)> {
        let mut all = Vec::new();
        for (table, path) in
            [(ROOT, ""), (DYNAMIC, "dcs"), (METHOD, "postgresql.<method>"), (BOOTSTRAP_METHOD, "bootstrap.<method>")]
        {
            each(table, path, &mut |path, key| all.push((path.to_owned(), key)));
        }
        all
    }

    #[test]
    fn defaults_are_values_that_would_be_taken() {
        for (path, key) in all() {
            if let (Default::Is(text), false) = (key.default, matches!(key.kind, Kind::TextsOrCsv)) {
                let node = Node::new(NodeValue::Text(text.to_owned()), Place::of(Source::Default));
                assert_eq!(key.kind.judge(&node), Ok(()), "{path}");
            }
        }
    }

    #[test]
    fn no_key_stands_twice_and_no_variable_means_two() {
        let mut paths = BTreeMap::new();
        for (path, key) in all() {
            assert!(!key.says.is_empty() && !key.says.ends_with('.'), "{path}");
            assert!(paths.insert(path.clone(), ()).is_none(), "{path} twice");
        }
        let older = ["LOGLEVEL", "LOGFORMAT", "LOG_DATEFMT", "ETCD_USERNAME", "ETCD_PASSWORD"];
        let with_variable = |(path, key): &(String, &Key)| key.variable != Variable::None && !path.starts_with("dcs.");
        let named = all().iter().filter(|row| with_variable(row)).count();
        assert_eq!(crate::environment::known().len(), named + older.len());
    }

    #[test]
    fn what_is_required_is_missed() {
        let minimal: serde_json::Value = serde_json::json!({
            "scope": "s", "name": "n", "restapi": {"listen": "127.0.0.1:1"}, "raft": {"self_addr": "127.0.0.1:2"},
            "postgresql": {
                "listen": "127.0.0.1:3", "data_dir": "/d",
                "authentication": {"superuser": {"username": "a"}, "replication": {"username": "b"}},
            },
        });
        let faults = |document: &serde_json::Value| {
            let environment = BTreeMap::from([("SURUS_CONFIGURATION".to_owned(), document.to_string())]);
            crate::LocalConfig::load(None, &environment).err().map(|e| e.to_string())
        };
        assert_eq!(faults(&minimal), None);
        let of_the_file = |path: &str| !path.starts_with("dcs.") && !path.contains('<');
        let required = all().into_iter().filter(|(path, key)| key.required != Required::No && of_the_file(path));
        for (path, _) in required {
            let mut without = minimal.clone();
            if path.starts_with("zookeeper.") {
                without.as_object_mut().unwrap().remove("raft");
                without["zookeeper"] = serde_json::json!({"hosts": "a"});
                assert_eq!(faults(&without), None);
            }
            let (parent, name) = path.rsplit_once('.').unwrap_or(("", &path));
            let pointer: String = parent.split('.').filter(|p| !p.is_empty()).map(|p| format!("/{p}")).collect();
            without.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().remove(name).unwrap();
            let said = faults(&without).unwrap_or_default();
            assert!(said.contains(&path) && said.contains("is missing"), "{path}: {said}");
        }
    }
}
