//! The fence as a process: what it does at the deadline, and what cannot keep it from that.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use surus_core::BootTime;
use surus_fence::{Ask, FenceClient, Meeting, Postmaster, State, resolved};
use surus_store::clock::boot_now;
use surus_testbed::{procs, wait_for};
use tempfile::TempDir;

const SURUS: &str = env!("CARGO_BIN_EXE_surus");
const SOON: Duration = Duration::from_secs(20);
/// Far enough away that nothing in a test reaches it.
const NEVER: Duration = Duration::from_secs(3600);

/// Something that stands for a server, and the directory it works in.
struct Server {
    dir: TempDir,
    postmaster: Child,
}

impl Server {
    async fn start() -> Result<Server> {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data");
        std::fs::create_dir(&data)?;
        let postmaster = Command::new(SURUS)
            .args(["fence", "--victim", "postmaster"])
            .current_dir(&data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let server = Server { dir, postmaster };
        wait_for("all backends work", SOON, async || {
            ensure!(server.processes() == 9, "{} processes", server.processes());
            Ok(())
        })
        .await?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn processes(&self) -> usize {
        procs::programs(&self.data()).len()
    }

    fn postmaster(&self) -> Option<Postmaster> {
        let pid = i32::try_from(self.postmaster.id()).ok()?;
        Some(Postmaster { pid, start_ticks: surus_postgres::start_ticks(pid)? })
    }

    async fn fence(&self) -> Result<(FenceClient, State)> {
        let data = resolved(&self.data())?;
        let arguments = ["fence", "--guard", &data.display().to_string(), "surus"].map(str::to_owned);
        Ok(FenceClient::open(&Meeting::of(&data)?, Path::new(SURUS), &arguments).await?)
    }

    async fn gone(&self) -> Result<()> {
        wait_for("the server is gone", SOON, async || {
            ensure!(self.processes() == 0, "{} processes", self.processes());
            Ok(())
        })
        .await
    }

    fn arm(&self, until: BootTime) -> Ask {
        Ask::Arm { until, postmaster: self.postmaster() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = end(&mut self.postmaster);
        procs::sweep(self.dir.path(), Duration::from_secs(5));
    }
}

fn end(child: &mut Child) -> std::io::Result<()> {
    child.kill()?;
    child.wait().map(|_| ())
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    Ok(kill_process(Pid::from_raw(i32::try_from(pid)?).context("a pid")?, signal)?)
}

#[test]
fn it_proves_itself_on_this_machine() -> Result<()> {
    let run = Command::new(SURUS).args(["fence", "--test"]).output()?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    ensure!(run.status.success(), "{text}{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(text.lines().filter(|l| l.starts_with("ok: ")).count(), 2, "{text}");
    Ok(())
}

#[tokio::test]
async fn the_server_ends_when_nobody_prolongs() -> Result<()> {
    let server = Server::start().await?;
    let (mut fence, _) = server.fence().await?;
    let deadline = boot_now() + Duration::from_millis(300);
    fence.ask(&server.arm(deadline)).await?;
    // As an agent that is killed.
    drop(fence);
    server.gone().await?;
    ensure!(boot_now() >= deadline, "it was too early");
    let (mut fence, state) = server.fence().await?;
    let fired = state.fired.context("it remembers what it did")?;
    assert_eq!((fired.deadline, fired.processes, fired.gone), (deadline, 9, true));
    ensure!(fired.silent_after_us < 100_000, "{fired:?}");
    assert_eq!(state.until, None);
    fence.ask(&Ask::Quit).await?;
    Ok(())
}

#[tokio::test]
async fn stopped_processes_and_orphans_end_too() -> Result<()> {
    let server = Server::start().await?;
    let (mut fence, _) = server.fence().await?;
    fence.ask(&server.arm(boot_now() + Duration::from_millis(500))).await?;
    for (pid, _) in procs::programs(&server.data()) {
        signal(u32::try_from(pid)?, Signal::STOP)?;
    }
    server.gone().await?;
    fence.ask(&Ask::Quit).await?;

    // The postmaster is dead, its backends go on; the fence never knew it.
    let mut server = Server::start().await?;
    let (mut fence, _) = server.fence().await?;
    end(&mut server.postmaster)?;
    ensure!(server.processes() == 8, "{} processes", server.processes());
    fence.ask(&Ask::Arm { until: boot_now() + Duration::from_millis(200), postmaster: None }).await?;
    server.gone().await?;
    fence.ask(&Ask::Quit).await?;
    Ok(())
}

#[tokio::test]
async fn prolonged_or_disarmed_it_does_nothing() -> Result<()> {
    let server = Server::start().await?;
    let (mut fence, _) = server.fence().await?;
    let first = boot_now() + Duration::from_millis(200);
    fence.ask(&server.arm(first)).await?;
    fence.ask(&server.arm(boot_now() + NEVER)).await?;
    wait_for("the first deadline has passed", SOON, async || {
        ensure!(boot_now() > first + Duration::from_millis(200), "not yet");
        Ok(())
    })
    .await?;
    let state = fence.ask(&Ask::State).await?;
    assert_eq!((server.processes(), state.fired), (9, None));
    // Another agent, as after a restart or an upgrade: the same fence, still armed.
    drop(fence);
    let (mut fence, adopted) = server.fence().await?;
    assert_eq!((adopted.pid, adopted.until), (state.pid, state.until));
    let disarmed = fence.ask(&Ask::Disarm).await?;
    assert_eq!(disarmed.until, None);
    // With nothing to guard and nobody to ask for it, it ends.
    drop(fence);
    wait_for("the fence ends", SOON, async || {
        ensure!(!procs::alive(i32::try_from(state.pid)?), "it runs");
        Ok(())
    })
    .await?;
    assert_eq!(server.processes(), 9);
    Ok(())
}

#[tokio::test]
async fn signals_and_nonsense_change_nothing() -> Result<()> {
    let server = Server::start().await?;
    let (mut fence, _) = server.fence().await?;
    let until = boot_now() + NEVER;
    let state = fence.ask(&server.arm(until)).await?;
    for gentle in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1] {
        signal(state.pid, gentle)?;
    }
    let socket = Meeting::of(&resolved(&server.data())?)?.path;
    for nonsense in [&b"nonsense\n"[..], b"{\"arm\":{}}\n", b"{\"arm\":", b"\n", &[b'x'; 10_000]] {
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(nonsense)?;
        drop(stream);
        let now = fence.ask(&Ask::State).await?;
        assert_eq!((now.until, now.fired), (Some(until), None));
    }
    assert_eq!(server.processes(), 9);
    fence.ask(&Ask::Quit).await?;
    Ok(())
}

/// Two fences of which one is not prolonged would end a healthy server.
#[tokio::test]
async fn a_frozen_fence_is_replaced() -> Result<()> {
    let server = Server::start().await?;
    let (mut fence, _) = server.fence().await?;
    let first = fence.ask(&server.arm(boot_now() + Duration::from_secs(2))).await?;
    signal(first.pid, Signal::STOP)?;
    fence.ask(&Ask::State).await.unwrap_err();
    let (mut fence, second) = server.fence().await?;
    ensure!(second.pid != first.pid, "the same process");
    fence.ask(&server.arm(boot_now() + NEVER)).await?;
    ensure!(!procs::alive(i32::try_from(first.pid)?), "the frozen fence is still there");
    assert_eq!(server.processes(), 9);
    fence.ask(&Ask::Quit).await?;
    Ok(())
}

fn cluster() -> surus_testbed::Builder {
    surus_testbed::Cluster::builder(SURUS)
}

async fn fence_of(cluster: &surus_testbed::Cluster, node: usize) -> Result<serde_json::Value> {
    Ok(cluster.status(node).await?["surus"]["fence"].clone())
}

/// Of a member's fence, as operators see it.
async fn fence_is(cluster: &surus_testbed::Cluster, node: usize, state: &str) -> Result<()> {
    wait_for(&format!("the fence of {node} is {state}"), SOON, async || {
        let fence = fence_of(cluster, node).await?;
        ensure!(fence["state"] == state, "{fence}");
        Ok(())
    })
    .await
}

fn fence_pid(cluster: &surus_testbed::Cluster, node: usize) -> Result<u32> {
    let pids = procs::named(&cluster.node(node).dir, "--guard");
    ensure!(pids.len() == 1, "fences: {pids:?}");
    Ok(pids[0].cast_unsigned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_dies_is_replaced_and_paused_means_hands_off() -> Result<()> {
    let mut cluster = cluster().healthy().await?;
    let leader = cluster.leader().await?;
    let replica = cluster.others(leader)[0];
    fence_is(&cluster, leader, "armed").await?;
    fence_is(&cluster, replica, "ready").await?;
    let postmaster = cluster.node(leader).postmaster_pid();

    for deadly in [Signal::KILL, Signal::STOP] {
        let first = fence_pid(&cluster, leader)?;
        signal(first, deadly)?;
        wait_for("another fence is armed", Duration::from_secs(60), async || {
            ensure!(fence_pid(&cluster, leader)? != first, "the first one is there");
            fence_is(&cluster, leader, "armed").await
        })
        .await?;
    }

    // The agent is killed and comes back: the same fence.
    let fence = fence_pid(&cluster, leader)?;
    cluster.restart_agent(leader)?;
    assert_eq!(cluster.wait_healthy().await?, leader);
    fence_is(&cluster, leader, "armed").await?;
    assert_eq!(fence_pid(&cluster, leader)?, fence);

    let paused = cluster.send(leader, "PATCH", "/config", &serde_json::json!({"pause": true})).await?;
    ensure!(paused.status == 200, "{}", paused.body);
    fence_is(&cluster, leader, "ready").await?;
    cluster.kill_agent(leader)?;
    wait_for("the lead has ended", SOON, async || {
        let other = cluster.get(replica, "/cluster").await?.json()?;
        ensure!(!other["members"].to_string().contains("\"leader\""), "{other}");
        Ok(())
    })
    .await?;
    assert!(cluster.postmaster_alive(leader), "paused means hands off");

    // Resumed without it: it may still accept writes, and does.
    cluster.send(replica, "PATCH", "/config", &serde_json::json!({"pause": null})).await?;
    let name = cluster.node(leader).name.clone();
    for other in cluster.others(leader) {
        wait_for("nobody takes over from it", SOON, async || {
            let told = cluster.get(other, "/explain").await?.json()?["goal"].to_string();
            ensure!(told.contains(&format!("{name} was left alone while the cluster was paused")), "{told}");
            Ok(())
        })
        .await?;
    }
    assert_eq!(cluster.writable().await, [leader]);
    cluster.start(leader)?;
    assert_eq!(cluster.wait_healthy().await?, leader);
    fence_is(&cluster, leader, "armed").await?;
    assert_eq!(cluster.node(leader).postmaster_pid(), postmaster, "PostgreSQL never noticed");
    cluster.passed();
    Ok(())
}

/// Where it must have its socket stands something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_working_fence_a_member_does_not_lead() -> Result<()> {
    let mut cluster = cluster().nodes(2).store(surus_testbed::StoreKind::Etcd).prepare().await?;
    let in_the_way = Meeting::of(&resolved(&cluster.node(0).data_dir())?)?.path;
    std::fs::create_dir_all(in_the_way.join("x"))?;
    cluster.start(0)?;
    wait_for("it says why it does not create the cluster", SOON, async || {
        let told = cluster.get(0, "/explain").await?.json()?["goal"].to_string();
        ensure!(
            told.contains("not creating a cluster because the fence does not work: the fence cannot begin"),
            "{told}"
        );
        Ok(())
    })
    .await?;
    fence_is(&cluster, 0, "broken").await?;
    cluster.start(1)?;
    assert_eq!(cluster.wait_healthy().await?, 1);
    let refused = cluster.send(1, "POST", "/switchover", &serde_json::json!({"leader": cluster.node(1).name})).await?;
    ensure!(refused.status == 412 || refused.status == 503, "{} {}", refused.status, refused.body);
    let listed = cluster.surus(1, &["list"]).await?;
    let table = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(table.contains("Fence") && table.contains("does not work"), "{table}");

    // Mended, it may.
    std::fs::remove_dir_all(&in_the_way)?;
    fence_is(&cluster, 0, "ready").await?;
    let done = cluster.send(1, "POST", "/switchover", &serde_json::json!({"leader": cluster.node(1).name})).await?;
    ensure!(done.status == 200, "{} {}", done.status, done.body);
    assert_eq!(cluster.wait_healthy().await?, 0);
    cluster.passed();
    Ok(())
}

/// A file stands for the device of two members; the third has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hardware_watchdog_goes_with_the_lead() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let device = |node: usize| dir.path().join(format!("watchdog{node}"));
    let mut builder = cluster();
    for node in 0..3 {
        if node < 2 {
            std::fs::write(device(node), "")?;
        }
        let watchdog = serde_json::json!({"mode": "required", "driver": "testing", "device": device(node)});
        builder = builder.settings_of(node, serde_json::json!({"watchdog": watchdog}));
    }
    let mut cluster = builder.healthy().await?;
    let heard = |node: usize| std::fs::read_to_string(device(node)).unwrap_or_default();
    let leader = cluster.leader().await?;
    assert!(leader < 2, "no lead without a watchdog");
    let other = 1 - leader;
    assert!(heard(leader).starts_with("Ctimeout=") && heard(leader).ends_with('1'), "{:?}", heard(leader));
    assert_eq!(heard(other), "", "a standby has none");
    let kept = heard(leader).len();
    wait_for("it is kept alive", SOON, async || {
        ensure!(heard(leader).len() > kept + 1, "{:?}", heard(leader));
        Ok(())
    })
    .await?;
    assert_eq!(cluster.status(2).await?["watchdog_failed"], true);
    let status = cluster.status(leader).await?;
    assert_eq!(status["surus"]["watchdog"]["state"], "running", "{status}");
    let listed = cluster.surus(leader, &["list"]).await?;
    let table = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(table.contains("the watchdog is required and cannot be used"), "{table}");
    let explained = cluster.surus(leader, &["explain"]).await?;
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    ensure!(text.contains("runs, resets this machine"), "{text}");

    // Whoever has no watchdog is no candidate.
    let name = |cluster: &surus_testbed::Cluster, node: usize| cluster.node(node).name.clone();
    let ask = |leader: String, candidate: String| serde_json::json!({"leader": leader, "candidate": candidate});
    let body = ask(name(&cluster, leader), name(&cluster, 2));
    let refused = cluster.send(leader, "POST", "/switchover", &body).await?;
    ensure!(refused.status == 412 && refused.body.contains("watchdog"), "{} {}", refused.status, refused.body);

    // It is stopped in order with the lead, and started with the other.
    let body = ask(name(&cluster, leader), name(&cluster, other));
    let done = cluster.send(leader, "POST", "/switchover", &body).await?;
    ensure!(done.status == 200, "{} {}", done.status, done.body);
    assert!(heard(other).starts_with("Ctimeout="), "{:?}", heard(other));
    assert_eq!(cluster.wait_healthy().await?, other);
    assert!(heard(leader).ends_with('V'), "{:?}", heard(leader));

    // An agent that is frozen keeps nothing alive: the machine would be reset.
    cluster.freeze_agent(other)?;
    let frozen = heard(other);
    assert_eq!(cluster.wait_leader_other_than(other).await?, leader);
    assert_eq!(heard(other), frozen);
    cluster.thaw(other);
    assert_eq!(cluster.wait_healthy().await?, leader);
    assert!(heard(other).ends_with('V'), "what it was before is a standby: {:?}", heard(other));

    // Paused means hands off, for the machine too.
    let paused = cluster.surus(leader, &["pause", "--wait"]).await?;
    ensure!(paused.status.success(), "{}", String::from_utf8_lossy(&paused.stderr));
    wait_for("it is stopped", SOON, async || {
        ensure!(heard(leader).ends_with('V'), "{:?}", heard(leader));
        Ok(())
    })
    .await?;
    let resumed = cluster.surus(leader, &["resume", "--wait"]).await?;
    ensure!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    wait_for("it runs again", SOON, async || {
        ensure!(heard(leader).ends_with('1'), "{:?}", heard(leader));
        Ok(())
    })
    .await?;

    // The end of its agent stops it as well.
    assert!(cluster.stop(leader).await?.success());
    assert!(heard(leader).ends_with('V'), "{:?}", heard(leader));
    cluster.passed();
    Ok(())
}
