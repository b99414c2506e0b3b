//! One etcd member: its connection, its authenticated client, and how it behaved lately.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions};
use surus_store::StoreResult;
use surus_store::confirmed::Pace;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport;

use crate::fault::Fault;
use crate::options::EtcdOptions;

const FIRST_QUARANTINE: Duration = Duration::from_millis(500);
const LONGEST_QUARANTINE: Duration = Duration::from_secs(30);

pub(crate) struct Endpoint {
    pub(crate) url: String,
    /// From the configuration, as opposed to learnt from etcd's member list.
    pub(crate) configured: bool,
    dial: transport::Endpoint,
    credentials: Option<(String, String)>,
    link: tokio::sync::Mutex<Link>,
    pub(crate) pace: Pace,
    conduct: Mutex<Conduct>,
    /// Counts failures, so that a watch on this endpoint leaves it before its pings time out.
    failures: watch::Sender<u64>,
}

/// The connection is dialled by the first request and dialled anew by itself; the client is the token on it.
#[derive(Default)]
struct Link {
    channel: Option<transport::Channel>,
    client: Option<Client>,
    /// Counts the clients made, so that concurrent calls with one refused token replace it once.
    generation: u64,
}

#[derive(Default)]
struct Conduct {
    ever_answered: bool,
    avoid_until: Option<Instant>,
    quarantine: Duration,
}

impl Endpoint {
    pub(crate) fn new(options: &EtcdOptions, text: &str, configured: bool) -> StoreResult<Endpoint> {
        let (url, dial) = options.endpoint(text)?;
        Ok(Endpoint {
            url,
            configured,
            dial,
            credentials: options.credentials()?,
            link: tokio::sync::Mutex::default(),
            pace: Pace::default(),
            conduct: Mutex::default(),
            failures: watch::Sender::new(0),
        })
    }

    pub(crate) async fn client(&self) -> Result<(Client, u64), Fault> {
        let mut link = self.link.lock().await;
        if let Some(client) = &link.client {
            return Ok((client.clone(), link.generation));
        }
        let channel = link.channel.get_or_insert_with(|| self.dial.connect_lazy()).clone();
        let client = self.authenticate(channel).await?;
        link.client = Some(client.clone());
        link.generation += 1;
        Ok((client, link.generation))
    }

    /// The next [`Endpoint::client`] authenticates anew, unless another call already did.
    pub(crate) async fn forget_client(&self, generation: u64) {
        let mut link = self.link.lock().await;
        if link.generation == generation {
            link.client = None;
        }
    }

    async fn authenticate(&self, channel: transport::Channel) -> Result<Client, Fault> {
        // An isolated member must say so instead of letting calls and streams hang.
        let plain = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(false);
        let Some((user, password)) = &self.credentials else {
            return self.open(channel, plain).await;
        };
        match self.open(channel.clone(), plain.clone().with_user(user, password)).await {
            Err(fault) if fault.text().contains("authentication is not enabled") => {
                tracing::info!("etcd {} has no authentication enabled, going on without the user", self.url);
                self.open(channel, plain).await
            }
            Err(fault) if fault.text().contains("invalid user ID or password") => {
                Err(Fault::Refused(format!("etcd {} does not accept user \"{user}\" with this password", self.url)))
            }
            other => other,
        }
    }

    async fn open(&self, channel: transport::Channel, options: ConnectOptions) -> Result<Client, Fault> {
        let opened = Client::from_channel(Channel::Tonic(channel), Some(options)).await;
        opened.map_err(|e| Fault::of(&e).before_sending())
    }

    pub(crate) fn needs_user(&self) -> bool {
        self.credentials.is_none()
    }

    fn conduct(&self) -> std::sync::MutexGuard<'_, Conduct> {
        self.conduct.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn answered(&self) {
        *self.conduct() = Conduct { ever_answered: true, ..Conduct::default() };
    }

    pub(crate) fn ever_answered(&self) -> bool {
        self.conduct().ever_answered
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
