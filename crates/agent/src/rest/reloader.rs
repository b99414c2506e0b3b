//! What the server goes by, and how it is exchanged while it serves.

use std::sync::Arc;

use arc_swap::ArcSwap;
use surus_config::{HostPort, RestTls};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, MutexGuard, Notify, mpsc};

use super::app::Policy;
use super::limits;
use super::listen::{self, ListenError};
use super::options::RestOptions;
use super::tls::{self, TlsError};

#[derive(Debug, thiserror::Error)]
pub enum RestError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the REST server has stopped")]
    Stopped,
}

/// Brings new options to a server, also before it serves.
#[derive(Clone)]
pub struct Reloader {
    policy: Arc<ArcSwap<Policy>>,
    listeners: mpsc::Sender<TcpListener>,
    current: Arc<Mutex<Current>>,
    reloaded: Arc<Notify>,
}

/// What the server goes by now. Held while it changes, so that one change is whole before the next begins.
pub struct Current {
    listen: HostPort,
    files: Option<RestTls>,
    /// A fingerprint of what was in the files.
    pub contents: u64,
}

impl Reloader {
    /// With the listener of the options, and where the ones that replace it come from.
    pub async fn begin(
        options: &RestOptions,
    ) -> Result<(Reloader, TcpListener, mpsc::Receiver<TcpListener>), RestError> {
        let files = options.api.tls.clone();
        let found = tls::read(files.clone()).await;
        let contents = tls::fingerprint(&found);
        let policy = Policy::new(options, found?.as_ref()).await?;
        let listener = listen::listen(&options.api.listen, limits::BACKLOG).await?;
        let (listeners, replacements) = mpsc::channel(1);
        let current = Current { listen: options.api.listen.clone(), files, contents };
        let reloader = Reloader {
            policy: Arc::new(ArcSwap::from_pointee(policy)),
            listeners,
            current: Arc::new(Mutex::new(current)),
            reloaded: Arc::default(),
        };
        Ok((reloader, listener, replacements))
    }

    /// If the options cannot be used, the server goes on with the old ones.
    pub async fn reload(&self, options: RestOptions) -> Result<(), RestError> {
        let files = options.api.tls.clone();
        let found = tls::read(files.clone()).await;
        let contents = tls::fingerprint(&found);
        let policy = Policy::new(&options, found?.as_ref()).await?;
        let mut current = self.current.lock().await;
        if options.api.listen != current.listen {
            let listener = listen::listen(&options.api.listen, limits::BACKLOG).await?;
            self.listeners.send(listener).await.map_err(|_| RestError::Stopped)?;
        }
        *current = Current { listen: options.api.listen, files, contents };
        self.policy.store(Arc::new(policy));
        self.reloaded.notify_one();
        Ok(())
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// For who holds [`Current`].
    pub fn replace(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    pub fn shared_policy(&self) -> Arc<ArcSwap<Policy>> {
        self.policy.clone()
    }

    pub async fn call_others_with(&self, peers: surus_api::Client) {
        let _whole = self.current.lock().await;
        self.replace(Policy { peers, ..(*self.policy()).clone() });
    }

    pub async fn files(&self) -> Option<RestTls> {
        self.current.lock().await.files.clone()
    }

    /// If the server still goes by these files and knows other contents of them.
    pub async fn changed_since(&self, files: &RestTls, contents: u64) -> Option<MutexGuard<'_, Current>> {
        let current = self.current.lock().await;
        (current.files.as_ref() == Some(files) && current.contents != contents).then_some(current)
    }

    /// Waits for the next reload, or returns at once if there was one that nobody waited for.
    pub async fn reloaded(&self) {
        self.reloaded.notified().await;
    }
}
