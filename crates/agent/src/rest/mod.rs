//! The REST server (`spec/rest-api.md`).
//!
//! It sees the agent only through [`AgentHandle`](crate::handle::AgentHandle). Health checks are
//! answered from what the agent last published and never wait for PostgreSQL, the store or a
//! decision; everything that does wait has a time limit in [`limits`].

mod access;
mod app;
mod body;
mod certificates;
mod configuration;
mod crowd;
mod explain;
mod facts;
mod failsafe;
mod health;
pub mod limits;
mod listen;
mod loss;
mod metrics;
mod migrate;
mod node;
mod openapi;
mod options;
mod origin;
mod outcome;
mod query;
mod readiness;
mod reloader;
mod respond;
mod router;
mod routes;
mod schedule;
mod server;
mod stall;
mod switchover;
mod tls;
mod ui;
mod validity;
pub mod version;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use listen::ListenError;
pub use options::RestOptions;
pub use reloader::{Reloader, RestError};
pub use server::{Bound, RestServer};
pub use tls::TlsError;
pub use version::COMPATIBLE_VERSION;
