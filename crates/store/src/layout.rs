//! Where each key of a cluster lives (`spec/dcs.md §1`).

use surus_core::cluster::{ClusterView, RawKey};

use crate::kv::Snapshot;

/// Prefix and key names of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    /// `/<namespace>/<scope>/`, repeated slashes collapsed; with a Citus group, `/<group>` after the scope.
    pub fn new(namespace: &str, scope: &str, group: Option<u32>) -> Layout {
        let joined = match group {
            Some(group) => format!("/{namespace}/{scope}/{group}/"),
            None => format!("/{namespace}/{scope}/"),
        };
        let mut prefix = String::new();
        for c in joined.chars() {
            if c != '/' || !prefix.ends_with('/') {
                prefix.push(c);
            }
        }
        Layout { prefix }
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The full key for a name relative to the prefix, such as `leader` or `members/node1`.
    pub fn key(&self, relative: &str) -> String {
        format!("{}{relative}", self.prefix)
    }

    pub fn relative<'a>(&self, key: &'a str) -> Option<&'a str> {
        key.strip_prefix(&self.prefix)
    }

    /// What a snapshot of the prefix says about the cluster.
    pub fn view(&self, snapshot: &Snapshot) -> ClusterView {
        let raws: Vec<RawKey> = snapshot
            .keys
            .iter()
            .filter_map(|kv| {
                let key = self.relative(&kv.key)?.to_owned();
                Some(RawKey { key, value: kv.value.clone(), version: kv.version, lease: kv.lease })
            })
            .collect();
        ClusterView::read(snapshot.revision, &raws)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_collapse() {
        assert_eq!(Layout::new("service", "demo", None).key("leader"), "/service/demo/leader");
        assert_eq!(Layout::new("/a//b/", "demo", Some(0)).prefix(), "/a/b/demo/0/");
        let layout = Layout::new("service", "demo", None);
        assert_eq!(layout.relative("/service/demo/members/x"), Some("members/x"));
        assert_eq!(layout.relative("/service/other/leader"), None);
    }
}
