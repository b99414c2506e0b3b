//! Which endpoint a call goes to, and to which next, inside the caller's deadline.
//!
//! Sticky: the endpoint that answered last is asked first. A failed one is avoided for a growing
//! while. The deadline is shared between the endpoints still to be tried, so that a frozen one does
//! not use it up.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, Error};
use surus_store::{StoreError, StoreResult};
use tokio::time::{Instant, sleep, timeout};

use crate::endpoint::Endpoint;
use crate::fault::Fault;
use crate::options::EtcdOptions;
use crate::probe;

/// Less than this is no fair chance for an endpoint that works.
const SHORTEST_TRY: Duration = Duration::from_millis(300);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a request may do to the store, so what a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A reading: may be sent again and again.
    None,
    /// Doing it twice is doing it once.
    Repeatable,
    /// A second try would compare against the effect of the first.
    Once,
}

pub(crate) struct Pool {
    options: EtcdOptions,
    /// The one that answered last comes first.
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
    members_wanted: AtomicBool,
}

impl Pool {
    pub(crate) fn new(options: EtcdOptions) -> StoreResult<Pool> {
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::new();
        for text in &options.endpoints {
            let endpoint = Endpoint::new(&options, text, true)?;
            if !endpoints.iter().any(|e| e.url == endpoint.url) {
                endpoints.push(Arc::new(endpoint));
            }
        }
        if endpoints.is_empty() {
            return Err(StoreError::Refused("no etcd endpoint is configured: set `etcd3.hosts`".to_owned()));
        }
        let members_wanted = AtomicBool::new(options.discover_members);
        Ok(Pool { options, endpoints: Mutex::new(endpoints), members_wanted })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.lock().clone()
    }

    /// Those not avoided first, in order; the avoided ones only in later rounds or if there are no others.
    fn order(&self, first_round: bool) -> Vec<Arc<Endpoint>> {
        let (good, avoided): (Vec<_>, Vec<_>) = self.all().into_iter().partition(|e| !e.avoided());
        if first_round && !good.is_empty() { good } else { good.into_iter().chain(avoided).collect() }
    }

    fn prefer(&self, endpoint: &Arc<Endpoint>) {
        endpoint.answered();
        let mut endpoints = self.lock();
        if let Some(at) = endpoints.iter().position(|e| Arc::ptr_eq(e, endpoint)).filter(|at| *at != 0) {
            endpoints[..=at].rotate_right(1);
            // The member that was left may be gone for good: ask who is there now.
            self.members_wanted.store(self.options.discover_members, Ordering::Relaxed);
        }
    }

    /// Calls one endpoint after the other until one answers, and tells which one did.
    pub(crate) async fn call<T, C, F>(
        &self,
        what: &str,
        effect: Effect,
        deadline: Duration,
        request: C,
    ) -> StoreResult<(T, Arc<Endpoint>)>
    where
        C: Fn(Arc<Endpoint>, Client) -> F,
        F: Future<Output = Result<T, Error>>,
    {
        let end = Instant::now() + deadline;
        let mut pause = FIRST_PAUSE;
        let mut first_round = true;
        let mut unknown = false;
        loop {
            let order = self.order(first_round);
            let mut failures: Vec<String> = Vec::new();
            let mut wrong = 0;
            for (i, endpoint) in order.iter().enumerate() {
                let left = end.saturating_duration_since(Instant::now());
                let share = left / u32::try_from(order.len() - i).unwrap_or(u32::MAX);
                let fault = match attempt(endpoint, share.max(SHORTEST_TRY).min(left), &request).await {
                    Ok(answer) => {
                        self.prefer(endpoint);
                        return Ok((answer, endpoint.clone()));
                    }
                    Err(fault) => diagnosed(endpoint, fault, end.saturating_duration_since(Instant::now())).await,
                };
                match fault {
                    Fault::LeaseGone => return Err(StoreError::LeaseGone),
                    Fault::Refused(text) | Fault::Token(text) => {
                        return Err(StoreError::Refused(format!("{what} at {}: {text}", endpoint.url)));
                    }
                    Fault::Unknown(text) if effect == Effect::Once => {
                        endpoint.failed();
                        return Err(StoreError::OutcomeUnknown(format!("{what} at {}: {text}", endpoint.url)));
                    }
                    Fault::WrongServer(_) => wrong += 1,
                    Fault::Unknown(_) => unknown = effect != Effect::None,
                    Fault::NoEffect(_) => {}
                }
                endpoint.failed();
                failures.push(format!("{}: {}", endpoint.url, fault.text()));
            }
            let text = format!("{what}: {}", failures.join("; "));
            if wrong > 0 && wrong == self.all().len() && !unknown {
                return Err(StoreError::Refused(text));
            }
            if Instant::now() + pause >= end {
                return Err(if unknown { StoreError::OutcomeUnknown(text) } else { StoreError::Unavailable(text) });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            first_round = false;
        }
    }

    /// True once after the start and after each change of endpoint: the members should be asked for.
    pub(crate) fn take_members_wanted(&self) -> bool {
        self.members_wanted.swap(false, Ordering::Relaxed)
    }

    /// Adds the members etcd named and drops those it no longer names; configured endpoints stay.
    pub(crate) fn learn(&self, urls: &[String]) {
        let configured_scheme = |url: &str| {
            let scheme = |u: &str| u.split_once("://").map(|(s, _)| s.to_owned());
            // An advertised plain-text URL must not make the password travel in the clear.
            self.all().iter().any(|e| e.configured && scheme(&e.url) == scheme(url))
        };
        let learnt: Vec<Endpoint> = urls
            .iter()
            .filter(|url| configured_scheme(url))
            .filter_map(|url| Endpoint::new(&self.options, url, false).ok())
            .collect();
        let mut endpoints = self.lock();
        endpoints.retain(|e| e.configured || learnt.iter().any(|l| l.url == e.url));
        for endpoint in learnt {
            if !endpoints.iter().any(|e| e.url == endpoint.url) {
                endpoints.push(Arc::new(endpoint));
            }
        }
    }
}

/// An endpoint that never was etcd's is asked what it is.
async fn diagnosed(endpoint: &Endpoint, fault: Fault, left: Duration) -> Fault {
    match fault {
        Fault::Unknown(_) | Fault::NoEffect(_) if !endpoint.ever_answered() => {
            match probe::explain(&endpoint.url, left).await {
                Some(why) => Fault::WrongServer(format!("{why} ({})", fault.text())),
                None => fault,
            }
        }
        other => other,
    }
}

/// One try at one endpoint, with one renewal of the token.
async fn attempt<T, C, F>(endpoint: &Arc<Endpoint>, limit: Duration, request: &C) -> Result<T, Fault>
where
    C: Fn(Arc<Endpoint>, Client) -> F,
    F: Future<Output = Result<T, Error>>,
{
    let sent = AtomicBool::new(false);
    let work = async {
        let mut renewed = false;
        loop {
            let (client, generation) = endpoint.client().await?;
            sent.store(true, Ordering::Relaxed);
            match request(endpoint.clone(), client).await.map_err(|e| Fault::of(&e)) {
                Err(Fault::Token(text)) if endpoint.needs_user() && text.contains("user name is empty") => {
                    let hint = "etcd wants a user: set `username` and `password` of etcd3";
                    return Err(Fault::Refused(format!("{text}; {hint}")));
                }
                Err(Fault::Token(_)) if !renewed && !endpoint.needs_user() => {
                    renewed = true;
                    sent.store(false, Ordering::Relaxed);
                    endpoint.forget_client(generation).await;
                }
                other => return other,
            }
        }
    };
    match timeout(limit, work).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let text = format!("no answer within {limit:.1?}");
            Err(if sent.load(Ordering::Relaxed) { Fault::Unknown(text) } else { Fault::NoEffect(text) })
        }
    }
}
