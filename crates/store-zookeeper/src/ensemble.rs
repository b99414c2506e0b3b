//! The servers that are known, in which order they are tried, and connections to them.
//!
//! A failed one is avoided for a while, by whoever looks for a server next.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use surus_store::{StoreError, StoreResult};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::options::ZooKeeperOptions;
use crate::wire::{Acl, Answer, Code, Connection, Lost, Multi, MultiOutcome, Opening, Password, Request};

/// Less than this is no fair chance for a server that works.
const SHORTEST_TRY: Duration = Duration::from_millis(300);
const LONGEST_TRY: Duration = Duration::from_secs(2);
/// A request that waits for longer says that its server is stuck, or the ensemble is: others are asked.
const PATIENCE: Duration = Duration::from_millis(1500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const QUARANTINE: Duration = Duration::from_secs(3);

pub(crate) struct Ensemble {
    hosts: Vec<Host>,
    tls: Option<TlsConnector>,
    auth: Vec<(String, String)>,
    pub(crate) acls: Vec<Acl>,
    chroot: String,
    state: Mutex<State>,
}

struct Host {
    name: String,
    port: u16,
    /// Counts failures, so that whoever watches for changes there leaves it before its pings fail.
    failures: watch::Sender<u64>,
}

struct State {
    avoid_until: Vec<Option<Instant>>,
    /// Who answered last.
    used: Option<usize>,
}

/// A connection and whom it goes to.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    host: usize,
    ensemble: Arc<Ensemble>,
}

impl Ensemble {
    pub(crate) fn new(options: &ZooKeeperOptions) -> StoreResult<Ensemble> {
        let (mut addresses, chroot) = options.addresses()?;
        // Members with the same list must not all go to the same server.
        let start = usize::try_from(RandomState::new().hash_one(0) % 997).unwrap_or(0) % addresses.len();
        addresses.rotate_left(start);
        let avoid_until = vec![None; addresses.len()];
        let host = |(name, port)| Host { name, port, failures: watch::Sender::new(0) };
        Ok(Ensemble {
            hosts: addresses.into_iter().map(host).collect(),
            tls: options.tls.as_ref().map(crate::tls::connector).transpose()?,
            auth: options.auth.clone(),
            acls: options.acl_list()?,
            chroot,
            state: Mutex::new(State { avoid_until, used: None }),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The znode of a key, or of `/`.
    pub(crate) fn znode(&self, path: &str) -> String {
        match (self.chroot.as_str(), path) {
            ("", path) => path.to_owned(),
            (chroot, "/") => chroot.to_owned(),
            (chroot, path) => format!("{chroot}{path}"),
        }
    }

    pub(crate) fn name(&self, host: usize) -> String {
        let Host { name, port, .. } = &self.hosts[host];
        if name.contains(':') { format!("[{name}]:{port}") } else { format!("{name}:{port}") }
    }

    fn order(&self) -> Vec<usize> {
        let now = Instant::now();
        let state = self.state();
        let avoided = |host: &usize| state.avoid_until[*host].is_some_and(|until| until > now);
        let mut order: Vec<usize> = (0..self.hosts.len()).collect();
        // A stable sort: the one in use first, then the order of the configuration.
        order.sort_by_key(|host| (avoided(host), state.used != Some(*host)));
        order
    }

    pub(crate) fn failed(&self, host: usize) {
        self.state().avoid_until[host] = Some(Instant::now() + QUARANTINE);
        self.hosts[host].failures.send_modify(|n| *n += 1);
    }

    pub(crate) fn summary(&self) -> String {
        let now = Instant::now();
        let state = self.state();
        let mut summary = match state.used {
            Some(host) => format!("using {}, {} servers configured", self.name(host), self.hosts.len()),
            None => "no server answers".to_owned(),
        };
        let failed = (0..self.hosts.len()).filter(|h| state.avoid_until[*h].is_some_and(|until| until > now));
        let failed: Vec<String> = failed.map(|host| self.name(host)).collect();
        if !failed.is_empty() {
            summary.push_str(&format!("; failed lately: {}", failed.join(", ")));
        }
        summary
    }

    /// A connection with a session, to the first server that gives one before `end`.
    pub(crate) async fn open(
        self: &Arc<Ensemble>,
        resume: Option<(i64, Password)>,
        session: Duration,
        pings: bool,
        end: Instant,
    ) -> Result<Link, Lost> {
        let mut why: BTreeMap<String, Lost> = BTreeMap::new();
        let mut pause = FIRST_PAUSE;
        loop {
            let order = self.order();
            for (tried, host) in order.iter().copied().enumerate() {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(unopened(&why));
                }
                let others = u32::try_from(order.len() - tried).unwrap_or(u32::MAX);
                let limit = (left / others).clamp(SHORTEST_TRY, LONGEST_TRY).min(left);
                let Host { name, port, .. } = &self.hosts[host];
                let opening = Opening {
                    host: name,
                    port: *port,
                    tls: self.tls.as_ref(),
                    auth: &self.auth,
                    resume,
                    timeout: session,
                    pings,
                };
                let late = |_| Err(Lost::Unsent(format!("no session within {limit:.1?}")));
                match timeout(limit, Connection::open(opening)).await.unwrap_or_else(late) {
                    Ok(connection) => {
                        let mut state = self.state();
                        state.used = Some(host);
                        state.avoid_until[host] = None;
                        return Ok(Link { connection, host, ensemble: self.clone() });
                    }
                    // Whoever says so has it from the leader.
                    Err(Lost::Expired) => return Err(Lost::Expired),
                    Err(lost) => {
                        self.failed(host);
                        why.insert(self.name(host), lost);
                    }
                }
            }
            if why.values().all(|lost| matches!(lost, Lost::Refused(_))) {
                return Err(unopened(&why));
            }
            let left = end.saturating_duration_since(Instant::now());
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn unopened(why: &BTreeMap<String, Lost>) -> Lost {
    let each: Vec<String> = why.iter().map(|(name, lost)| format!("{name}: {}", lost.text())).collect();
    let text = if each.is_empty() { "there was no time to connect".to_owned() } else { each.join("; ") };
    let refused = !why.is_empty() && why.values().all(|lost| matches!(lost, Lost::Refused(_)));
    if refused { Lost::Refused(text) } else { Lost::Unsent(text) }
}

impl Link {
    pub(crate) fn is_open(&self) -> bool {
        self.connection.is_open()
    }

    pub(crate) fn ensemble(&self) -> &Ensemble {
        &self.ensemble
    }

    pub(crate) fn host(&self) -> String {
        self.ensemble.name(self.host)
    }

    /// Changes when this server failed somebody else.
    pub(crate) fn failures(&self) -> watch::Receiver<u64> {
        let mut failures = self.ensemble.hosts[self.host].failures.subscribe();
        failures.mark_unchanged();
        failures
    }

    fn at(&self, lost: Lost) -> Lost {
        let at = |text: String| format!("{}: {text}", self.host());
        match lost {
            Lost::Unsent(text) => Lost::Unsent(at(text)),
            Lost::Unknown(text) => Lost::Unknown(at(text)),
            Lost::Refused(text) => Lost::Refused(at(text)),
            Lost::Expired => Lost::Expired,
        }
    }

    /// One request, until `end`. A server that lets it wait for long is left.
    pub(crate) async fn ask(&self, request: Request, end: Instant) -> Result<Answer, Lost> {
        let sent = Instant::now();
        match timeout_at(end, self.connection.send(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Lost::Expired)) => Err(Lost::Expired),
            Ok(Err(lost)) => {
                self.ensemble.failed(self.host);
                Err(self.at(lost))
            }
            Err(_) => {
                let waited = sent.elapsed();
                if waited >= PATIENCE {
                    self.connection.abandon("the server did not answer in time");
                    self.ensemble.failed(self.host);
                }
                Err(self.at(Lost::Unknown(format!("no answer within {waited:.1?}"))))
            }
        }
    }

    /// As [`Link::ask`], for what may be asked of another server beside.
    pub(crate) async fn ask_patiently(&self, request: Request, end: Instant) -> Result<Answer, Lost> {
        self.ask(request, end.min(Instant::now() + PATIENCE)).await
    }

    pub(crate) fn malformed(&self) -> Lost {
        self.connection.abandon("the server does not answer as ZooKeeper does");
        self.ensemble.failed(self.host);
        self.at(Lost::Unknown("it does not answer as ZooKeeper does".into()))
    }

    /// The outcome, and the transaction as of which the server answers from now on.
    pub(crate) async fn multi(&self, multi: Multi, end: Instant) -> Result<(MultiOutcome, i64), Lost> {
        let (request, _) = multi.request();
        let answer = self.ask(request, end).await?;
        let outcome = match answer.code {
            Code(0) => Multi::outcome(&answer.body).map_err(|_| self.malformed())?,
            code if code.is_definite() => MultiOutcome::Refused(0, code),
            code => return Err(self.at(Lost::Unknown(code.to_string()))),
        };
        match outcome {
            MultiOutcome::Refused(_, Code::SESSION_EXPIRED) => Err(Lost::Expired),
            // Said to a connection that the session has left: nothing was done.
            MultiOutcome::Refused(_, code @ (Code::SESSION_MOVED | Code::NOT_READ_ONLY | Code::THROTTLED)) => {
                self.connection.abandon(code.text());
                Err(self.at(Lost::Unsent(code.to_string())))
            }
            MultiOutcome::Refused(index, code) if !code.is_definite() => {
                Err(self.at(Lost::Unknown(format!("operation {index}: {code}"))))
            }
            outcome => Ok((outcome, answer.zxid)),
        }
    }

    /// A transaction that changes nothing, and is agreed on by the ensemble like any other. Afterwards this server has
    /// everything that was acknowledged before, and the session certainly was alive.
    ///
    /// `sync` is less: a leader that was deposed and does not know it yet answers it, and so does a follower read for
    /// a session that the new leader ends.
    pub(crate) async fn barrier(&self, end: Instant) -> Result<(), Lost> {
        let mut multi = Multi::default();
        multi.check(&self.ensemble.znode("/"), -1);
        // Whatever is said of the znode, it was said by the whole ensemble.
        self.multi(multi, end.min(Instant::now() + PATIENCE)).await.map(drop)
    }
}

impl Lost {
    /// For a request that had no effect whether or not it was carried out.
    pub(crate) fn without_effect(self) -> StoreError {
        match self {
            Lost::Unsent(text) | Lost::Unknown(text) => StoreError::Unavailable(text),
            Lost::Expired => StoreError::LeaseGone,
            Lost::Refused(text) => StoreError::Refused(text),
        }
    }
}
