//! Chance, the same for every run of one process.

use std::sync::atomic::{AtomicU64, Ordering};

static DRAWN: AtomicU64 = AtomicU64::new(1);

/// True in so many of a hundred cases.
pub(crate) fn percent(cases: u64) -> bool {
    // The finalizer of MurmurHash3 over a counter.
    let mut x = DRAWN.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (x ^ (x >> 33)) % 100 < cases
}

#[cfg(test)]
mod tests {
    #[test]
    fn cases_are_as_many_as_asked_for() {
        for wanted in [0, 4, 50, 100] {
            let seen = (0..10_000).filter(|_| super::percent(wanted)).count() as u64;
            assert!(seen.abs_diff(wanted * 100) < 200, "{seen} of 10000 for {wanted} %");
        }
    }
}
