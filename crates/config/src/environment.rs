//! Environment variables (`spec/config.md §5`).

use std::collections::BTreeMap;

/// The process environment, less what is not UTF-8.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect()
}
