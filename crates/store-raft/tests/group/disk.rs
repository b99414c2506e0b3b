//! A disk that takes no more, on a real process.

use std::process::{Command, Stdio};
use std::time::Duration;

use surus_store::Kv;
use surus_store_raft::Role;

use crate::harness::{DEADLINE, PATIENCE, put, until, value};
use crate::processes::{Writer, client, node_command, plan, works};

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
