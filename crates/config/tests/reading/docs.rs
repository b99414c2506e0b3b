//! The examples of the operator's page are configurations that work.

use std::path::Path;

use serde_json::Value;
use surus_config::{DynamicConfig, LocalConfig, new_cluster_document};

use crate::support::env;

const PAGE: &str = include_str!("../../../../docs/configuration.md");
const CONSUL: &str = include_str!("../../../../docs/consul.md");
const BACKUPS: &str = include_str!("../../../../docs/backups.md");

/// Fenced blocks of one language.
pub fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let pages = [PAGE, BACKUPS, CONSUL].into_iter();
    pages.flat_map(|page| page.split(&fence).skip(1)).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[test]
fn complete_files_load_without_a_warning() {
    let files: Vec<&str> =
        blocks("yaml").into_iter().filter(|b| b.contains("\nscope:") || b.starts_with("scope:")).collect();
    assert!(files.len() >= 2, "a raft and an etcd3 example");
    let dir = tempfile::tempdir().unwrap();
    for text in files {
        let path = dir.path().join("patroni.yml");
        std::fs::write(&path, text).unwrap();
        let config = LocalConfig::load(Some(&path), &env(&[])).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(config.warnings, vec![], "{text}");
    }
}

#[test]
fn sections_load_within_a_complete_file() {
    let sections: Vec<&str> =
        blocks("yaml").into_iter().filter(|b| !b.contains("\nscope:") && !b.starts_with("scope:")).collect();
    assert!(!sections.is_empty());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("1.yml"), crate::support::MINIMAL).unwrap();
    for text in sections {
        std::fs::write(dir.path().join("2.yml"), text).unwrap();
        let config =
            LocalConfig::load(Some(Path::new(dir.path())), &env(&[])).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let known = config.warnings.iter().all(|w| !w.message.contains("known key"));
        assert!(known, "{:?}\n{text}", config.warnings);
    }
}

#[test]
fn documents_are_read_without_a_warning() {
    let documents = blocks("json");
    assert!(!documents.is_empty());
    for text in documents {
        let document: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(DynamicConfig::read(&document).1, vec![], "{text}");
    }
}

#[test]
fn the_timing_of_a_new_cluster_is_what_the_page_says() {
    let document = new_cluster_document(&Value::Null, None, true);
    for key in ["ttl", "loop_wait", "retry_timeout"] {
        let claim = format!("{key} {}", document[key]);
        assert!(PAGE.contains(&claim), "the page does not say `{claim}`");
    }
}
