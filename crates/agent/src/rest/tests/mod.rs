//! The server driven as its clients drive it.

mod changes;
mod documents;
mod metrics;
mod reads;
mod switchover;
mod wire;

use std::sync::Arc;

use serde_json::Value;
use surus_core::cluster::{MemberRole, Tags};
use surus_core::settings::ClusterSettings;

use super::testing::{published, replica};
use crate::handle::Published;

pub const LEADER: (&str, &str) = ("leader", "node1");
pub const OTHER_LEADER: (&str, &str) = ("leader", "node2");
pub const SYNC: (&str, &str) = ("sync", r#"{"leader":"node2","sync_standby":"NODE1","quorum":0}"#);
pub const STATUS: (&str, &str) = ("status", r#"{"optime":5000}"#);

pub fn standby() -> Published {
    Published { role: MemberRole::Replica, observed: Some(Arc::new(replica())), lease_until: None, ..published() }
}

pub fn with(mut published: Published, change: impl FnOnce(&mut Published)) -> Published {
    change(&mut published);
    published
}

pub fn tags(tags: Value) -> Tags {
    Tags(tags.as_object().cloned().unwrap())
}

pub fn settings(change: impl FnOnce(&mut ClusterSettings)) -> Arc<ClusterSettings> {
    let mut settings = ClusterSettings::default();
    change(&mut settings);
    Arc::new(settings)
}
