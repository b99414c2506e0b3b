//! One connection to one server, with a session on it.
//!
//! Answers come in the order of the requests. A request that was handed over before the connection broke may have been
//! carried out; one that found it broken was not sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::jute::{LARGEST, Malformed, Reader, Writer};
use super::message::{Code, Request};

const NOTIFICATION: i32 = -1;
const PING: i32 = -2;
const AUTH: i32 = -4;
const PING_KIND: i32 = 11;
const AUTH_KIND: i32 = 100;

/// Where a connection watches for changes, a server that is silently dead has to be noticed.
const PING_EVERY: Duration = Duration::from_secs(4);
const PING_ANSWER: Duration = Duration::from_secs(3);

pub(crate) type Password = [u8; 16];

/// What to open.
pub(crate) struct Opening<'a> {
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) tls: Option<&'a TlsConnector>,
    /// Scheme and credential each.
    pub(crate) auth: &'a [(String, String)],
    /// The session to go on with; else a new one.
    pub(crate) resume: Option<(i64, Password)>,
    pub(crate) timeout: Duration,
    /// Without it nothing keeps the session but requests.
    pub(crate) pings: bool,
}

/// What the server said of the session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Established {
    pub(crate) session: i64,
    pub(crate) password: Password,
    /// Of the server's choice, on this connection.
    pub(crate) timeout: Duration,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nothing was sent.
    Unsent(String),
    /// It may have been carried out.
    Unknown(String),
    /// The session is over; nothing was done.
    Expired,
    /// The server will not have us.
    Refused(String),
}

impl Lost {
    pub(crate) fn text(&self) -> &str {
        match self {
            Lost::Unsent(text) | Lost::Unknown(text) | Lost::Refused(text) => text,
            Lost::Expired => Code::SESSION_EXPIRED.text(),
        }
    }
}

impl From<std::io::Error> for Lost {
    fn from(error: std::io::Error) -> Lost {
        Lost::Unsent(error.to_string())
    }
}

impl From<Malformed> for Lost {
    fn from(_: Malformed) -> Lost {
        Lost::Unknown("the server does not answer as ZooKeeper does: check host and port".into())
    }
}

pub(crate) struct Answer {
    pub(crate) code: Code,
    pub(crate) zxid: i64,
    pub(crate) body: Vec<u8>,
}

enum Outgoing {
    Request(Request, oneshot::Sender<Answer>),
    Ping,
}

#[derive(Default)]
struct Shared {
    /// The requests under way, oldest first.
    waiting: Mutex<VecDeque<(i32, oneshot::Sender<Answer>)>>,
    /// Paths whose changes somebody wants to hear of.
    watches: Mutex<Vec<(String, watch::Sender<u64>)>>,
    heard: Mutex<Option<Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Connection {
    pub(crate) established: Established,
    requests: mpsc::UnboundedSender<Outgoing>,
    shared: Arc<Shared>,
    /// Why it ended, once it has.
    ended: watch::Sender<Option<String>>,
    task: JoinHandle<()>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Connection {
    pub(crate) async fn open(opening: Opening<'_>) -> Result<Connection, Lost> {
        let tcp = TcpStream::connect((opening.host, opening.port)).await?;
        let _ = tcp.set_nodelay(true);
        let mut stream: Box<dyn Stream> = match opening.tls {
            None => Box::new(tcp),
            Some(connector) => {
                let name = ServerName::try_from(opening.host.to_owned())
                    .map_err(|e| Lost::Refused(format!("\"{}\" is no name for a certificate: {e}", opening.host)))?;
                Box::new(connector.connect(name, tcp).await.map_err(no_tls)?)
            }
        };
        let established = handshake(&mut stream, &opening).await?;
        authenticate(&mut stream, opening.auth).await?;
        let (requests, outgoing) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let ended = watch::Sender::new(None);
        let pings = opening.pings.then(|| requests.clone());
        let task = tokio::spawn({
            let (shared, ended) = (shared.clone(), ended.clone());
            async move {
                let why = serve(stream, outgoing, &shared, pings).await;
                ended.send_replace(Some(why));
                // Whoever waits for an answer, or for changes, learns that none will come.
                lock(&shared.waiting).clear();
                lock(&shared.watches).clear();
            }
        });
        Ok(Connection { established, requests, shared, ended, task })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.ended.borrow().is_none()
    }

    pub(crate) fn why_ended(&self) -> String {
        self.ended.borrow().clone().unwrap_or_else(|| "it was given up".into())
    }

    /// Gives it up. The session goes on until its timeout.
    pub(crate) fn abandon(&self, why: &str) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(why.to_owned());
            }
            first
        });
        self.task.abort();
        lock(&self.shared.waiting).clear();
        lock(&self.shared.watches).clear();
    }

    /// Sent at once, in the order of the calls; waited for by whoever awaits it.
    pub(crate) fn send(&self, request: Request) -> impl Future<Output = Result<Answer, Lost>> + Send + use<> {
        let (tx, rx) = oneshot::channel();
        let open = self.is_open() && self.requests.send(Outgoing::Request(request, tx)).is_ok();
        let ended = self.ended.subscribe();
        async move {
            let why = |ended: &watch::Receiver<Option<String>>| ended.borrow().clone().unwrap_or_default();
            if !open {
                return Err(Lost::Unsent(why(&ended)));
            }
            match rx.await {
                Ok(answer) if answer.code == Code::SESSION_EXPIRED => Err(Lost::Expired),
                Ok(answer) => Ok(answer),
                Err(_) => Err(Lost::Unknown(why(&ended))),
            }
        }
    }

    /// Counts the changes at and below a path that the server was asked to tell of. Ends with the connection.
    pub(crate) fn changes_below(&self, path: &str) -> watch::Receiver<u64> {
        let (tx, rx) = watch::channel(0);
        if self.is_open() {
            lock(&self.shared.watches).push((path.to_owned(), tx));
        }
        rx
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn no_tls(error: std::io::Error) -> Lost {
    // rustls reports every failed handshake as invalid data; a peer that only closes is not told apart from a crash.
    if error.kind() != std::io::ErrorKind::InvalidData {
        return Lost::Unsent(format!("no TLS session: {error}"));
    }
    let hint = if error.to_string().contains("certificate") {
        "check `cacert`, the host name in the server's certificate, and `cert` and `key`"
    } else {
        "check whether this is the server's `secureClientPort`"
    };
    Lost::Refused(format!("no TLS session: {error}; {hint}"))
}

async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Lost> {
    let length = stream.read_i32().await?;
    let length = usize::try_from(length).ok().filter(|l| *l <= LARGEST).ok_or(Malformed)?;
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn handshake(stream: &mut Box<dyn Stream>, opening: &Opening<'_>) -> Result<Established, Lost> {
    let millis = i32::try_from(opening.timeout.as_millis()).unwrap_or(i32::MAX);
    let (session, password) = opening.resume.unwrap_or_default();
    let mut connect = Writer::default();
    connect.int(0).long(0).int(millis).long(session).bytes(&password).flag(false);
    stream.write_all(&connect.into_frame()).await?;
    stream.flush().await?;
    let answer = frame(stream).await.map_err(|lost| match lost {
        Lost::Unsent(text) => Lost::Unsent(format!(
            "it closes the connection ({text}): it has no quorum, has too many connections, or wants TLS"
        )),
        other => other,
    })?;
    let mut reader = Reader(&answer);
    let (_version, timeout, session) = (reader.int()?, reader.int()?, reader.long()?);
    let password = Password::try_from(reader.bytes()?).unwrap_or_default();
    if timeout <= 0 || session == 0 {
        return Err(Lost::Expired);
    }
    Ok(Established { session, password, timeout: Duration::from_millis(u64::try_from(timeout).unwrap_or(0)) })
}

async fn authenticate(stream: &mut Box<dyn Stream>, auth: &[(String, String)]) -> Result<(), Lost> {
    for (scheme, credential) in auth {
        let mut packet = Writer::default();
        packet.int(AUTH).int(AUTH_KIND).int(0).text(scheme).text(credential);
        stream.write_all(&packet.into_frame()).await?;
        stream.flush().await?;
        let answer = frame(stream).await?;
        let mut reader = Reader(&answer);
        let (_xid, _zxid, code) = (reader.int()?, reader.long()?, Code(reader.int()?));
        if code != Code(0) {
            return Err(Lost::Refused(format!("the credential in `auth_data` for scheme \"{scheme}\": {code}")));
        }
    }
    Ok(())
}

async fn serve(
    stream: Box<dyn Stream>,
    outgoing: mpsc::UnboundedReceiver<Outgoing>,
    shared: &Shared,
    pings: Option<mpsc::UnboundedSender<Outgoing>>,
) -> String {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let lost = tokio::select! {
        lost = receive(&mut reader, shared) => lost,
        lost = transmit(&mut writer, outgoing, shared) => lost,
        () = silent(shared, pings) => Lost::Unsent("no sign of life from the server".into()),
    };
    lost.text().to_owned()
}

async fn transmit(
    writer: &mut (impl AsyncWrite + Unpin),
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    shared: &Shared,
) -> Lost {
    let mut last = 0;
    while let Some(next) = outgoing.recv().await {
        let mut packet = Writer::default();
        match next {
            Outgoing::Ping => packet.int(PING).int(PING_KIND),
            Outgoing::Request(request, answer) => {
                last = if last == i32::MAX { 1 } else { last + 1 };
                lock(&shared.waiting).push_back((last, answer));
                packet.int(last).int(request.kind).raw(&request.body)
            }
        };
        let written = async {
            writer.write_all(&packet.into_frame()).await?;
            writer.flush().await
        };
        if let Err(e) = written.await {
            return e.into();
        }
    }
    Lost::Unsent("it was given up".into())
}

async fn receive(reader: &mut (impl AsyncRead + Unpin), shared: &Shared) -> Lost {
    loop {
        let taken = async {
            let frame = frame(reader).await?;
            *lock(&shared.heard) = Some(Instant::now());
            take(&frame, shared)
        };
        if let Err(lost) = taken.await {
            return lost;
        }
    }
}

fn take(frame: &[u8], shared: &Shared) -> Result<(), Lost> {
    let mut reader = Reader(frame);
    let (xid, zxid, code) = (reader.int()?, reader.long()?, Code(reader.int()?));
    match xid {
        NOTIFICATION => {
            let (_kind, _state, path) = (reader.int()?, reader.int()?, reader.text()?);
            lock(&shared.watches).retain(|(root, count)| {
                if crate::tree::is_below(root, &path) || *root == path {
                    count.send_modify(|n| *n += 1);
                }
                !count.is_closed()
            });
        }
        PING | AUTH => {}
        xid => {
            let (expected, answer) = lock(&shared.waiting).pop_front().ok_or(Malformed)?;
            if expected != xid {
                return Err(Lost::Unknown(format!("the server answered request {xid} before {expected}")));
            }
            let _ = answer.send(Answer { code, zxid, body: reader.0.to_vec() });
        }
    }
    Ok(())
}

/// Ends when a ping gets no answer.
async fn silent(shared: &Shared, pings: Option<mpsc::UnboundedSender<Outgoing>>) {
    let Some(pings) = pings else { return std::future::pending().await };
    // The channel must end when the connection is dropped, not live by its own pings.
    let pings = pings.downgrade();
    loop {
        sleep(PING_EVERY).await;
        let asked = Instant::now();
        let Some(pings) = pings.upgrade() else { return std::future::pending().await };
        let _ = pings.send(Outgoing::Ping);
        drop(pings);
        let answered = async {
            while lock(&shared.heard).is_none_or(|heard| heard < asked) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        if timeout(PING_ANSWER, answered).await.is_err() {
            return;
        }
    }
}
