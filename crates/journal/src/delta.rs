//! What changed between two JSON values, as JSON.
//!
//! Objects are compared key by key, everything else is replaced whole. In a change of an object, `"key"` is the
//! new value or, where both sides are objects, the change below it; `"-key"` says that the key is gone; a key that
//! itself begins with `-` or `+` is written with a `+` before it.

use serde_json::{Map, Value};

/// `None`: they are equal.
pub fn between(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let mut change = Map::new();
            for (key, value) in new {
                match old.get(key) {
                    Some(before) => {
                        if let Some(below) = between(before, value) {
                            change.insert(escaped(key), below);
                        }
                    }
                    None => {
                        change.insert(escaped(key), value.clone());
                    }
                }
            }
            for key in old.keys().filter(|key| !new.contains_key(*key)) {
                change.insert(format!("-{key}"), Value::Null);
            }
            (!change.is_empty()).then_some(Value::Object(change))
        }
        _ => (old != new).then(|| new.clone()),
    }
}

/// Makes the new value of the old one.
pub fn apply(value: &mut Value, change: Value) {
    match (value, change) {
        (Value::Object(map), Value::Object(change)) => {
            for (key, below) in change {
                if let Some(gone) = key.strip_prefix('-') {
                    map.remove(gone);
                    continue;
                }
                let key = key.strip_prefix('+').unwrap_or(&key);
                match map.get_mut(key) {
                    Some(at) => apply(at, below),
                    None => {
                        map.insert(key.to_owned(), below);
                    }
                }
            }
        }
        (value, change) => *value = change,
    }
}

fn escaped(key: &str) -> String {
    if key.starts_with(['-', '+']) { format!("+{key}") } else { key.to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0_u64..5).prop_map(Value::from),
            "[-+a-c]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[-+a-c]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_change_leads_from_the_old_to_the_new(old in json_value(), new in json_value()) {
            match between(&old, &new) {
                None => prop_assert_eq!(old, new),
                Some(change) => {
                    let mut value = old;
                    apply(&mut value, change);
                    prop_assert_eq!(value, new);
                }
            }
        }
    }

    #[test]
    fn only_what_changed_is_in_it() {
        let old = json!({"a": {"b": 1, "c": 2, "d": {"x": 1}}, "e": [1, 2], "f": null});
        let new = json!({"a": {"b": 1, "c": 3, "d": {"x": 1}}, "e": [1, 2], "-g": {"h": 1}});
        assert_eq!(between(&old, &new), Some(json!({"a": {"c": 3}, "+-g": {"h": 1}, "-f": null})));
    }
}
