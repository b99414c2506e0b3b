//! Real clusters for tests and measurements: real PostgreSQL, real stores, real processes on free loopback ports.
//!
//! The failure verbs ([`verbs`]) are defined here once. Whatever a [`Cluster`] started is killed when it is dropped,
//! also when the test panics; its directory is removed unless `SURUS_KEEP` is set. Works as root, where PostgreSQL
//! runs as `postgres`, and as any other user.

mod browser;
mod chance;
mod clock;
mod cluster;
mod consul;
mod disk;

mod etcd;
mod filter;
pub mod history;
pub mod http;
mod machine;
mod network;
mod node;
mod observe;
mod patroni;
mod ports;
pub mod procs;
mod python;
mod screen;
mod servers;
pub mod soak;
mod source;
mod stage;
mod template;
mod verbs;
mod writer;
mod zookeeper;

pub use browser::Browser;
pub use clock::Clock;
pub use cluster::{Builder, Cluster, StoreKind};
pub use consul::Consul;
pub use disk::Disk;
pub use etcd::Etcd;
pub use filter::{Answers, Filter};
pub use machine::Machine;
pub use network::{Endpoint, Link};
pub use node::Node;
pub use observe::{Connection, wait_for};
pub use patroni::Agent;
pub use ports::Port;
pub use python::schemathesis;
pub use rustix::process::Signal;
pub use screen::Screen;
pub use stage::{Needs, Stage};
pub use template::{PASSWORD, SUPERUSER, WRITER, merge};
pub use verbs::Job;
pub use writer::{Writer, Written};
pub use zookeeper::ZooKeeper;
