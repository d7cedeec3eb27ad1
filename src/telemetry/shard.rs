//! Counters and histograms with one writer each.
//!
//! A shard belongs to one thread: it adds with a plain load and store, which costs about a nanosecond, where a shared
//! counter costs a hundred under contention. Readers may look at any time and see a recent value.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use super::scale::{Scale, THRESHOLDS_NS};

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

/// A histogram with one writer. One of durations takes 2.3 KiB, as each of its buckets takes 8 bytes.
#[derive(Debug)]
pub struct Histogram {
    scale: Scale,
    /// One for each bound, and one for what lies beyond.
    counts: Box<[Cell]>,
    /// Of all values: multiples of [`SUM_STEP`], and what is left of each. Apart, so that neither can overflow in years,
    /// though durations are nanoseconds.
    sum: [Cell; 2],
}

/// 1.05 ms, where values are nanoseconds.
const SUM_STEP: u64 = 1 << 20;

impl Histogram {
    /// An empty histogram of such values.
    #[must_use]
    pub fn new(scale: Scale) -> Self {
        let counts = (0..=scale.bounds().len()).map(|_| Cell::default()).collect();
        Self { scale, counts, sum: Default::default() }
    }

    /// Counts one value in the unit of the scale's bounds.
    #[inline]
    pub fn observe(&self, value: u64) {
        self.counts[self.scale.bucket(value)].add(1);
        self.sum[0].add(value / SUM_STEP);
        self.sum[1].add(value % SUM_STEP);
    }

    /// As [`Histogram::observe`], whoever else does so at the same time.
    pub fn observe_shared(&self, value: u64) {
        self.counts[self.scale.bucket(value)].add_shared(1);
        self.sum[0].add_shared(value / SUM_STEP);
        self.sum[1].add_shared(value % SUM_STEP);
    }

    /// Counts one duration.
    #[inline]
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(nanoseconds(duration));
    }

    /// As [`Histogram::observe_duration`], whoever else does so at the same time.
    pub fn observe_duration_shared(&self, duration: Duration) {
        self.observe_shared(nanoseconds(duration));
    }

    /// Adds this shard to a sum of shards of the same scale.
    pub fn merge_into(&self, total: &mut Snapshot) {
        total.scale = self.scale;
        total.counts.resize(self.counts.len(), 0);
        for (sum, count) in total.counts.iter_mut().zip(&self.counts) {
            *sum += count.get();
        }
        total.sum += u128::from(self.sum[0].get()) * u128::from(SUM_STEP) + u128::from(self.sum[1].get());
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Merged shards of a histogram.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// What was counted.
    pub scale: Scale,
    /// Not cumulative; one more than the scale has bounds, or none where nothing was merged.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: u128,
}

impl Snapshot {
    /// Values so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The value at or below which this share of all values lies, in the unit of the bounds; `None` without values, or when
    /// the share is not within 0 and 1.
    ///
    /// It lies in the first bucket up to which there are `share * count` values, so far from its lower end to its upper one
    /// as that rank lies among the values of this bucket: values are taken to be spread evenly in it. The first bucket
    /// begins at 0. A rank beyond the last bound is given as this bound. That is the rule of Prometheus's
    /// `histogram_quantile`; of durations above 64 ns the result is at most 12.5 % off the value of that rank.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count() as f64;
        let (bounds, mut below) = (self.scale.bounds(), 0);
        for (place, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            if (below + count) as f64 >= rank && (0.0..=1.0).contains(&share) {
                let Some(end) = bounds.get(place) else { return bounds.last().map(|last| *last as f64) };
                let begin = if place == 0 { 0 } else { bounds[place - 1] };
                return Some(begin as f64 + (end - begin) as f64 * (rank - below as f64) / *count as f64);
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(scale: Scale, values: &[u64]) -> Snapshot {
        let (histogram, mut total) = (Histogram::new(scale), Snapshot::default());
        values.iter().for_each(|value| histogram.observe(*value));
        histogram.merge_into(&mut total);
        total
    }

    #[test]
    fn shards_add_up_and_bounds_are_inclusive() {
        let (a, b) = (Histogram::new(Scale::Durations), Histogram::new(Scale::Durations));
        a.observe(64);
        a.observe_shared(65);
        b.observe_duration(Duration::from_secs(61));
        b.observe_duration_shared(Duration::from_secs(3600));
        let mut total = Snapshot::default();
        a.merge_into(&mut total);
        b.merge_into(&mut total);
        assert_eq!((total.counts[0], total.counts[1], total.counts.last()), (1, 1, Some(&2)));
        assert_eq!((total.count(), total.sum), (4, 129 + 3_661_000_000_000));
    }

    #[test]
    fn a_histogram_of_durations_is_as_large_as_it_says() {
        let bytes = size_of_val(&*Histogram::new(Scale::Durations).counts) + size_of::<Histogram>();
        assert!((2_300..2_400).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_sum_of_nanoseconds_outlasts_years_of_long_durations() {
        let hour = 3_600_000_000_000;
        let (histogram, mut total) = (Histogram::new(Scale::Durations), Snapshot::default());
        histogram.sum[0].add(hour / SUM_STEP * 100_000 * 86_400);
        histogram.observe(hour);
        histogram.merge_into(&mut total);
        // A day at 100,000 a second, each an hour.
        assert!(total.sum > u128::from(hour / SUM_STEP * SUM_STEP) * 100_000 * 86_400);
    }

    #[test]
    fn quantiles_are_interpolated_in_their_bucket() {
        let rows = snapshot(Scale::Rows, &[2, 3, 4, 5, 50, 2_000_000]);
        let cases = [(0.0, 1.0), (1.0 / 6.0, 3.25), (4.0 / 6.0, 10.0), (5.0 / 6.0, 100.0), (0.99, 1e6), (1.0, 1e6)];
        for (share, expected) in cases {
            let found = rows.quantile(share).unwrap();
            assert!((found - expected).abs() < 1e-9, "{share}: {found}");
        }
        assert_eq!([rows.quantile(-0.1), rows.quantile(1.1), rows.quantile(f64::NAN)], [None; 3]);
        assert_eq!([snapshot(Scale::Rows, &[]).quantile(0.5), Snapshot::default().quantile(0.5)], [None; 2]);
        assert_eq!(snapshot(Scale::Scores, &[0]).quantile(0.5), Some(0.0));
    }

    proptest! {
        #[test]
        fn a_quantile_of_durations_is_at_most_an_eighth_off(
            mut values in proptest::collection::vec((64..60_000_000_000_u64, 0..30_u32), 1..200),
            share in 0.0..=1.0_f64,
        ) {
            let mut values: Vec<_> = values.drain(..).map(|(value, shift)| (value >> shift).max(65)).collect();
            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).max(1);
            let (exact, found) = (values[rank - 1] as f64, snapshot(Scale::Durations, &values).quantile(share).unwrap());
            prop_assert!((found - exact).abs() <= exact / 8.0, "{} of {}", found, exact);
        }
    }
}
