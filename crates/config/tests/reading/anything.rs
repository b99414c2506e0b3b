//! Whatever is read, nothing panics, and every fault is one line.

use proptest::prelude::*;
use serde_json::Value;
use surus_config::{DynamicConfig, Effective, new_cluster_document};

use crate::support::{MINIMAL, load, minimal_and};

/// Real keys with values of every kind.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["[ -~]{0,8}", "-?0?x?[0-9]{0,20}[.:e+]?[0-9]{0,3}(kB|s|min)?", "\\PC{0,4}"].prop_map(Value::from),
    ];
    let key = proptest::sample::select(vec![
        "ttl",
        "loop_wait",
        "retry_timeout",
        "slots",
        "ignore_slots",
        "standby_cluster",
        "postgresql",
        "parameters",
        "max_connections",
        "wal_keep_size",
        "wal_keep_segments",
        "pg_hba",
        "host",
        "port",
        "member_slots_ttl",
        "maximum_lag_on_failover",
        "synchronous_mode",
        "recovery_conf",
        "basebackup",
        "command",
        "type",
        "database",
    ]);
    leaf.prop_recursive(4, 30, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_can_be_read_and_run_with(document in values()) {
        let local = load(MINIMAL).unwrap();
        let (dynamic, warnings) = DynamicConfig::read(&document);
        let timing = dynamic.settings.timing;
        prop_assert!(timing.loop_wait + 2 * timing.retry_timeout <= timing.ttl);
        prop_assert!(warnings.iter().all(|w| !w.to_string().contains('\n')));
        let effective = Effective::build(&local, &dynamic, Some(150_000));
        prop_assert!(effective.command_line.len() == 13);
        new_cluster_document(&document, None, true);
    }

    #[test]
    fn any_bootstrap_section_is_taken_or_refused(document in values()) {
        // JSON is YAML, but for tabs and the like inside of text.
        if let Err(errors) = load(&minimal_and(&format!("bootstrap: {{dcs: {document}}}\npostgres: {document}\n"))) {
            prop_assert!(errors.0.iter().all(|e| !e.to_string().contains('\n')), "{errors}");
        }
    }

    #[test]
    fn any_text_is_taken_or_refused(text in "([a-z]{1,3}|[-:{}\\[\\]&*!|>'\"#,?\n ]|\\t|<<|---){0,40}") {
        if let Err(errors) = load(&text) {
            prop_assert!(!errors.0.is_empty());
        }
    }
}
