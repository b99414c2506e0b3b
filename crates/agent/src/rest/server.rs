//! The accept loop. Every connection has a place, a time for each thing it does, and no way to hold
//! up another one or the agent.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use surus_config::HostPort;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use super::access::Peer;
use super::app::{App, Policy};
use super::limits::{self, Limits};
use super::listen::{self, ListenError};
use super::options::RestOptions;
use super::router::router;
use super::stall::StallGuard;
use super::tls::TlsError;
use crate::handle::AgentHandle;

#[derive(Debug, thiserror::Error)]
pub enum RestError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the REST server has stopped")]
    Stopped,
}

/// A port that is held and not served yet: an agent that cannot have it must not start.
pub struct Bound {
    listener: TcpListener,
    replacements: mpsc::Receiver<TcpListener>,
    reloader: Reloader,
    limits: Limits,
}

/// A server at work.
pub struct RestServer {
    reloader: Reloader,
    task: JoinHandle<()>,
}

/// Brings new options to a server, also before it serves.
#[derive(Clone)]
pub struct Reloader {
    policy: Arc<ArcSwap<Policy>>,
    listeners: mpsc::Sender<TcpListener>,
    listen: Arc<Mutex<HostPort>>,
}

impl Reloader {
    /// If the options cannot be used, the server goes on with the old ones.
    pub async fn reload(&self, options: RestOptions) -> Result<(), RestError> {
        let policy = Policy::new(&options).await?;
        let mut listen = self.listen.lock().await;
        if options.api.listen != *listen {
            let listener = listen::listen(&options.api.listen, limits::BACKLOG).await?;
            self.listeners.send(listener).await.map_err(|_| RestError::Stopped)?;
            *listen = options.api.listen;
        }
        self.policy.store(Arc::new(policy));
        Ok(())
    }
}

impl RestServer {
    pub async fn bind(options: RestOptions) -> Result<Bound, RestError> {
        let policy = Arc::new(ArcSwap::from_pointee(Policy::new(&options).await?));
        let listener = listen::listen(&options.api.listen, limits::BACKLOG).await?;
        let (listeners, replacements) = mpsc::channel(1);
        let reloader = Reloader { policy, listeners, listen: Arc::new(Mutex::new(options.api.listen)) };
        Ok(Bound { listener, replacements, reloader, limits: options.limits })
    }

    pub async fn reload(&self, options: RestOptions) -> Result<(), RestError> {
        self.reloader.reload(options).await
    }

    /// Returns when the server has stopped and its connections are closed.
    pub async fn stopped(self) {
        // A panic of the loop has been reported by the runtime.
        let _ = self.task.await;
    }
}

impl Bound {
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    pub fn reloader(&self) -> Reloader {
        self.reloader.clone()
    }

    pub fn serve(self, handle: AgentHandle, shutdown: CancellationToken) -> RestServer {
        let app = Arc::new(App { handle, policy: self.reloader.policy.clone(), limits: self.limits });
        let task = tokio::spawn(accept(self.listener, self.replacements, app, shutdown));
        RestServer { reloader: self.reloader, task }
    }
}

async fn accept(
    mut listener: TcpListener,
    mut replacements: mpsc::Receiver<TcpListener>,
    app: Arc<App>,
    shutdown: CancellationToken,
) {
    let router = router(app.clone());
    let places = Arc::new(Semaphore::new(app.limits.connections));
    let connections = TaskTracker::new();
    let mut failing = false;
    loop {
        // Without a free place new clients wait in the kernel's queue.
        let place = tokio::select! {
            Ok(place) = places.clone().acquire_owned() => place,
            () = shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(replacement) = replacements.recv() => {
                info!("the REST API moves to {:?}", replacement.local_addr());
                listener = replacement;
                continue;
            }
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                failing = false;
                let busy = places.available_permits() < app.limits.connections / 2;
                let client = Client { router: router.clone(), app: app.clone(), peer, busy };
                let shutdown = shutdown.clone();
                connections.spawn(async move {
                    client.serve(stream, shutdown).await;
                    drop(place);
                });
            }
            Err(e) => {
                if !failing {
                    warn!("restapi: connections cannot be accepted for now: {e}");
                }
                failing = true;
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let _ = timeout(limits::DRAIN, connections.wait()).await;
}

struct Client {
    router: Router,
    app: Arc<App>,
    peer: SocketAddr,
    busy: bool,
}

impl Client {
    async fn serve(self, stream: TcpStream, shutdown: CancellationToken) {
        listen::tune(&stream);
        let peer = self.peer;
        let tls = self.app.policy.load().tls.clone();
        let result = match tls {
            None => self.http(stream, false, shutdown).await,
            Some(config) => {
                let handshake = TlsAcceptor::from(config).accept(stream);
                match timeout(self.app.limits.handshake_time, handshake).await {
                    Ok(Ok(stream)) => {
                        let certificate = stream.get_ref().1.peer_certificates().is_some_and(|c| !c.is_empty());
                        self.http(stream, certificate, shutdown).await
                    }
                    Ok(Err(e)) => return debug!(%peer, "TLS handshake failed: {e}"),
                    Err(_) => return debug!(%peer, "TLS handshake took too long"),
                }
            }
        };
        if let Err(e) = result {
            debug!(%peer, "connection ended: {e}");
        }
    }

    async fn http<S>(self, stream: S, certificate: bool, shutdown: CancellationToken) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let limits = self.app.limits;
        let source = Peer { address: self.peer.ip(), certificate };
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(source);
            self.router.clone().oneshot(request)
        });
        let mut http = http1::Builder::new();
        // The timer is what makes the time limit real.
        http.timer(TokioTimer::new())
            .header_read_timeout(if self.busy {
                limits.head_time.min(limits::BUSY_HEAD_TIME)
            } else {
                limits.head_time
            })
            .keep_alive(!self.busy)
            .max_buf_size(limits::HEAD_BYTES);
        let mut connection =
            pin!(http.serve_connection(TokioIo::new(StallGuard::new(stream, limits.write_stall)), service));
        tokio::select! {
            result = connection.as_mut() => return result,
            () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}
