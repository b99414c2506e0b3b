//! Leases and the keys bound to them.

use super::{Bench, Case, DEADLINE, Failure, ensure};
use crate::kv::{StoreError, Txn};

pub(super) const CASES: &[(&str, Case)] = &[
    ("keys_vanish_with_their_lease_and_not_earlier", |b| Box::pin(keys_vanish_with_their_lease_and_not_earlier(b))),
    ("renewal_starts_the_time_again", |b| Box::pin(renewal_starts_the_time_again(b))),
    ("revoking_deletes_at_once", |b| Box::pin(revoking_deletes_at_once(b))),
    ("a_lease_that_ended_is_gone_for_every_use", |b| Box::pin(a_lease_that_ended_is_gone_for_every_use(b))),
    ("a_key_bound_anew_survives_its_old_lease", |b| Box::pin(a_key_bound_anew_survives_its_old_lease(b))),
    ("leases_are_shared_between_clients", |b| Box::pin(leases_are_shared_between_clients(b))),
];

async fn keys_vanish_with_their_lease_and_not_earlier(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let ttl = b.harness.ttl();
    let began = b.harness.now();
    let lease = kv.grant(ttl, DEADLINE).await?;
    b.write(&kv, vec![b.put("bound", "1", Some(lease)), b.put("free", "1", None)]).await?;
    let bound = b.read(&kv).await?.keys.into_iter().find(|k| k.key == b.key("bound")).and_then(|k| k.lease);
    ensure!(bound == Some(lease), "the key tells lease {bound:?} instead of {lease}");
    let lived = b.until_gone(&kv, "bound").await?.since(began);
    ensure!(lived >= ttl, "the key was gone after {lived:?}, before its TTL of {ttl:?}");
    ensure!(b.value(&kv, "free").await?.is_some(), "a key without lease went along");
    Ok(())
}

async fn renewal_starts_the_time_again(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let ttl = b.harness.ttl();
    let lease = kv.grant(ttl, DEADLINE).await?;
    let began = b.harness.now();
    b.write(&kv, vec![b.put("x", "1", Some(lease))]).await?;
    let mut renewed = began;
    while renewed.since(began) < ttl * 2 {
        b.harness.pass(ttl / 4).await;
        renewed = b.harness.now();
        kv.renew(lease, DEADLINE).await?;
    }
    ensure!(b.value(&kv, "x").await?.is_some(), "the key vanished though its lease was renewed");
    let lived = b.until_gone(&kv, "x").await?.since(renewed);
    ensure!(lived >= ttl, "the key was gone {lived:?} after a renewal, before the TTL of {ttl:?}");
    Ok(())
}

async fn revoking_deletes_at_once(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let lease = kv.grant(b.harness.ttl() * 30, DEADLINE).await?;
    b.write(&kv, vec![b.put("x", "1", Some(lease)), b.put("y", "1", Some(lease)), b.put("free", "1", None)]).await?;
    kv.revoke(lease, DEADLINE).await?;
    let left = b.all(&kv).await?;
    ensure!(left.len() == 1 && left[0].0 == "free", "left {left:?}");
    kv.revoke(lease, DEADLINE).await.map_err(|e| Failure(format!("ending a lease that is gone: {e}")))?;
    Ok(())
}

async fn a_lease_that_ended_is_gone_for_every_use(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let over = kv.grant(b.harness.ttl(), DEADLINE).await?;
    b.write(&kv, vec![b.put("x", "1", Some(over))]).await?;
    // In use before: a renewal that worked must not hide that the next one does not.
    kv.renew(over, DEADLINE).await?;
    b.until_gone(&kv, "x").await?;
    let revoked = kv.grant(b.harness.ttl() * 30, DEADLINE).await?;
    kv.revoke(revoked, DEADLINE).await?;
    for (what, lease) in [("expired", over), ("revoked", revoked), ("unknown", 0x7000_0000_0000_0001)] {
        let renewed = kv.renew(lease, DEADLINE).await;
        ensure!(renewed == Err(StoreError::LeaseGone), "renewing an {what} lease: {renewed:?}");
        let then = vec![b.put("late", "1", Some(lease)), b.put("along", "1", None)];
        let put = kv.txn(Txn { compare: vec![], then }, DEADLINE).await;
        ensure!(put == Err(StoreError::LeaseGone), "writing with an {what} lease: {put:?}");
        let left = b.all(&kv).await?;
        ensure!(left.is_empty(), "writing with an {what} lease left {left:?}");
    }
    Ok(())
}

async fn a_key_bound_anew_survives_its_old_lease(b: &Bench<'_>) -> Result<(), Failure> {
    let kv = b.client().await;
    let long = b.harness.ttl() * 30;
    let (old, new) = (kv.grant(long, DEADLINE).await?, kv.grant(long, DEADLINE).await?);
    b.write(&kv, vec![b.put("moved", "1", Some(old)), b.put("freed", "1", Some(old)), b.put("stays", "1", Some(old))])
        .await?;
    b.write(&kv, vec![b.put("moved", "1", Some(new)), b.put("freed", "1", None)]).await?;
    kv.revoke(old, DEADLINE).await?;
    let left: Vec<String> = b.all(&kv).await?.into_iter().map(|(name, _)| name).collect();
    ensure!(left == ["freed", "moved"], "the end of the old lease left {left:?}");
    kv.revoke(new, DEADLINE).await?;
    let left: Vec<String> = b.all(&kv).await?.into_iter().map(|(name, _)| name).collect();
    ensure!(left == ["freed"], "the end of the new lease left {left:?}");
    Ok(())
}

async fn leases_are_shared_between_clients(b: &Bench<'_>) -> Result<(), Failure> {
    let (one, other) = (b.client().await, b.client().await);
    let lease = one.grant(b.harness.ttl() * 30, DEADLINE).await?;
    if !b.harness.shared_leases() {
        // To everybody else it is as good as gone, and nothing of the kind happens to its holder.
        let put = Txn { compare: vec![], then: vec![b.put("x", "1", Some(lease))] };
        let put = other.txn(put, DEADLINE).await;
        ensure!(put == Err(StoreError::LeaseGone), "writing with a lease of another client: {put:?}");
        let renewed = other.renew(lease, DEADLINE).await;
        ensure!(renewed == Err(StoreError::LeaseGone), "renewing a lease of another client: {renewed:?}");
        one.renew(lease, DEADLINE).await?;
        one.revoke(lease, DEADLINE).await?;
        return Ok(());
    }
    b.write(&other, vec![b.put("x", "1", Some(lease))]).await?;
    other.renew(lease, DEADLINE).await?;
    one.renew(lease, DEADLINE).await?;
    let second = one.grant(b.harness.ttl() * 30, DEADLINE).await?;
    ensure!(second != lease, "two leases with one id");
    // One connection renews several leases in turn without mixing up their answers.
    for _ in 0..3 {
        one.renew(lease, DEADLINE).await?;
        one.renew(second, DEADLINE).await?;
    }
    other.revoke(lease, DEADLINE).await?;
    let renewed = one.renew(lease, DEADLINE).await;
    ensure!(renewed == Err(StoreError::LeaseGone), "renewing a lease another client revoked: {renewed:?}");
    one.renew(second, DEADLINE).await?;
    one.revoke(second, DEADLINE).await?;
    Ok(())
}
