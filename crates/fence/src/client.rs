//! The agent's side of the conversation.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use crate::protocol::{Ask, Meeting, State, VERSION};

/// A fence answers within microseconds. One that does not for so long is frozen or starved.
const ANSWER: Duration = Duration::from_millis(500);
/// How long a new one may take until it listens, on a busy machine.
const START: Duration = Duration::from_secs(5);

/// Why there is no fence to rely on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceError(String);

impl FenceError {
    pub fn new(what: String) -> FenceError {
        FenceError(what)
    }

    pub fn ended() -> FenceError {
        FenceError("the fence has ended".into())
    }
}

impl fmt::Display for FenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FenceError {}

fn error(what: impl fmt::Display) -> FenceError {
    FenceError(what.to_string())
}

/// A connection to the fence of one data directory.
pub struct FenceClient {
    stream: BufReader<UnixStream>,
}

impl FenceClient {
    /// The fence that already guards this data directory, or a new one. `program` is this program, and `arguments` make
    /// it a fence. Also returns what it says of itself.
    pub async fn open(
        meeting: &Meeting,
        program: &Path,
        arguments: &[String],
    ) -> Result<(FenceClient, State), FenceError> {
        if let Some(found) = adopt(meeting).await {
            return Ok(found);
        }
        let mut child = start(program, arguments)?;
        let end = Instant::now() + START;
        loop {
            match connect(meeting).await {
                Ok(mut client) => {
                    let state = client.ask(&Ask::State).await?;
                    tokio::spawn(async move {
                        // It outlives the agent, but not unwaited.
                        let _ = child.wait().await;
                    });
                    return Ok((client, state));
                }
                Err(_) if child.try_wait().is_ok_and(|ended| ended.is_some()) => {
                    return Err(last_words(&mut child).await);
                }
                Err(e) if Instant::now() >= end => {
                    let _ = child.start_kill();
                    return Err(error(format_args!(
                        "the fence was started and does not listen on {}: {e}",
                        meeting.path.display()
                    )));
                }
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub async fn ask(&mut self, ask: &Ask) -> Result<State, FenceError> {
        let exchange = async {
            let mut text = serde_json::to_vec(ask).map_err(io::Error::other)?;
            text.push(b'\n');
            self.stream.write_all(&text).await?;
            let mut line = String::new();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            serde_json::from_str(&line).map_err(io::Error::other)
        };
        match timeout(ANSWER, exchange).await {
            Ok(Ok(state)) => Ok(state),
            Ok(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Err(FenceError::ended()),
            Ok(Err(e)) => Err(error(format_args!("the fence cannot be spoken to: {e}"))),
            Err(_) => Err(error(format_args!("the fence does not answer within {} ms", ANSWER.as_millis()))),
        }
    }

    /// Resolves when the fence has gone.
    pub async fn gone(&mut self) {
        // It says nothing unasked, so the only thing there is to read is the end.
        while let Ok(data) = self.stream.fill_buf().await {
            if data.is_empty() {
                return;
            }
            let length = data.len();
            self.stream.consume(length);
        }
    }

    fn peer(&self) -> Option<Pid> {
        Pid::from_raw(self.stream.get_ref().peer_cred().ok()?.pid()?)
    }
}

async fn connect(meeting: &Meeting) -> io::Result<FenceClient> {
    let stream = UnixStream::connect(meeting.short()).await?;
    let own = rustix::process::getuid();
    let peer = stream.peer_cred()?.uid();
    // Whoever else may write into that directory could answer in its place.
    if peer != 0 && peer != own.as_raw() {
        return Err(io::Error::other(format!("{} belongs to user {peer}", meeting.path.display())));
    }
    Ok(FenceClient { stream: BufReader::new(stream) })
}

/// One that was started by an earlier agent. It is ended if it cannot be talked to: two fences of which one is not
/// prolonged would end a healthy server.
async fn adopt(meeting: &Meeting) -> Option<(FenceClient, State)> {
    let mut client = connect(meeting).await.ok()?;
    let peer = client.peer();
    let why = match client.ask(&Ask::State).await {
        Ok(state) if state.version == VERSION => return Some((client, state)),
        Ok(state) => format!("it speaks version {} and this agent {VERSION}", state.version),
        Err(e) => e.to_string(),
    };
    tracing::warn!("replacing the fence that guards PostgreSQL here: {why}");
    let pid = peer?;
    if let Ok(held) = pidfd_open(pid, PidfdFlags::empty()) {
        let _ = pidfd_send_signal(held, Signal::KILL);
    }
    None
}

fn start(program: &Path, arguments: &[String]) -> Result<Child, FenceError> {
    let mut command = tokio::process::Command::new(program);
    // Its environment would keep the passwords that the agent's may hold.
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let spawned = command.current_dir("/").spawn();
    spawned.map_err(|e| error(format_args!("the fence cannot be started as {}: {e}", program.display())))
}

/// What a fence that could not begin says about it.
async fn last_words(child: &mut Child) -> FenceError {
    let mut text = String::new();
    if let Some(mut out) = child.stderr.take() {
        // A fence that is there keeps this pipe open; one that has ended does not.
        let _ = timeout(ANSWER, out.read_to_string(&mut text)).await;
    }
    error(format_args!("the fence cannot begin: {}", text.trim()))
}

/// This program, also when its file was replaced since it was started.
pub fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}
