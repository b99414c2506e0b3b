//! What a member says about failsafe mode (`failsafe` in `GET /explain`, `surus.failsafe` in `GET /patroni`), in words.

use serde_json::Value;

use super::text;

/// `None`: nothing worth a line.
pub fn failsafe_line(failsafe: &Value) -> Option<String> {
    let left = failsafe.get("seconds_left").and_then(Value::as_f64).unwrap_or_default();
    let vouching: Vec<&str> =
        failsafe.get("vouched_by").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    let vouching = vouching.join(", ");
    let not: Vec<String> = failsafe
        .get("not_vouching")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, why)| format!("; {name} does not: {}", why.as_str().unwrap_or("?")))
        .collect();
    let not = not.concat();
    Some(match text(failsafe, "state")? {
        "active" => {
            format!("failsafe mode: goes on without the store, vouched for by {vouching} for another {left:.1} s{not}")
        }
        "blocked" => format!(
            "failsafe mode: too few vouch for it, and without the store it stops before its lead ends in {left:.1} s (it has \
             {}{not})",
            if vouching.is_empty() { "nobody" } else { &vouching }
        ),
        "vouching" => {
            let leader = text(failsafe, "for").unwrap_or("?");
            format!("failsafe mode: vouches for {leader} for another {left:.1} s")
        }
        other => format!("failsafe mode: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_state_in_words() {
        let not = json!({"c": "timeout"});
        for (what, expected) in [
            (
                json!({"state": "active", "seconds_left": 6.25, "vouched_by": ["a", "b"], "not_vouching": not}),
                "failsafe mode: goes on without the store, vouched for by a, b for another 6.2 s; c does not: timeout",
            ),
            (
                json!({"state": "blocked", "seconds_left": 2.0, "vouched_by": ["a"], "not_vouching": not}),
                "failsafe mode: too few vouch for it, and without the store it stops before its lead ends in 2.0 s (it has \
                 a; c does not: timeout)",
            ),
            (
                json!({"state": "vouching", "for": "a", "seconds_left": 6.0}),
                "failsafe mode: vouches for a for another 6.0 s",
            ),
        ] {
            assert_eq!(failsafe_line(&what).as_deref(), Some(expected));
        }
        assert_eq!(failsafe_line(&json!({})), None);
    }
}
