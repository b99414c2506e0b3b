//! One agent from start to end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use surus_config::{LocalConfig, StoreConfig};
use surus_postgres::DataDirLock;
use surus_store::cluster::ClusterStore;
use surus_store::layout::Layout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::agent::{Agent, End, Left, Parts, Signals};
use crate::handle::AgentHandle;
use crate::measure::{Measures, measured};
use crate::migrate::{self, Migrator};
use crate::peer_files;
use crate::rest::{RestOptions, RestServer};
use crate::service;
use crate::settings::Settings;
use crate::source::ConfigSource;
use crate::store_access::Access;
use crate::stores::OpenStore;

/// By then an agent has long done what is done once.
const STARTED: Duration = Duration::from_secs(60);
/// How long an agent that was killed in the middle of a move waits for the new store to be open again.
const RESUMED: Duration = Duration::from_secs(3);

/// Runs the member until it is told to end. Everything that can be found wrong with the
/// configuration or the machine is found before anything is changed.
pub async fn run(config: LocalConfig, source: ConfigSource) -> anyhow::Result<()> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let lock = Arc::new(DataDirLock::acquire(&config.postgresql.data_dir)?);
    let configured = config.store.clone();
    let begin = migrate::begin(&config.postgresql.data_dir, &configured).map_err(|why| anyhow::anyhow!(why))?;
    let (instead, mut arrived) = (begin.instead, begin.arrived);
    let source = ConfigSource { store: instead.clone(), ..source };
    let config = match &instead {
        Some(store) => config.on(store.clone()),
        None => config,
    };
    let api = Arc::new(peer_files::client(&config)?);
    let bound = RestServer::bind(RestOptions::new(config.restapi.clone(), surus_api::Client::clone(&api))).await?;
    let settings = Settings::new(config);
    check_binaries(&settings).await?;

    let mut opened = Arc::new(OpenStore::open(&settings.local).await?);
    // Stores that the cluster has left and that live in the agents: somebody may still have to read there that it has.
    let mut left_behind: Vec<Arc<OpenStore>> = Vec::new();
    if instead.is_some() {
        tracing::warn!(
            "the cluster was moved to another store than the configuration names; the new one is used. Name it in the \
             configuration of this member"
        );
        let old = settings.local.clone().on(configured.clone());
        if matches!(configured, StoreConfig::Raft(_)) {
            match OpenStore::open(&old).await {
                Ok(old) => left_behind.push(Arc::new(old)),
                Err(e) => tracing::warn!("the embedded store that the cluster has left could not be opened: {e:#}"),
            }
        }
    }
    let (name, scope) = (settings.local.name.clone(), settings.local.scope.clone());
    info!("Surus {} starts as {name} of {scope}", env!("CARGO_PKG_VERSION"));
    tokio::spawn(async {
        tokio::time::sleep(STARTED).await;
        surus_fence::give_back();
    });

    let stop = CancellationToken::new();
    let (rest, measures) = (bound.reloader(), Arc::<Measures>::default());
    let (mut left, mut bound) = (Left { source, settings, lock, api, rest, measures, promises: None }, Some(bound));
    let mut server: Option<RestServer> = None;
    let end = loop {
        let (agent, handle) = agent(left, &opened, arrived.take()).await;
        match (&server, bound.take()) {
            (None, Some(bound)) => server = Some(bound.serve(handle.clone(), stop.clone())),
            // The former agent's last words stand until there are newer ones.
            (Some(server), _) => {
                let mut published = handle.changed.clone();
                let (attach, handle) = (server.attacher(), handle.clone());
                tokio::spawn(async move {
                    let _ = published.changed().await;
                    attach.attach(handle);
                });
            }
            (None, None) => {}
        }
        service::start(handle, stop.clone());
        match agent.run(&mut signals).await {
            End::Over(end) => break end,
            End::Moved(next, prepared) => {
                let old = std::mem::replace(&mut opened, prepared.opened.clone());
                if old.lives_here() {
                    left_behind.push(old);
                } else {
                    tokio::spawn(async move { old.close().await });
                }
                (left, arrived) = (*next, Some(prepared.stored.id.clone()));
            }
        }
    };

    service::stopping();
    stop.cancel();
    if let Some(server) = server {
        let _ = tokio::time::timeout(Duration::from_secs(2), server.stopped()).await;
    }
    opened.close().await;
    for old in left_behind {
        old.close().await;
    }
    end.map_err(|why| anyhow::anyhow!(why))
}

/// An agent on this store.
async fn agent(left: Left, opened: &OpenStore, arrived: Option<String>) -> (Agent, AgentHandle) {
    let Left { source, settings, lock, api, rest, measures, promises } = left;
    let local = &settings.local;
    let layout = Layout::new(&local.namespace, &local.scope, None);
    let kv = measured(opened.kv.clone(), &measures);
    let store = Arc::new(ClusterStore::new(kv, layout, local.name.clone()));
    let access = Access::keep(opened, &local.store, store.layout().prefix().to_owned());
    let consul = opened.consul.clone();
    let migrator = Arc::new(Migrator::new(local.clone(), &source, arrived));
    let resuming = migrator.clone();
    let resumed = tokio::spawn(async move { resuming.resume().await });
    // An agent that was killed in the middle of a move would take a cluster that has moved for one without a leader, and a
    // primary here would be stopped for nothing. A store that takes longer to open is not waited for.
    let _ = tokio::time::timeout(RESUMED, resumed).await;
    Agent::new(Parts { source, settings, lock, store, consul, api, rest, measures, access, migrator, promises })
}

/// PostgreSQL's programs are there, and of a version that can run the data.
async fn check_binaries(settings: &Settings) -> anyhow::Result<()> {
    let instance = surus_postgres::Instance::new(settings.instance());
    let version = instance.binaries_version().await?;
    if version < 130_000 {
        anyhow::bail!("PostgreSQL {} is older than 13, the oldest that is supported", version / 10_000);
    }
    instance.check_passfile().await?;
    if let Some(file) = instance.config_elsewhere().await {
        let dir = file.parent().unwrap_or(&file).display().to_string();
        anyhow::bail!(
            "PostgreSQL in {} was last started with {}, and postgresql.config_dir is {}: it would lose its configuration. \
             Set postgresql.config_dir to {dir}",
            instance.config().data_dir.display(),
            file.display(),
            instance.config().config_dir.display(),
        );
    }
    Ok(())
}
