//! What each store's client makes of a store that is half alive: an error that says "no effect" had none, and no lease is
//! called gone that lives.

use surus_store::{Compare, Kv, Op, StoreError, Txn, TxnOutcome};
use surus_store_consul::{ConsulOptions, ConsulStore};
use surus_store_etcd::{EtcdOptions, EtcdStore};
use surus_store_zookeeper::{ZooKeeperOptions, ZooKeeperStore};

use super::*;
use crate::network::{Endpoint, Link, Network};
use crate::{Consul, Etcd, ZooKeeper};

const PATIENCE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(2);
const KEY: &str = "/service/half/x";

fn client(kind: StoreKind, port: u16) -> Arc<dyn Kv> {
    let (host, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    match kind {
        StoreKind::Consul => {
            Arc::new(ConsulStore::connect(ConsulOptions { endpoints: vec![url], ..ConsulOptions::default() }).unwrap())
        }
        StoreKind::ZooKeeper => {
            Arc::new(ZooKeeperStore::connect(&ZooKeeperOptions { hosts: vec![host], ..Default::default() }).unwrap())
        }
        _ => {
            let options = EtcdOptions { endpoints: vec![url], discover_members: false, ..EtcdOptions::default() };
            Arc::new(EtcdStore::connect(options).unwrap())
        }
    }
}

/// The value and its version.
async fn newest(kv: &dyn Kv) -> Option<(u64, u64)> {
    let read = kv.read(KEY, PATIENCE).await.unwrap();
    let key = read.keys.into_iter().next()?;
    Some((String::from_utf8(key.value).unwrap().parse().unwrap(), key.version))
}

/// Guarded writes and renewals through the trouble, each checked past it. How many were applied, had no effect, and are
/// of unknown outcome.
async fn guarded(through: &dyn Kv, past: &dyn Kv, rounds: u64) -> [usize; 3] {
    let lease = granted(through).await;
    let mut seen = [0; 3];
    // May still arrive: the store heard of it, perhaps after we looked.
    let mut late: Option<u64> = None;
    for n in 1..=rounds {
        let before = newest(past).await;
        let compare = match before {
            Some((_, version)) => Compare::Version { key: KEY.into(), version },
            None => Compare::Absent { key: KEY.into() },
        };
        let value = n.to_string().into_bytes();
        let txn = Txn { compare: vec![compare], then: vec![Op::Put { key: KEY.into(), value, lease: None }] };
        let written = through.txn(txn, DEADLINE).await;
        let after = newest(past).await.map(|(value, _)| value);
        let untouched = after == before.map(|(value, _)| value) || late.is_some() && after == late;
        match &written {
            Ok(TxnOutcome::Applied(_)) => {
                assert_eq!(after, Some(n), "said to be applied");
                seen[0] += 1;
            }
            Ok(TxnOutcome::Conflict) => assert!(untouched && late.is_some(), "{n}: nobody else writes, and {after:?}"),
            Err(StoreError::Unavailable(why)) => {
                assert!(untouched, "said to have had no effect ({why}): {before:?}, {n}, {after:?}");
                seen[1] += 1;
            }
            Err(StoreError::OutcomeUnknown(_)) => seen[2] += 1,
            Err(e) => panic!("{e}"),
        }
        late = matches!(written, Err(StoreError::OutcomeUnknown(_))).then_some(n);
        let renewed = through.renew(lease, DEADLINE).await;
        assert!(!matches!(renewed, Err(StoreError::LeaseGone | StoreError::Refused(_))), "it lives: {renewed:?}");
    }
    seen
}

async fn granted(through: &dyn Kv) -> u64 {
    for _ in 0..50 {
        match through.grant(Duration::from_secs(60), DEADLINE).await {
            Ok(lease) => return lease,
            Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)) => {}
            Err(e) => panic!("{e}"),
        }
    }
    panic!("no lease in fifty tries");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_at_random_are_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&dir.path().join("etcd")).await.unwrap();
    let consul = Consul::start(&dir.path().join("consul")).await.unwrap();
    let zookeeper = ZooKeeper::start(&dir.path().join("zookeeper")).await.unwrap();
    for (kind, port) in [(StoreKind::Etcd, etcd.port()), (StoreKind::Consul, consul.port())] {
        let filter = Filter::before(kind, port).unwrap();
        let (through, past) = (client(kind, filter.port()), client(kind, port));
        let through = through.as_ref();
        assert_eq!(guarded(through, past.as_ref(), 5).await[0], 5, "{kind:?}: nothing is wrong");

        filter.set(Answers::ReadsOnly);
        let one = guarded_once(through).await;
        assert!(matches!(one, Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))), "{kind:?}: {one:?}");
        let before = newest(past.as_ref()).await;
        assert_eq!(newest(through).await, before, "{kind:?}: readings are answered");
        assert_eq!(before.map(|b| b.0), Some(5), "{kind:?}: and nothing was written");

        let late = Duration::from_millis(300);
        filter.set(Answers::Late(late));
        let begun = std::time::Instant::now();
        assert_eq!(newest(through).await.map(|b| b.0), Some(5), "{kind:?}");
        assert!(begun.elapsed() >= late, "{kind:?}: {:?}", begun.elapsed());

        filter.set(Answers::AtRandom(25));
        let (begun, failed) = (std::time::Instant::now(), filter.failed());
        let mut seen = [0; 3];
        for _ in 0..10 {
            let more = guarded(through, past.as_ref(), if kind == StoreKind::Consul { 15 } else { 40 }).await;
            seen = std::array::from_fn(|i| seen[i] + more[i]);
            if seen[0] > 0 && seen[2] > 0 {
                break;
            }
        }
        eprintln!("{kind:?}: {seen:?} in {:?}, {} errors", begun.elapsed(), filter.failed() - failed);
        assert!(seen[0] > 0 && seen[2] > 0 && filter.failed() > failed, "{kind:?}: {seen:?}");
    }
    // What answers ZooKeeper's client is not HTTP: connections are lost.
    let home = std::env::current_dir().unwrap();
    let network = Network::new(vec![(Endpoint::Member(0), home)]).unwrap();
    for (kind, port) in [
        (StoreKind::Etcd, etcd.port()),
        (StoreKind::Consul, consul.port()),
        (StoreKind::ZooKeeper, zookeeper.ports()[0]),
    ] {
        let public = Port::free().unwrap();
        network.route(public.number, port, Endpoint::Store(0));
        let (through, past) = (client(kind, public.number), client(kind, port));
        network.set(Endpoint::Member(0), Endpoint::Store(0), Link::Flaky);
        network.set(Endpoint::Store(0), Endpoint::Member(0), Link::Flaky);
        let begun = std::time::Instant::now();
        let mut seen = [0; 3];
        // Whether a connection goes just between a request and its answer is chance.
        for _ in 0..10 {
            let more = guarded(through.as_ref(), past.as_ref(), 60).await;
            seen = std::array::from_fn(|i| seen[i] + more[i]);
            if seen[2] > 0 {
                break;
            }
        }
        eprintln!("{kind:?}, connections lost: {seen:?} in {:?}", begun.elapsed());
        assert!(seen[0] > 0 && seen[2] > 0, "{kind:?}: {seen:?}");
        network.heal(|_, _| true);
    }
}

async fn guarded_once(kv: &dyn Kv) -> Result<TxnOutcome, StoreError> {
    let txn = Txn {
        compare: vec![Compare::Absent { key: "/service/half/other".into() }],
        then: vec![Op::Put { key: "/service/half/other".into(), value: b"1".to_vec(), lease: None }],
    };
    kv.txn(txn, Duration::from_millis(500)).await
}
