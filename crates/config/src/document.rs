//! The dynamic configuration as a JSON document: changing, comparing, making a new one (`spec/config.md §0`, `§6.6`).

use std::time::Duration;

use serde_json::{Map, Value};
use surus_core::failsafe;

use crate::timing;

/// Applies a `PATCH /config` body. True if `base` changed.
///
/// `null` removes a key that is there; a map over a map is patched, over anything else it replaces; a leaf replaces only
/// when its text differs, so that `"30"` over `30` keeps the number; a subtree whose parent is absent is taken over as it
/// is, `null`s included. Peers rely on each of these.
pub fn patch(base: &mut Value, patch: &Value) -> bool {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => patch_map(base, patch),
        (base, patch) if same_text(base, patch) => false,
        (base, patch) => {
            *base = patch.clone();
            true
        }
    }
}

fn patch_map(base: &mut Map<String, Value>, patch: &Map<String, Value>) -> bool {
    let mut changed = false;
    for (key, value) in patch {
        match (base.get_mut(key), value) {
            (Some(_), Value::Null) => changed |= base.shift_remove(key).is_some_and(|old| !old.is_null()),
            (None, Value::Null) => {}
            (Some(Value::Object(current)), Value::Object(below)) => changed |= patch_map(current, below),
            (Some(current), value) => {
                if !same_text(current, value) {
                    *current = value.clone();
                    changed = true;
                }
            }
            (None, value) => {
                base.insert(key.clone(), value.clone());
                changed = true;
            }
        }
    }
    changed
}

/// Whether two documents mean the same: leaves are compared by their text, so `30` equals `"30"`.
pub fn deep_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| deep_equal(value, other)))
        }
        (a, b) => same_text(a, b),
    }
}

/// Lists are equal as wholes, scalars when Python would print them alike.
pub(crate) fn same_text(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => a == b,
        (a, b) => python_text(a) == python_text(b),
    }
}

fn python_text(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// What a member that initialises a cluster writes: `bootstrap.dcs` as it is, with the timing and the failsafe mode it
/// leaves out. All three of the timing left out: `Timing::NEW_CLUSTER`, or what goes with a store that holds a lead no
/// shorter than `least`. Some written: those are kept and the others chosen to go with them.
///
/// Failsafe mode is written, not taken for granted: to a Patroni member, which reads the same document and takes a free lead
/// without asking, what is not written is off. Where members are not let in by each other (`members_may_ask`), nobody could be
/// vouched for, and nobody could take over either.
pub fn new_cluster_document(bootstrap_dcs: &Value, least: Option<Duration>, members_may_ask: bool) -> Value {
    let written = bootstrap_dcs.as_object().cloned().unwrap_or_default();
    let value = |key: &str| written.get(key).filter(|v| !v.is_null());
    let number = |key: &str| value(key).and_then(timing::whole_seconds);
    let timing = match (number("ttl"), number("loop_wait"), number("retry_timeout")) {
        (None, None, None) => timing::complete(least.and_then(|t| i64::try_from(t.as_secs()).ok()), None, None),
        (ttl, loop_wait, retry_timeout) => timing::complete(ttl, loop_wait, retry_timeout),
    };
    let mut document = Map::new();
    for (key, chosen) in [("ttl", timing.ttl), ("loop_wait", timing.loop_wait), ("retry_timeout", timing.retry_timeout)]
    {
        document.insert(key.to_owned(), value(key).cloned().unwrap_or_else(|| chosen.as_secs().into()));
    }
    if value(failsafe::SETTING).is_none() && members_may_ask {
        document.insert(failsafe::SETTING.to_owned(), Value::Bool(true));
    }
    for (key, value) in written {
        document.entry(key).or_insert(value);
    }
    Value::Object(document)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::finding::Source;
    use crate::tree::Node;

    #[test]
    fn patch_table() {
        for (base, change, expected) in [
            (json!({"ttl": 30}), json!({"ttl": "30"}), None),
            (json!({"ttl": 30}), json!({"ttl": 20}), Some(json!({"ttl": 20}))),
            (json!({"ttl": 30}), json!({"ttl": null}), Some(json!({}))),
            (json!({"ttl": 30}), json!({"loop_wait": null}), None),
            (json!({}), json!({"slots": {"a": null}}), Some(json!({"slots": {"a": null}}))),
            (json!({"slots": {"a": {}}}), json!({"slots": {"a": null}}), Some(json!({"slots": {}}))),
            (json!({"slots": {"a": {}}}), json!({"slots": {}}), None),
            (json!({"slots": 1}), json!({"slots": {}}), Some(json!({"slots": {}}))),
            (json!({"slots": {"a": 1}}), json!({"slots": 1}), Some(json!({"slots": 1}))),
            (json!({"l": [1, 2]}), json!({"l": [2]}), Some(json!({"l": [2]}))),
            (json!({"l": [1]}), json!({"l": ["1"]}), Some(json!({"l": ["1"]}))),
            (json!({"b": true}), json!({"b": "True"}), None),
            (json!({"b": true}), json!({"b": "true"}), Some(json!({"b": "true"}))),
            (
                json!({"a": {"b": {"c": 1, "d": 2}}}),
                json!({"a": {"b": {"c": null}}}),
                Some(json!({"a": {"b": {"d": 2}}})),
            ),
        ] {
            let mut document = base.clone();
            let changed = patch(&mut document, &change);
            assert_eq!(
                (changed, document),
                (expected.is_some(), expected.unwrap_or(base.clone())),
                "{base} + {change}"
            );
        }
    }

    #[test]
    fn equality_by_text() {
        assert!(deep_equal(&json!({"a": 30, "b": {"c": true}}), &json!({"b": {"c": "True"}, "a": "30"})));
        assert!(!deep_equal(&json!({"a": 30}), &json!({"a": 30, "b": null})));
        assert!(!deep_equal(&json!({"a": {}}), &json!({"a": "{}"})));
        assert!(!deep_equal(&json!([1]), &json!(["1"])));
    }

    #[test]
    fn a_new_cluster_gets_fast_timing_only_where_nothing_is_said() {
        for (written, expected) in [
            (json!({}), [8, 2, 3]),
            (json!(null), [8, 2, 3]),
            (json!({"ttl": null}), [8, 2, 3]),
            (json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}), [30, 10, 10]),
            (json!({"ttl": 5}), [5, 1, 2]),
            (json!({"ttl": 30}), [30, 7, 10]),
            (json!({"loop_wait": 10}), [30, 10, 10]),
            (json!({"retry_timeout": 10}), [26, 6, 10]),
            (json!({"ttl": 20, "loop_wait": 10}), [20, 10, 5]),
            (json!({"ttl": 30, "retry_timeout": 10}), [30, 10, 10]),
            (json!({"loop_wait": 1, "retry_timeout": 1}), [8, 1, 1]),
        ] {
            let document = new_cluster_document(&written, None, true);
            let timing = ["ttl", "loop_wait", "retry_timeout"].map(|k| document[k].as_i64().unwrap());
            assert_eq!(timing, expected, "{written}");
            assert!(timing[1] + 2 * timing[2] <= timing[0], "{written}");
        }
        let kept = new_cluster_document(&json!({"x_unknown": {"a": null}, "ttl": "9"}), None, true);
        assert_eq!(
            kept.to_string(),
            r#"{"ttl":"9","loop_wait":2,"retry_timeout":3,"failsafe_mode":true,"x_unknown":{"a":null}}"#
        );
    }

    #[test]
    fn failsafe_mode_is_written_where_nothing_is_said_about_it() {
        for (written, expected) in [
            (json!({}), json!(true)),
            (json!({"failsafe_mode": null}), json!(true)),
            (json!({"failsafe_mode": false}), json!(false)),
            (json!({"failsafe_mode": "off"}), json!("off")),
        ] {
            assert_eq!(new_cluster_document(&written, None, true)["failsafe_mode"], expected, "{written}");
            let not_asked = new_cluster_document(&written, None, false);
            assert!(not_asked["failsafe_mode"] != true, "{not_asked}");
            assert_eq!(failsafe::switched_on(&written).is_some(), expected == json!(true), "{written}");
        }
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3i64..40).prop_map(Value::from),
            "[a-c]{0,2}|30|True".prop_map(Value::from),
        ];
        let tree = leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        });
        proptest::collection::btree_map("[a-d]", tree, 0..5).prop_map(|m| Value::Object(m.into_iter().collect()))
    }

    proptest! {
        #[test]
        fn patching_twice_is_patching_once(mut base in documents(), change in documents()) {
            // An inserted subtree keeps its nulls, which a second application then removes.
            prop_assume!(!change.to_string().contains("null"));
            patch(&mut base, &change);
            let once = base.clone();
            prop_assert!(!patch(&mut base, &change));
            prop_assert_eq!(base, once);
        }

        #[test]
        fn an_empty_patch_and_ones_own_text_change_nothing(base in documents()) {
            prop_assume!(!base.to_string().contains("null"));
            let mut patched = base.clone();
            let nothing = json!({});
            prop_assert!(!patch(&mut patched, &nothing));
            prop_assert!(!patch(&mut patched, &base));
            prop_assert_eq!(patched, base);
        }

        #[test]
        fn no_change_reported_means_no_change(base in documents(), change in documents()) {
            let mut patched = base.clone();
            let changed = patch(&mut patched, &change);
            if !changed {
                // A null that was stored verbatim may go without counting as a change.
                prop_assume!(!base.to_string().contains("null"));
                prop_assert_eq!(&patched, &base);
            }
            prop_assert!(changed || deep_equal(&patched, &base) || base.to_string().contains("null"));
        }

        #[test]
        fn merging_files_follows_the_same_rules(base in documents(), change in documents()) {
            let mut tree = Node::from_json(&base, &Source::Default);
            tree.merge(Node::from_json(&change, &Source::Dynamic));
            let mut patched = base;
            patch(&mut patched, &change);
            prop_assert!(tree.to_json() == patched, "{} {}", tree.to_json(), patched);
        }
    }
}
