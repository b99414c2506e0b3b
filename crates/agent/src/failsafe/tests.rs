use surus_core::facts::Lead;

use super::*;

fn lease(lead: Option<u64>) -> watch::Receiver<LeaseState> {
    let lead = lead.map(|seconds| Lead { until: boot_now() + Duration::from_secs(seconds), version: 1 });
    watch::Sender::new(LeaseState { lead, ..LeaseState::default() }).subscribe()
}

async fn allowed(failsafe: &Failsafe, ttl: Duration) {
    failsafe.allow(ttl);
    failsafe.0.longest.subscribe().wait_for(|longest| *longest >= ttl).await.unwrap();
}

#[tokio::test]
async fn a_restarted_agent_promises_nothing_for_as_long_as_one_before_could_have() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (me, ttl) = ("a".into(), Duration::from_secs(8));
    let first = Failsafe::open(&me, &data, lease(None));
    let why = first.give(&"b".into(), Kind::Vouch, ttl).unwrap_err();
    assert_eq!(why, "a cannot promise anything for 8 s yet", "it is not on the disk");
    allowed(&first, ttl).await;
    first.give(&"b".into(), Kind::Vouch, ttl).unwrap();
    assert_eq!(first.vouches_for().map(|p| p.to), Some("b".into()));
    assert!(first.is_active());

    let second = Failsafe::open(&me, &data, lease(None));
    let why = second.give(&"b".into(), Kind::Vouch, ttl).unwrap_err();
    assert!(why.starts_with("a was just started and may have promised something before"), "{why}");
    let until = second.with(|p| p.silent_until(boot_now())).unwrap();
    assert!(until.since(boot_now()) > ttl - Duration::from_secs(2));
}

#[tokio::test]
async fn whoever_leads_promises_nobody_else_anything() {
    let dir = tempfile::tempdir().unwrap();
    for (lead, refused) in [(Some(60), true), (Some(0), false), (None, false)] {
        let data = dir.path().join(format!("{lead:?}"));
        let failsafe = Failsafe::open(&"a".into(), &data, lease(lead));
        allowed(&failsafe, Duration::from_secs(8)).await;
        let given = failsafe.give(&"b".into(), Kind::Consent, CONSENT);
        assert_eq!(given.is_err(), refused, "{lead:?}");
        assert_eq!(failsafe.give_myself(true), refused, "to itself unless it has promised: {lead:?}");
    }
}

#[tokio::test]
async fn where_it_cannot_be_written_nothing_is_promised() {
    let failsafe = Failsafe::open(&"a".into(), Path::new("/proc/nowhere/data"), lease(None));
    failsafe.allow(Duration::from_secs(8));
    tokio::task::yield_now().await;
    assert!(failsafe.give(&"b".into(), Kind::Consent, CONSENT).is_err());
}
