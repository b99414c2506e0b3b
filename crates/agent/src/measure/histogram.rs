//! A Prometheus histogram of durations.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: what is beyond the last.
    counts: Vec<AtomicU64>,
    micros: AtomicU64,
    failures: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, micros: AtomicU64::new(0), failures: AtomicU64::new(0) }
    }

    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        self.counts[at].fetch_add(1, Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// The upper bound of each bucket with how many were at most that, the last one without a bound. Each is counted once,
    /// so the last is their number even while others observe.
    pub fn buckets(&self) -> Vec<(Option<f64>, u64)> {
        let bounds = self.bounds.iter().map(|b| Some(*b)).chain([None]);
        let mut sum = 0;
        bounds
            .zip(&self.counts)
            .map(|(bound, count)| {
                sum += count.load(Relaxed);
                (bound, sum)
            })
            .collect()
    }

    pub fn sum(&self) -> f64 {
        self.micros.load(Relaxed) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        for ms in [50, 100, 101, 1000, 5000] {
            histogram.observe(Duration::from_millis(ms));
        }
        assert_eq!(histogram.buckets(), [(Some(0.1), 2), (Some(1.0), 4), (None, 5)]);
        assert_eq!(histogram.sum(), 6.251);
    }
}
