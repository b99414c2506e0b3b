//! What operators write, read through the public interface.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail the way tests do")]

mod anything;
mod check;
mod consul;
mod docs;
mod dynamic;
mod effective;
mod environment;
mod errors;
mod local;
mod reference;
mod support;
