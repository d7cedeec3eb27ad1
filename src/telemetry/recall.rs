//! How often memory knew what a Warden elsewhere says of a key.
//!
//! Request threads write it, and the control side, with each key; so there are several copies, and a thread writes its own,
//! or one that few others write. A scrape adds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::proto::MetricFamily;

use super::exposition::Shards;
use super::families::counter;
use super::metrics::Metrics;
use super::shard::Cell;

/// Copies; threads beyond this number share.
const STRIPES: usize = 32;

/// What memory knew of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// It is good.
    Hit,
    /// It was good, and the Warden cannot be asked.
    Stale,
    /// It is bad.
    Negative,
    /// Nothing, or nothing that is fresh.
    Miss,
}

impl Remembered {
    const NAMES: [&str; 4] = ["hit", "stale", "negative", "miss"];
}

/// Written by everybody who checks keys.
#[derive(Debug, Default)]
pub struct RecallShard([Stripe; STRIPES]);

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe([Cell; Remembered::NAMES.len()]);

impl RecallShard {
    /// Counts one look into memory.
    pub fn count(&self, remembered: Remembered) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        self.0[OWN.with(|own| *own)].0[remembered as usize].add_shared(1);
    }

    /// Looks so far that found this.
    #[must_use]
    pub fn counted(&self, remembered: Remembered) -> u64 {
        self.0.iter().map(|stripe| stripe.0[remembered as usize].get()).sum()
    }
}

impl Metrics {
    /// What memory knew of keys that a Warden elsewhere checks.
    #[must_use]
    pub fn recall(&self) -> Arc<RecallShard> {
        Arc::clone(&self.shards.recall)
    }
}

impl Shards {
    pub(super) fn recall_family(&self) -> MetricFamily {
        let all = [Remembered::Hit, Remembered::Stale, Remembered::Negative, Remembered::Miss];
        let counted = all.map(|remembered| (Remembered::NAMES[remembered as usize], self.recall.counted(remembered)));
        counter("trellis_auth_cache_total", "Looks for what a Warden elsewhere said", "result", &counted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_write_adds_up() {
        let shard = Arc::new(RecallShard::default());
        let threads: Vec<_> = (0..STRIPES + 3)
            .map(|_| {
                let shard = Arc::clone(&shard);
                std::thread::spawn(move || (0..100).for_each(|_| shard.count(Remembered::Negative)))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(shard.counted(Remembered::Negative), 100 * (STRIPES as u64 + 3));
        assert_eq!(shard.counted(Remembered::Hit), 0);
    }

    #[test]
    fn looks_are_shown_by_what_they_found() {
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        metrics.recall().count(Remembered::Stale);
        let text = metrics.render(0);
        for line in ["{result=\"stale\"} 1", "{result=\"hit\"} 0", "{result=\"negative\"} 0", "{result=\"miss\"} 0"] {
            assert!(text.contains(&format!("trellis_auth_cache_total{line}\n")), "{line} is not in\n{text}");
        }
    }
}
