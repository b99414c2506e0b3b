//! Everything about one PostgreSQL instance: its files, its process, its SQL.
//!
//! Nothing in here decides anything and nothing knows of a store. Invariants:
//! - No call waits for a disk, a process or a connection without a time limit.
//! - A process is signalled only through a pidfd that was checked to be the one meant.
//! - A data directory comes into being whole (initialised or copied elsewhere, then renamed) and goes away only by name.
//! - A password appears in no log, no error and no command line.

mod config;
mod error;
mod instance;

pub use config::{Credentials, InstanceConfig, StartAs};
pub use error::{ErrorKind, PgError, Result};
pub use instance::*;
