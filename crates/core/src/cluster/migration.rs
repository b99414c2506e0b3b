use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ClusterView, KeyVersion};
use crate::ids::MemberName;

/// Holds the leader key of a store that a cluster has left, bound to nothing: nobody can take the lead there any more, nor
/// can a member of an older version or Patroni, which know nothing of moves. No member can have this name.
pub const MOVED_LEADER: &str = "/moved";

/// How far a move to another store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MigrationPhase {
    /// This store counts, and the members get to know the other one.
    Preparing,
    /// The other store counts, for ever. Written only by the leader, and together with [`MOVED_LEADER`].
    Moved,
    /// In the new store: this is the copy. Whether it counts the old store says, so nobody may work with it who has not
    /// heard that from there.
    Copied,
    /// In the new store: it counts. Written by the first leader that went over.
    Arrived,
}

/// The `migrate` key: the one place that says which of two stores counts. Not known to Patroni.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Migration {
    pub id: String,
    pub phase: MigrationPhase,
    /// The new store in words, without secrets.
    pub to: String,
    /// Counts the attempts to decide, so that none of an earlier attempt's writes, which may arrive late, does anything.
    #[serde(default)]
    pub attempt: u64,
    /// Who made the latest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<MemberName>,
    /// Who took part, and where they are reached.
    #[serde(default)]
    pub members: BTreeMap<MemberName, String>,
}

impl Migration {
    pub fn parse(text: &str) -> Result<Migration, String> {
        serde_json::from_str(text)
            .map_err(|e| format!("\"{}\" does not say how far a move to another store is ({e})", super::clip(text)))
    }

    pub fn to_text(&self) -> String {
        // Texts and a number always make JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl ClusterView {
    /// The move that this store waits for.
    pub fn preparing(&self) -> Option<(&Migration, KeyVersion)> {
        self.in_phase(MigrationPhase::Preparing)
    }

    /// The move by which the cluster has left this store.
    pub fn moved(&self) -> Option<&Migration> {
        self.in_phase(MigrationPhase::Moved).map(|(migration, _)| migration)
    }

    /// A copy of a cluster that may still be somewhere else, and the register's version.
    pub fn copied(&self) -> Option<(&Migration, KeyVersion)> {
        self.in_phase(MigrationPhase::Copied)
    }

    fn in_phase(&self, phase: MigrationPhase) -> Option<(&Migration, KeyVersion)> {
        self.migration.as_ref().filter(|m| m.value.phase == phase).map(|m| (&m.value, m.version))
    }
}

#[cfg(test)]
mod tests {
    use super::super::RawKey;
    use super::*;

    #[test]
    fn the_text_is_kept() {
        let migration = Migration {
            id: "m1".into(),
            phase: MigrationPhase::Moved,
            to: "etcd3 at 10.0.0.1:2379".into(),
            attempt: 3,
            by: Some("a".into()),
            members: [("a".into(), "http://a".to_owned())].into(),
        };
        assert_eq!(Migration::parse(&migration.to_text()), Ok(migration.clone()));
        let raw = |value: &str| RawKey { key: "migrate".into(), value: value.into(), version: 7, lease: None };
        let view = ClusterView::read(9, &[raw(&migration.to_text())]);
        assert_eq!((view.moved(), view.preparing()), (Some(&migration), None));
        let least = ClusterView::read(9, &[raw(r#"{"id":"x","phase":"preparing","to":"y"}"#)]);
        assert_eq!(least.preparing().map(|(m, version)| (m.attempt, version)), Some((0, 7)));
        let spoilt = ClusterView::read(9, &[raw("{}")]);
        assert_eq!((spoilt.garbage.len(), spoilt.migration_version), (1, Some(7)));
    }
}
