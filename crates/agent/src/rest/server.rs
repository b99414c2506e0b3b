//! The accept loop. Every connection has a place, a time for each thing it does, and no way to hold
//! up another one or the agent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use super::access::Peer;
use super::app::App;
use super::certificates;
use super::crowd::Crowd;
use super::limits::{self, Limits};
use super::listen;
use super::options::RestOptions;
use super::reloader::{Reloader, RestError};
use super::router::router;
use super::stall::StallGuard;
use crate::handle::AgentHandle;

/// A port that is held and not served yet: an agent that cannot have it must not start.
pub struct Bound {
    listener: TcpListener,
    replacements: mpsc::Receiver<TcpListener>,
    reloader: Reloader,
    limits: Limits,
}

/// A server at work.
pub struct RestServer {
    app: Arc<ArcSwap<App>>,
    reloader: Reloader,
    task: JoinHandle<()>,
}

/// Brings another agent to a server.
pub struct Attacher(Arc<ArcSwap<App>>);

impl Attacher {
    /// The server answers for this agent from now on.
    pub fn attach(&self, handle: AgentHandle) {
        let now = self.0.load();
        self.0.store(Arc::new(App { handle, policy: now.policy.clone(), limits: now.limits }));
    }
}

impl RestServer {
    pub async fn bind(options: RestOptions) -> Result<Bound, RestError> {
        if let Some(warning) = options.api.closed_to_others() {
            warn!("restapi: {warning}");
        }
        let (reloader, listener, replacements) = Reloader::begin(&options).await?;
        Ok(Bound { listener, replacements, reloader, limits: options.limits })
    }

    pub async fn reload(&self, options: RestOptions) -> Result<(), RestError> {
        self.reloader.reload(options).await
    }

    pub fn attacher(&self) -> Attacher {
        Attacher(self.app.clone())
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
        let app = App { handle, policy: self.reloader.shared_policy(), limits: self.limits };
        let app = Arc::new(ArcSwap::from_pointee(app));
        let (certificates, ended) = (certificates::keep(self.reloader.clone()), shutdown.clone());
        tokio::spawn(async move { ended.run_until_cancelled(certificates).await });
        let task = tokio::spawn(accept(self.listener, self.replacements, app.clone(), shutdown));
        RestServer { app, reloader: self.reloader, task }
    }
}

async fn accept(
    mut listener: TcpListener,
    mut replacements: mpsc::Receiver<TcpListener>,
    apps: Arc<ArcSwap<App>>,
    shutdown: CancellationToken,
) {
    let router = router(apps.clone());
    // Neither changes with the agent.
    let app = apps.load_full();
    let places = Arc::new(Semaphore::new(app.limits.connections));
    let connections = TaskTracker::new();
    let crowd = Crowd::default();
    let (mut failing, mut crowded) = (false, None);
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
                let most =
                    if app.policy.load().access.is_trusted(peer.ip()) { usize::MAX } else { app.limits.per_address };
                let Some(seat) = crowd.enter(peer.ip(), most) else {
                    if crowded.is_none_or(|told: Instant| told.elapsed() > limits::TELL_AGAIN) {
                        warn!(
                            "restapi: {} has {most} connections, as many as one address may have; more are closed at once. \
                             Addresses in restapi.allowlist have no such limit",
                            peer.ip()
                        );
                        crowded = Some(Instant::now());
                    }
                    continue;
                };
                let busy = places.available_permits() < app.limits.connections / 2;
                // A connection that is gone already is nobody's from here.
                let reached = stream.local_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |a| a.ip());
                let client = Client { router: router.clone(), app: app.clone(), peer, reached, busy };
                let shutdown = shutdown.clone();
                connections.spawn(async move {
                    client.serve(stream, shutdown).await;
                    drop((place, seat));
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
    reached: IpAddr,
    busy: bool,
}

impl Client {
    async fn serve(self, stream: TcpStream, shutdown: CancellationToken) {
        listen::tune(&stream);
        let peer = self.peer;
        let tls = self.app.policy.load().tls.clone();
        let result = match tls {
            None => self.http(stream, false, shutdown).await,
            Some(tls) => {
                let handshake = TlsAcceptor::from(tls.config).accept(stream);
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
        let source = Peer { address: self.peer.ip(), reached: self.reached, certificate };
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
