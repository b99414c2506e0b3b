//! The processes of the demo. Dropping this kills all of them, whatever state they are in.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::plan::{self, Plan};

/// How long members get to stop PostgreSQL cleanly before they are killed.
const GRACE: Duration = Duration::from_secs(30);

pub struct Processes {
    binary: PathBuf,
    dir: PathBuf,
    names: Vec<String>,
    agents: Vec<Option<Child>>,
    etcd: Option<Child>,
}

impl Processes {
    pub fn new(dir: &Path, plan: &Plan) -> Result<Processes> {
        Ok(Processes {
            binary: std::env::current_exe().context("cannot find my own binary")?,
            dir: dir.to_owned(),
            names: plan.nodes.iter().map(|node| node.name.clone()).collect(),
            agents: plan.nodes.iter().map(|_| None).collect(),
            etcd: None,
        })
    }

    fn node_dir(&self, node: usize) -> PathBuf {
        self.dir.join(&self.names[node])
    }

    fn log(&self, node: usize) -> PathBuf {
        self.node_dir(node).join("agent.log")
    }

    pub async fn start_store(&mut self, plan: &Plan) -> Result<()> {
        let Some((client, peer)) = plan.etcd else { return Ok(()) };
        let program = plan::on_path("etcd").context("etcd is not installed; on Debian: apt-get install etcd-server")?;
        let dir = self.dir.join("etcd");
        fs::create_dir_all(&dir)?;
        let log = File::options().create(true).append(true).open(dir.join("etcd.log"))?;
        let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new(program);
        command.arg("--data-dir").arg(dir.join("data"));
        command.args(["--name", "etcd", "--initial-cluster", &format!("etcd={peer_url}")]);
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.etcd = Some(command.spawn().context("cannot start etcd")?);
        let end = Instant::now() + Duration::from_secs(30);
        while tokio::net::TcpStream::connect(("127.0.0.1", client)).await.is_err() {
            if Instant::now() > end {
                bail!("etcd does not answer at port {client} after 30 seconds; see {}", dir.join("etcd.log").display());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// False: it runs already.
    pub fn start(&mut self, node: usize) -> Result<bool> {
        if self.agents[node].is_some() {
            return Ok(false);
        }
        let log = File::options().create(true).append(true).open(self.log(node))?;
        let mut command = Command::new(&self.binary);
        command.arg("run").arg(self.dir.join(format!("{}.yml", self.names[node])));
        // In the member's directory, by which `of` finds what it starts; in a group of its own, because Ctrl-C is for
        // the demo, which then stops everyone in order.
        command.current_dir(self.node_dir(node)).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.agents[node] = Some(started);
        Ok(true)
    }

    /// Agent and PostgreSQL at once, as if the machine were gone.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        sweep(&self.node_dir(node));
        if let Some(mut agent) = self.agents[node].take() {
            let _ = agent.kill();
            agent.wait()?;
        }
        sweep(&self.node_dir(node));
        Ok(())
    }

    /// Agents that ended without being told to.
    pub fn ended(&mut self) -> Result<Vec<(usize, ExitStatus)>> {
        let mut ended = Vec::new();
        for (node, slot) in self.agents.iter_mut().enumerate() {
            if let Some(agent) = slot
                && let Some(status) = agent.try_wait()?
            {
                *slot = None;
                ended.push((node, status));
            }
        }
        Ok(ended)
    }

    /// The last line of a member's log.
    pub fn last_words(&self, node: usize) -> String {
        let log = fs::read(self.log(node)).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().to_owned()
    }

    /// SIGTERM to all, so that PostgreSQL stops cleanly everywhere; what does not stop in time is killed.
    pub async fn stop_all(&mut self) {
        for agent in self.agents.iter().flatten() {
            signal(agent.id().cast_signed(), Signal::TERM);
        }
        let end = Instant::now() + GRACE;
        while self.agents.iter().any(Option::is_some) && Instant::now() < end {
            if self.ended().is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let end = Instant::now() + Duration::from_secs(5);
        // Again and again: what is being killed may just be starting something.
        while sweep(&self.dir) && Instant::now() < end {
            for agent in self.agents.iter_mut().chain([&mut self.etcd]).flatten() {
                let _ = agent.try_wait();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills what belongs to the directory; false when there was nothing. PostgreSQL runs in a session of its own and outlives
/// its agent, so neither parent nor process group would find it: its working directory does, and the command line of the
/// tools. Only programs of ours are looked at, not the shell of somebody who looks around in a kept directory.
fn sweep(dir: &Path) -> bool {
    let mark = format!("{}/", dir.display());
    let own = std::process::id().cast_signed();
    let mut found = false;
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(program) = fs::read_link(entry.path().join("exe")) else { continue };
        let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if pid == own || !["surus", "etcd", "postgres", "initdb", "pg_"].iter().any(|name| program.starts_with(name)) {
            continue;
        }
        let inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        let named = || {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&mark)
        };
        if inside || named() {
            signal(pid, Signal::KILL);
            found = true;
        }
    }
    found
}
