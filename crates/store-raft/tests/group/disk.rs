//! A disk that takes no more, and one that does not answer, on real processes.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use surus_store::Kv;
use surus_store_raft::Role;

use crate::harness::{DEADLINE, PATIENCE, put, until, value};
use crate::processes::{Writer, between, client, leader_of, node_command, number, plan, works};

/// One node may not let its file grow beyond 4 MB (a limit of the process, which the kernel answers as it does a full disk:
/// the write fails). It stops at once and names the file; the others go on; with room it is back and has everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_full_stops_and_names_the_file() {
    let (addrs, mut nodes) = plan(3);
    for node in &mut nodes[..2] {
        node.start(&addrs);
    }
    let log = nodes[2].dir.path().join("stderr");
    let (spec_name, spec) = node_command(&nodes[2], &addrs);
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$0\" processes::node_process --exact --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(spec_name, spec)
        .env("STORE_LOG", "surus_store_raft=error")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    nodes[2].child = Some(child);
    let kv = client(&addrs).await;
    works(&kv).await;
    until("the limited node belongs to the group", || async {
        kv.members(DEADLINE).await.is_ok_and(|m| m.len() == 3 && m.iter().all(|m| m.role != Role::Learner))
    })
    .await;
    let writer = Writer::start(client(&addrs[..2]).await, "/n".into());
    let much = "x".repeat(300_000);
    let mut round = 0;
    while nodes[2].child.as_mut().unwrap().try_wait().unwrap().is_none() {
        let _ = kv.txn(put(&format!("/much{}", round % 4), &much, None), Duration::from_secs(2)).await;
        round += 1;
        assert!(round < 400, "the limit was never reached");
    }
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("raft.redb") && said.contains("Stopping at once"), "{said}");
    assert!(said.contains("File too large") || said.contains("os error 27"), "{said}");
    nodes[2].child = None;
    writer.goes_on().await;
    nodes[2].start(&addrs);
    let back = client(&addrs[2..]).await;
    let (acknowledged, _) = writer.finish().await;
    let found: u64 = value(&*back, "/n").await.unwrap().parse().unwrap();
    assert!(found >= acknowledged, "{found} {acknowledged}");
    assert!(back.read("/much", PATIENCE).await.unwrap().keys.iter().all(|k| k.value.len() == much.len()));
}

/// A small file system that can be frozen; taken away when dropped, thawed before.
struct Frozen<'a>(&'a Path);

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(args).stdin(Stdio::null()).output().map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    output.status.success().then_some(()).ok_or_else(|| format!("{program}: {said}"))
}

impl Frozen<'_> {
    fn mount<'a>(image: &Path, at: &'a Path) -> Result<Frozen<'a>, String> {
        std::fs::File::create(image).and_then(|f| f.set_len(32 << 20)).map_err(|e| e.to_string())?;
        let (image, text) = (image.to_str().unwrap(), at.to_str().unwrap());
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image])?;
        run("mount", &["-o", "loop", image, text])?;
        let disk = Frozen(at);
        run("fsfreeze", &["-f", text])?;
        disk.thaw();
        Ok(disk)
    }

    fn freeze(&self) {
        run("fsfreeze", &["-f", self.0.to_str().unwrap()]).unwrap();
    }

    fn thaw(&self) {
        let _ = run("fsfreeze", &["-u", self.0.to_str().unwrap()]);
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.thaw();
        // The last process may not have let go yet.
        for _ in 0..50 {
            if run("umount", &[self.0.to_str().unwrap()]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

/// The disk of the Raft leader does not answer any more: its process can neither write nor end. The others lead on; it comes
/// back as a follower, with everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_is_replaced() {
    let (addrs, mut nodes) = plan(3);
    let (images, dirs) =
        (tempfile::tempdir().unwrap(), nodes.iter().map(|n| n.dir.path().to_owned()).collect::<Vec<_>>());
    let mut disks = Vec::new();
    for (at, dir) in dirs.iter().enumerate() {
        match Frozen::mount(&images.path().join(at.to_string()), dir) {
            Ok(disk) => disks.push(disk),
            Err(why) => return eprintln!("NOT AVAILABLE HERE, not tested: {why}"),
        }
    }
    nodes.iter_mut().for_each(|n| n.start(&addrs));
    let kv = client(&addrs).await;
    works(&kv).await;
    until("there is a leader", || async { leader_of(&kv).await.is_some() }).await;
    let hung = leader_of(&kv).await.unwrap();
    let at = addrs.iter().position(|a| *a == hung).unwrap();
    let others: Vec<String> = addrs.iter().filter(|a| **a != hung).cloned().collect();
    let survivors = client(&others).await;
    let writer = Writer::start(client(&others).await, "/n".into());
    writer.goes_on().await;
    disks[at].freeze();
    let began = std::time::Instant::now();
    // A write that the old leader took with it may be acknowledged still; more than a few are a new leader's.
    writer.goes_on().await;
    until("another node leads", || async { leader_of(&survivors).await.is_some_and(|l| l != hung) }).await;
    writer.goes_on().await;
    let gap = began.elapsed();
    eprintln!("another node led and took writes {gap:?} after the disk of the Raft leader hung");
    assert!(gap < Duration::from_secs(20), "{gap:?}");
    disks[at].thaw();
    let back = client(std::slice::from_ref(&hung)).await;
    writer.goes_on().await;
    let written = writer.finish().await;
    between(number(&back, "/n").await, written);
    nodes.iter_mut().for_each(crate::processes::Process::kill);
}
