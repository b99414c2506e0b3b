//! Everything about one PostgreSQL instance: its files, its process, its SQL.
//!
//! Nothing in here decides anything and nothing knows of a store. Invariants:
//! - No call waits for a disk, a program or a connection without a limit or a way to cancel it.
//! - A process is signalled only through a pidfd that was checked to be the one meant.
//! - A data directory comes into being whole (made elsewhere, then renamed into place) and never vanishes unasked.
//! - A password appears in no log, no error and no command line.

mod adopt;
mod archive;
mod aside;
mod bootstrap;
mod clone;
mod conf_text;
mod conf_write;
mod config;
mod conninfo;
mod console;
mod control;
mod data_dir;
mod disk;
mod divergence;
mod error;
mod greet;
mod half_rewound;
mod history;
mod in_place;
mod instance;
mod judge;
mod kill;
mod lock;
mod look;
pub mod loss;
mod methods;
mod observe;
mod orphans;
mod os_user;
mod passfile;
mod postmaster;
mod proc_fs;
mod promote;
mod recover;
mod recovering;
mod reload;
mod rewind;
mod settings;
mod shared_memory;
mod slots;
mod sql;
mod staging;
mod start;
mod stop;
mod synchronous;
mod timeline;
mod tls;
mod tool;
mod user_command;
mod version;
mod walsender;

pub use config::{Credentials, CustomBootstrap, InstanceConfig, MethodCommand};
pub use console::{Console, Kind, Table};
pub use disk::room;
pub use error::{ErrorKind, PgError, Result};
pub use greet::Doors;
pub use instance::Instance;
pub use kill::{Killed, ServerProcesses};
pub use lock::DataDirLock;
pub use look::{FoundSetting, Server, bin_dir_of, look, version_of};
pub use passfile::{check_passfile, default_passfile};
pub use postmaster::Postmaster;
pub use proc_fs::start_ticks;
pub use settings::Setting;
pub use shared_memory::release_shared_memory;
pub use slots::Changed;
pub use start::Started;
pub use surus_core::server::{Divergence, FollowOutcome, ShutdownPosition, StartAs, StopMode, Stopped};
pub use user_command::{Background, UserCommand};
