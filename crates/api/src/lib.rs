//! What the REST API says and takes, for the server, for other members and for operators.
//!
//! The documents are those of `spec/rest-api.md`; [`Client`] is the one way this program talks to a
//! member, and [`Client::probe`] the question asked in a leader race.

pub mod client;
pub mod cluster;
pub mod json;
pub mod options;
pub mod probe;
pub mod requests;
pub mod settings;
pub mod status;
mod tls;

pub use client::{Answer, Client, Method};
pub use cluster::{ClusterDocument, ClusterMember, ClusterRole, Position, Positions, cluster_document};
pub use json::to_python_json;
pub use options::{ClientError, ClientOptions, Credentials};
pub use probe::{PeerStatus, ProbeError};
pub use requests::{ConsentRequest, FailsafeRequest, ReinitRequest, RestartRequest, SwitchoverRequest};
pub use settings::{Configured, MemberSettings, ServerSetting};
pub use status::{AgentInfo, PatroniStatus, ReplicationConnection, XlogStatus};
