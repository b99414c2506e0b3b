//! Running the programs that come with PostgreSQL: as its user, in a clean environment, with their words kept.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

use crate::disk::{IO_LIMIT, blocking, tail};
use crate::in_place::note_process;
use crate::os_user::{self, OsUser};
use crate::{ErrorKind, PgError, Result};

/// How much of a program's output is kept.
const KEEP: usize = 64 * 1024;
/// From the first signal to the last one.
const GRACE: Duration = Duration::from_secs(3);

/// For what is still in a pipe when the program has ended.
const LEFTOVERS: Duration = Duration::from_millis(300);

pub(crate) struct Tool {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    user: Option<OsUser>,
    dir: Option<PathBuf>,
    /// Words are in the language of the environment unless they are to be parsed.
    c_locale: bool,
    /// The setting that names the program, if it is not one of PostgreSQL's.
    set_by: Option<String>,
    /// Written once it runs.
    noted_in: Option<PathBuf>,
    input: Option<Vec<u8>>,
}

pub(crate) struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Tool {
    pub fn new(program: PathBuf, user: Option<OsUser>) -> Tool {
        Tool {
            program,
            args: Vec::new(),
            env: Vec::new(),
            user,
            dir: None,
            c_locale: true,
            set_by: None,
            noted_in: None,
            input: None,
        }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Tool {
        self.args.push(arg.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Tool {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Tool {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Works there.
    pub fn in_dir(mut self, dir: PathBuf) -> Tool {
        self.dir = Some(dir);
        self
    }

    pub fn own_locale(mut self) -> Tool {
        self.c_locale = false;
        self
    }

    pub fn set_by(mut self, setting: &str) -> Tool {
        self.set_by = Some(setting.to_owned());
        self
    }

    /// For a later process of ours to find it by, in case this one is killed.
    pub fn note_process(mut self, file: PathBuf) -> Tool {
        self.noted_in = Some(file);
        self
    }

    /// Given to it as its standard input.
    pub fn input(mut self, text: Vec<u8>) -> Tool {
        self.input = Some(text);
        self
    }

    pub fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned()
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null());
        clean_environment(&mut command, self.user.as_ref());
        if self.c_locale {
            command.env("LANG", "C").env("LC_ALL", "C");
        }
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        // Our own working directory may be one that PostgreSQL's user cannot enter; programs warn about that.
        command.current_dir(self.dir.as_deref().unwrap_or(Path::new("/")));
        command
    }

    /// Runs to the end. A status other than 0 is the caller's to judge; see [`Output::success`].
    pub async fn run(self, limit: Option<Duration>, cancel: Option<&CancellationToken>) -> Result<Output> {
        self.run_watching(limit, cancel, |_| ()).await
    }

    /// As [`Tool::run`]; `line` is given each line of stdout, of which only the end is kept.
    pub async fn run_reading(
        self,
        limit: Option<Duration>,
        cancel: Option<&CancellationToken>,
        line: impl FnMut(&str),
    ) -> Result<Output> {
        self.run_with(limit, cancel, line, |_| ()).await
    }

    /// As [`Tool::run`]; `line` is given each line of stderr as it comes (a carriage return ends a line too).
    pub async fn run_watching(
        self,
        limit: Option<Duration>,
        cancel: Option<&CancellationToken>,
        line: impl FnMut(&str),
    ) -> Result<Output> {
        self.run_with(limit, cancel, |_| (), line).await
    }

    async fn run_with(
        self,
        limit: Option<Duration>,
        cancel: Option<&CancellationToken>,
        out_line: impl FnMut(&str),
        line: impl FnMut(&str),
    ) -> Result<Output> {
        let name = self.name();
        let mut command = self.command();
        // A group of its own: `pg_basebackup` has a child, and both must end together.
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        if self.input.is_some() {
            command.stdin(Stdio::piped());
        }
        // Dropped while it is being started, it ends with what it has started by then.
        let held = os_user::spawn_held(command, self.user.clone(), |child| {
            let group = Group::of(&child);
            (child, group)
        });
        let (mut child, group) = held.await.map_err(|e| self.cannot_run(&e))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let feed = feed(child.stdin.take(), self.input.unwrap_or_default());
        if let Some((file, pid)) = self.noted_in.zip(child.id()) {
            let noted = blocking("noting a process", IO_LIMIT, move || {
                note_process(&file, pid).map_err(|e| PgError::io("write", &file, &e))
            });
            noted.await?;
        }
        let outcome = {
            let ended = CancellationToken::new();
            let waiting = async {
                let status = child.wait().await;
                group.let_go();
                ended.cancel();
                status
            };
            let feeding = async {
                tokio::select! {
                    () = feed => {}
                    () = ended.cancelled() => {}
                }
            };
            let work = async {
                let (status, out, err, ()) =
                    tokio::join!(waiting, collect(out, out_line, &ended), collect(err, line, &ended), feeding);
                (status, out, err)
            };
            let expired = async {
                match limit {
                    Some(limit) => tokio::time::sleep(limit).await,
                    None => std::future::pending().await,
                }
            };
            let cancelled = async {
                match cancel {
                    Some(token) => token.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = work => Ok(done),
                () = expired => Err(PgError::new(
                    ErrorKind::TimedOut,
                    format!("{name} did not finish within {:?}; it was ended", limit.unwrap_or_default()),
                )),
                () = cancelled => Err(PgError::new(ErrorKind::Cancelled, format!("{name} was ended on request"))),
            }
        };
        match outcome {
            Ok((status, stdout, stderr)) => {
                let status =
                    status.map_err(|e| PgError::new(ErrorKind::Tool, format!("cannot wait for {name}: {e}")))?;
                Ok(Output { status, stdout, stderr })
            }
            Err(e) => {
                end_group(&mut child).await;
                group.let_go();
                Err(e)
            }
        }
    }

    pub fn cannot_run(&self, error: &std::io::Error) -> PgError {
        let hint = match (error.kind(), &self.set_by) {
            (_, Some(setting)) => &format!("; check that it is there and executable, or correct {setting}"),
            (std::io::ErrorKind::NotFound, None) => {
                "; set postgresql.bin_dir to the directory PostgreSQL's programs are in"
            }
            (std::io::ErrorKind::PermissionDenied, None) => {
                "; check its permissions and those of the directories above it"
            }
            _ => "",
        };
        PgError::new(ErrorKind::Tool, format!("cannot run {}: {error}{hint}", self.program.display()))
    }
}

impl Output {
    pub fn success(self, what: &str) -> Result<Output> {
        if self.status.success() { Ok(self) } else { Err(self.failure(what)) }
    }

    pub fn failure(&self, what: &str) -> PgError {
        let words = [&self.stderr, &self.stdout].into_iter().map(|t| tail(t, 12)).find(|t| !t.is_empty());
        let words = words.map_or_else(|| " and said nothing".to_owned(), |w| format!(":\n{w}"));
        PgError::new(ErrorKind::Tool, format!("{what} failed ({}){words}", self.status))
    }
}

/// What libpq would read: set for somebody's psql, it must not redirect a copy or a rewind.
const REDIRECTING: [&str; 12] = [
    "PGDATA",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "PGOPTIONS",
    "PGTARGETSESSIONATTRS",
    "PGAPPNAME",
];

/// Our environment without what is ours alone, and with the home of the user that is switched to.
pub(crate) fn clean_environment(command: &mut Command, user: Option<&OsUser>) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours = ["PATRONI_", "SURUS_", "KUBERNETES_"].iter().any(|p| text.starts_with(p));
        if ours || text == "NOTIFY_SOCKET" || REDIRECTING.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    if let Some(value) = std::env::var_os("PG_MALLOC_ARENA_MAX") {
        command.env_remove("PG_MALLOC_ARENA_MAX").env("MALLOC_ARENA_MAX", value);
    }
    if let Some(user) = user {
        if let Some(home) = &user.home {
            command.env("HOME", home);
        }
        if let Some(name) = &user.name {
            command.env("USER", name).env("LOGNAME", name);
        }
    }
}

/// One that does not read on says so by its status.
async fn feed(stdin: Option<ChildStdin>, text: Vec<u8>) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(&text).await;
    }
}

/// Ends with the stream, or a little after the program did: something it left running may keep the stream open.
async fn collect(
    stream: Option<impl AsyncRead + Unpin>,
    mut line: impl FnMut(&str),
    ended: &CancellationToken,
) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let (mut kept, mut partial, mut chunk) = (Vec::new(), Vec::new(), [0_u8; 4096]);
    let over = async {
        ended.cancelled().await;
        tokio::time::sleep(LEFTOVERS).await;
    };
    tokio::pin!(over);
    loop {
        let read = tokio::select! {
            read = stream.read(&mut chunk) => read,
            () = &mut over => break,
        };
        let n = match read {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        kept.extend_from_slice(&chunk[..n]);
        if kept.len() > 2 * KEEP {
            kept.drain(..kept.len() - KEEP);
        }
        for byte in &chunk[..n] {
            if matches!(byte, b'\n' | b'\r') {
                line(String::from_utf8_lossy(&partial).as_ref());
                partial.clear();
            } else if partial.len() < KEEP {
                partial.push(*byte);
            }
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Ends what a child that leads its own process group started, when nobody waits for the child any more.
struct Group {
    leader: Option<Pid>,
    left: AtomicBool,
}

impl Group {
    fn of(child: &Child) -> Group {
        Group { leader: group_of(child), left: AtomicBool::new(false) }
    }

    /// Once the child was waited for, its number can be somebody else's.
    fn let_go(&self) {
        self.left.store(true, Ordering::Relaxed);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.leader.filter(|_| !self.left.load(Ordering::Relaxed)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn group_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

/// Ends a child that leads its own process group, and what it started.
async fn end_group(child: &mut Child) {
    let Some(group) = group_of(child) else { return };
    // The child is not waited for yet, so neither its pid nor its group can be anybody else's.
    let _ = kill_process_group(group, Signal::TERM);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = kill_process_group(group, Signal::KILL);
        let _ = tokio::time::timeout(GRACE, child.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Tool {
        Tool::new("sh".into(), None).args(["-c", script])
    }

    #[tokio::test]
    async fn words_status_and_lines() {
        let mut lines = Vec::new();
        let script = "printf 'one\\rtwo\\n' >&2; echo out; exit 3";
        let output = sh(script).run_watching(None, None, |l| lines.push(l.to_owned())).await.unwrap();
        assert_eq!((lines.join("+").as_str(), output.stdout.as_str()), ("one+two", "out\n"));
        let error = output.success("it").err().unwrap();
        assert!(error.to_string().contains("two") && error.to_string().contains('3'), "{error}");
    }

    #[tokio::test]
    async fn ends_in_time_on_request_and_despite_leftovers() {
        let error = sh("sleep 60").run(Some(Duration::from_millis(50)), None).await.err().unwrap();
        assert!(error.is_timeout());
        let cancel = CancellationToken::new();
        cancel.cancel();
        let error = sh("sleep 60").run(None, Some(&cancel)).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Cancelled);
        let output = sh("sleep 5 & echo done").run(Some(Duration::from_secs(4)), None).await.unwrap();
        assert_eq!(output.stdout, "done\n");
        let error = Tool::new("/no/such/program".into(), None).run(None, None).await.err().unwrap();
        assert!(error.to_string().contains("bin_dir"), "{error}");
    }
}
