//! The dynamic configuration as a JSON document: changing, comparing, making a new one (`spec/config.md §0`, `§6.6`).

use serde_json::Value;

/// Applies a `PATCH /config` body. True if `base` changed.
pub fn patch(_base: &mut Value, _patch: &Value) -> bool {
    unimplemented!()
}

/// Whether two documents mean the same: leaves are compared by their text, so `30` equals `"30"`.
pub fn deep_equal(_a: &Value, _b: &Value) -> bool {
    unimplemented!()
}

/// What a member that initialises a cluster writes.
pub fn new_cluster_document(_bootstrap_dcs: &Value) -> Value {
    unimplemented!()
}
