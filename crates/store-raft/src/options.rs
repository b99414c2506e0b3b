use std::path::PathBuf;
use std::time::Duration;

/// Where the pieces of a node live and how it proves itself to the others (`spec/config.md §4.6`).
#[derive(Clone)]
pub struct RaftOptions {
    /// `host:port` under which the other nodes reach this one. It is also this node's name in the group.
    pub self_addr: String,
    /// `host:port` to listen on; the same as `self_addr` unless something translates addresses.
    pub bind_addr: String,
    /// The other initial nodes, or any nodes of an existing group to join.
    pub partner_addrs: Vec<String>,
    /// The directory of the log. Created if it is missing.
    pub data_dir: PathBuf,
    /// Shared secret. Without one, whoever reaches the port can read and write the store.
    pub password: Option<String>,
    pub tls: Option<TlsOptions>,
    /// Counts for majorities; `false` makes a node that only follows.
    pub voter: bool,
    /// A voter without PostgreSQL, which two sites need as their third opinion: it votes before others do.
    pub witness: bool,
    /// A voter away for so long is replaced by a member that follows: [`crate::REPLACE_AFTER`].
    pub replace_after: Duration,
}

/// Mutual TLS between nodes: each side shows a certificate that `cafile` vouches for.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    pub certfile: PathBuf,
    pub keyfile: PathBuf,
    pub cafile: PathBuf,
}

impl std::fmt::Debug for RaftOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftOptions")
            .field("self_addr", &self.self_addr)
            .field("bind_addr", &self.bind_addr)
            .field("partner_addrs", &self.partner_addrs)
            .field("data_dir", &self.data_dir)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("tls", &self.tls)
            .field("voter", &self.voter)
            .field("witness", &self.witness)
            .field("replace_after", &self.replace_after)
            .finish()
    }
}
