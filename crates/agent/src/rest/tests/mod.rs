//! The server driven as its clients drive it.

mod changes;
mod reads;
mod switchover;
mod wire;
