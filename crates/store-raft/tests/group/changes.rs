//! Members come and go while others write.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use surus_store::{Kv, WatchEvent};
use surus_store_raft::Role;

use crate::harness::{DEADLINE, PATIENCE, put, until, value};
use crate::processes::{Process, Writer, between, client, leader_of, number, plan, works};

const TTL: Duration = Duration::from_secs(8);
const ROUNDS: usize = 6;

/// Three nodes stay; two are removed and added all the time, now and then the one that leads. Four clients write, one
/// renews a lease as an agent does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_no_lease_late_while_members_come_and_go() {
    let (addrs, mut nodes) = plan(5);
    nodes.iter_mut().for_each(|n| n.start(&addrs));
    let kv = client(&addrs).await;
    works(&kv).await;
    let mut writers = Vec::new();
    for n in 0..4 {
        writers.push(Writer::start(client(&addrs).await, format!("/n{n}")));
    }
    let holder = client(&addrs).await;
    let lease = holder.grant(TTL, DEADLINE).await.unwrap();
    holder.txn(put("/leader", "n1", Some(lease)), DEADLINE).await.unwrap();
    let mut watch = holder.watch("/leader");
    let keeper = tokio::spawn(async move {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tick.tick().await;
            // An error in itself is nothing: the next renewal may be in time. A lease that is gone is.
            match holder.renew(lease, Duration::from_secs(2)).await {
                Ok(()) => {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                Err(surus_store::StoreError::LeaseGone) => {
                    panic!("the lease ended {:?} after its renewal", last.elapsed())
                }
                Err(_) => {}
            }
            if last.elapsed() > PATIENCE {
                panic!("no renewal for {PATIENCE:?}");
            }
            eprintln!("longest time between two renewals: {longest:?}");
        }
    });
    for round in 0..ROUNDS {
        for writer in &writers {
            writer.goes_on().await;
        }
        let leaving = match leader_of(&kv).await {
            Some(leader) if round % 2 == 0 => leader,
            _ => addrs[round % 5].clone(),
        };
        let Ok(()) = kv.remove_member(&leaving, PATIENCE).await else { panic!("{leaving} was not removed") };
        until("it is out", || async {
            kv.members(DEADLINE).await.is_ok_and(|m| m.len() == 4 && m.iter().all(|m| m.addr != leaving))
        })
        .await;
        // Half of them come back as they are, half with nothing.
        if round % 2 == 1 {
            let node: &mut Process = nodes.iter_mut().find(|n| n.addr == leaving).unwrap();
            node.kill();
            node.dir = tempfile::tempdir().unwrap();
            node.start(&addrs);
        } else {
            kv.add_member(&leaving, PATIENCE).await.unwrap();
        }
        until("all five vote", || async {
            let members = kv.members(DEADLINE).await.unwrap_or_default();
            members.len() == 5 && members.iter().all(|m| m.role != Role::Learner)
        })
        .await;
    }
    let mut written = BTreeMap::new();
    for (n, writer) in writers.into_iter().enumerate() {
        writer.goes_on().await;
        written.insert(format!("/n{n}"), writer.finish().await);
    }
    assert_eq!(value(&*kv, "/leader").await.as_deref(), Some("n1"), "the lease was renewed all the time");
    while let Ok(event) = watch.events.try_recv() {
        assert!(!matches!(event, WatchEvent::Deleted { .. }), "{event:?}");
    }
    assert!(!keeper.is_finished(), "{:?}", keeper.await);
    keeper.abort();
    let _ = keeper.await;
    // Left alone it ends, and in time.
    let began = Instant::now();
    until("the lease ends", || async { value(&*kv, "/leader").await.is_none() }).await;
    let late = began.elapsed();
    eprintln!("the lease ended {late:?} after its last renewal at the most a second before");
    assert!(late < TTL + Duration::from_secs(3), "{late:?}");
    for addr in &addrs {
        let at = client(std::slice::from_ref(addr)).await;
        for (key, counts) in &written {
            between(number(&at, key).await, *counts);
        }
    }
}
