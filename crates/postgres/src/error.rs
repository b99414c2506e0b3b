use std::fmt;
use std::path::Path;

/// Why something could not be done with this PostgreSQL.
///
/// The text is complete: what happened, to what, and what to do. `kind` is for callers that go on differently.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PgError {
    pub kind: ErrorKind,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A file or directory could not be read or written.
    Io,
    /// A time limit passed. The work may still be going on.
    TimedOut,
    /// No server runs, and one is needed.
    NotRunning,
    /// A server runs, and none may.
    Running,
    /// No connection to the server.
    Connection,
    /// The server answered with this SQLSTATE.
    Sql(String),
    /// A program of PostgreSQL failed.
    Tool,
    /// The server did not start.
    StartFailed,
    /// A setting, or the state of the data directory, does not allow it.
    Refused,
    /// Another agent holds the data directory.
    Locked,
    /// Given up on request.
    Cancelled,
}

pub type Result<T, E = PgError> = std::result::Result<T, E>;

impl PgError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> PgError {
        PgError { kind, message: message.into() }
    }

    pub(crate) fn io(doing: &str, path: &Path, error: &dyn fmt::Display) -> PgError {
        PgError::new(ErrorKind::Io, format!("cannot {doing} {}: {error}", path.display()))
    }

    pub fn is_timeout(&self) -> bool {
        self.kind == ErrorKind::TimedOut
    }

    pub fn sqlstate(&self) -> Option<&str> {
        match &self.kind {
            ErrorKind::Sql(code) => Some(code),
            _ => None,
        }
    }
}
