//! A lost majority, recovered from one node.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use surus_store::{Kv, Op, Txn};
use surus_store_raft::{Others, RaftOptions, Role, StartError, Survivor};

use crate::harness::{DEADLINE, options, put, start, until, value, write};
use crate::processes::{Process, Writer, client, number, plan, works};

const TTL: Duration = Duration::from_secs(6);

fn lost(addrs: &[String]) -> Others {
    Others { survivors: vec![], lost: addrs.to_vec() }
}

fn paused() -> Vec<(String, Vec<u8>)> {
    vec![("/service/demo/config".into(), b"paused".to_vec()), ("/service/demo/new".into(), b"new".to_vec())]
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_directories_are_lost_and_one_node_goes_on() {
    let (addrs, mut nodes) = plan(3);
    nodes.iter_mut().for_each(|n| n.start(&addrs));
    let kv = client(&addrs).await;
    works(&kv).await;
    write(&*kv, "/service/demo/config", "running").await;
    // The dead primary held the lead.
    let lease = kv.grant(TTL, DEADLINE).await.unwrap();
    kv.txn(put("/leader", "n1", Some(lease)), DEADLINE).await.unwrap();
    let before = kv.read("/", DEADLINE).await.unwrap().revision;
    // So much is on the disk of the survivor; of the rest it may have some.
    let at_first = client(&addrs[..1]).await;
    write(&*at_first, "/n", "0").await;
    until("the survivor has it all", || async {
        let all = kv.members(DEADLINE).await.unwrap_or_default();
        let index = |addr: &str| all.iter().find(|m| m.addr == addr).and_then(|m| m.log_index);
        all.len() == 3 && index(&addrs[0]).is_some() && addrs.iter().all(|a| index(a) >= index(&addrs[0]))
    })
    .await;
    let writer = Writer::start(client(&addrs).await, "/n".into());
    writer.goes_on().await;

    // Of a node that runs nothing can be made.
    let dir = nodes[0].dir.path().to_owned();
    assert!(matches!(Survivor::open(&dir), Err(StartError::InUse { .. })));
    nodes.iter_mut().for_each(Process::kill);
    let (_, attempted) = writer.finish().await;
    let old: Vec<_> = (1..3).map(|i| std::mem::replace(&mut nodes[i].dir, tempfile::tempdir().unwrap())).collect();

    let survivor = Survivor::open(&dir).unwrap();
    let more = Others { survivors: vec![(addrs[1].clone(), survivor.last)], lost: vec![addrs[2].clone()] };
    assert!(survivor.objection(&more).unwrap().contains("nothing is lost"));
    assert!(survivor.objection(&lost(&addrs[1..2])).unwrap().contains(&addrs[2]));
    assert_eq!(survivor.objection(&lost(&addrs[1..])), None);
    let holder = std::net::TcpListener::bind(&addrs[1]).unwrap();
    assert_eq!(survivor.answering(&addrs[0]).await, [addrs[1].clone()]);
    drop(holder);
    assert!(survivor.answering(&addrs[0]).await.is_empty());
    let (_, kept) = survivor.recover(&addrs[0], &addrs[1..], paused()).unwrap();
    assert!(kept.exists());
    assert_eq!(files(&dir).len(), 3, "the log, the log before, the record: {:?}", files(&dir));
    let record = std::fs::read_to_string(dir.join("recovery.log")).unwrap();
    assert!(record.contains(&addrs[1]) && record.contains(kept.to_str().unwrap()), "{record}");

    // It leads alone, with what it had.
    nodes[0].start(&addrs);
    works(&at_first).await;
    let began = Instant::now();
    assert_eq!(value(&*at_first, "/service/demo/config").await.as_deref(), Some("paused"));
    assert_eq!(value(&*at_first, "/service/demo/new").await.as_deref(), Some("new"));
    let found = number(&at_first, "/n").await;
    assert!(found <= attempted, "{found} {attempted}");
    assert!(at_first.read("/", DEADLINE).await.unwrap().revision > before + 100_000);
    // The lead of the dead is not free before all of its time has passed once more.
    assert_eq!(value(&*at_first, "/leader").await.as_deref(), Some("n1"));
    until("the lead ends", || async { value(&*at_first, "/leader").await.is_none() }).await;
    let held = began.elapsed();
    eprintln!("the lead of the dead node ended {held:?} after the recovered group answered");
    assert!(held > TTL - Duration::from_millis(1500), "{held:?}");

    // One that was said to be lost comes back: it is told, and is no part of the group.
    let mut back: RaftOptions = options(&addrs[1], &addrs, old[0].path());
    back.voter = true;
    let back = Arc::new(start(back).await);
    until("the old node knows what became of its group", || async {
        back.health().summary.contains("was recovered as the group")
    })
    .await;
    assert!(back.read("/", Duration::from_millis(300)).await.is_err());
    assert_eq!(at_first.members(DEADLINE).await.unwrap().len(), 1);
    back.shutdown().await;
    drop(back);

    // With empty directories they join.
    for node in &mut nodes[1..] {
        node.start(&addrs);
    }
    until("the group is three again", || async {
        let members = at_first.members(DEADLINE).await.unwrap_or_default();
        members.len() == 3 && members.iter().all(|m| m.role != Role::Learner && m.reachable)
    })
    .await;
    for addr in &addrs {
        assert_eq!(number(&*client(std::slice::from_ref(addr)).await, "/n").await, found);
    }
    // And bear the death of the one that was recovered.
    nodes[0].kill();
    let others = client(&addrs[1..]).await;
    works(&others).await;
    others.txn(Txn { compare: vec![], then: vec![Op::Delete { key: "/n".into() }] }, DEADLINE).await.unwrap();
    nodes[0].start(&addrs);
    until("it is back with a restart", || async { value(&*at_first, "/n").await.is_none() }).await;
}

#[tokio::test]
async fn there_must_be_something_to_recover() {
    let dir = tempfile::tempdir().unwrap();
    let text = Survivor::open(dir.path()).err().unwrap().to_string();
    assert!(text.contains("there is no log in it"), "{text}");
    assert!(files(dir.path()).is_empty(), "looking makes nothing");
    // A node that waits for the others.
    let addr = crate::harness::free_addr();
    let waiting = start(options(&addr, &[addr.clone(), "127.0.0.1:1".into()], dir.path())).await;
    waiting.shutdown().await;
    drop(waiting);
    until("its file is free, and says that there is nothing", || async {
        Survivor::open(dir.path()).err().is_some_and(|e| e.to_string().contains("never belonged"))
    })
    .await;
}
