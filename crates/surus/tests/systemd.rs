//! Under systemd: the notify protocol with a socket of the test's own, and the unit of `contrib/` under a real one.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use surus_testbed::{Builder, Cluster, Node, wait_for};
use tempfile::TempDir;

const SURUS: &str = env!("CARGO_BIN_EXE_surus");
const SOON: Duration = Duration::from_secs(60);

fn cluster() -> Builder {
    Cluster::builder(SURUS)
}

/// Its agent is nobody that the testbed started.
async fn is_primary(cluster: &Cluster) -> Result<()> {
    wait_for("it is the primary", SOON, async || {
        ensure!(cluster.get(0, "/primary").await?.status == 200, "not yet");
        Ok(())
    })
    .await
}

/// Of a service manager, as far as an agent sees it.
struct Manager {
    _dir: TempDir,
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Result<Manager> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Manager { _dir: dir, path, socket })
    }

    /// The lines of messages up to and with the first that has this in it.
    fn until(&self, wanted: &str) -> Result<Vec<String>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let read = self.socket.recv(&mut buffer).with_context(|| format!("waited for {wanted}, heard {all:?}"))?;
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            all.extend(text.lines().map(str::to_owned));
            if text.contains(wanted) {
                return Ok(all);
            }
        }
    }
}

/// As `contrib/systemd/surus.service` with `keep-postgres.conf` has systemd do it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_manager_is_told_and_a_restart_spares_postgresql() -> Result<()> {
    let cluster = cluster().nodes(1).prepare().await?;
    let manager = Manager::new()?;
    let node = cluster.node(0);
    let spawn = |node: &Node| -> Result<Child> {
        let log = fs::File::options().create(true).append(true).open(node.log_path())?;
        Ok(Command::new(SURUS)
            .arg("run")
            .arg(node.config_path())
            .current_dir(&node.dir)
            .env("NOTIFY_SOCKET", &manager.path)
            .env("WATCHDOG_USEC", "400000")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?)
    };
    let mut agent = spawn(node)?;
    let first = manager.until("READY=1")?;
    assert!(first.iter().any(|l| l.starts_with("STATUS=node1 of ")), "{first:?}");
    manager.until("primary, PostgreSQL running, timeline 1")?;
    manager.until("WATCHDOG=1")?;
    is_primary(&cluster).await?;
    let postmaster = cluster.node(0).postmaster_pid();

    // A frozen agent gives no sign of life, and one that was thawed does again.
    let pid = rustix::process::Pid::from_child(&agent);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
    manager.socket.set_nonblocking(true)?;
    while manager.socket.recv(&mut [0; 4096]).is_ok() {}
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(manager.socket.recv(&mut [0; 4096]).is_err(), "it is frozen");
    manager.socket.set_nonblocking(false)?;
    rustix::process::kill_process(pid, rustix::process::Signal::CONT)?;
    manager.until("WATCHDOG=1")?;

    // `systemctl restart` with KillSignal=SIGUSR1.
    rustix::process::kill_process(pid, rustix::process::Signal::USR1)?;
    manager.until("STOPPING=1")?;
    assert!(agent.wait()?.success());
    assert!(cluster.postmaster_alive(0));
    agent = spawn(cluster.node(0))?;
    manager.until("READY=1")?;
    manager.until("primary, PostgreSQL running, timeline 1")?;
    is_primary(&cluster).await?;
    assert_eq!(cluster.node(0).postmaster_pid(), postmaster, "PostgreSQL never noticed");

    let pid = rustix::process::Pid::from_child(&agent);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    manager.until("STOPPING=1")?;
    assert!(agent.wait()?.success());
    cluster.wait_postgres_down(0, SOON).await?;
    cluster.passed();
    Ok(())
}

/// A systemd of its own in namespaces of its own, which sees no units but the ones it is given.
struct Systemd {
    _dir: TempDir,
    cgroup: PathBuf,
    starter: Child,
    /// The first process in there, as it is numbered out here.
    first: i32,
}

const BOOT: &str = r#"
mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 9
mkdir /run/units /run/generators
cp -r "$1/." /run/units/
export container=docker SYSTEMD_UNIT_PATH=/run/units SYSTEMD_GENERATOR_PATH=/run/generators
exec /lib/systemd/systemd --system --unit=boot.target --log-target=console --show-status=no
"#;

/// Targets that every unit depends on, and that do nothing here.
const TARGETS: [&str; 5] = ["boot", "sysinit", "basic", "shutdown", "multi-user"];

impl Systemd {
    /// `Err`: this machine does not permit it, and why.
    async fn with(units: &[(&str, String)]) -> Result<Systemd, String> {
        let said = |what: &str| what.to_owned();
        if !rustix::process::geteuid().is_root() {
            return Err(said("namespaces and a systemd in them need root"));
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            return Err(said("there is no systemd"));
        }
        let mounts = fs::read_to_string("/proc/mounts").map_err(|e| e.to_string())?;
        let unified = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).find(|w| w.get(2) == Some(&"cgroup2"));
        let Some(unified) = unified else { return Err(said("no control groups of version 2 are mounted")) };
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        for target in TARGETS {
            let text = "[Unit]\nDescription=nothing\nDefaultDependencies=no\n";
            fs::write(dir.path().join(format!("{target}.target")), text).map_err(|e| e.to_string())?;
        }
        for (name, text) in units {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(|e| e.to_string())?;
            fs::write(path, text).map_err(|e| e.to_string())?;
        }
        let cgroup = Path::new(unified[1]).join(format!("surus-test-{}", std::process::id()));
        fs::create_dir(&cgroup).map_err(|e| format!("{}: {e}", cgroup.display()))?;
        // The namespace of control groups begins where the process stands when it is made.
        let enter = format!(
            "echo $$ > {}/cgroup.procs && exec unshare --mount --pid --fork --kill-child --cgroup --ipc --uts \
             --propagation private sh -c \"$2\" boot \"$1\"",
            cgroup.display()
        );
        let log = fs::File::create(dir.path().join("systemd.log")).map_err(|e| e.to_string())?;
        let mut starter = Command::new("sh")
            .args(["-c", &enter, "enter"])
            .arg(dir.path())
            .arg(BOOT)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|e| e.to_string())?;
        let children = format!("/proc/{0}/task/{0}/children", starter.id());
        let first = wait_for("it starts", SOON, async || {
            if let Some(status) = starter.try_wait()? {
                return Ok(Err(status));
            }
            let first: i32 = fs::read_to_string(&children)?.split_whitespace().next().context("no child")?.parse()?;
            let name = fs::read_to_string(format!("/proc/{first}/comm"))?;
            ensure!(name.trim() == "systemd", "{name}");
            Ok(Ok(first))
        })
        .await
        .map_err(|e| e.to_string())?;
        match first {
            Ok(first) => {
                let machine = Systemd { _dir: dir, cgroup, starter, first };
                let runs = async || machine.ctl(&["is-active", "boot.target"]).map(|_| ());
                wait_for("it answers", SOON, runs).await.map_err(|e| format!("{e:#}"))?;
                Ok(machine)
            }
            Err(status) => {
                let log = fs::read_to_string(dir.path().join("systemd.log")).unwrap_or_default();
                let _ = fs::remove_dir(&cgroup);
                Err(format!("no namespaces, or no systemd in them ({status}): {log}"))
            }
        }
    }

    /// `systemctl` in there.
    fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.first.to_string(), "-m", "-p", "-u", "-i", "-C", "systemctl", "--no-pager"]);
        let output = command.args(args).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("systemctl {}: {}\n{text}", args.join(" "), output.status);
        }
        Ok(text)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Takes everybody in there along.
        if let Some(pid) = rustix::process::Pid::from_raw(self.first) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = self.starter.wait();
        for _ in 0..100 {
            if remove_cgroup(&self.cgroup).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// With the groups that were made below it.
fn remove_cgroup(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_cgroup(&entry.path())?;
    }
    fs::remove_dir(dir)
}

fn contrib(name: &str) -> Result<String> {
    Ok(fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/systemd").join(name))?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_unit_works_under_systemd() -> Result<()> {
    let cluster = cluster().nodes(1).prepare().await?;
    let node = cluster.node(0);
    let config = node.config_path().display().to_string();
    // As root the agent finds by itself the user that runs PostgreSQL; that user may not look into this directory.
    let unit = contrib("surus.service")?
        .replace("/usr/bin/surus", SURUS)
        .replace("/etc/surus/surus.yml", &config)
        .replace("User=postgres\nGroup=postgres\n", "");
    let soon = "[Service]\nWatchdogSec=2\nRestartSec=100ms\n".to_owned();
    // Number, on the inside, and time of its start.
    let postmaster = || {
        let text = fs::read_to_string(node.data_dir().join("postmaster.pid")).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() > 2).then(|| (lines[0].clone(), lines[2].clone()))
    };
    let units = [("surus.service", unit.clone()), ("surus.service.d/soon.conf", soon.clone())];
    let systemd = match Systemd::with(&units).await {
        Ok(systemd) => systemd,
        Err(why) => {
            println!("NOT AVAILABLE HERE: a systemd of its own: {why}");
            cluster.passed();
            return Ok(());
        }
    };
    systemd.ctl(&["start", "surus"])?;
    is_primary(&cluster).await?;
    wait_for("the status says so", SOON, async || {
        let status = systemd.ctl(&["status", "surus"])?;
        ensure!(status.contains("node1 of ") && status.contains("primary, PostgreSQL running"), "{status}");
        Ok(())
    })
    .await?;
    let first = postmaster();
    assert!(first.is_some());

    // As installed, a restart stops PostgreSQL in order.
    systemd.ctl(&["restart", "surus"])?;
    is_primary(&cluster).await?;
    let second = postmaster();
    assert_ne!(second, first);

    // An agent that takes no steps is ended and started again.
    let main = || -> Result<String> { Ok(systemd.ctl(&["show", "--property=MainPID", "surus"])?.trim().to_owned()) };
    let frozen = main()?;
    systemd.ctl(&["kill", "--kill-whom=main", "--signal=SIGSTOP", "surus"])?;
    wait_for("another agent runs", SOON, async || {
        let now = main()?;
        ensure!(now != frozen && now != "MainPID=0", "{now}");
        Ok(())
    })
    .await?;
    is_primary(&cluster).await?;

    // With the drop-in it is left alone, any number of times.
    let keep = contrib("keep-postgres.conf")?;
    let inside = format!("/proc/{}/root/run/units/surus.service.d/keep.conf", systemd.first);
    fs::write(inside, keep)?;
    systemd.ctl(&["daemon-reload"])?;
    let kept = postmaster();
    for _ in 0..2 {
        let before = main()?;
        systemd.ctl(&["restart", "surus"])?;
        is_primary(&cluster).await?;
        assert_ne!(main()?, before);
        assert_eq!(postmaster(), kept, "PostgreSQL never noticed");
    }

    // And how it is stopped for good, as the drop-in says.
    systemd.ctl(&["kill", "--kill-whom=main", "--signal=SIGTERM", "surus"])?;
    wait_for("the unit has ended", SOON, async || {
        let state = systemd.ctl(&["show", "--property=ActiveState", "surus"])?;
        ensure!(state.trim() == "ActiveState=inactive", "{state}");
        Ok(())
    })
    .await?;
    assert_eq!(postmaster(), None);
    cluster.passed();
    Ok(())
}
