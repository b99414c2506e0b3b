//! The few replication commands we need, spoken directly: the SQL library has no replication mode.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::{backend, frontend};
use surus_core::{Lsn, SystemId, Timeline};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::config::SslMode;
use tokio_postgres::fallible_iterator::FallibleIterator;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::Credentials;
use crate::sql::{Endpoint, Stream, error_fields, open};
use crate::tls;
use crate::{ErrorKind, PgError, Result};

pub(crate) struct Walsender {
    stream: Box<dyn Stream>,
    input: BytesMut,
    to: String,
    deadline: Instant,
}

/// The answer to `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SystemIdentity {
    pub system_id: SystemId,
    pub timeline: Timeline,
    pub lsn: Lsn,
}

impl Walsender {
    /// The deadline holds for everything that is done on this connection.
    pub async fn connect(to: &Endpoint, credentials: &Credentials, deadline: Instant) -> Result<Walsender> {
        let name = to.to_string();
        let fail = |e: &dyn std::fmt::Display| {
            PgError::new(ErrorKind::Connection, format!("cannot open a replication connection to {name}: {e}"))
        };
        let (stream, host) = timeout_at(deadline, open(to)).await.map_err(|e| fail(&e))?.map_err(|e| fail(&e))?;
        let mut me = Walsender { stream, input: BytesMut::new(), to: name.clone(), deadline };
        let mode = tls::ssl_mode(&credentials.options)?;
        if let Some(host) = host.filter(|_| mode != SslMode::Disable) {
            me = me.encrypt(&host, mode, credentials).await?;
        }
        me.log_in(credentials).await?;
        Ok(me)
    }

    async fn encrypt(mut self, host: &str, mode: SslMode, credentials: &Credentials) -> Result<Walsender> {
        let mut out = BytesMut::new();
        frontend::ssl_request(&mut out);
        self.send(&out).await?;
        let mut answer = [0_u8; 1];
        match timeout_at(self.deadline, self.stream.read_exact(&mut answer)).await {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Err(self.broken(&e)),
            Err(_) => return Err(self.late()),
        }
        if answer[0] != b'S' {
            return match mode {
                SslMode::Prefer => Ok(self),
                _ => Err(self.broken(&"the server does not offer TLS, and sslmode demands it")),
            };
        }
        let mut make = tls::connector(&credentials.options)?;
        let connect = <MakeRustlsConnect as MakeTlsConnect<Box<dyn Stream>>>::make_tls_connect(&mut make, host)
            .map_err(|e| self.broken(&e))?;
        let (to, deadline) = (self.to.clone(), self.deadline);
        match timeout_at(deadline, connect.connect(self.stream)).await {
            Ok(Ok(stream)) => Ok(Walsender { stream: Box::new(stream), input: BytesMut::new(), to, deadline }),
            Ok(Err(e)) => Err(PgError::new(ErrorKind::Connection, format!("TLS with {to} failed: {e}"))),
            Err(_) => Err(PgError::new(ErrorKind::TimedOut, format!("{to}: TLS did not complete in time"))),
        }
    }

    async fn log_in(&mut self, credentials: &Credentials) -> Result<()> {
        let user = if credentials.username.is_empty() { "postgres" } else { &credentials.username };
        let password = credentials.password.as_deref().unwrap_or_default().as_bytes();
        let mut out = BytesMut::new();
        let startup = [("user", user), ("replication", "true"), ("application_name", "Surus")];
        frontend::startup_message(startup, &mut out).map_err(|e| self.broken(&e))?;
        self.send(&out).await?;
        let mut scram: Option<ScramSha256> = None;
        loop {
            out.clear();
            match self.receive().await? {
                backend::Message::AuthenticationOk => {}
                backend::Message::AuthenticationCleartextPassword => {
                    frontend::password_message(password, &mut out).map_err(|e| self.broken(&e))?;
                }
                backend::Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut out).map_err(|e| self.broken(&e))?;
                }
                backend::Message::AuthenticationSasl(body) => {
                    let offered = body.mechanisms().any(|m| Ok(m == SCRAM_SHA_256)).unwrap_or(false);
                    let bound = credentials.options.get("channel_binding").is_some_and(|v| v == "require");
                    if !offered || bound {
                        return Err(self.broken(
                            &"no common way to authenticate; use scram-sha-256 without channel_binding=require",
                        ));
                    }
                    // The truth ("n"): to claim it and not use it ("y") is refused by a server that offers it.
                    let exchange = ScramSha256::new(password, ChannelBinding::unsupported());
                    frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), &mut out)
                        .map_err(|e| self.broken(&e))?;
                    scram = Some(exchange);
                }
                backend::Message::AuthenticationSaslContinue(body) => {
                    let exchange = scram.as_mut().ok_or_else(|| self.broken(&"authentication out of order"))?;
                    exchange.update(body.data()).map_err(|e| self.broken(&e))?;
                    frontend::sasl_response(exchange.message(), &mut out).map_err(|e| self.broken(&e))?;
                }
                backend::Message::AuthenticationSaslFinal(body) => {
                    let exchange = scram.as_mut().ok_or_else(|| self.broken(&"authentication out of order"))?;
                    exchange.finish(body.data()).map_err(|e| self.broken(&e))?;
                }
                backend::Message::ErrorResponse(body) => return Err(self.refused("logging in", &body)),
                backend::Message::ReadyForQuery(_) => return Ok(()),
                backend::Message::ParameterStatus(_)
                | backend::Message::BackendKeyData(_)
                | backend::Message::NoticeResponse(_) => {}
                _ => return Err(self.broken(&"it asks for a kind of authentication that is not supported here")),
            }
            if !out.is_empty() {
                self.send(&out).await?;
            }
        }
    }

    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let rows = self.command("IDENTIFY_SYSTEM").await?;
        let text = |i: usize| rows.first().and_then(|r| r.get(i)).and_then(|c| c.as_deref()).unwrap_or_default();
        let identity = || {
            Some(SystemIdentity {
                system_id: SystemId::parse(text(0))?,
                timeline: Timeline::known(text(1).parse().ok()?)?,
                lsn: text(2).parse().ok()?,
            })
        };
        identity().ok_or_else(|| self.broken(&"IDENTIFY_SYSTEM was answered with something else"))
    }

    /// The content of the history file of that timeline.
    pub async fn timeline_history(&mut self, timeline: Timeline) -> Result<String> {
        let rows = self.command(&format!("TIMELINE_HISTORY {timeline}")).await?;
        rows.into_iter()
            .next()
            .and_then(|r| r.into_iter().nth(1).flatten())
            .ok_or_else(|| self.broken(&"TIMELINE_HISTORY was answered with nothing"))
    }

    /// Since PostgreSQL 17. There is no function for it.
    pub async fn set_failover(&mut self, slot: &str, on: bool) -> Result<()> {
        self.command(&format!("ALTER_REPLICATION_SLOT \"{slot}\" ( FAILOVER {on} )")).await.map(|_| ())
    }

    async fn command(&mut self, text: &str) -> Result<Vec<Vec<Option<String>>>> {
        let mut out = BytesMut::new();
        frontend::query(text, &mut out).map_err(|e| self.broken(&e))?;
        self.send(&out).await?;
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            match self.receive().await? {
                backend::Message::DataRow(body) => {
                    let cell = |range: Option<std::ops::Range<usize>>| {
                        range
                            .and_then(|r| body.buffer().get(r))
                            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                    };
                    let row: Vec<_> = body.ranges().map(|r| Ok(cell(r))).collect().map_err(|e| self.broken(&e))?;
                    rows.push(row);
                }
                backend::Message::ErrorResponse(body) => failed = Some(self.refused(text, &body)),
                backend::Message::ReadyForQuery(_) => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match timeout_at(self.deadline, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(self.broken(&e)),
            Err(_) => Err(self.late()),
        }
    }

    async fn receive(&mut self) -> Result<backend::Message> {
        loop {
            match backend::Message::parse(&mut self.input) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(e) => return Err(self.broken(&e)),
            }
            match timeout_at(self.deadline, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(0)) => return Err(self.broken(&"the server closed the connection")),
                Ok(Ok(_)) => {}
                Ok(Err(e)) => return Err(self.broken(&e)),
                Err(_) => return Err(self.late()),
            }
        }
    }

    fn refused(&self, doing: &str, body: &backend::ErrorResponseBody) -> PgError {
        let fields = error_fields(body);
        let get = |k: u8| fields.get(&k).cloned().unwrap_or_default();
        let text = format!("{doing} on the replication connection to {}: {} [{}]", self.to, get(b'M'), get(b'C'));
        PgError::new(ErrorKind::Sql(get(b'C')), text)
    }

    fn broken(&self, why: &dyn std::fmt::Display) -> PgError {
        PgError::new(ErrorKind::Connection, format!("replication connection to {}: {why}", self.to))
    }

    fn late(&self) -> PgError {
        PgError::new(ErrorKind::TimedOut, format!("replication connection to {}: no answer in time", self.to))
    }
}
