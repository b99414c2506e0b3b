//! `bootstrap` (`spec/config.md §4.5`).

use std::collections::BTreeMap;

use serde_json::Value;

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
