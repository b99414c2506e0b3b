//! The endpoints that are known, and in which order they are asked.
//!
//! Sticky: the endpoint that answered last is asked first. A failed one is avoided for a growing
//! while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use surus_store::{StoreError, StoreResult};

use crate::endpoint::Endpoint;
use crate::options::EtcdOptions;

pub(crate) struct Pool {
    options: Mutex<EtcdOptions>,
    discover_members: bool,
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
        let discover_members = options.discover_members;
        let members_wanted = AtomicBool::new(discover_members);
        Ok(Pool { options: Mutex::new(options), discover_members, endpoints: Mutex::new(endpoints), members_wanted })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
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
            // The member that was left may be gone for good: ask who is there now.
            self.members_wanted.store(self.discover_members, Ordering::Relaxed);
        }
    }

    /// The same endpoints with other credentials and certificates. Calls that are on their way end as they began, streams are
    /// opened anew.
    pub(crate) fn replace_access(&self, access: &EtcdOptions) -> StoreResult<()> {
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        let next = options.with_access_of(access);
        let mut endpoints = self.lock();
        let fresh: StoreResult<Vec<_>> =
            endpoints.iter().map(|e| Ok(Arc::new(Endpoint::new(&next, &e.url, e.configured)?))).collect();
        let former = std::mem::replace(&mut *endpoints, fresh?);
        *options = next;
        former.iter().for_each(|endpoint| endpoint.failed());
        Ok(())
    }

    pub(crate) fn options(&self) -> EtcdOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        // Held to the end: what is made here is not to be of options that are replaced meanwhile.
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        let learnt: Vec<Endpoint> = urls
            .iter()
            .filter(|url| configured_scheme(url))
            .filter_map(|url| Endpoint::new(&options, url, false).ok())
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
