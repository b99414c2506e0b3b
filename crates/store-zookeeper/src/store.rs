//! The store contract on a ZooKeeper ensemble.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_store::{Fut, Health, Kv, LeaseId, Snapshot, StoreResult, Txn, TxnOutcome, Watch};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use crate::ensemble::{Ensemble, Link};
use crate::lease::Lease;
use crate::options::ZooKeeperOptions;
use crate::tree::{Tree, Unread, collect};
use crate::wire::Lost;
use crate::{txn, watch};

/// Changes a slow reader may be behind before it gets several at once.
const WATCH_BUFFER: usize = 256;
/// The session of readings owns nothing.
const DATA_SESSION: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// A client of one ensemble. Its methods must be called inside a tokio runtime.
#[derive(Clone)]
pub struct ZooKeeperStore {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) ensemble: Arc<Ensemble>,
    data: tokio::sync::Mutex<Option<Arc<Link>>>,
    leases: Mutex<BTreeMap<LeaseId, Arc<Lease>>>,
}

/// Whose session a request goes over.
pub(crate) enum Via {
    Data,
    Lease(Arc<Lease>),
}

impl ZooKeeperStore {
    /// Checks the options; the first request connects. So ZooKeeper may be down now.
    pub fn connect(options: &ZooKeeperOptions) -> StoreResult<ZooKeeperStore> {
        let ensemble = Arc::new(Ensemble::new(options)?);
        let inner = Inner { ensemble, data: tokio::sync::Mutex::default(), leases: Mutex::default() };
        Ok(ZooKeeperStore { inner: Arc::new(inner) })
    }
}

impl Inner {
    fn leases(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeaseId, Arc<Lease>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: it has ended, or it is another process's, which alone can use it.
    pub(crate) fn lease(&self, id: LeaseId) -> Option<Arc<Lease>> {
        self.leases().get(&id).cloned()
    }

    pub(crate) async fn link(&self, via: &Via, end: Instant) -> Result<Arc<Link>, Lost> {
        match via {
            Via::Lease(lease) => lease.link(&self.ensemble, end).await,
            Via::Data => {
                let late = |_| Lost::Unsent("the connection is still being made".into());
                let mut slot = timeout_at(end, self.data.lock()).await.map_err(late)?;
                if let Some(link) = slot.as_ref().filter(|link| link.is_open()) {
                    return Ok(link.clone());
                }
                let link = Arc::new(self.ensemble.open(None, DATA_SESSION, true, end).await?);
                *slot = Some(link.clone());
                Ok(link)
            }
        }
    }

    /// Its session is over.
    pub(crate) async fn forget_data(&self) {
        if let Some(link) = self.data.lock().await.take() {
            link.connection.abandon("its session has expired");
        }
    }

    /// What there is below a prefix, not older than this call, and who said so.
    pub(crate) async fn read(&self, prefix: &str, end: Instant) -> Result<(Tree, Arc<Link>), Unread> {
        loop {
            let link = self.link(&Via::Data, end).await?;
            let read = async {
                link.barrier(end).await?;
                collect(&link, prefix, end).await
            };
            match read.await {
                Ok(tree) => return Ok((tree, link)),
                Err(Unread::Lost(Lost::Expired)) => self.forget_data().await,
                Err(Unread::Lost(Lost::Unsent(_) | Lost::Unknown(_))) if Instant::now() < end => sleep(PAUSE).await,
                Err(unread) => return Err(unread),
            }
        }
    }

    fn drop_if_gone<T>(&self, id: LeaseId, outcome: Result<T, Lost>) -> StoreResult<T> {
        if matches!(outcome, Err(Lost::Expired)) {
            self.leases().remove(&id);
        }
        outcome.map_err(Lost::without_effect)
    }
}

impl From<Unread> for surus_store::StoreError {
    fn from(unread: Unread) -> surus_store::StoreError {
        match unread {
            Unread::Lost(lost) => lost.without_effect(),
            Unread::Refused(text) => surus_store::StoreError::Refused(text),
        }
    }
}

impl Kv for ZooKeeperStore {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        Box::pin(async move {
            let (tree, _) = self.inner.read(prefix, Instant::now() + deadline).await?;
            Ok(tree.snapshot(prefix))
        })
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(async move { txn::run(&self.inner, &txn, Instant::now() + deadline).await })
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        Box::pin(async move {
            let granted = Lease::grant(&self.inner.ensemble, ttl, Instant::now() + deadline).await;
            let lease = granted.map_err(Lost::without_effect)?;
            let id = lease.session.cast_unsigned();
            self.inner.leases().insert(id, Arc::new(lease));
            Ok(id)
        })
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(async move {
            let Some(held) = self.inner.lease(lease) else { return Err(surus_store::StoreError::LeaseGone) };
            let renewed = held.renew(&self.inner.ensemble, Instant::now() + deadline).await;
            self.inner.drop_if_gone(lease, renewed)
        })
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(async move {
            let Some(held) = self.inner.lease(lease) else { return Ok(()) };
            held.close(&self.inner.ensemble, Instant::now() + deadline).await.map_err(Lost::without_effect)?;
            self.inner.leases().remove(&lease);
            Ok(())
        })
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (tx, events) = mpsc::channel(WATCH_BUFFER);
        tokio::spawn(watch::run(self.inner.clone(), prefix.to_owned(), tx));
        Watch { events }
    }

    fn health(&self) -> Health {
        Health { kind: "zookeeper", summary: self.inner.ensemble.summary() }
    }
}
