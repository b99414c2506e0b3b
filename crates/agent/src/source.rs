use std::collections::BTreeMap;
use std::path::PathBuf;

use surus_config::{ConfigErrors, LocalConfig};

/// Where the local configuration is read from, at start and on every reload.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    pub path: Option<PathBuf>,
    /// As it was at start: a process does not see its environment change.
    pub env: BTreeMap<String, String>,
}

impl ConfigSource {
    pub fn load(&self) -> Result<LocalConfig, ConfigErrors> {
        LocalConfig::load(self.path.as_deref(), &self.env)
    }
}
