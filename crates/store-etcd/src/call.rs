//! One call: which endpoints it goes to, one after the other or several at once, inside the caller's deadline.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, Error};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use surus_store::{StoreError, StoreResult};
use tokio::time::{Instant, sleep_until, timeout};

use crate::endpoint::Endpoint;
use crate::fault::Fault;
use crate::pool::Pool;
use crate::probe;

/// Less than this is no fair chance for an endpoint that works.
const SHORTEST_TRY: Duration = Duration::from_millis(300);
/// Without an answer for that long another endpoint is asked beside, where asking twice does no harm.
const PATIENCE: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a request may do to the store, so what a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A reading, or a renewal: may be sent again and again, and to several at once.
    None,
    /// Doing it twice is doing it once; but late it could undo what was written since.
    Repeatable,
    /// A second try would compare against the effect of the first.
    Once,
}

/// What became of the tries so far.
#[derive(Default)]
struct Failures {
    last: BTreeMap<String, String>,
    wrong: Vec<String>,
    unknown: bool,
}

impl Failures {
    fn note(&mut self, endpoint: &Endpoint, fault: &Fault) {
        endpoint.failed();
        self.unknown |= matches!(fault, Fault::Unknown(_));
        self.wrong.retain(|url| *url != endpoint.url);
        if matches!(fault, Fault::WrongServer(_)) {
            self.wrong.push(endpoint.url.clone());
        }
        self.last.insert(endpoint.url.clone(), fault.text().to_owned());
    }

    fn text(&self, what: &str) -> String {
        let each: Vec<String> = self.last.iter().map(|(url, text)| format!("{url}: {text}")).collect();
        format!("{what}: {}", each.join("; "))
    }

    fn error(&self, what: &str, effect: Effect) -> StoreError {
        if self.unknown && effect != Effect::None {
            StoreError::OutcomeUnknown(self.text(what))
        } else {
            StoreError::Unavailable(self.text(what))
        }
    }
}

impl Pool {
    /// Calls endpoints until one answers, and tells which one did.
    ///
    /// The deadline is shared between the endpoints still to be tried, so that a frozen one does not use it up. A
    /// request without effect is asked of the next one while the earlier ones may still answer, and of each again: a
    /// member of etcd that waits for a frozen leader goes on waiting for it when another one has been elected.
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
        let mut failures = Failures::default();
        let mut pause = FIRST_PAUSE;
        let mut patience = PATIENCE;
        let mut round = VecDeque::from(self.order(true));
        let mut asked = FuturesUnordered::new();
        let mut waited_for: Vec<Arc<Endpoint>> = Vec::new();
        // When the next one is asked, if none answers before.
        let mut next_at = Instant::now();
        loop {
            let answer = tokio::select! {
                biased;
                Some(answer) = asked.next(), if !asked.is_empty() => Some(answer),
                () = sleep_until(next_at), if next_at < end => None,
                else => return Err(failures.error(what, effect)),
            };
            let Some((endpoint, outcome)) = answer else {
                let Some(endpoint) = round.pop_front() else {
                    round = VecDeque::from(self.order(false));
                    patience *= 2;
                    continue;
                };
                let left = end.saturating_duration_since(Instant::now());
                let share = left / u32::try_from(round.len() + 1).unwrap_or(u32::MAX);
                let share = share.max(SHORTEST_TRY).min(left);
                let limit = if effect == Effect::None { left } else { share };
                // A try with a limit of its own is over before the next.
                next_at = if effect == Effect::None { Instant::now() + share.min(patience) } else { end };
                waited_for.push(endpoint.clone());
                let request = &request;
                asked.push(async move {
                    let outcome = match attempt(&endpoint, limit, request).await {
                        Err(fault) => Err(diagnosed(&endpoint, fault, end).await),
                        answer => answer,
                    };
                    (endpoint, outcome)
                });
                continue;
            };
            if let Some(at) = waited_for.iter().position(|e| Arc::ptr_eq(e, &endpoint)) {
                waited_for.swap_remove(at);
            }
            match outcome {
                Ok(answer) => {
                    for slower in waited_for.iter().filter(|e| !Arc::ptr_eq(e, &endpoint)) {
                        slower.failed();
                    }
                    self.prefer(&endpoint);
                    return Ok((answer, endpoint));
                }
                Err(Fault::LeaseGone) => return Err(StoreError::LeaseGone),
                Err(Fault::Refused(text) | Fault::Token(text)) => {
                    return Err(StoreError::Refused(format!("{what} at {}: {text}", endpoint.url)));
                }
                Err(Fault::Unknown(text)) if effect == Effect::Once => {
                    endpoint.failed();
                    return Err(StoreError::OutcomeUnknown(format!("{what} at {}: {text}", endpoint.url)));
                }
                Err(fault) => failures.note(&endpoint, &fault),
            }
            if !round.is_empty() {
                next_at = Instant::now();
            } else if asked.is_empty() {
                if failures.wrong.len() == self.all().len() && !failures.unknown {
                    return Err(StoreError::Refused(failures.text(what)));
                }
                next_at = Instant::now() + pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                round = VecDeque::from(self.order(false));
            }
        }
    }
}

/// An endpoint that never was etcd's is asked what it is.
async fn diagnosed(endpoint: &Endpoint, fault: Fault, end: Instant) -> Fault {
    match fault {
        Fault::Unknown(_) | Fault::NoEffect(_) if !endpoint.ever_answered() => {
            match probe::explain(&endpoint.url, end.saturating_duration_since(Instant::now())).await {
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
