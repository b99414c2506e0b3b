//! The shell around `surus-core`: gathers facts, asks for a step, carries out its orders.

mod agent;
mod callbacks;
mod failsafe;
mod fence;
mod files;
pub mod handle;
mod hands;
mod inherited;
mod journal;
mod keys;
pub mod lease;
mod loss;
mod measure;
mod member;
pub mod migrate;
mod peer_files;
pub mod rest;
mod run;
#[cfg(test)]
mod sample;
mod service;
mod settings;
mod shown;
mod source;
mod stall;
mod store_access;
pub mod stores;
mod timer;
mod watchdog;

pub use run::run;
pub use source::ConfigSource;
