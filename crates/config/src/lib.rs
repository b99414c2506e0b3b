//! Every setting of a member: read from a file or directory, the environment and the stored document, checked, and
//! merged into what PostgreSQL is to run with.
//!
//! Invariants:
//! - No message ever contains the value of a secret, nor a piece of the file around a fault.
//! - What is wrong is reported with its place (file, line, column), its dotted key path, what was found, what was
//!   expected and what to do; as many faults at once as can be told apart.
//! - Reading the *stored* document never fails: a member that cannot use a value keeps running on the default and
//!   says so ([`DynamicConfig::read`]).

mod address;
mod check;
mod definition;
mod document;
mod dynamic;
mod effective;
mod environment;
mod finding;
mod load;
mod local;
mod options;
mod parameters;
mod reader;
mod reference;
mod schema;
mod secret;
mod slots;
mod timing;
mod tree;
mod value;

pub use address::{HostPort, Listen};
pub use check::{CheckOptions, check, find_bin_dir};
pub use document::{deep_equal, new_cluster_document, patch};
pub use dynamic::{DynamicConfig, StandbyCluster};
pub use effective::{Effective, RoleOverlay};
pub use environment::environment;
pub use finding::{ConfigErrors, Finding, Place, Severity, Source, Warning};
pub use load::{merged, read_yaml};
pub use local::{
    Authentication, BasicAuth, Bootstrap, ClientConfig, ConsulConfig, ConsulService, Credentials, Ctl, CustomBootstrap,
    Etcd3Config, FenceMode, LocalConfig, Log, LogFormat, LogLevel, LogType, Loss, Postgresql, PostgresqlSettings,
    RaftConfig, RaftTls, Recorder, ReplicaMethod, RestApi, RestTls, RoleSettings, ServerTokens, StoreConfig,
    VerifyClient, Watchdog, WatchdogMode, ZooKeeperConfig,
};
pub use parameters::{cluster_parameters, judge_parameter, on_command_line, parameter_default};
pub use reference::files as reference_files;
pub use schema::schema;
pub use secret::Secret;
pub use timing::{TimingFault, check_timing};
pub use value::{TimeUnit, parse_bool, parse_bytes, parse_int, parse_time};
