//! What one member asks of another before it takes the lead (`spec/ha.md §1`, `spec/rest-api.md §4.4`).

use std::time::Duration;

use serde_json::Value;
use surus_core::cluster::{MemberRole, MemberState, Tags};
use surus_core::{Lsn, Timeline};

use crate::client::{Client, Method};
use crate::options::ClientError;

/// A member that answered with positions, and so counts as reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    pub role: MemberRole,
    /// False as soon as it looks like a primary.
    pub in_recovery: bool,
    /// The higher of received and replayed; zero for a primary.
    pub position: Lsn,
    pub timeline: Option<Timeline>,
    pub tags: Tags,
    pub watchdog_failed: bool,
    /// Free and total bytes of the disk of its log, which members of ours tell.
    pub wal_disk: Option<(u64, u64)>,
    /// Permanent logical slots that are not ready for a failover, which members of ours tell.
    pub unready_slots: Vec<String>,
    /// How its log left that of the cluster, which members of ours tell.
    pub forked: Option<String>,
    pub state: MemberState,
}

/// Why a member does not count as reachable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Unreachable(#[from] ClientError),
    #[error("{url} answered with something that is no status document: {problem}")]
    NoStatus { url: String, problem: String },
    /// The agent is there and its PostgreSQL is not.
    #[error("its PostgreSQL does not answer (state \"{}\")", state.as_str())]
    NoPosition { state: MemberState },
}

impl Client {
    /// Asks `GET <api_url>` once, without retries: the caller counts on the answer being fresh.
    pub async fn probe(&self, api_url: &str, timeout: Duration) -> Result<PeerStatus, ProbeError> {
        let answer = self.send(Method::Get, api_url, None, timeout).await?;
        PeerStatus::parse(api_url, &answer.body)
    }
}

impl PeerStatus {
    /// Reads field by field: a peer of another version may write any of them differently.
    pub fn parse(url: &str, body: &str) -> Result<PeerStatus, ProbeError> {
        let no_status = |problem: String| ProbeError::NoStatus { url: url.to_owned(), problem };
        let document: Value = serde_json::from_str(body).map_err(|e| no_status(e.to_string()))?;
        let Value::Object(document) = document else { return Err(no_status("it is JSON but not an object".into())) };
        let word = |key: &str| document.get(key).cloned().unwrap_or(Value::Null);
        let state: MemberState = serde_json::from_value(word("state")).unwrap_or_default();
        let role: MemberRole = serde_json::from_value(word("role")).unwrap_or_default();
        let wal = ["wal", "xlog"].iter().find_map(|key| document.get(*key).and_then(Value::as_object));
        let Some(wal) = wal else { return Err(ProbeError::NoPosition { state }) };
        let location = |key: &str| Lsn(wal.get(key).and_then(Value::as_u64).unwrap_or(0));
        let in_recovery = !(location("location").is_valid() || role == MemberRole::Primary);
        let position =
            if in_recovery { location("received_location").max(location("replayed_location")) } else { Lsn::INVALID };
        let forked = document.get("surus").and_then(|ours| ours.get("forked"));
        // Others are told that it may not be promoted at all: what its tags are is said beside that.
        let tags = forked.and_then(|forked| forked.get("tags")).or(document.get("tags"));
        Ok(PeerStatus {
            role,
            in_recovery,
            position,
            timeline: document.get("timeline").and_then(Value::as_u64).and_then(Timeline::known),
            tags: Tags(tags.and_then(Value::as_object).cloned().unwrap_or_default()),
            forked: forked.and_then(|forked| forked.get("what")?.as_str()).map(str::to_owned),
            wal_disk: document.get("surus").and_then(|ours| ours.get("wal_disk")).and_then(|disk| {
                Some((disk.get("free").and_then(Value::as_u64)?, disk.get("total").and_then(Value::as_u64)?))
            }),
            unready_slots: document
                .get("surus")
                .and_then(|ours| ours.get("unready_slots")?.as_array())
                .map(|slots| slots.iter().filter_map(|slot| slot.as_str().map(str::to_owned)).collect())
                .unwrap_or_default(),
            watchdog_failed: document.get("watchdog_failed").and_then(Value::as_bool).unwrap_or(false),
            state,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_a_primary_and_an_older_peer() {
        let standby = PeerStatus::parse(
            "u",
            r#"{"state":"running","role":"replica","xlog":{"received_location":9,"replayed_location":7},"timeline":2,"tags":{"nofailover":true},"watchdog_failed":true,"surus":{"wal_disk":{"free":5,"total":7},"unready_slots":["s",7]}}"#,
        )
        .unwrap();
        assert_eq!((standby.wal_disk, standby.unready_slots), (Some((5, 7)), vec!["s".to_owned()]));
        assert!(standby.in_recovery && standby.watchdog_failed && standby.tags.nofailover());
        assert_eq!((standby.position, standby.timeline), (Lsn(9), Some(Timeline(2))));
        for primary in [
            r#"{"role":"replica","xlog":{"location":9}}"#,
            r#"{"role":"master","xlog":{"location":0}}"#,
            r#"{"role":"primary","wal":{"location":5},"xlog":{"received_location":4}}"#,
        ] {
            let status = PeerStatus::parse("u", primary).unwrap();
            assert_eq!((status.in_recovery, status.position), (false, Lsn(0)), "{primary}");
        }
        let newer = PeerStatus::parse("u", r#"{"wal":{"replayed_location":5},"timeline":null,"state":"new"}"#).unwrap();
        assert_eq!((newer.position, newer.timeline, newer.state), (Lsn(5), None, MemberState::Unknown));
    }

    #[test]
    fn one_that_forked_has_its_own_tags_beside_what_others_go_by() {
        let text = r#"{"role":"replica","xlog":{"replayed_location":7},"tags":{"nofailover":true,"zone":"a"},"surus":{"forked":{"what":"it forked","tags":{"zone":"a"}}}}"#;
        let status = PeerStatus::parse("u", text).unwrap();
        assert_eq!((status.forked.as_deref(), status.tags.nofailover()), (Some("it forked"), false));
        assert_eq!(status.tags.0.get("zone"), Some(&Value::from("a")));
    }

    #[test]
    fn without_positions_it_is_not_reachable() {
        assert_eq!(
            PeerStatus::parse("u", r#"{"state":"stopped","role":"demoted"}"#),
            Err(ProbeError::NoPosition { state: MemberState::Stopped })
        );
        for bad in ["", "[]", "<html>"] {
            assert!(matches!(PeerStatus::parse("u", bad), Err(ProbeError::NoStatus { .. })), "{bad}");
        }
    }
}
