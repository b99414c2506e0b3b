//! What a client of the REST API is given, and how it fails.

use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The `ctl` section with its fallbacks already taken (`spec/cli.md §1.3`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions {
    /// Sent with every request.
    pub authentication: Option<Credentials>,
    /// Members among themselves set it, unless told otherwise.
    pub insecure: bool,
    pub cacert: Option<PathBuf>,
    pub certfile: Option<PathBuf>,
    /// Without it the key is looked for in `certfile`.
    pub keyfile: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("the client for the REST API cannot be set up: {0}")]
    Options(String),
    #[error("\"{url}\" is no URL of a REST API: {problem}")]
    Url { url: String, problem: String },
    #[error("{url} did not answer within {after:?}")]
    TimedOut { url: String, after: Duration },
    /// The request certainly did not arrive.
    #[error("{url} cannot be reached: {problem}")]
    Unreachable { url: String, problem: String },
    /// It may have arrived.
    #[error("{url} broke off: {problem}")]
    Broken { url: String, problem: String },
}
