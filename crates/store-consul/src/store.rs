//! The store contract on Consul.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use surus_store::confirmed::{HEARD, took_too_long};
use surus_store::{
    Compare, Fut, Health, Kv, LeaseId, Op, Revision, Snapshot, StoreError, StoreResult, Txn, TxnOutcome, Watch,
};
use tokio::sync::{mpsc, watch as watched};
use tokio::time::{Instant, sleep};

use crate::call::Effect;
use crate::endpoint::{Ask, Endpoint};
use crate::fault::Fault;
use crate::kv::{self, listing, single};
use crate::options::ConsulOptions;
use crate::pool::{Live, Pool};
use crate::session::{self, Session, Sessions, lives, session_ttl};
use crate::txn::{self, Check, MOST_OPERATIONS, Outcome};
use crate::watch;

/// Changes a slow reader may be behind before Consul is asked again.
const WATCH_BUFFER: usize = 256;
const SESSION_RIGHT: &str = "session_prefix \"\" { policy = \"write\" }";
/// Sessions of ours leave 1 ms behind.
const LOCK_DELAY_PAUSE: Duration = Duration::from_millis(5);

/// A client of one Consul cluster. Its methods must be called inside a tokio runtime.
#[derive(Clone)]
pub struct ConsulStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) pool: Pool,
    /// The agent that was configured first.
    pub(crate) home: Arc<Endpoint>,
    session_name: String,
    checks: Vec<String>,
    sessions: Sessions,
    /// The least TTL of a session that this Consul grants, in milliseconds, once it refused less.
    least_ttl: AtomicU64,
    told_least_ttl: AtomicBool,
    /// Values that were compared, and the version they had: read again only when that has changed.
    compared: Mutex<BTreeMap<String, (Vec<u8>, Revision)>>,
    /// The prefix that is watched, and the last change below it that a renewal has met.
    pub(crate) watched: watched::Sender<Option<(String, Revision)>>,
}

impl ConsulStore {
    /// Checks the options; the first request connects. So Consul may be down now.
    pub fn connect(options: ConsulOptions) -> StoreResult<ConsulStore> {
        let pool = Pool::new(&options)?;
        let home = pool.home();
        Ok(ConsulStore {
            inner: Arc::new(Inner {
                pool,
                home,
                session_name: options.session_name,
                checks: options.checks,
                sessions: Sessions::default(),
                least_ttl: AtomicU64::new(0),
                told_least_ttl: AtomicBool::new(false),
                compared: Mutex::default(),
                watched: watched::Sender::default(),
            }),
        })
    }

    /// The requests from now on have the token, the certificates, the datacenter and the consistency of these options,
    /// once the prefix has been read so. `false` if that is no change.
    pub async fn replace_access(&self, options: &ConsulOptions, prefix: &str, deadline: Duration) -> StoreResult<bool> {
        let pool = &self.inner.pool;
        let live = Live::of(options, pool.https())?;
        if pool.uses(&live) {
            return Ok(false);
        }
        self.inner.may_read_with(&live, prefix, Instant::now() + deadline).await?;
        pool.set_live(live);
        Ok(true)
    }
}

impl Inner {
    /// The whole prefix by a leader that made sure that it is one, and the agent that answered.
    pub(crate) async fn read_from(&self, prefix: &str, end: Instant) -> StoreResult<(Snapshot, Arc<Endpoint>)> {
        let ask = listing(prefix, "&consistent");
        let read = self.pool.call("read", Effect::None, end, &ask, |answer| kv::snapshot(answer, &ask.right)).await?;
        if read.0.keys.is_empty() {
            self.may_read(prefix, end).await?;
        }
        Ok(read)
    }

    /// Consul leaves out what a token may not read, all of it if need be: an empty cluster and a token without rights look
    /// the same. A single key is refused.
    pub(crate) async fn may_read(&self, prefix: &str, end: Instant) -> StoreResult<()> {
        self.may_read_with(&self.pool.live(), prefix, end).await
    }

    async fn may_read_with(&self, live: &Live, prefix: &str, end: Instant) -> StoreResult<()> {
        let mut ask = single(&format!("{prefix}leader"));
        ask.right = listing(prefix, "").right;
        let read = self.pool.call_with(live, "read", Effect::None, end, &ask, |answer| kv::entry(answer, &ask.right));
        read.await.map(drop)
    }

    async fn grant(&self, lease: Duration, end: Instant) -> StoreResult<LeaseId> {
        loop {
            let ttl = session_ttl(lease, Duration::from_millis(self.least_ttl.load(Ordering::Relaxed)));
            let ask = Ask {
                method: Method::PUT,
                path: "/v1/session/create".to_owned(),
                body: Some(session::creation(&self.session_name, ttl, &self.checks)),
                right: SESSION_RIGHT.to_owned(),
            };
            // A lost answer leaves a session without keys behind, which ends by itself.
            let (created, _) = self
                .pool
                .call("session", Effect::Repeatable, end, &ask, |answer| {
                    if answer.status == 200 {
                        return answer.json::<Session>().map(|session| Ok(session.id));
                    }
                    match session::allowed_ttl(&answer.text()) {
                        Some(bounds) => Ok(Err(bounds)),
                        None => Err(answer.fault(SESSION_RIGHT)),
                    }
                })
                .await?;
            match created {
                Ok(id) => {
                    let learnt = self.sessions.learn(id.clone());
                    return learnt.ok_or_else(|| StoreError::Refused(format!("Consul named a session \"{id}\"")));
                }
                Err((least, _)) if ttl < least => {
                    self.least_ttl.store(u64::try_from(least.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                    if !self.told_least_ttl.swap(true, Ordering::Relaxed) {
                        tracing::warn!(
                            "Consul grants no session a TTL below {least:.0?} (its session_ttl_min), and ends one as late as \
                  twice that after the last renewal: what a dead member held is free after up to {:.0?}, not after \
                  the ttl of {lease:.0?}",
                            lives(least)
                        );
                    }
                }
                Err((_, most)) => {
                    let most = lives(most);
                    return Err(StoreError::Refused(format!("Consul ends sessions after {most:?}, ttl is {lease:?}")));
                }
            }
        }
    }

    async fn session(&self, lease: LeaseId, end: Instant) -> StoreResult<String> {
        if let Some(known) = self.sessions.known(lease) {
            return Ok(known);
        }
        let ask = Ask {
            method: Method::GET,
            path: "/v1/session/list?consistent".to_owned(),
            body: None,
            right: SESSION_RIGHT.to_owned(),
        };
        let list = self.pool.call("sessions", Effect::None, end, &ask, |answer| match answer.status {
            200 => answer.json::<Option<Vec<Session>>>(),
            _ => Err(answer.fault(SESSION_RIGHT)),
        });
        let (all, _) = list.await?;
        let found = all.unwrap_or_default().into_iter().find(|session| session::lease_of(&session.id) == Some(lease));
        let id = found.ok_or(StoreError::LeaseGone)?.id;
        self.sessions.learn(id.clone());
        Ok(id)
    }

    /// A server confirms a renewal without asking the others. One that was frozen while another was elected may do so
    /// before it finds out, and the session ends as if nothing had been renewed: its time runs since the election. So a
    /// reading comes first that only a leader with a majority answers. Whoever takes the renewal in after it has led then
    /// or was elected since, when the time of every session starts again: either way it runs from later than this call.
    /// Of the same agent, whose idea of who leads does not go back; the other way round, the reading could be answered by
    /// another server than the renewal.
    ///
    /// One that wakes up with the answer to a heartbeat in its socket, from before it was frozen, takes that for the word of
    /// the majority, and answers such a reading once more. And it can be frozen between the two. So what took long is asked
    /// for again ([`surus_store::confirmed`]); the first reading has had the servers ask each other anew.
    async fn renew(&self, lease: LeaseId, end: Instant) -> StoreResult<()> {
        let id = self.session(lease, end).await?;
        let prefix = self.watched.borrow().as_ref().map(|(prefix, _)| prefix.clone());
        let ask = |method, path, right| Ask { method, path, body: None, right };
        let reading = match &prefix {
            Some(prefix) => kv::names(prefix),
            None => ask(Method::GET, format!("/v1/session/info/{id}?consistent"), SESSION_RIGHT.to_owned()),
        };
        let renewal = ask(Method::PUT, format!("/v1/session/renew/{id}"), SESSION_RIGHT.to_owned());
        let (reading, renewal, live) = (&reading, &renewal, &self.pool.live());
        let renewed = self.pool.exchange("session renewal", Effect::None, end, |agent| async move {
            let mut asked = agent.pace.asked();
            loop {
                let began = Instant::now();
                let newest = kv::index(&agent.ask(reading, live).await?, &reading.right)?;
                let answer = agent.ask(renewal, live).await?;
                match answer.status {
                    200 => answer.json::<Vec<Session>>()?,
                    // Consul says which; anybody else's 404 must not cost the lead.
                    404 if answer.text().contains("Session id") => return Err(Fault::LeaseGone),
                    _ => return Err(answer.fault(SESSION_RIGHT)),
                };
                let took = began.elapsed();
                if asked.counts(took) {
                    return Ok(newest);
                }
                if Instant::now() + HEARD >= end {
                    return Err(Fault::Unknown(took_too_long(took)));
                }
                sleep(HEARD).await;
            }
        });
        let renewed = self.noting_its_end(lease, renewed.await.map(|(newest, _)| newest))?;
        self.watched.send_if_modified(|watched| match watched {
            Some((watched, index)) if prefix.as_ref() == Some(watched) => std::mem::replace(index, renewed) != renewed,
            _ => false,
        });
        Ok(())
    }

    fn noting_its_end<T>(&self, lease: LeaseId, result: StoreResult<T>) -> StoreResult<T> {
        if matches!(result, Err(StoreError::LeaseGone)) {
            self.sessions.forget(lease);
        }
        result
    }

    async fn revoke(&self, lease: LeaseId, end: Instant) -> StoreResult<()> {
        let id = match self.session(lease, end).await {
            Err(StoreError::LeaseGone) => return Ok(()),
            id => id?,
        };
        let ask = Ask {
            method: Method::PUT,
            path: format!("/v1/session/destroy/{id}"),
            body: None,
            right: SESSION_RIGHT.to_owned(),
        };
        let ended = self.pool.call("end of the session", Effect::Repeatable, end, &ask, |answer| match answer.status {
            200 => Ok(()),
            _ => Err(answer.fault(SESSION_RIGHT)),
        });
        ended.await?;
        self.sessions.forget(lease);
        Ok(())
    }

    fn compared(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Vec<u8>, Revision)>> {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version at which the key has this value, `None` if it has another one or does not exist.
    async fn version_of(&self, key: &str, value: &[u8], end: Instant) -> StoreResult<Option<Revision>> {
        if let Some((known, version)) = self.compared().get(key)
            && known == value
        {
            return Ok(Some(*version));
        }
        let ask = single(key);
        let read = self.pool.call("read", Effect::None, end, &ask, |answer| {
            kv::entry(answer, &ask.right)?.map(|entry| Ok((entry.bytes()?, entry.modify_index))).transpose()
        });
        let found = read.await?.0;
        let version = found.as_ref().filter(|(found, _)| found == value).map(|(_, version)| *version);
        if let Some(found) = found {
            self.compared().insert(key.to_owned(), found);
        }
        Ok(version)
    }

    async fn txn(&self, txn: Txn, end: Instant) -> StoreResult<TxnOutcome> {
        let mut named = BTreeMap::new();
        for op in &txn.then {
            if let Op::Put { lease: Some(lease), .. } = op {
                named.insert(*lease, self.session(*lease, end).await?);
            }
        }
        loop {
            let mut checks = Vec::new();
            let mut by_value = Vec::new();
            for compare in &txn.compare {
                checks.push(match compare {
                    Compare::Absent { key } => Check::Absent(key.clone()),
                    Compare::Version { key, version } => Check::Version(key.clone(), *version),
                    Compare::Value { key, value } => match self.version_of(key, value, end).await? {
                        Some(version) => {
                            by_value.push((checks.len(), key));
                            Check::Version(key.clone(), version)
                        }
                        None => return Ok(TxnOutcome::Conflict),
                    },
                });
            }
            let outcome = self.send(&checks, &txn.then, &named, end).await;
            if let Err(StoreError::OutcomeUnknown(_)) | Ok(Outcome::Applied(_)) = &outcome {
                let written = |key: &str| {
                    txn.then.iter().any(|op| match op {
                        Op::Put { key: k, .. } | Op::Delete { key: k } => k == key,
                        Op::DeletePrefix { prefix } => key.starts_with(prefix.as_str()),
                    })
                };
                self.compared().retain(|key, _| !written(key));
            }
            match outcome? {
                Outcome::Applied(revision) => {
                    let compared = checks.iter().map(|check| match check {
                        Check::Version(_, version) => *version,
                        Check::Absent(_) => 0,
                    });
                    return Ok(TxnOutcome::Applied(revision.or(compared.max()).unwrap_or(0)));
                }
                Outcome::LeaseGone => {
                    named.keys().for_each(|lease| self.sessions.forget(*lease));
                    return Err(StoreError::LeaseGone);
                }
                Outcome::LockDelay => sleep(LOCK_DELAY_PAUSE).await,
                Outcome::Conflict(failed) => {
                    // What was held to its version may have been written again with the same value.
                    let moved: Vec<_> = by_value.iter().filter(|(at, _)| failed.contains(at)).collect();
                    if moved.len() < failed.len() {
                        return Ok(TxnOutcome::Conflict);
                    }
                    let mut compared = self.compared();
                    moved.iter().for_each(|(_, key)| drop(compared.remove(*key)));
                }
            }
            if Instant::now() >= end {
                return Err(StoreError::Unavailable("write: a key was locked or changed again and again".to_owned()));
            }
        }
    }

    async fn send(
        &self,
        checks: &[Check],
        then: &[Op],
        named: &BTreeMap<LeaseId, String>,
        end: Instant,
    ) -> StoreResult<Outcome> {
        let operations = txn::operations(checks, then, |lease| named.get(&lease).cloned().unwrap_or_default());
        if operations.is_empty() {
            return Ok(Outcome::Applied(None));
        }
        if operations.len() > MOST_OPERATIONS {
            return Err(StoreError::Refused(format!(
                "a transaction of {} operations is more than the {MOST_OPERATIONS} that Consul takes",
                operations.len()
            )));
        }
        let ask = Ask {
            method: Method::PUT,
            // Without writes it is a reading, and as good as one.
            path: format!("/v1/txn{}", if then.is_empty() { "?consistent" } else { "" }),
            body: Some(serde_json::Value::Array(operations).to_string()),
            right: txn::right(then),
        };
        let effect = if then.is_empty() { Effect::None } else { Effect::Once };
        let answer =
            self.pool.call("write", effect, end, &ask, |answer| txn::outcome(answer, checks.len(), &ask.right));
        Ok(answer.await?.0)
    }
}

impl Kv for ConsulStore {
    fn read<'a>(&'a self, prefix: &'a str, deadline: Duration) -> Fut<'a, StoreResult<Snapshot>> {
        Box::pin(async move { Ok(self.inner.read_from(prefix, Instant::now() + deadline).await?.0) })
    }

    fn txn<'a>(&'a self, txn: Txn, deadline: Duration) -> Fut<'a, StoreResult<TxnOutcome>> {
        Box::pin(self.inner.txn(txn, Instant::now() + deadline))
    }

    fn grant<'a>(&'a self, ttl: Duration, deadline: Duration) -> Fut<'a, StoreResult<LeaseId>> {
        Box::pin(self.inner.grant(ttl, Instant::now() + deadline))
    }

    fn renew<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(self.inner.renew(lease, Instant::now() + deadline))
    }

    fn revoke<'a>(&'a self, lease: LeaseId, deadline: Duration) -> Fut<'a, StoreResult<()>> {
        Box::pin(self.inner.revoke(lease, Instant::now() + deadline))
    }

    fn watch(&self, prefix: &str) -> Watch {
        let (tx, events) = mpsc::channel(WATCH_BUFFER);
        self.inner.watched.send_replace(Some((prefix.to_owned(), 0)));
        tokio::spawn(watch::run(self.inner.clone(), prefix.to_owned(), tx));
        Watch { events }
    }

    fn health(&self) -> Health {
        let endpoints = self.inner.pool.all();
        let failed: Vec<&str> = endpoints.iter().filter(|e| e.avoided()).map(|e| e.url.as_str()).collect();
        let mut summary = match endpoints.iter().find(|e| !e.avoided()) {
            Some(endpoint) => format!("using {}, {} agents known", endpoint.url, endpoints.len()),
            None => "no agent answers".to_owned(),
        };
        if !failed.is_empty() {
            summary.push_str(&format!("; failed lately: {}", failed.join(", ")));
        }
        Health { kind: "consul", summary }
    }
}
