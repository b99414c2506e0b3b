//! `surus check`: everything that can be found out about a configuration without starting anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::finding::Finding;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CheckOptions {
    /// Do not try whether the listen addresses are free: the member may be running.
    pub ignore_listen_port: bool,
}

/// Errors first, then warnings. Empty: nothing to complain about.
pub fn check(_path: Option<&Path>, _env: &BTreeMap<String, String>, _options: CheckOptions) -> Vec<Finding> {
    unimplemented!()
}

/// The directory of the PostgreSQL executables: `bin_dir` if set; `None` if `postgres` is in PATH; else Debian's
/// `/usr/lib/postgresql/<major>/bin`, of the data directory's major version if there is one, else the newest.
pub fn find_bin_dir(_configured: Option<&Path>, _data_dir: &Path, _path_variable: Option<&str>) -> Option<PathBuf> {
    unimplemented!()
}
