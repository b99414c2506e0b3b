//! Which version this program gives for itself.

/// Published as `patroni.version` and in the member key. Peers compare it as dotted integers: one
/// below 2.1.0 would make a leader among them fall back to the slot and position rules of those
/// releases (`spec/dcs.md §12`). It names the release whose interfaces are provided.
pub const COMPATIBLE_VERSION: &str = "4.1.5";

/// This program's own.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `patroni_version` in `/metrics`: every part in two digits, joined.
pub fn as_metric(version: &str) -> String {
    version.split('.').map(|part| format!("{part:0>2}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_can_compare_it() {
        let parts: Vec<u32> = COMPATIBLE_VERSION.split('.').map(|p| p.parse().unwrap()).collect();
        assert!(parts >= vec![2, 1, 0]);
        assert_eq!(as_metric("4.1.4"), "040104");
        assert_eq!(as_metric("10.0.12"), "100012");
    }
}
