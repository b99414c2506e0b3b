//! The agents that are known, and in which order they are asked.
//!
//! Sticky: the agent that answered last is asked first. A failed one is avoided for a growing while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_store::{StoreError, StoreResult};
use tokio::sync::watch;

use crate::endpoint::Endpoint;
use crate::fault::chain;
use crate::options::{Consistency, ConsulOptions, normalise, refused};
use crate::tls;

/// A connection that cannot be made within this time is given up and another agent tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than the pause between two renewals, so that these do not dial anew.
const KEPT_IDLE: Duration = Duration::from_secs(90);

pub(crate) struct Pool {
    /// The one that answered last comes first.
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
    live: Mutex<Live>,
    /// Counts the exchanges.
    exchanged: watch::Sender<u64>,
}

/// What may be exchanged while all goes on.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) http: reqwest::Client,
    pub(crate) token: Option<String>,
    pub(crate) consistency: Consistency,
    pub(crate) dc: Option<String>,
    /// What `http` was made of.
    tls: [Option<String>; 3],
    verify: bool,
}

impl Live {
    pub(crate) fn of(options: &ConsulOptions, https: bool) -> StoreResult<Live> {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        // The library's own TLS settings read the system's certificate store at once, and fail where there is none.
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(options, https)?)
            .user_agent(concat!("Surus/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(KEPT_IDLE)
            .pool_max_idle_per_host(2)
            .tcp_nodelay(true)
            .build()
            .map_err(|e| refused(format!("the client for Consul cannot be set up: {}", chain(&e))))?;
        Ok(Live {
            http,
            token: given(&options.token),
            consistency: options.consistency,
            dc: given(&options.dc),
            tls: [&options.ca_pem, &options.cert_pem, &options.key_pem].map(Clone::clone),
            verify: options.verify,
        })
    }

    fn is(&self, other: &Live) -> bool {
        let of = |live: &Live| (live.token.clone(), live.consistency, live.dc.clone(), live.tls.clone(), live.verify);
        of(self) == of(other)
    }
}

impl Pool {
    pub(crate) fn new(options: &ConsulOptions) -> StoreResult<Pool> {
        let mut urls: Vec<String> = Vec::new();
        for text in &options.endpoints {
            let url = normalise(text)?;
            if !urls.contains(&url) {
                urls.push(url);
            }
        }
        if urls.is_empty() {
            return Err(StoreError::Refused("no Consul agent is configured: set `consul.host`".to_owned()));
        }
        let https = urls.iter().any(|url| url.starts_with("https:"));
        let live = Live::of(options, https)?;
        let endpoints = urls.into_iter().map(|url| Arc::new(Endpoint::new(url))).collect();
        Ok(Pool { endpoints: Mutex::new(endpoints), live: Mutex::new(live), exchanged: watch::Sender::new(0) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn live(&self) -> Live {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses this from here on, if it is something else.
    pub(crate) fn set_live(&self, live: Live) {
        if !self.uses(&live) {
            *self.live.lock().unwrap_or_else(PoisonError::into_inner) = live;
            self.exchanged.send_modify(|n| *n += 1);
        }
    }

    pub(crate) fn uses(&self, live: &Live) -> bool {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).is(live)
    }

    pub(crate) fn exchanged(&self) -> watch::Receiver<u64> {
        self.exchanged.subscribe()
    }

    pub(crate) fn https(&self) -> bool {
        self.lock().iter().any(|endpoint| endpoint.url.starts_with("https:"))
    }

    /// The first one, before any answered.
    pub(crate) fn home(&self) -> Arc<Endpoint> {
        self.lock()[0].clone()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.lock().clone()
    }

    /// Those not avoided first, in order; the avoided ones only in later rounds or if there are no others.
    pub(crate) fn order(&self, first_round: bool) -> Vec<Arc<Endpoint>> {
        let (good, avoided): (Vec<_>, Vec<_>) = self.all().into_iter().partition(|e| !e.avoided());
        if first_round && !good.is_empty() { good } else { good.into_iter().chain(avoided).collect() }
    }

    pub(crate) fn prefer(&self, endpoint: &Arc<Endpoint>) {
        endpoint.answered();
        let mut endpoints = self.lock();
        if let Some(at) = endpoints.iter().position(|e| Arc::ptr_eq(e, endpoint)).filter(|at| *at != 0) {
            endpoints[..=at].rotate_right(1);
        }
    }
}
