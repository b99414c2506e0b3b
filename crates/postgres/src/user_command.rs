//! Commands that the user configured: split as a shell would, run without one, as PostgreSQL's user.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

use crate::disk::blocking;
use crate::instance::Instance;
use crate::os_user;
use crate::postmaster::Postmaster;
use crate::proc_fs::{Proc, descendants};
use crate::tool::{Output, Tool};
use crate::{ErrorKind, PgError, Result};

/// Looking through `/proc` and signalling.
const KILL_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserCommand {
    /// The setting it is the value of, and where that is written: for messages.
    pub setting: String,
    pub text: String,
}

impl UserCommand {
    /// The program and its first arguments.
    pub fn words(&self) -> Result<Vec<String>> {
        let words = shlex::split(&self.text).filter(|words| words.first().is_some_and(|w| !w.is_empty()));
        words.ok_or_else(|| {
            PgError::new(
                ErrorKind::Refused,
                format!("{}: \"{}\" has an open quote or no word; correct it", self.setting, self.text),
            )
        })
    }
}

impl Instance {
    pub(crate) async fn user_tool(&self, command: &UserCommand) -> Result<Tool> {
        let words = command.words()?;
        Ok(Tool::new(words[0].clone().into(), self.user().await?)
            .own_locale()
            .set_by(&command.setting)
            .args(&words[1..]))
    }

    /// Runs it to its end, however long that takes. Dropped or cancelled, it is ended.
    pub async fn run_user_command(&self, command: &UserCommand, cancel: Option<&CancellationToken>) -> Result<()> {
        self.user_tool(command).await?.run(None, cancel).await.and_then(|o| o.of(command)).map(|_| ())
    }

    /// Starts a command that goes on by itself, also when this process ends: what it prints goes where ours does.
    pub async fn start_user_command(&self, command: &UserCommand, args: &[&str]) -> Result<Background> {
        let tool = self.user_tool(command).await?.args(args);
        let mut process = tool.command();
        process.process_group(0);
        let user = self.user().await?;
        os_user::spawn(process, user).await.map(|child| Background { child }).map_err(|e| tool.cannot_run(&e))
    }
}

impl Output {
    pub(crate) fn of(self, command: &UserCommand) -> Result<Output> {
        let what = format!("{} ({})", command.setting, command.text);
        self.success(&what)
    }
}

/// A command that was started and is not waited for.
pub struct Background {
    child: Child,
}

impl Background {
    /// May be dropped and called again.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends it with everything below it, at once.
    pub async fn kill(mut self) -> Result<()> {
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return Ok(()) };
        blocking("ending a command", KILL_LIMIT, move || {
            kill_tree(pid);
            Ok(())
        })
        .await?;
        let _ = tokio::time::timeout(KILL_LIMIT, self.child.wait()).await;
        Ok(())
    }
}

/// Everybody is frozen before anybody is killed: a child that saw its parent end could start another one, and one whose
/// parent is gone cannot be told from any other process.
pub(crate) fn kill_tree(root: i32) {
    let mut held: Vec<Postmaster> = Vec::new();
    loop {
        let all = Proc::all();
        let mut below = descendants(&all, root);
        below.extend(all.iter().find(|p| p.pid == root).cloned());
        let fresh = below.iter().filter(|p| !p.is_zombie() && held.iter().all(|h| h.pid != p.pid));
        let fresh: Vec<Postmaster> = fresh.filter_map(Postmaster::hold).collect();
        if fresh.is_empty() {
            break;
        }
        for process in fresh {
            let _ = process.signal(Signal::STOP);
            held.push(process);
        }
    }
    for process in &held {
        let _ = process.signal(Signal::KILL);
    }
    // Those whose parent had ended before share its group, unless they left that too.
    if let Some(group) = Pid::from_raw(root) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::InstanceConfig;

    fn command(text: &str) -> UserCommand {
        UserCommand { setting: "postgresql.pre_promote (patroni.yml:3:4)".into(), text: text.into() }
    }

    fn instance() -> (tempfile::TempDir, Instance) {
        let dir = tempfile::tempdir().unwrap();
        // Whoever owns the data directory runs them.
        #[cfg(target_os = "linux")]
        let _ = std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534));
        let config = InstanceConfig { data_dir: dir.path().to_owned(), ..InstanceConfig::default() };
        (dir, Instance::new(config))
    }

    #[test]
    fn words() {
        assert_eq!(command("/x 'a b' c\\ d").words().unwrap(), ["/x", "a b", "c d"]);
        for broken in ["", "  ", "'open", "''"] {
            let error = command(broken).words().unwrap_err().to_string();
            assert!(error.starts_with("postgresql.pre_promote (patroni.yml:3:4): "), "{error}");
        }
    }

    #[tokio::test]
    async fn errors_say_where_the_command_is_set() {
        let (_dir, instance) = instance();
        for (text, words) in [
            ("/no/such/program x", "correct postgresql.pre_promote (patroni.yml:3:4)"),
            ("sh -c 'echo no room >&2; exit 7'", "no room"),
            ("sh -c 'exit 7'", "said nothing"),
        ] {
            let error = instance.run_user_command(&command(text), None).await.unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("patroni.yml:3:4"), "{error}");
        }
        instance.run_user_command(&command("sh -c 'exit 0'"), None).await.unwrap();
    }

    #[tokio::test]
    async fn one_that_is_dropped_ends_with_its_children() {
        let (dir, instance) = instance();
        let mark = dir.path().join("mark");
        let script = command(&format!("sh -c 'sleep 986; true' {}", mark.display()));
        let ours =
            || Proc::all().into_iter().filter(|p| !p.is_zombie() && p.args().iter().any(|a| *a == "986")).count();
        let run = instance.run_user_command(&script, None);
        let seen = async {
            while ours() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            ended = run => panic!("{ended:?}"),
            () = seen => {}
        }
        for _ in 0..200 {
            if ours() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the child is still there");
    }

    /// Also what put itself into a session of its own.
    #[tokio::test]
    async fn a_command_is_killed_with_its_children() {
        let (_dir, instance) = instance();
        let script = "sh -c 'trap : TERM; sleep 987 & setsid sh -c \"sleep 987; true\" & echo; wait'";
        let mut started = instance.start_user_command(&command(script), &[]).await.unwrap();
        let root = i32::try_from(started.child.id().unwrap()).unwrap();
        let below = || descendants(&Proc::all(), root);
        while below().iter().filter(|p| p.args().contains(&"987".into())).count() < 2 {
            assert!(started.child.try_wait().unwrap().is_none());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let family = below();
        assert!(tokio::time::timeout(Duration::from_millis(10), started.wait()).await.is_err());
        started.kill().await.unwrap();
        let lives =
            |p: &&Proc| Proc::read(p.pid).is_some_and(|now| now.start_ticks == p.start_ticks && !now.is_zombie());
        for _ in 0..200 {
            if !family.iter().any(|p| lives(&p)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still there: {:?}", family.iter().filter(lives).collect::<Vec<_>>());
    }
}
