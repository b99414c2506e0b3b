//! A complete file to vary, and loading without the process environment.

use std::collections::BTreeMap;
use std::fs;

use surus_config::{ConfigErrors, LocalConfig};

pub const MINIMAL: &str = "\
scope: demo
name: node1
restapi:
  listen: 127.0.0.1:8008
raft:
  self_addr: 127.0.0.1:7001
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /data
  authentication:
    superuser: {username: postgres, password: sup3r}
    replication: {username: replicator, password: repl1}
";

pub fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    [("HOME", "/home/pg")].iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

pub fn load(text: &str) -> Result<LocalConfig, ConfigErrors> {
    load_with(text, &[])
}

/// Places in the messages begin with `patroni.yml`.
pub fn load_with(text: &str, pairs: &[(&str, &str)]) -> Result<LocalConfig, ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("patroni.yml");
    fs::write(&path, text).unwrap();
    LocalConfig::load(Some(&path), &env(pairs))
}

fn short(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.split_once("/patroni.yml") {
            Some((before, after)) if before.starts_with('/') => format!("patroni.yml{after}"),
            _ => line.to_owned(),
        })
        .collect()
}

/// One line per fault.
pub fn faults(text: &str) -> String {
    match load(text) {
        Ok(config) => panic!("no fault in {text}: {config:?}"),
        Err(errors) => short(&errors.to_string()),
    }
}

pub fn warnings(text: &str) -> Vec<String> {
    match load(text) {
        Ok(config) => config.warnings.iter().map(|w| short(&w.to_string())).collect(),
        Err(errors) => panic!("{errors}"),
    }
}

/// [`MINIMAL`] with a section more.
pub fn minimal_and(section: &str) -> String {
    format!("{MINIMAL}{section}")
}

/// [`MINIMAL`] with its store section replaced.
pub fn with_store(section: &str) -> String {
    MINIMAL.replace("raft:\n  self_addr: 127.0.0.1:7001\n", section)
}
