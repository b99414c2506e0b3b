//! `loop_wait + 2 * retry_timeout <= ttl`, and the minimums (`spec/config.md §6.2`).

use surus_core::settings::Timing;

/// Why three numbers do not go together; `Display` says the rule and the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimingFault {
    pub key: &'static str,
    pub message: String,
}

/// Seconds as written. The key named in the fault is the one to change.
pub fn check_timing(_ttl: i64, _loop_wait: i64, _retry_timeout: i64) -> Result<Timing, TimingFault> {
    unimplemented!()
}
