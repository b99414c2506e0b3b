//! The shell around `surus-core`: gathers facts, asks for a step, carries out its orders.

pub mod handle;
pub mod rest;
