use std::path::PathBuf;

/// Why a node of the embedded store could not start, or a client not connect.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{key} is not a usable address: \"{value}\" (expected host:port)")]
    Address { key: &'static str, value: String },
    #[error("cannot listen on {addr} for the embedded store: {reason}")]
    Listen { addr: String, reason: String },
    #[error("the store's data directory {} cannot be used: {reason}", path.display())]
    DataDir { path: PathBuf, reason: String },
    #[error(
        "{} is in use by another process: only one node may run on a data directory. Stop the other one, or give this \
         one its own data_dir",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error("{} is damaged or no log of the embedded store: {reason}. Nothing was changed. {advice}", path.display())]
    Damaged { path: PathBuf, reason: String, advice: &'static str },
    #[error("TLS of the embedded store: {0}")]
    Tls(String),
    #[error("the embedded store could not start: {0}")]
    Raft(String),
}
