//! `loop_wait + 2 * retry_timeout <= ttl`, and the minimums (`spec/config.md §6.2`).
//!
//! A leader has to be able to fail at the store for `retry_timeout`, twice, and still renew before `ttl` runs out.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use surus_core::settings::Timing;

/// Why three numbers do not go together; `Display` says the rule and the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimingFault {
    /// The key to change.
    pub key: &'static str,
    pub message: String,
}

impl fmt::Display for TimingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for TimingFault {}

const MINIMUMS: [(&str, u64); 3] = [
    ("ttl", Timing::MIN_TTL.as_secs()),
    ("loop_wait", Timing::MIN_LOOP_WAIT.as_secs()),
    ("retry_timeout", Timing::MIN_RETRY_TIMEOUT.as_secs()),
];

/// A year: more is a mistake, and lets sums of times overflow.
const MAXIMUM: i64 = 31_536_000;

/// Seconds as written, all faults at once.
pub fn check_timing(ttl: i64, loop_wait: i64, retry_timeout: i64) -> Result<Timing, Vec<TimingFault>> {
    let values = [ttl, loop_wait, retry_timeout];
    let faults: Vec<TimingFault> = MINIMUMS
        .iter()
        .zip(values)
        .filter_map(|((key, minimum), value)| {
            let bound = match value {
                value if value < signed(*minimum) => format!("at least {minimum}"),
                value if value > MAXIMUM => format!("at most {MAXIMUM}"),
                _ => return None,
            };
            Some(TimingFault { key, message: format!("expected {bound} seconds, found {value}") })
        })
        .collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let needed = retry_timeout.saturating_mul(2).saturating_add(loop_wait);
    if needed > ttl {
        return Err(vec![TimingFault {
            key: "ttl",
            message: format!(
                "loop_wait + 2 * retry_timeout must not exceed ttl, found {loop_wait} + 2 * {retry_timeout} = {needed} \
                 > {ttl}; raise ttl to {needed} or lower the others"
            ),
        }]);
    }
    Ok(Timing { ttl: seconds(ttl), loop_wait: seconds(loop_wait), retry_timeout: seconds(retry_timeout) })
}

/// Makes three stored numbers satisfy the rule the way peers do, with our minimums. Returns what was changed.
pub(crate) fn adjust(ttl: i64, loop_wait: i64, retry_timeout: i64) -> (Timing, Vec<(&'static str, String)>) {
    let given = [ttl, loop_wait, retry_timeout];
    let [mut ttl, mut loop_wait, mut retry_timeout] = given;
    for (value, (_, minimum)) in [&mut ttl, &mut loop_wait, &mut retry_timeout].into_iter().zip(MINIMUMS) {
        *value = (*value).clamp(signed(minimum), MAXIMUM);
    }
    if retry_timeout.saturating_mul(2).saturating_add(1) > ttl {
        loop_wait = 1;
        retry_timeout = (ttl - 1) / 2;
    } else if loop_wait.saturating_add(2 * retry_timeout) > ttl {
        loop_wait = ttl - 2 * retry_timeout;
    }
    let changed = MINIMUMS
        .iter()
        .zip(given.into_iter().zip([ttl, loop_wait, retry_timeout]))
        .filter(|(_, (old, new))| old != new)
        .map(|((key, minimum), (old, new))| {
            let reason = if old < signed(*minimum) {
                format!("{old} is below the minimum of {minimum} seconds")
            } else if old > MAXIMUM {
                format!("{old} is above the maximum of {MAXIMUM} seconds")
            } else {
                format!("{old} breaks the rule loop_wait + 2 * retry_timeout <= ttl ({ttl})")
            };
            (*key, format!("{reason}; {new} is used in its place until the stored value is changed"))
        })
        .collect();
    (Timing { ttl: seconds(ttl), loop_wait: seconds(loop_wait), retry_timeout: seconds(retry_timeout) }, changed)
}

/// Chooses what is left out, in the proportion of `NEW_CLUSTER` and never slower than peers' defaults.
pub(crate) fn complete(ttl: Option<i64>, loop_wait: Option<i64>, retry_timeout: Option<i64>) -> Timing {
    let slowest = signed(Timing::PATRONI.loop_wait.as_secs());
    let shortest = signed(Timing::NEW_CLUSTER.ttl.as_secs());
    let (t, l, r) = match (ttl, loop_wait, retry_timeout) {
        (None, None, None) => return Timing::NEW_CLUSTER,
        (Some(t), None, None) => {
            let l = (t / 4).clamp(1, slowest);
            (t, l, (t.saturating_sub(l) / 2).clamp(1, slowest))
        }
        (Some(t), Some(l), None) => (t, l, (t.saturating_sub(l) / 2).clamp(1, slowest)),
        (Some(t), None, Some(r)) => (t, t.saturating_sub(r.saturating_mul(2)).clamp(1, slowest), r),
        (None, l, r) => {
            let l = l.unwrap_or_else(|| (r.unwrap_or(3).saturating_mul(2) / 3).clamp(1, slowest));
            let r = r.unwrap_or_else(|| (l.saturating_mul(3) / 2).clamp(signed(3), slowest));
            (l.saturating_add(r.saturating_mul(2)).max(shortest), l, r)
        }
        (Some(t), Some(l), Some(r)) => (t, l, r),
    };
    Timing { ttl: seconds(t), loop_wait: seconds(l), retry_timeout: seconds(r) }
}

/// A number of seconds as peers convert it: a number (its fraction is cut off) or its text.
pub(crate) fn whole_seconds(value: &Value) -> Option<i64> {
    match value {
        #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and the range is checked by the caller")]
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(value.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbers(t: Timing) -> [u64; 3] {
        [t.ttl.as_secs(), t.loop_wait.as_secs(), t.retry_timeout.as_secs()]
    }

    #[test]
    fn the_rule_is_said_with_its_numbers() {
        let faults = check_timing(10, 10, 10).unwrap_err();
        assert_eq!(
            faults[0].to_string(),
            "ttl: loop_wait + 2 * retry_timeout must not exceed ttl, found 10 + 2 * 10 = 30 > 10; raise ttl to 30 or \
             lower the others"
        );
        let faults: Vec<_> = check_timing(4, 0, -1).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            faults,
            [
                "ttl: expected at least 5 seconds, found 4",
                "loop_wait: expected at least 1 seconds, found 0",
                "retry_timeout: expected at least 1 seconds, found -1"
            ]
        );
        let fault = check_timing(99_999_999, 1, 1).unwrap_err();
        assert_eq!(fault[0].to_string(), "ttl: expected at most 31536000 seconds, found 99999999");
        assert_eq!(numbers(check_timing(5, 1, 2).unwrap()), [5, 1, 2]);
    }

    #[test]
    fn stored_numbers_are_adjusted_as_peers_do() {
        for (given, expected, changed) in [
            ([30, 10, 10], [30, 10, 10], 0),
            ([20, 10, 10], [20, 1, 9], 2),
            ([25, 10, 10], [25, 5, 10], 1),
            ([5, 10, 10], [5, 1, 2], 2),
            ([1, 0, 0], [5, 1, 1], 3),
            ([5, 1, i64::MAX], [5, 1, 2], 1),
            ([i64::MAX; 3], [31_536_000, 1, 15_767_999], 3),
        ] {
            let (timing, changes) = adjust(given[0], given[1], given[2]);
            assert_eq!((numbers(timing), changes.len()), (expected, changed), "{given:?}");
        }
    }

    proptest! {
        #[test]
        fn adjusted_timing_always_satisfies_the_rule(t in any::<i64>(), l in any::<i64>(), r in any::<i64>()) {
            let (timing, _) = adjust(t, l, r);
            prop_assert!(timing.loop_wait + 2 * timing.retry_timeout <= timing.ttl);
            let [t, l, r] = numbers(timing).map(|n| i64::try_from(n).unwrap());
            prop_assert!(check_timing(t, l, r).is_ok());
            prop_assert_eq!(adjust(t, l, r).1.len(), 0);
        }

        #[test]
        fn one_number_can_always_be_completed(n in 5i64..1_000_000) {
            for t in [complete(Some(n), None, None), complete(None, Some(n), None), complete(None, None, Some(n))] {
                prop_assert!(t.loop_wait + 2 * t.retry_timeout <= t.ttl, "{t:?}");
            }
        }
    }
}
