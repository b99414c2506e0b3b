//! A store that is half alive for whoever goes through here: it answers readings alone, or fails at random. What a TCP
//! proxy cannot do, since it does not know what is asked.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as Wakeup, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::chance;
use crate::cluster::StoreKind;
use crate::ports::Port;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    #[default]
    All,
    /// Everything that would change something, renewals of leases too, is refused as by a server that has no leader.
    ReadsOnly,
    /// So many of a hundred requests are refused before the store hears of them, and so many of a hundred answers, or
    /// pieces of a stream, are lost after it did as it was told.
    AtRandom(u64),
    /// Each answer comes that much later.
    Late(Duration),
}

/// Speaks the protocol of one store's server, etcd's or Consul's. A change ends all connections, so that no open stream
/// goes on as before.
pub struct Filter {
    port: Port,
    answers: Arc<watch::Sender<Answers>>,
    failed: Arc<AtomicU64>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Filter {
    pub fn before(kind: StoreKind, server: u16) -> Result<Filter> {
        anyhow::ensure!(matches!(kind, StoreKind::Etcd | StoreKind::Consul), "no filter for {kind:?}");
        let port = Port::free()?;
        // A thread of its own, so that a busy test never slows the cluster's traffic.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).context("filter")?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let answers = Arc::new(watch::Sender::new(Answers::All));
        let failed = Arc::<AtomicU64>::default();
        let (mode, counted) = (Arc::clone(&answers), Arc::clone(&failed));
        runtime.spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let mut changed = mode.subscribe();
                let filter = Rules { kind, answers: *changed.borrow_and_update(), failed: Arc::clone(&counted) };
                tokio::spawn(async move {
                    tokio::select! {
                        _ = filter.serve(near, server) => {}
                        _ = changed.changed() => {}
                    }
                });
            }
        });
        Ok(Filter { port, answers, failed, runtime: Some(runtime) })
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    pub fn set(&self, answers: Answers) {
        self.answers.send_replace(answers);
    }

    /// Requests refused and answers lost so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Rules {
    kind: StoreKind,
    answers: Answers,
    failed: Arc<AtomicU64>,
}

impl Rules {
    async fn serve(self, near: TcpStream, server: u16) -> Result<()> {
        let far = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let (near, far) = (TokioIo::new(near), TokioIo::new(far));
        if self.kind == StoreKind::Etcd {
            let (sender, connection) = client::conn::http2::handshake(TokioExecutor::new(), far).await?;
            let service = service_fn(|request| {
                let (mut sender, rules) = (sender.clone(), self.clone());
                async move {
                    match rules.refused(&request) {
                        Some(answer) => Ok(answer),
                        None => sender.send_request(request).await.map(|answer| rules.passed(answer)),
                    }
                }
            });
            let serving = server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(near, service);
            let (served, _) = tokio::join!(serving, connection);
            return Ok(served?);
        }
        let (sender, connection) = client::conn::http1::handshake(far).await?;
        let sender = Arc::new(tokio::sync::Mutex::new(sender));
        let service = service_fn(|request| {
            let (sender, rules) = (Arc::clone(&sender), self.clone());
            async move {
                match rules.refused(&request) {
                    Some(answer) => Ok(answer),
                    None => sender.lock().await.send_request(request).await.map(|answer| rules.passed(answer)),
                }
            }
        });
        let (served, _) = tokio::join!(server::conn::http1::Builder::new().serve_connection(near, service), connection);
        Ok(served?)
    }

    fn refused(&self, request: &Request<Incoming>) -> Option<Response<Passed>> {
        let refuse = match self.answers {
            Answers::All | Answers::Late(_) => false,
            Answers::ReadsOnly => self.changes(request),
            Answers::AtRandom(percent) => chance::percent(percent),
        };
        if !refuse {
            return None;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut answer = Response::new(self.answer(None));
        if self.kind == StoreKind::Etcd {
            let headers = answer.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static("14"));
            headers.insert("grpc-message", HeaderValue::from_static("etcdserver: no leader"));
        } else {
            *answer.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
        }
        Some(answer)
    }

    fn changes(&self, request: &Request<Incoming>) -> bool {
        match self.kind {
            StoreKind::Etcd => ["/etcdserverpb.KV/Txn", "/etcdserverpb.KV/Put", "/etcdserverpb.Lease/"]
                .iter()
                .any(|path| request.uri().path().starts_with(path)),
            _ => *request.method() != Method::GET,
        }
    }

    fn passed(&self, answer: Response<Incoming>) -> Response<Passed> {
        answer.map(|inner| self.answer(Some(inner)))
    }

    fn answer(&self, inner: Option<Incoming>) -> Passed {
        let (lost, late) = match self.answers {
            Answers::AtRandom(percent) => (percent, None),
            Answers::Late(by) => (0, Some(by)),
            Answers::All | Answers::ReadsOnly => (0, None),
        };
        Passed { inner, lost, late, held: None, failed: Arc::clone(&self.failed) }
    }
}

type Piece = Frame<<Incoming as Body>::Data>;

/// The store's answer, as far as it comes; nothing where it was not asked.
struct Passed {
    inner: Option<Incoming>,
    /// So many of a hundred pieces, and with them the rest.
    lost: u64,
    late: Option<Duration>,
    held: Option<(Pin<Box<Sleep>>, Piece)>,
    failed: Arc<AtomicU64>,
}

impl Body for Passed {
    type Data = <Incoming as Body>::Data;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        wakeup: &mut Wakeup<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Some((due, _)) = self.held.as_mut() {
            std::task::ready!(due.as_mut().poll(wakeup));
            return Poll::Ready(self.held.take().map(|(_, piece)| Ok(piece)));
        }
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(inner).poll_frame(wakeup));
        if frame.is_some() && chance::percent(self.lost) {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Some(Err("lost".into())));
        }
        match (frame, self.late) {
            (Some(Ok(piece)), Some(by)) if piece.is_data() => {
                self.held = Some((Box::pin(sleep(by)), piece));
                self.poll_frame(wakeup)
            }
            (frame, _) => Poll::Ready(frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            // What is held back is not counted there.
            Some(inner) if self.late.is_none() => inner.size_hint(),
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        }
    }
}

#[cfg(test)]
mod tests;
