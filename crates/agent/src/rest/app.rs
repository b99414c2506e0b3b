//! What every endpoint works with.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::http::StatusCode;
use axum::http::header::SERVER;
use axum::http::{HeaderName, HeaderValue};
use surus_api::Client;
use surus_config::{DynamicConfig, RestApi, ServerTokens};
use surus_core::cluster::{ClusterView, MemberState};
use surus_core::postgres::Observed;
use surus_core::settings::ClusterSettings;
use surus_store::StoreError;
use tokio::sync::oneshot;
use tracing::error;

use super::access::Access;
use super::limits::{self, Limits};
use super::options::RestOptions;
use super::respond::Refusal;
use super::tls::{Contents, Tls, TlsError};
use super::validity::Validity;
use super::version::VERSION;
use crate::handle::{AgentHandle, Reply, Request};

/// The part of the options that a reload replaces.
#[derive(Clone)]
pub struct Policy {
    pub access: Access,
    /// Added to every response.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub tls: Option<Tls>,
    pub peers: Client,
}

impl Policy {
    /// With what the certificate files hold, as [`tls::read`](super::tls::read) found them.
    pub async fn new(options: &RestOptions, contents: Option<&Contents>) -> Result<Policy, TlsError> {
        let api = &options.api;
        let tls = api.tls.as_ref().zip(contents).map(|(files, contents)| super::tls::load(files, contents));
        Ok(Policy {
            tls: tls.transpose()?,
            access: Access::new(api).await,
            headers: headers(api),
            peers: options.peers.clone(),
        })
    }

    /// Of the certificate that clients are shown.
    pub fn validity(&self) -> Option<&Validity> {
        self.tls.as_ref()?.validity.as_deref()
    }
}

fn headers(api: &RestApi) -> Vec<(HeaderName, HeaderValue)> {
    let server = match api.server_tokens {
        ServerTokens::Original | ServerTokens::Minimal => format!("Surus/{VERSION}"),
        ServerTokens::ProductOnly => "Surus".into(),
    };
    let mut headers: Vec<_> = HeaderValue::from_str(&server).map(|value| (SERVER, value)).into_iter().collect();
    let mut extra = api.http_extra_headers.clone();
    if api.tls.is_some() {
        extra.extend(api.https_extra_headers.clone());
    }
    for (name, value) in extra {
        match (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            (Ok(name), Ok(value)) => headers.push((name, value)),
            _ => error!("restapi: the extra header {name:?} is left out: its name or value is not allowed in HTTP"),
        }
    }
    headers
}

pub struct App {
    pub handle: AgentHandle,
    pub policy: Arc<ArcSwap<Policy>>,
    pub limits: Limits,
}

impl App {
    /// For one request to the store: as long as the agent itself would wait.
    pub fn store_deadline(&self) -> Duration {
        self.handle.read().settings.timing.retry_timeout
    }

    pub async fn fresh_view(&self) -> Result<ClusterView, Refusal> {
        self.handle
            .store
            .read(self.store_deadline())
            .await
            .map_err(|e| Refusal::unavailable(format!("the state of the cluster could not be read: {e}")))
    }

    /// The agent's own reading while it can be relied on, else a fresh one.
    pub async fn view(&self) -> Result<Arc<ClusterView>, Refusal> {
        match self.handle.read().usable_view(self.handle.now()) {
            Some(view) => Ok(view.clone()),
            None => Ok(Arc::new(self.fresh_view().await?)),
        }
    }

    /// What the configuration in `view` says; the agent's last known one if there is none in it.
    pub fn settings(&self, view: &ClusterView) -> ClusterSettings {
        match &view.config {
            Some(config) => DynamicConfig::read(&config.value).0.settings,
            None => (*self.handle.read().settings).clone(),
        }
    }

    /// A live answer of PostgreSQL, if it is in a state to give one.
    pub async fn observe(&self) -> Option<Arc<Observed>> {
        let state = self.handle.read().state;
        if !matches!(state, MemberState::Running | MemberState::Restarting | MemberState::Starting) {
            return None;
        }
        tokio::time::timeout(limits::OBSERVE, (self.handle.observe)()).await.ok().flatten()
    }

    /// Has the agent look at once at what was written. It needs no answer, and if its queue is full it
    /// is awake already.
    pub fn wake(&self) {
        let (reply, _) = oneshot::channel();
        let _ = self.handle.requests.try_send((Request::Wake, reply));
    }

    /// For requests that the agent answers without working on PostgreSQL.
    pub async fn ask_briefly(&self, request: Request) -> Result<Reply, Refusal> {
        let answer = tokio::time::timeout(limits::ASK, self.ask(request)).await;
        answer
            .unwrap_or_else(|_| Err(Refusal::unavailable(format!("the agent did not answer within {:?}", limits::ASK))))
    }

    pub async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        self.handle.ask(request).await.ok_or_else(|| Refusal::unavailable("the agent is shutting down"))
    }
}

/// The answer to a write that the store did not confirm.
pub fn not_written(what: &str, error: &StoreError) -> Refusal {
    let code = if error.is_inaccessible() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY };
    Refusal::new(code, format!("{what} could not be written: {error}"))
}
