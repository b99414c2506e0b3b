//! For stores whose leader keeps the time of leases in its memory: it is frozen, and wakes up after another was elected,
//! with renewals waiting in its sockets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all, try_join_all};
use tokio::time::sleep;

use super::DEADLINE;
use crate::kv::{Kv, LeaseId, Op, StoreError, StoreResult, Txn};

const TTL: Duration = Duration::from_secs(6);
const ROUNDS: u32 = 5;

/// Three servers, of which one leads.
pub struct Election<'a> {
    /// Many clients, as of the members of many clusters, that reach the leader alone.
    pub clients: Vec<Arc<dyn Kv>>,
    /// Reaches the two others.
    pub others: Arc<dyn Kv>,
    /// Freezes the leader, or lets it go on.
    pub freeze: Box<dyn Fn(bool) + Send + 'a>,
}

/// Whatever the frozen one makes of the renewals: a lease whose renewal was confirmed lives for its time from when that was
/// asked for.
pub async fn a_renewal_is_confirmed_by_who_leads<'a>(election: impl AsyncFn() -> Election<'a>) {
    for round in 0..ROUNDS {
        let prefix = format!("/s/{round}/");
        let outcome = confirmed(&election().await, &prefix).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        let Some((confirmed, gone)) = outcome else { continue };
        eprintln!("{confirmed} renewals were confirmed");
        assert!(gone.is_empty(), "{} of {confirmed} confirmed renewals: {gone:?}", gone.len());
        if confirmed > 0 {
            return;
        }
    }
    panic!(
        "in {ROUNDS} rounds nothing was confirmed, or this machine was too slow to look while the leases had to be there"
    );
}

/// How many renewals were confirmed, and the keys of those of them whose lease was gone before its time. `None`: it could
/// not be told, because something took so long that a lease may have ended in its own time.
async fn confirmed(election: &Election<'_>, prefix: &str) -> StoreResult<Option<(usize, Vec<String>)>> {
    let keys: Vec<String> = (0..election.clients.len()).map(|i| format!("{prefix}{i}")).collect();
    let each = || election.clients.iter().zip(&keys);
    let began = Instant::now();
    let leases = try_join_all(each().map(|(kv, key)| leased(kv, key))).await?;
    if began.elapsed() > TTL / 3 {
        eprintln!("the leases took {:?}", began.elapsed());
        return Ok(None);
    }
    (election.freeze)(true);
    // A request that the frozen one was to answer waits for seconds.
    let put = || Txn { compare: vec![], then: vec![Op::Put { key: "/x".into(), value: "1".into(), lease: None }] };
    let frozen = Instant::now();
    while let Err(e) = election.others.txn(put(), Duration::from_millis(400)).await {
        if frozen.elapsed() > DEADLINE * 3 {
            return Err(e);
        }
        sleep(Duration::from_millis(50)).await;
    }
    // The time of all leases runs since the election.
    sleep(TTL / 2).await;
    let asked = Instant::now();
    let renewals = each().zip(&leases).map(async |((kv, key), lease)| {
        let renewed = kv.renew(*lease, TTL - Duration::from_secs(2)).await;
        renewed.inspect_err(|e| eprintln!("{key} after {:?}: {e}", asked.elapsed())).is_ok().then_some(key)
    });
    let wakes = async {
        sleep(Duration::from_millis(300)).await;
        (election.freeze)(false);
    };
    let (renewed, ()) = join(join_all(renewals), wakes).await;
    let confirmed: Vec<&String> = renewed.into_iter().flatten().collect();
    sleep((TTL - Duration::from_millis(600)).saturating_sub(asked.elapsed())).await;
    let read = election.others.read(prefix, DEADLINE).await;
    if asked.elapsed() >= TTL {
        eprintln!("the reading came {:?} after the renewals were asked for", asked.elapsed());
        return Ok(None);
    }
    let left: Vec<String> = read?.keys.into_iter().map(|kv| kv.key).collect();
    let gone = confirmed.iter().filter(|key| !left.contains(key)).map(|key| (*key).clone()).collect();
    Ok(Some((confirmed.len(), gone)))
}

/// A lease that was renewed, with a key.
async fn leased(kv: &Arc<dyn Kv>, key: &str) -> Result<LeaseId, StoreError> {
    let lease = kv.grant(TTL, DEADLINE).await?;
    let put = Op::Put { key: key.into(), value: "1".into(), lease: Some(lease) };
    kv.txn(Txn { compare: vec![], then: vec![put] }, DEADLINE).await?;
    kv.renew(lease, DEADLINE).await?;
    Ok(lease)
}
