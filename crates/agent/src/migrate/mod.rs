//! A member's part in a move to another store: it gets to know the new one, keeps its section, and goes over when the old
//! one says so. The order is [`surus_conduct::migrate`]'s, what is written is [`surus_store::migrate`]'s.

pub mod attempt;
pub mod file;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use surus_config::{LocalConfig, StoreConfig};
use surus_core::cluster::ClusterView;
use surus_store::cluster::ClusterStore;
use surus_store::layout::Layout;
use tracing::{info, warn};

use crate::source::ConfigSource;
use crate::stores::OpenStore;
pub use file::Stored;

/// How long the new store may take to answer a question about it.
const ASK: Duration = Duration::from_secs(3);
/// How long its opening may take, which for etcd found by DNS would otherwise go on until it succeeds.
const OPEN: Duration = Duration::from_secs(10);

/// A store that is open and not in use yet.
pub struct Prepared {
    pub stored: Stored,
    pub config: LocalConfig,
    pub opened: Arc<OpenStore>,
}

/// Begins the id of a move that is only tried: nothing is ever copied by it.
pub const DRY_RUN: &str = "dry-run-";

pub struct Migrator {
    path: PathBuf,
    /// With the store in use.
    local: LocalConfig,
    /// Read again when it matters: operators change it after a move.
    source: ConfigSource,
    prepared: Mutex<Option<Arc<Prepared>>>,
    /// One preparation at a time.
    preparing: tokio::sync::Mutex<()>,
    /// The move by which this member came to the store in use.
    arrived: Option<String>,
    /// Known from an attempt of this process, before any watch tells.
    decided: Mutex<Option<String>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn without_secrets(store: &StoreConfig) -> String {
    format!("{store:?}")
}

/// One section as a store, in words for whoever wrote it.
pub fn store_of(section: &Value) -> Result<StoreConfig, String> {
    StoreConfig::read("the new store", &section.to_string()).map_err(|e| e.to_string())
}

pub fn kind(section: &Value) -> String {
    section.as_object().and_then(|o| o.keys().next()).cloned().unwrap_or_default()
}

/// What a member begins with after a move.
#[derive(Default)]
pub struct Begin {
    /// The store that the cluster was moved to, while the configuration still names the one it has left.
    pub instead: Option<StoreConfig>,
    /// The move by which this member came to the store it begins with.
    pub arrived: Option<String>,
}

pub fn begin(data_dir: &Path, configured: &StoreConfig) -> Result<Begin, String> {
    let path = file::path(data_dir);
    let Some(stored) = file::read(&path)?.filter(|stored| stored.arrived) else { return Ok(Begin::default()) };
    let store = store_of(&stored.section).map_err(|e| format!("{}: {e}", path.display()))?;
    if without_secrets(configured) == stored.from && *configured != store {
        return Ok(Begin { instead: Some(store), arrived: Some(stored.id) });
    }
    if *configured == store {
        info!(
            "the configuration names the store that the cluster was moved to; {} is not needed any more",
            path.display()
        );
        file::remove(&path)?;
        return Ok(Begin { instead: None, arrived: Some(stored.id) });
    } else {
        warn!(
            "the configuration names neither the store that the cluster has left nor the one it was moved to ({}); it is taken \
             as it is, and {} has no effect",
            kind(&stored.section),
            path.display()
        );
    }
    Ok(Begin::default())
}

impl Migrator {
    /// `local` names the store in use; what the configuration names, `source` tells.
    pub fn new(local: LocalConfig, source: &ConfigSource, arrived: Option<String>) -> Migrator {
        Migrator {
            path: file::path(&local.postgresql.data_dir),
            source: ConfigSource { store: None, ..source.clone() },
            local,
            prepared: Mutex::new(None),
            preparing: tokio::sync::Mutex::new(()),
            arrived,
            decided: Mutex::new(None),
        }
    }

    /// What the configuration names now. One that cannot be read says nothing.
    fn configured(&self) -> Option<StoreConfig> {
        self.source.load().ok().map(|local| local.store)
    }

    pub fn prepared(&self) -> Option<Arc<Prepared>> {
        held(&self.prepared).clone()
    }

    /// A restarted agent opens again what it had prepared: the new store may consist of the agents.
    pub async fn resume(&self) {
        let stored = match file::read(&self.path) {
            Ok(Some(stored)) if !stored.arrived => stored,
            Ok(_) => return,
            Err(why) => return warn!("{why}"),
        };
        if let Err(why) = self.prepare(&stored.id, &stored.section).await {
            warn!("the new store of the move {} could not be opened again: {why}", stored.id);
        }
    }

    /// Opens the new store and keeps its section. Whether it answers is asked afterwards: an embedded store cannot before
    /// most members have got so far.
    pub async fn prepare(&self, id: &str, section: &Value) -> Result<(), String> {
        let _one = self.preparing.lock().await;
        let store = store_of(section)?;
        if store == self.local.store {
            return Err("this member uses that store already".into());
        }
        if self.configured().as_ref() != Some(&self.local.store) {
            return Err("this member's configuration does not name the store in use; correct it first, else it would not be known \
                        after a restart which store is left"
                .into());
        }
        if let Some(before) = self.prepared() {
            if before.stored.id == id && before.stored.section == *section {
                return Ok(());
            }
            self.drop_prepared().await;
        }
        let config = self.local.clone().on(store);
        let opened = tokio::time::timeout(OPEN, OpenStore::open(&config)).await;
        let opened = opened.map_err(|_| format!("it could not be opened within {} s", OPEN.as_secs()))?;
        let opened = opened.map_err(|e| format!("{e:#}"))?;
        let stored = Stored {
            id: id.to_owned(),
            arrived: false,
            from: without_secrets(&self.local.store),
            section: section.clone(),
        };
        if let Err(why) = self.keep(stored.clone()).await {
            opened.close().await;
            return Err(why);
        }
        info!("ready to move to another store ({}), by the move {id}", kind(section));
        *held(&self.prepared) = Some(Arc::new(Prepared { stored, config, opened: Arc::new(opened) }));
        Ok(())
    }

    async fn keep(&self, stored: Stored) -> Result<(), String> {
        let path = self.path.clone();
        let written = tokio::task::spawn_blocking(move || file::write(&path, &stored));
        match tokio::time::timeout(ASK, written).await {
            Ok(done) => done.map_err(|e| e.to_string())?,
            Err(_) => Err(format!("{} was not written in time: is its disk well?", self.path.display())),
        }
    }

    async fn drop_prepared(&self) {
        let before = held(&self.prepared).take();
        if let Some(before) = before {
            before.opened.close().await;
        }
    }

    /// Gives a move up that the old store does not wait for any more. `Err`: it does, or it was made.
    pub async fn forget(&self, id: &str, old: &ClusterStore) -> Result<(), String> {
        let _one = self.preparing.lock().await;
        let Some(prepared) = self.prepared().filter(|p| p.stored.id == id) else { return Ok(()) };
        let view = old.read(ASK).await.map_err(|e| format!("whether the move was made is not known: {e}"))?;
        if let Some(migration) = view.migration.filter(|m| m.value.id == id) {
            return Err(format!("the store says that the move {id} is {}", json!(migration.value.phase)));
        }
        // Nobody moves by this id any more, so what was copied is of no use.
        if !id.starts_with(DRY_RUN)
            && let Err(e) = self.target(&prepared).clean_copy(id, ASK).await
        {
            warn!("what the move {id} copied to the new store could not be removed: {e}");
        }
        self.drop_prepared().await;
        file::remove(&self.path)
    }

    /// This cluster in the new store.
    pub fn target(&self, prepared: &Prepared) -> ClusterStore {
        let layout = Layout::new(&self.local.namespace, &self.local.scope, None);
        ClusterStore::new(prepared.opened.kv.clone(), layout, self.local.name.clone())
    }

    /// For `GET /migrate`; without secrets.
    pub async fn status(&self) -> Value {
        let configured = self.configured().as_ref() == Some(&self.local.store);
        let Some(prepared) = self.prepared() else {
            let phase = if self.arrived.is_some() { "arrived" } else { "none" };
            return json!({"id": self.arrived, "phase": phase, "configured": configured, "answers": null, "taken": null, "why": null});
        };
        let answer = self.target(&prepared).look_at_target(&prepared.stored.id, ASK).await;
        // What it holds does not go away by waiting, as a store that is still forming comes to answer.
        let (taken, why) = match answer {
            Ok(Ok(_)) => (false, None),
            Ok(Err(why)) => (true, Some(why)),
            Err(e) => (false, Some(e.to_string())),
        };
        json!({"id": prepared.stored.id, "phase": "prepared", "configured": configured, "answers": why.is_none(),
               "taken": taken, "why": why})
    }

    /// This member knows from the old store that the copy of this move counts.
    pub fn arrived_by(&self, id: &str) -> bool {
        self.arrived.as_deref() == Some(id)
    }

    pub fn decided(&self, id: &str) {
        *held(&self.decided) = Some(id.to_owned());
    }

    /// The move that was made and that this member knows the store of.
    pub fn moved(&self, view: Option<&ClusterView>) -> Option<Arc<Prepared>> {
        let prepared = self.prepared()?;
        let by_me = held(&self.decided).as_ref() == Some(&prepared.stored.id);
        (by_me || view.and_then(ClusterView::moved).is_some_and(|m| m.id == prepared.stored.id)).then_some(prepared)
    }

    /// From here on a restart begins with the new store. If the disk does not take it, a restart asks the old one.
    pub async fn arrive(&self, prepared: &Prepared) {
        if let Err(why) = self.keep(Stored { arrived: true, ..prepared.stored.clone() }).await {
            warn!("that the cluster was moved to another store was not written down: {why}");
        }
    }
}
