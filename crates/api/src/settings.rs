//! `GET /settings`: what one member's server is set to, and where from. Texts are left out, because they may hold
//! secrets; numbers, switches and words are told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSettings {
    pub name: String,
    pub role: String,
    /// `server_version_num`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    /// Of the running server, by the name of the parameter; absent while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<BTreeMap<String, ServerSetting>>,
    /// Parameters that Surus sets.
    pub configured: BTreeMap<String, Configured>,
    /// Keys of `postgresql` that this member's own file or environment has, and where.
    pub local: BTreeMap<String, String>,
    /// Of the member's own configuration what is usually the same for all.
    #[serde(default)]
    pub member: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSetting {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    pub vartype: String,
    pub context: String,
    /// By `ALTER SYSTEM`, which comes before every file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub altered: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `dynamic configuration`, `built-in default`, or file, line and column, or the variable.
    pub from: String,
    /// From the member's own file or environment, which come before the dynamic configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}
