//! `zookeeper:` (`spec/config.md §4.6`).

use std::path::PathBuf;

use crate::reader::{Reader, Section, found, several};
use crate::secret::Secret;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooKeeperConfig {
    /// `host` or `host:port`; the last one may be followed by a path.
    pub hosts: Vec<String>,
    pub use_ssl: bool,
    pub cacert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub verify: bool,
    /// Scheme and credential each.
    pub auth_data: Vec<(String, Secret)>,
    /// Principal and permissions each.
    pub set_acls: Vec<(String, Vec<String>)>,
}

const PERMISSIONS: [&str; 6] = ["CREATE", "READ", "WRITE", "DELETE", "ADMIN", "ALL"];

pub(super) fn read(s: &Section<'_>, r: &mut Reader) -> Option<ZooKeeperConfig> {
    let hosts: Vec<String> = s.texts_or_csv("hosts").unwrap_or_default().into_iter().map(|(text, _)| text).collect();
    if hosts.is_empty() {
        s.missing(r, "hosts", "the servers, a list of host:port");
    }
    let config = ZooKeeperConfig {
        hosts,
        use_ssl: s.bool("use_ssl"),
        cacert: s.path("cacert"),
        cert: s.path("cert"),
        key: s.path("key"),
        verify: s.bool("verify"),
        auth_data: auth_data(s, r),
        set_acls: set_acls(s, r),
    };
    if !config.use_ssl {
        for key in ["cacert", "cert", "key"].into_iter().filter(|key| s.has(key)) {
            r.warn(&s.place_of(key), &s.below(key), "has no effect without TLS; set `use_ssl: true`");
        }
    }
    Some(config)
}

fn auth_data(s: &Section<'_>, r: &mut Reader) -> Vec<(String, Secret)> {
    let mut read = Vec::new();
    for entry in s.take("auth_data").and_then(|node| node.entries()).unwrap_or_default() {
        match entry.node.scalar_text() {
            Some(text) => read.push((entry.key.clone(), Secret::new(text))),
            // What it is instead may be the credential.
            None => r.fault(&entry.node.place, &format!("{}.{}", s.below("auth_data"), entry.key), "expected a text"),
        }
    }
    read
}

fn set_acls(s: &Section<'_>, r: &mut Reader) -> Vec<(String, Vec<String>)> {
    let mut read = Vec::new();
    for entry in s.take("set_acls").and_then(|node| node.entries()).unwrap_or_default() {
        let path = format!("{}.{}", s.below("set_acls"), entry.key);
        let words: Vec<_> = several(&entry.node);
        if words.is_empty() {
            let what = format!("expected a list of {}, found {}", known(), found(&entry.node));
            r.fault(&entry.node.place, &path, what);
        }
        for (word, place) in &words {
            if !PERMISSIONS.contains(&word.to_uppercase().as_str()) {
                r.fault(place, &path, format!("expected a list of {}, found {word:?}", known()));
            }
        }
        read.push((entry.key.clone(), words.into_iter().map(|(word, _)| word.to_uppercase()).collect()));
    }
    read
}

fn known() -> String {
    let (last, others) = PERMISSIONS.split_last().expect("there are some");
    format!("{} and {last}", others.join(", "))
}
