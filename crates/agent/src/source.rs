use std::collections::BTreeMap;
use std::path::PathBuf;

use surus_config::{ConfigErrors, LocalConfig, StoreConfig};

/// Where the local configuration is read from, at start and on every reload.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    pub path: Option<PathBuf>,
    /// As it was at start: a process does not see its environment change.
    pub env: BTreeMap<String, String>,
    /// The store that the cluster was moved to, while the configuration still names the one it has left.
    pub store: Option<StoreConfig>,
}

impl ConfigSource {
    pub fn load(&self) -> Result<LocalConfig, ConfigErrors> {
        let local = LocalConfig::load(self.path.as_deref(), &self.env)?;
        Ok(match &self.store {
            Some(store) => local.on(store.clone()),
            None => local,
        })
    }
}
