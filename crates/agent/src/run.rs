//! One agent from start to end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use surus_config::LocalConfig;
use surus_postgres::DataDirLock;
use surus_store::cluster::ClusterStore;
use surus_store::layout::Layout;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::agent::{Agent, Parts, Signals};
use crate::measure::{Measures, measured};
use crate::rest::{RestOptions, RestServer};
use crate::service;
use crate::settings::Settings;
use crate::source::ConfigSource;
use crate::store_access::Access;
use crate::stores::OpenStore;

/// By then an agent has long done what is done once.
const STARTED: Duration = Duration::from_secs(60);

/// Runs the member until it is told to end. Everything that can be found wrong with the
/// configuration or the machine is found before anything is changed.
pub async fn run(config: LocalConfig, source: ConfigSource) -> anyhow::Result<()> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let signals = Signals::listen().context("cannot listen for signals")?;
    let lock = DataDirLock::acquire(&config.postgresql.data_dir)?;
    let api = Arc::new(peer_client(&config)?);
    let rest = RestServer::bind(RestOptions::new(config.restapi.clone(), surus_api::Client::clone(&api))).await?;
    let settings = Settings::new(config);
    check_binaries(&settings).await?;

    let local = &settings.local;
    let opened = OpenStore::open(local).await?;
    let layout = Layout::new(&local.namespace, &local.scope, None);
    let measures = Arc::<Measures>::default();
    let kv = measured(opened.kv.clone(), &measures);
    let store = Arc::new(ClusterStore::new(kv, layout, local.name.clone()));
    let access = Access::keep(&opened, &local.store, store.layout().prefix().to_owned());
    info!("Surus {} starts as {} of {}", env!("CARGO_PKG_VERSION"), local.name, local.scope);

    let consul = opened.consul.clone();
    let (agent, handle) =
        Agent::new(Parts { source, settings, lock, store, consul, api, rest: rest.reloader(), measures, access });
    let stop = CancellationToken::new();
    let server = rest.serve(handle.clone(), stop.clone());
    service::start(handle, stop.clone());

    tokio::spawn(async {
        tokio::time::sleep(STARTED).await;
        surus_fence::give_back();
    });

    let end = agent.run(signals).await;

    service::stopping();
    stop.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(2), server.stopped()).await;
    opened.close().await;
    end.map_err(|why| anyhow::anyhow!(why))
}

pub fn peer_client(config: &LocalConfig) -> anyhow::Result<surus_api::Client> {
    let ctl = &config.ctl;
    let options = surus_api::ClientOptions {
        authentication: ctl
            .authentication
            .as_ref()
            .map(|a| surus_api::Credentials { username: a.username.clone(), password: a.password.expose().to_owned() }),
        // Members verify each other only when they are given certificates to do it with.
        insecure: true,
        cacert: ctl.cacert.clone(),
        certfile: ctl.certfile.clone(),
        keyfile: ctl.keyfile.clone(),
    };
    surus_api::Client::new(&options).context("ctl")
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
