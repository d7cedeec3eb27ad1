//! How often a key was there in a half and in the one before: a count-min sketch of fixed size.
//!
//! ```text
//! four rows of counters; a key has one in each, by a quarter of its hash
//! counter: number of the half 24 bits | clicks in the half before 20 | clicks in this half 20
//! ```
//! A counter is the sum of the keys that share it, so the smallest of the four is never too small. In each row the others
//! add N / counters on average (N: clicks of the half), so more than e times that with a chance below 1 / e (Markov), and
//! in all four rows below e^-4: one key in 54. Counters that are over are taken up anew where they are met: nothing is
//! cleared. Counts stop at 2^20 - 1.
//!
//! Workers add at the same time by compare-and-swap, so no click is lost. That is why each counter is raised, and not only
//! the smallest, which would err less: two workers would overwrite each other's.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Age;

/// Rows; as many as a hash of 128 bits has quarters.
const ROWS: usize = 4;
const COUNT_BITS: u32 = 20;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const HALF_BITS: u32 = 24;

/// See the module.
#[derive(Debug)]
pub(super) struct Sketch {
    rows: [Box<[AtomicU64]>; ROWS],
}

impl Sketch {
    /// With so many counters in each row.
    pub(super) fn new(counters: u32) -> Self {
        Self { rows: std::array::from_fn(|_| (0..counters.max(1)).map(|_| AtomicU64::new(0)).collect()) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.iter().map(|row| size_of_val(&**row)).sum()
    }

    /// Adds one, and tells how often the key was there: in its half and in the one before. A click that comes when the next
    /// half has begun is told its own half at least.
    pub(super) fn count(&self, key: u128, half: u64) -> u32 {
        let counters = std::array::from_fn::<_, ROWS, _>(|row| {
            let (row, part) = (&self.rows[row], (key >> (32 * row)) as u32);
            // Evenly spread over the row, whatever its length.
            &row[((u64::from(part) * row.len() as u64) >> 32) as usize]
        });
        // All four are read before the first is written: a swap waits for its line of memory, and reads wait together.
        let olds = counters.map(|counter| counter.load(Ordering::Relaxed));
        let (mut now, mut before) = (COUNT_MAX, COUNT_MAX);
        for (counter, old) in counters.into_iter().zip(olds) {
            let counted = add(counter, old, half);
            (now, before) = (now.min(counted.0), before.min(counted.1));
        }
        // Both fit in 21 bits together.
        (now + before) as u32
    }
}

/// Adds one to a counter that was `old` a moment ago; what it has then of the click's half, and of the one before.
fn add(counter: &AtomicU64, mut old: u64, half: u64) -> (u64, u64) {
    let pack = |half: u64, before: u64, now: u64| {
        (half & ((1 << HALF_BITS) - 1)) << (2 * COUNT_BITS) | before.min(COUNT_MAX) << COUNT_BITS | now.min(COUNT_MAX)
    };
    loop {
        let (of, before, now) = (old >> (2 * COUNT_BITS), old >> COUNT_BITS & COUNT_MAX, old & COUNT_MAX);
        let (new, counted) = match Age::of(of, half, HALF_BITS) {
            Age::Same => (pack(of, before, now + 1), (now + 1, before)),
            Age::Before => (pack(half, now, 1), (1, now)),
            Age::Behind => (pack(of, before + 1, now), (before + 1, 0)),
            Age::Over => (pack(half, 0, 1), (1, 0)),
            Age::Ahead => return (0, 0),
        };
        match counter.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return counted,
            Err(newer) => old = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::hash;
    use super::*;

    #[test]
    fn it_never_counts_too_few_and_seldom_more_than_its_bound_too_many() {
        (0..8).for_each(compare_with_exact_counts);
    }

    fn compare_with_exact_counts(seed: u64) {
        const COUNTERS: u32 = 256;
        let mut random = fastrand::Rng::with_seed(seed);
        let sketch = Sketch::new(COUNTERS);
        let (mut exact, mut totals) = (HashMap::new(), HashMap::new());
        let (mut half, mut asked, mut above) = (1_000_u64, 0_u32, 0_u32);
        for _ in 0..60_000 {
            // Now and then nothing for several halves; some clicks come when the next half has begun.
            half += if random.u32(..20_000) == 0 { random.u64(1..4) } else { 0 };
            let of = half - u64::from(random.u8(..) < 20);
            // A few keys have most of the clicks.
            let key = (1_f64 / (random.f64() + 0.000_5)) as u64 * 1_000 + random.u64(..5);
            *exact.entry((key, of)).or_insert(0) += 1;
            *totals.entry(of).or_insert(0) += 1;
            let told = sketch.count(hash(&[&key.to_le_bytes()]), of);
            let sum = |of: u64| exact.get(&(key, of)).copied().unwrap_or(0);
            let is_late = of < half;
            let least = sum(of) + if is_late { 0 } else { sum(of - 1) };
            assert!(told >= least, "SEED={seed}: {told} of {least}, half {of} of {half}");
            let clicks: u32 = [of, of - 1].iter().filter_map(|of| totals.get(of)).sum();
            let bound = std::f64::consts::E * f64::from(clicks) / f64::from(COUNTERS);
            asked += 1;
            above += u32::from(f64::from(told - sum(of) - sum(of - 1).min(told - sum(of))) > bound);
        }
        assert!(exact.len() > 2 * COUNTERS as usize, "SEED={seed}: {} keys share the counters", exact.len());
        let share = f64::from(above) / f64::from(asked);
        assert!(share <= 2.0 * (-4_f64).exp(), "SEED={seed}: {share} of the counts are above the bound");
    }

    #[test]
    fn what_is_over_is_forgotten_and_what_is_late_takes_nothing_away() {
        let sketch = Sketch::new(1_024);
        let (a, b) = (hash(&[b"a"]), hash(&[b"b"]));
        assert_eq!([7, 7, 7].map(|half| sketch.count(a, half)), [1, 2, 3]);
        assert_eq!(sketch.count(a, 8), 4, "with the half before");
        assert_eq!((sketch.count(a, 7), sketch.count(a, 8)), (4, 6), "a late one counts in its own half");
        assert_eq!(sketch.count(a, 6), 0, "too late");
        assert_eq!((sketch.count(a, 9), sketch.count(a, 11)), (3, 1));
        assert_eq!(sketch.count(b, 11), 1);
        assert_eq!(sketch.count(a, 11 + (1 << HALF_BITS) - 6), 1, "after years, as if it were from the future");
    }

    #[test]
    fn counts_stop_where_their_bits_end_and_touch_no_others() {
        let counter = AtomicU64::new(0);
        let add = |half| add(&counter, counter.load(Ordering::Relaxed), half);
        for _ in 0..COUNT_MAX + 10 {
            add(3);
        }
        assert_eq!(add(4), (1, COUNT_MAX));
        for _ in 0..10 {
            assert_eq!(add(3).1, 0);
        }
        assert_eq!(add(4), (2, COUNT_MAX));
    }

    #[test]
    fn workers_that_count_at_the_same_time_lose_none() {
        let sketch = Sketch::new(64);
        let key = hash(&[b"a"]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|n| assert!(sketch.count(key, 5 + n / 5_000) > 0)));
            }
        });
        // A thread may have entered the second half when others were in the first: what is late counts there.
        assert_eq!(sketch.count(key, 6), 40_001);
    }
}
