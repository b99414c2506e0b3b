//! Leases as sessions.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use surus_store::LeaseId;

/// Ends at the latest when twice this has passed without a renewal: what a session is given is half of the lease.
const CONSUL_WAITS: u32 = 2;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Session {
    #[serde(rename = "ID")]
    pub(crate) id: String,
}

/// The first half of the session's id, which is random all over.
pub(crate) fn lease_of(session: &str) -> Option<LeaseId> {
    let digits: String = session.chars().filter(|c| *c != '-').take(16).collect();
    (digits.len() == 16).then(|| LeaseId::from_str_radix(&digits, 16).ok()).flatten()
}

/// The sessions behind the leases that were granted or looked up here.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<BTreeMap<LeaseId, String>>);

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<LeaseId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn known(&self, lease: LeaseId) -> Option<String> {
        self.lock().get(&lease).cloned()
    }

    pub(crate) fn learn(&self, id: String) -> Option<LeaseId> {
        let lease = lease_of(&id)?;
        self.lock().insert(lease, id);
        Some(lease)
    }

    pub(crate) fn forget(&self, lease: LeaseId) {
        self.lock().remove(&lease);
    }
}

/// What a lease of this length is as a session's TTL, where the server grants no less than `least`.
pub(crate) fn session_ttl(lease: Duration, least: Duration) -> Duration {
    // Whole milliseconds, rounded up: a lease may end late but never early.
    let half = lease.div_f64(f64::from(CONSUL_WAITS)).as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(half).unwrap_or(u64::MAX)).max(least)
}

/// How long such a session lives after its last renewal.
pub(crate) fn lives(session_ttl: Duration) -> Duration {
    session_ttl * CONSUL_WAITS
}

pub(crate) fn creation(name: &str, ttl: Duration, checks: &[String]) -> String {
    json!({
        "Name": name,
        // Keys go with the session.
        "Behavior": "delete",
        // Or else nobody could take the lead for 15 s after it was lost.
        "LockDelay": "1ms",
        "TTL": format!("{}ms", ttl.as_millis()),
        // Not left out: then the node's own health check would end the session.
        "Checks": checks,
    })
    .to_string()
}

/// The bounds in `Invalid Session TTL '50000000', must be between [10s=24h0m0s]`.
pub(crate) fn allowed_ttl(text: &str) -> Option<(Duration, Duration)> {
    let (least, most) =
        text.split_once("Invalid Session TTL")?.1.split_once('[')?.1.split_once(']')?.0.split_once('=')?;
    Some((go_duration(least)?, go_duration(most)?))
}

/// `1h2m3.5s`, `100ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let unit = rest[number..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| number + end);
        let seconds = match &rest[number..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(rest[..number].parse::<f64>().ok()? * seconds).ok()?;
        rest = &rest[unit..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_named_by_its_session() {
        assert_eq!(lease_of("e9f1a796-bca9-7a24-8216-f215450fd698"), Some(0xe9f1_a796_bca9_7a24));
        for bad in ["", "e9f1a796-bca9", "g9f1a796-bca9-7a24-8216-f215450fd698"] {
            assert_eq!(lease_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_session_lives_at_least_as_long_as_its_lease() {
        let ms = Duration::from_millis;
        for (lease, least, want) in [(30_000, 0, 15_000), (15_000, 0, 7_500), (15_000, 10_000, 10_000), (1, 0, 1)] {
            let ttl = session_ttl(ms(lease), ms(least));
            assert_eq!(ttl, ms(want), "{lease}");
            assert!(lives(ttl) >= ms(lease));
        }
    }

    #[test]
    fn bounds_are_read_from_the_refusal() {
        let said = |bounds| format!("rpc error making call: Invalid Session TTL '5', must be between {bounds}");
        let s = Duration::from_secs;
        assert_eq!(allowed_ttl(&said("[10s=24h0m0s]")), Some((s(10), s(86_400))));
        assert_eq!(allowed_ttl(&said("[1m30s=1h0m0.5s]")), Some((s(90), Duration::from_millis(3_600_500))));
        assert_eq!(allowed_ttl(&said("[100ms=1h]")), Some((Duration::from_millis(100), s(3600))));
        for bad in ["[]", "[10s]", "[10=24h]", "[x=y]"] {
            assert_eq!(allowed_ttl(&said(bad)), None, "{bad}");
        }
        assert_eq!(allowed_ttl("Missing node registration"), None);
    }
}
