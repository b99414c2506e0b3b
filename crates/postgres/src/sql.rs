//! Connections for SQL: where to, as whom, for how long.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::{backend, frontend};
use surus_core::cluster::Upstream;
use surus_core::postgres::ProcessState;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::SslMode;
use tokio_postgres::fallible_iterator::FallibleIterator;
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::config::Credentials;
use crate::conninfo::local_host;
use crate::disk::{IO_LIMIT, blocking};
use crate::instance::Instance;
use crate::postmaster::PidFile;
use crate::tls;
use crate::{ErrorKind, PgError, Result};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// One way to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Socket { dir: PathBuf, port: u16 },
    Tcp { host: String, port: u16 },
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Socket { dir, port } => write!(f, "{}/.s.PGSQL.{port}", dir.display()),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<&Upstream> for Endpoint {
    fn from(u: &Upstream) -> Endpoint {
        Endpoint::Tcp { host: u.host.clone(), port: u.port }
    }
}

/// A session and the task that drives it.
pub(crate) struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// How a session is set up.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub application_name: &'static str,
    /// Settings of the session in place of our own.
    pub options: Option<String>,
    /// Zero: none.
    pub statement_timeout: Duration,
    pub read_write: bool,
}

impl Profile {
    pub const HEARTBEAT: Profile = Profile {
        application_name: "Surus heartbeat",
        options: None,
        statement_timeout: Duration::from_secs(2),
        read_write: false,
    };
    pub const WORK: Profile =
        Profile { application_name: "Surus", options: None, statement_timeout: Duration::ZERO, read_write: false };
}

pub(crate) type Row = Vec<Option<String>>;

impl Session {
    pub async fn connect(
        to: &Endpoint,
        credentials: &Credentials,
        database: &str,
        profile: &Profile,
        deadline: Instant,
    ) -> Result<Session> {
        let mut config = Config::new();
        config.dbname(database).application_name(profile.application_name).connect_timeout(CONNECT_LIMIT);
        let ours = || {
            format!(
                "-c statement_timeout={} -c search_path=pg_catalog -c pg_stat_statements.track=none",
                profile.statement_timeout.as_millis()
            )
        };
        config.options(profile.options.clone().unwrap_or_else(ours));
        if profile.read_write {
            config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        }
        if !credentials.username.is_empty() {
            config.user(&credentials.username);
        }
        if let Some(password) = &credentials.password {
            config.password(password);
        }
        match to {
            Endpoint::Socket { dir, port } => {
                config.host_path(dir).port(*port).ssl_mode(SslMode::Disable);
            }
            Endpoint::Tcp { host, port } => {
                for host in host.split(',') {
                    config.host(host);
                }
                config.port(*port).ssl_mode(tls::ssl_mode(&credentials.options)?);
                config.tcp_user_timeout(CONNECT_LIMIT);
            }
        }
        if credentials.options.get("channel_binding").is_some_and(|v| v == "require") {
            config.channel_binding(tokio_postgres::config::ChannelBinding::Require);
        }
        // The limit of the library ends with the TCP connection; a frozen postmaster would hold us for ever.
        let connecting = config.connect(tls::connector(&credentials.options)?);
        let (client, connection) = match timeout_at(deadline, connecting).await {
            Ok(Ok(pair)) => pair,
            Ok(Err(e)) => return Err(sql_error(&format!("cannot connect to PostgreSQL at {to}"), &e)),
            Err(_) => return Err(timed_out(&format!("connecting to PostgreSQL at {to}"))),
        };
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Session { client, driver })
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.driver.is_finished()
    }

    /// One round trip; the rows of the last statement that gave any.
    pub async fn rows(&self, sql: &str, deadline: Instant) -> Result<Vec<Row>> {
        let what = || {
            let head: String = sql.trim_start().chars().take(60).collect();
            format!("\"{}\"", head.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let messages = match timeout_at(deadline, self.client.simple_query(sql)).await {
            Ok(Ok(messages)) => messages,
            Ok(Err(e)) => return Err(sql_error(&format!("{} failed", what()), &e)),
            Err(_) => return Err(timed_out(&what())),
        };
        let row = |m: &SimpleQueryMessage| match m {
            SimpleQueryMessage::Row(r) => Some((0..r.len()).map(|i| r.get(i).map(str::to_owned)).collect()),
            _ => None,
        };
        Ok(messages.iter().filter_map(row).collect())
    }
}

fn timed_out(what: &str) -> PgError {
    PgError::new(ErrorKind::TimedOut, format!("{what}: PostgreSQL did not answer in time"))
}

/// The library's own text often says nothing ("db error"); what matters is behind it.
pub(crate) fn sql_error(what: &str, error: &tokio_postgres::Error) -> PgError {
    if let Some(db) = error.as_db_error() {
        let hint = db.hint().map(|h| format!(" ({h})")).unwrap_or_default();
        let text = format!("{what}: {}: {}{hint} [{}]", db.severity(), db.message(), db.code().code());
        return PgError::new(ErrorKind::Sql(db.code().code().to_owned()), text);
    }
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(inner) = source {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = inner.source();
    }
    PgError::new(ErrorKind::Connection, text)
}

pub(crate) fn literal(text: &str) -> String {
    if text.contains('\\') {
        format!(" E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

impl Instance {
    /// Ways to this server, the preferred one first. A running server's own `postmaster.pid` says it best: settings may
    /// have changed since it started.
    pub(crate) async fn endpoints(&self) -> Result<Vec<Endpoint>> {
        let config = self.config();
        let dir = config.data_dir.clone();
        let file = blocking("reading postmaster.pid", IO_LIMIT, move || Ok(PidFile::read(&dir))).await?;
        let port = file.as_ref().and_then(|f| f.port).unwrap_or(config.port);
        let listed = config.unix_socket_directories.as_deref().unwrap_or_default();
        let configured = listed.split(',').map(str::trim).find(|d| d.starts_with('/')).map(PathBuf::from);
        let socket = file.as_ref().and_then(|f| f.socket_dir.clone()).or(configured);
        let address = file.as_ref().and_then(|f| f.listen_addr.clone());
        let host = local_host(address.as_deref().unwrap_or(&config.listen_addresses));
        let socket = socket.map(|d| Endpoint::Socket { dir: config.data_dir.join(d), port });
        let tcp = host.map(|host| Endpoint::Tcp { host, port });
        let ways: Vec<Endpoint> = if config.use_unix_socket {
            socket.into_iter().chain(tcp).collect()
        } else {
            tcp.into_iter().chain(socket).collect()
        };
        if ways.is_empty() {
            return Err(PgError::new(
                ErrorKind::Connection,
                "PostgreSQL listens neither on a Unix socket nor on an address; set postgresql.listen",
            ));
        }
        Ok(ways)
    }

    /// A session of its own on this server.
    pub(crate) async fn session(&self, profile: &Profile, deadline: Instant) -> Result<Session> {
        self.session_in(&self.config().database, profile, deadline).await
    }

    pub(crate) async fn session_in(&self, database: &str, profile: &Profile, deadline: Instant) -> Result<Session> {
        let config = self.config();
        let mut first = None;
        for way in self.endpoints().await? {
            match Session::connect(&way, &config.superuser, database, profile, deadline).await {
                Ok(session) => return Ok(session),
                // Starting up, shutting down, in recovery: the other way says the same.
                Err(e) if e.sqlstate() == Some("57P03") || e.is_timeout() => return Err(e),
                Err(e) => first = first.or(Some(e)),
            }
        }
        Err(first.unwrap_or_else(|| timed_out("connecting to PostgreSQL")))
    }

    /// The session that is kept between calls.
    pub(crate) async fn kept_session(&self, deadline: Instant) -> Result<Arc<Session>> {
        let mut kept = match timeout_at(deadline, self.inner.session.lock()).await {
            Ok(kept) => kept,
            Err(_) => return Err(timed_out("waiting for the connection to PostgreSQL")),
        };
        if let Some(session) = kept.as_ref().filter(|s| !s.is_closed()) {
            return Ok(session.clone());
        }
        *kept = None;
        let session = Arc::new(self.session(&Profile::HEARTBEAT, deadline).await?);
        *kept = Some(session.clone());
        Ok(session)
    }

    pub(crate) async fn close_session(&self) {
        if let Ok(mut kept) = tokio::time::timeout(CONNECT_LIMIT, self.inner.session.lock()).await {
            *kept = None;
        }
    }

    /// On the kept session. After a time-out the session is given up: its answer would come in between later ones.
    pub(crate) async fn kept_rows(&self, sql: &str, deadline: Instant) -> Result<Vec<Row>> {
        for attempt in 0..2 {
            let session = self.kept_session(deadline).await?;
            match session.rows(sql, deadline).await {
                Ok(rows) => return Ok(rows),
                Err(e) => {
                    if e.is_timeout() || session.is_closed() || e.kind == ErrorKind::Connection {
                        let mut kept = self.inner.session.lock().await;
                        if kept.as_ref().is_some_and(|k| Arc::ptr_eq(k, &session)) {
                            *kept = None;
                        }
                    }
                    // A session that died unnoticed (the server was restarted) is no answer yet.
                    if attempt == 0 && e.kind == ErrorKind::Connection {
                        continue;
                    }
                    return Err(e);
                }
            }
        }
        Err(PgError::new(ErrorKind::Connection, "the connection to PostgreSQL was lost twice in a row"))
    }

    /// Runs SQL on a session of its own as the superuser, without a statement timeout; rows as text.
    pub async fn query(&self, sql: &str, timeout: Duration) -> Result<Vec<Row>> {
        let deadline = Instant::now() + timeout;
        self.session(&Profile::WORK, deadline).await?.rows(sql, deadline).await
    }

    /// Asks the server for nothing but whether it takes connections; needs no user to exist.
    pub async fn accepting(&self, timeout: Duration) -> ProcessState {
        if self.process().await.is_none() {
            return ProcessState::NotRunning;
        }
        let deadline = Instant::now() + timeout;
        let config = self.config();
        let user = config.superuser.username.clone();
        for way in self.endpoints().await.unwrap_or_default() {
            match timeout_at(deadline, knock(&way, &user, &config.database)).await {
                Ok(Some(true)) => return ProcessState::Accepting,
                Ok(Some(false)) => return ProcessState::NotAccepting,
                Ok(None) => {}
                Err(_) => break,
            }
        }
        if self.process().await.is_none() { ProcessState::NotRunning } else { ProcessState::NotAccepting }
    }
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A plain connection; with the host name that was reached, for TLS.
pub(crate) async fn open(to: &Endpoint) -> std::io::Result<(Box<dyn Stream>, Option<String>)> {
    match to {
        Endpoint::Socket { dir, port } => {
            Ok((Box::new(UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await?), None))
        }
        Endpoint::Tcp { host, port } => {
            let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "no host is named");
            for host in host.split(',') {
                match TcpStream::connect((host, *port)).await {
                    Ok(stream) => {
                        let _ = stream.set_nodelay(true);
                        return Ok((Box::new(stream), Some(host.to_owned())));
                    }
                    Err(e) => last = e,
                }
            }
            Err(last)
        }
    }
}

/// `Some(false)`: reached, and it takes no connections now. `None`: not reached.
async fn knock(to: &Endpoint, user: &str, database: &str) -> Option<bool> {
    let (mut stream, _) = open(to).await.ok()?;
    let user = if user.is_empty() { "postgres" } else { user };
    let mut out = BytesMut::new();
    frontend::startup_message([("user", user), ("database", database)], &mut out).ok()?;
    stream.write_all(&out).await.ok()?;
    let mut input = BytesMut::new();
    loop {
        match backend::Message::parse(&mut input) {
            Ok(Some(backend::Message::ErrorResponse(body))) => {
                return Some(error_fields(&body).get(&b'C').is_none_or(|code| code != "57P03"));
            }
            Ok(Some(_)) => return Some(true),
            Ok(None) => {}
            Err(_) => return None,
        }
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    }
}

pub(crate) fn error_fields(body: &backend::ErrorResponseBody) -> BTreeMap<u8, String> {
    let mut fields = BTreeMap::new();
    let mut rest = body.fields();
    while let Ok(Some(field)) = rest.next() {
        fields.insert(field.type_(), String::from_utf8_lossy(field.value_bytes()).into_owned());
    }
    fields
}
