//! The store contract on etcd's v3 API.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, DeleteOptions, Error, GetOptions, PutOptions, Txn as EtcdTxn, TxnOp,
};
use surus_store::confirmed::{HEARD, took_too_long};
use surus_store::{
    Compare, Fut, Health, KeyValue, Kv, LeaseId, Op, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, Watch,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::call::Effect;
use crate::endpoint::Endpoint;
use crate::fault;
use crate::keepalive::KeepAlive;
use crate::options::EtcdOptions;
use crate::pool::Pool;
use crate::watch;

/// Changes a slow reader may be behind before etcd is asked to hold back.
const WATCH_BUFFER: usize = 256;
const MEMBERS_DEADLINE: Duration = Duration::from_secs(2);

/// A client of one etcd cluster. Its methods must be called inside a tokio runtime.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pool: Pool,
    keepalive: KeepAlive,
    /// Why the last write was refused by a store that answers.
    refuses: Mutex<Option<&'static str>>,
}

impl EtcdStore {
    /// Checks the options; the first request connects. So etcd may be down now.
    pub fn connect(options: EtcdOptions) -> StoreResult<EtcdStore> {
        Ok(EtcdStore {
            inner: Arc::new(Inner {
                pool: Pool::new(options)?,
                keepalive: KeepAlive::default(),
                refuses: Mutex::default(),
            }),
        })
    }
}

impl EtcdStore {
    /// Goes on with the credentials and certificates of `access`, if etcd lets them read `prefix`; otherwise as before.
    /// Leases live on, watches begin again. `false`: they are what is used already.
    pub async fn replace_access(&self, access: &EtcdOptions, prefix: &str, deadline: Duration) -> StoreResult<bool> {
        let before = self.inner.pool.options();
        if before.same_access(access) {
            return Ok(false);
        }
        EtcdStore::connect(before.with_access_of(access))?.read(prefix, deadline).await?;
        self.inner.pool.replace_access(access)?;
        Ok(true)
    }
}

impl Inner {
    /// A renewal on the word of a member that led meanwhile ([`surus_store::confirmed`]). After a late confirmation a reading
    /// goes before the next, which only a leader with a majority answers.
    async fn confirmed(&self, endpoint: Arc<Endpoint>, client: Client, lease: i64, end: Instant) -> Result<(), Error> {
        let mut asked = endpoint.pace.asked();
        loop {
            let began = Instant::now();
            self.keepalive.renew(endpoint.clone(), client.clone(), lease).await?;
            let took = began.elapsed();
            if asked.counts(took) {
                return Ok(());
            }
            if Instant::now() + HEARD >= end {
                return Err(Error::LeaseKeepAliveError(took_too_long(took)));
            }
            sleep(HEARD).await;
            let nothing = GetOptions::new().with_count_only().with_limit(1);
            match client.kv_client().get("/", Some(nothing)).await {
                Ok(_) => {}
                // What the user may read is looked up after the majority was asked.
                Err(Error::GRpcStatus(status)) if status.code() == Code::PermissionDenied => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The snapshot and who gave it.
    pub(crate) async fn read_from(&self, prefix: &str, deadline: Duration) -> StoreResult<(Snapshot, Arc<Endpoint>)> {
        let (answer, endpoint) = self
            .pool
            .call("read", Effect::None, deadline, |_, client| async move {
                let mut kv = client.kv_client().max_decoding_message_size(watch::LARGEST_MESSAGE);
                kv.get(prefix, Some(GetOptions::new().with_prefix())).await
            })
            .await?;
        let revision = answer.header().map_or(0, |h| unsigned(h.revision()));
        Ok((Snapshot { revision, keys: answer.kvs().iter().filter_map(key_value).collect() }, endpoint))
    }

    /// `written`: what became of a request that an alarm makes etcd refuse.
    fn note<T>(&self, written: StoreResult<T>) -> StoreResult<T> {
        let why = match &written {
            Ok(_) => None,
            Err(StoreError::Refused(text)) => fault::refuses_writes(text),
            // Says nothing about it.
            Err(_) => return written,
        };
        *self.refuses.lock().unwrap_or_else(PoisonError::into_inner) = why;
        written
    }

    async fn refresh_members(&self) {
        let asked = self.pool.call("member list", Effect::None, MEMBERS_DEADLINE, |_, mut client| async move {
            client.member_list().await
        });
        match asked.await {
            Ok((answer, _)) => {
                let urls: Vec<String> = answer.members().iter().flat_map(|m| m.client_urls().to_vec()).collect();
                self.pool.learn(&urls);
            }
            Err(e) => tracing::debug!("etcd's members are not known: {e}"),
        }
    }
}

impl EtcdStore {
    fn after_call(&self) {
        if self.inner.pool.take_members_wanted() {
            let inner = self.inner.clone();
            tokio::spawn(async move { inner.refresh_members().await });
        }
    }
}

impl Kv for EtcdStore {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        Box::pin(async move {
            let (snapshot, _) = self.inner.read_from(prefix, deadline).await?;
            self.after_call();
            Ok(snapshot)
        })
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(async move {
            let effect = if txn.compare.is_empty() { Effect::Repeatable } else { Effect::Once };
            let puts = txn.then.iter().any(|op| matches!(op, Op::Put { .. }));
            let request = EtcdTxn::new()
                .when(txn.compare.into_iter().map(compare).collect::<Vec<_>>())
                .and_then(txn.then.into_iter().map(operation).collect::<Vec<_>>());
            let written = self
                .inner
                .pool
                .call("write", effect, deadline, |_, mut client| {
                    let request = request.clone();
                    async move { client.txn(request).await }
                })
                .await;
            let (answer, _) = if puts { self.inner.note(written)? } else { written? };
            self.after_call();
            if !answer.succeeded() {
                return Ok(TxnOutcome::Conflict);
            }
            Ok(TxnOutcome::Applied(answer.header().map_or(0, |h| unsigned(h.revision()))))
        })
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        Box::pin(async move {
            // Whole seconds, rounded up: a lease may end late but never early.
            let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
            // A lost answer leaves a lease without keys behind, which ends by itself.
            let granted = self
                .inner
                .pool
                .call("lease grant", Effect::Repeatable, deadline, |_, mut client| async move {
                    client.lease_grant(seconds, None).await
                })
                .await;
            let (answer, _) = self.inner.note(granted)?;
            self.after_call();
            Ok(answer.id().cast_unsigned())
        })
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(async move {
            let end = Instant::now() + deadline;
            let renewed = self.inner.pool.call("lease renewal", Effect::None, deadline, |endpoint, client| {
                self.inner.confirmed(endpoint, client, lease.cast_signed(), end)
            });
            renewed.await?;
            self.after_call();
            Ok(())
        })
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(async move {
            self.inner.keepalive.close();
            let revoked = self
                .inner
                .pool
                .call("lease revocation", Effect::Repeatable, deadline, |_, mut client| async move {
                    client.lease_revoke(lease.cast_signed()).await
                })
                .await;
            match revoked {
                Ok(_) | Err(StoreError::LeaseGone) => Ok(()),
                Err(e) => Err(e),
            }
        })
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (tx, events) = mpsc::channel(WATCH_BUFFER);
        tokio::spawn(watch::run(self.inner.clone(), prefix.to_owned(), tx));
        Watch { events }
    }

    fn health(&self) -> Health {
        let endpoints = self.inner.pool.all();
        let failed: Vec<&str> = endpoints.iter().filter(|e| e.avoided()).map(|e| e.url.as_str()).collect();
        let mut summary = match endpoints.iter().find(|e| !e.avoided()) {
            Some(endpoint) => format!("using {}, {} endpoints known", endpoint.url, endpoints.len()),
            None => "no endpoint answers".to_owned(),
        };
        if !failed.is_empty() {
            summary.push_str(&format!("; failed lately: {}", failed.join(", ")));
        }
        if let Some(why) = *self.inner.refuses.lock().unwrap_or_else(PoisonError::into_inner) {
            summary.push_str(&format!("; {why}"));
        }
        Health { kind: "etcd3", summary }
    }

    fn complaint(&self, deadline: Duration) -> Fut<'_, Option<String>> {
        Box::pin(async move {
            let asked = self
                .inner
                .pool
                .call("status", Effect::None, deadline, |_, mut client| async move { client.status().await });
            let (status, _) = asked.await.ok()?;
            status.errors().iter().find_map(|alarm| fault::refuses_writes(alarm)).map(str::to_owned)
        })
    }
}

fn compare(compare: Compare) -> EtcdCompare {
    match compare {
        Compare::Absent { key } => EtcdCompare::create_revision(key, CompareOp::Equal, 0),
        Compare::Version { key, version } => EtcdCompare::mod_revision(key, CompareOp::Equal, signed(version)),
        Compare::Value { key, value } => EtcdCompare::value(key, CompareOp::Equal, value),
    }
}

fn operation(op: Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            TxnOp::put(key, value, lease.map(|l| PutOptions::new().with_lease(l.cast_signed())))
        }
        Op::Delete { key } => TxnOp::delete(key, None),
        Op::DeletePrefix { prefix } => TxnOp::delete(prefix, Some(DeleteOptions::new().with_prefix())),
    }
}

/// `None` for a key that is no text: it is none of ours.
pub(crate) fn key_value(kv: &etcd_client::KeyValue) -> Option<KeyValue> {
    Some(KeyValue {
        key: kv.key_str().ok()?.to_owned(),
        value: kv.value().to_vec(),
        version: unsigned(kv.mod_revision()),
        lease: (kv.lease() != 0).then(|| kv.lease().cast_unsigned()),
    })
}

fn unsigned(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
