//! One Consul agent: how it is asked, and how it behaved lately.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Method;
use surus_store::confirmed::Pace;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fault::Fault;
use crate::pool::Live;

const FIRST_QUARANTINE: Duration = Duration::from_millis(500);
const LONGEST_QUARANTINE: Duration = Duration::from_secs(30);
/// More than Consul stores below any prefix of ours.
const LARGEST_ANSWER: usize = 64 << 20;

pub(crate) struct Endpoint {
    pub(crate) url: String,
    pub(crate) pace: Pace,
    conduct: Mutex<Conduct>,
    /// Counts failures, so that a watch on this agent leaves it before its own time is up.
    failures: watch::Sender<u64>,
}

#[derive(Default)]
struct Conduct {
    avoid_until: Option<Instant>,
    quarantine: Duration,
}

/// One request. The path has its query, without `dc`.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) body: Option<String>,
    /// What the token needs for it, for the error.
    pub(crate) right: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// `X-Consul-Index`: the last change of what was asked for.
    pub(crate) index: Option<u64>,
    pub(crate) leaderless: bool,
    pub(crate) filtered: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn fault(&self, right: &str) -> Fault {
        Fault::of_answer(self.status, &self.text(), right)
    }

    pub(crate) fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, Fault> {
        serde_json::from_slice(&self.body)
            .map_err(|e| Fault::WrongServer(format!("the server there answers, but not as Consul does ({e})")))
    }
}

impl Endpoint {
    pub(crate) fn new(url: String) -> Endpoint {
        Endpoint { url, pace: Pace::default(), conduct: Mutex::default(), failures: watch::Sender::new(0) }
    }

    pub(crate) async fn ask(&self, ask: &Ask, live: &Live) -> Result<Answer, Fault> {
        let mut url = format!("{}{}", self.url, ask.path);
        // An agent answers for its own services only.
        if let Some(dc) = live.dc.as_ref().filter(|_| !ask.path.starts_with("/v1/agent/")) {
            url.push(if ask.path.contains('?') { '&' } else { '?' });
            url.push_str(&format!("dc={}", crate::kv::encode(dc)));
        }
        let mut request = live.http.request(ask.method.clone(), url);
        if let Some(token) = &live.token {
            request = request.header("X-Consul-Token", token);
        }
        if let Some(body) = &ask.body {
            request = request.body(body.clone());
        }
        let tls = self.url.starts_with("https:");
        let failed = |e: reqwest::Error| Fault::of_transport(&e.without_url(), tls);
        let mut response = request.send().await.map_err(failed)?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut answer = Answer {
            status: response.status().as_u16(),
            body: Vec::new(),
            index: header("X-Consul-Index").and_then(|text| text.parse().ok()),
            leaderless: header("X-Consul-KnownLeader").is_some_and(|text| text == "false"),
            filtered: header("X-Consul-Results-Filtered-By-ACLs").is_some_and(|text| text == "true"),
        };
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(Fault::Unknown(format!("its answer is longer than {LARGEST_ANSWER} bytes")));
            }
            answer.body.extend_from_slice(&chunk);
        }
        Ok(answer)
    }

    fn conduct(&self) -> std::sync::MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn answered(&self) {
        *self.conduct() = Conduct::default();
    }

    pub(crate) fn failed(&self) {
        let mut conduct = self.conduct();
        conduct.quarantine = (conduct.quarantine * 2).clamp(FIRST_QUARANTINE, LONGEST_QUARANTINE);
        conduct.avoid_until = Some(Instant::now() + conduct.quarantine);
        self.failures.send_modify(|n| *n += 1);
    }

    pub(crate) fn avoided(&self) -> bool {
        self.conduct().avoid_until.is_some_and(|until| Instant::now() < until)
    }

    pub(crate) fn failures(&self) -> watch::Receiver<u64> {
        self.failures.subscribe()
    }
}
