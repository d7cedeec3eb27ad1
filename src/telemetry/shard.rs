//! Counters and histograms with one writer each.
//!
//! A shard belongs to one thread: it adds with a plain load and store, which costs about a nanosecond, where a shared
//! counter costs a hundred under contention. Readers may look at any time and see a recent value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that one thread writes and anyone reads.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds. Only the owner of the shard may call this: two writers would lose additions.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds, whoever else adds at the same time; where one writer cannot be had.
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Subtracts; for gauges. Only the owner of the shard may call this.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Replaces. Only the owner of the shard may call this.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// A recent value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of latency buckets in microseconds, 50 µs to 60 s. They contain every latency threshold of the
/// objectives exactly: 0.5, 0.8, 1, 2, 5, 10, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 500 ms and 1, 2, 5, 10,
/// 30, 60 s.
pub const LATENCY_US: &[u64] = &[
    50, 100, 200, 350, 500, 800, 1_000, 2_000, 3_500, 5_000, 7_500, 10_000, 15_000, 20_000, 25_000, 30_000, 40_000,
    50_000, 75_000, 100_000, 150_000, 200_000, 250_000, 300_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
    30_000_000, 60_000_000,
];

/// Upper bounds of buckets for numbers of rows.
pub const ROWS: &[u64] = &[1, 10, 100, 1_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];

/// Upper bounds of buckets for scores of 0 to 100.
pub const SCORES: &[u64] = &[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100];

/// A histogram with one writer.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what lies beyond.
    counts: Box<[Cell]>,
    sum: Cell,
}

impl Histogram {
    /// An empty histogram with these upper bounds (inclusive, ascending).
    #[must_use]
    pub fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| Cell::default()).collect(), sum: Cell::default() }
    }

    /// Counts one value in the unit of the bounds.
    pub fn observe(&self, value: u64) {
        self.counts[self.bucket(value)].add(1);
        self.sum.add(value);
    }

    /// As [`Histogram::observe`], whoever else does so at the same time.
    pub fn observe_shared(&self, value: u64) {
        self.counts[self.bucket(value)].add_shared(1);
        self.sum.add_shared(value);
    }

    fn bucket(&self, value: u64) -> usize {
        self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len())
    }

    /// Counts one duration, in microseconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds this shard to a sum of shards with the same bounds.
    pub fn merge_into(&self, total: &mut Snapshot) {
        total.bounds = self.bounds;
        total.counts.resize(self.counts.len(), 0);
        for (sum, count) in total.counts.iter_mut().zip(&self.counts) {
            *sum += count.get();
        }
        total.sum += self.sum.get();
    }
}

/// Merged shards of a histogram.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Upper bounds.
    pub bounds: &'static [u64],
    /// Not cumulative; one more than bounds.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up_and_bounds_are_inclusive() {
        let (a, b) = (Histogram::new(LATENCY_US), Histogram::new(LATENCY_US));
        a.observe(50);
        a.observe(51);
        b.observe_duration(Duration::from_secs(61));
        let mut total = Snapshot::default();
        a.merge_into(&mut total);
        b.merge_into(&mut total);
        assert_eq!((total.counts[0], total.counts[1], total.counts[LATENCY_US.len()]), (1, 1, 1));
        assert_eq!(total.sum, 101 + 61_000_000);
        assert!(LATENCY_US.is_sorted() && ROWS.is_sorted() && SCORES.is_sorted());
    }
}
