//! One call: which agents it goes to, one after the other or several at once, inside the caller's deadline.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use surus_store::{StoreError, StoreResult};
use tokio::time::{Instant, sleep_until, timeout};

use crate::endpoint::{Answer, Ask, Endpoint};
use crate::fault::Fault;
use crate::pool::{Live, Pool};

/// Less than this is no fair chance for an agent that works.
const SHORTEST_TRY: Duration = Duration::from_millis(300);
/// Without an answer for that long the next is asked beside, where asking twice does no harm.
const PATIENCE: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a request may do to the store, so what a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A reading, or a renewal: may be sent again and again, and to several at once.
    None,
    /// Doing it twice is doing it once.
    Repeatable,
    /// Never sent again once it may have arrived.
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
        if self.last.is_empty() {
            return format!("{what}: no time was left to ask");
        }
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
    /// Calls agents until one answers with what `read` makes sense of.
    ///
    /// The deadline is shared between the agents still to be tried, so that a frozen one does not use it up. A request
    /// without effect is asked of the next one while the earlier ones may still answer, and of each again: an agent that
    /// waits for a frozen leader goes on waiting for it when another one has been elected.
    pub(crate) async fn call<T>(
        &self,
        what: &str,
        effect: Effect,
        end: Instant,
        ask: &Ask,
        read: impl Fn(&Answer) -> Result<T, Fault>,
    ) -> StoreResult<(T, Arc<Endpoint>)> {
        self.call_with(&self.live(), what, effect, end, ask, read).await
    }

    pub(crate) async fn call_with<T>(
        &self,
        live: &Live,
        what: &str,
        effect: Effect,
        end: Instant,
        ask: &Ask,
        read: impl Fn(&Answer) -> Result<T, Fault>,
    ) -> StoreResult<(T, Arc<Endpoint>)> {
        let read = &read;
        self.exchange(what, effect, end, |agent| async move { read(&agent.ask(ask, live).await?) }).await
    }

    /// The same where one agent is asked more than one thing.
    pub(crate) async fn exchange<T, F>(
        &self,
        what: &str,
        effect: Effect,
        end: Instant,
        with: impl Fn(Arc<Endpoint>) -> F,
    ) -> StoreResult<(T, Arc<Endpoint>)>
    where
        F: Future<Output = Result<T, Fault>>,
    {
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
                let exchange = timeout(limit, with(endpoint.clone()));
                asked.push(async move {
                    let late = |_| Err(Fault::Unknown(format!("no answer within {limit:.1?}")));
                    (endpoint, exchange.await.unwrap_or_else(late))
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
                Err(Fault::Refused(text)) => {
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
