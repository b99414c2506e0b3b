//! Consul, from its section.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use surus_conduct::publish::Desired;
use surus_config::{ConsulConfig, ConsulService};
use surus_store_consul::{Consistency, ConsulOptions, ConsulStore};
use tokio::sync::watch;

use super::service;

/// `session` is what operators find this process under in Consul.
pub fn options(consul: &ConsulConfig, session: &str) -> anyhow::Result<ConsulOptions> {
    Ok(ConsulOptions {
        endpoints: consul.endpoints.clone(),
        session_name: session.to_owned(),
        checks: consul.checks.clone(),
        ..access(consul)?
    })
}

/// What may be exchanged while the agent runs, as the files have it now.
pub fn access(consul: &ConsulConfig) -> anyhow::Result<ConsulOptions> {
    let pem = |key: &str, path: &Option<std::path::PathBuf>| -> anyhow::Result<Option<String>> {
        path.as_deref()
            .map(|p: &Path| {
                std::fs::read_to_string(p).with_context(|| format!("consul.{key}: cannot read {}", p.display()))
            })
            .transpose()
    };
    Ok(ConsulOptions {
        ca_pem: pem("cacert", &consul.cacert)?,
        cert_pem: pem("cert", &consul.cert)?,
        key_pem: pem("key", &consul.key)?,
        verify: consul.verify,
        token: consul.token.as_ref().map(|token| token.expose().to_owned()),
        dc: consul.dc.clone(),
        consistency: match consul.consistency.as_str() {
            "consistent" => Consistency::Consistent,
            "stale" => Consistency::Stale,
            _ => Consistency::Default,
        },
        ..ConsulOptions::default()
    })
}

/// What of Consul goes beyond the store contract.
#[derive(Clone)]
pub struct Consul {
    store: ConsulStore,
    scope: String,
    name: String,
    settings: watch::Sender<service::Settings>,
    stays: Arc<AtomicBool>,
}

impl Consul {
    pub fn new(store: ConsulStore, scope: &str, name: &str, service: &ConsulService) -> Consul {
        let settings = service::Settings { service: service.clone(), ..service::Settings::default() };
        Consul {
            store,
            scope: scope.to_owned(),
            name: name.to_owned(),
            settings: watch::Sender::new(settings),
            stays: Arc::default(),
        }
    }

    pub fn store(&self) -> ConsulStore {
        self.store.clone()
    }

    /// Brings the service's settings into force.
    pub fn set(&self, section: &ConsulConfig, ttl: Duration) {
        self.settings.send_if_modified(|settings| {
            let new = service::Settings { service: section.service.clone(), ttl };
            std::mem::replace(settings, new.clone()) != new
        });
    }

    /// Registers this member for as long as the agent publishes it.
    pub fn start(&self, member: watch::Receiver<Desired>) {
        tokio::spawn(service::keep(self.store.clone(), self.scope.clone(), member, self.settings.subscribe()));
    }

    /// A successor goes on where this process ends: the service stays in the catalogue meanwhile.
    pub fn stay(&self) {
        self.stays.store(true, Ordering::Relaxed);
    }

    pub async fn leave(&self) {
        if self.settings.borrow().service.register && !self.stays.load(Ordering::Relaxed) {
            service::leave(&self.store, &self.scope, &self.name).await;
        }
    }
}
