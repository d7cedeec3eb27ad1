//! The shelf "backlog" of one worker: stretches of journals that wait behind the clicks of now.
//!
//! Written when a stretch is cut off or found, and with each of its batches that is finished; added up by a scrape. A lock,
//! never taken on a request thread. Bounds: an entry for each stretch.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What waits in a stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Clicks, about: reckoned from the bytes.
    pub rows: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Time of the first one, Unix milliseconds; 0 when there is none that can be read.
    pub oldest_ms: u64,
}

/// Stretches by number, and what waits in them.
#[derive(Debug, Default)]
pub struct Backlog {
    stretches: Mutex<BTreeMap<u64, Waiting>>,
}

impl Backlog {
    /// A stretch that counts until what is given here is dropped.
    #[must_use = "the stretch counts until this is dropped"]
    pub fn count(self: &Arc<Self>, waiting: Waiting) -> Stretch {
        let mut stretches = self.stretches();
        let number = stretches.keys().next_back().map_or(0, |last| last + 1);
        stretches.insert(number, waiting);
        Stretch { backlog: Arc::clone(self), number }
    }

    /// What waits in each.
    #[must_use]
    pub fn waiting(&self) -> Vec<Waiting> {
        self.stretches().values().copied().collect()
    }

    fn stretches(&self) -> MutexGuard<'_, BTreeMap<u64, Waiting>> {
        // An entry is put in, changed or taken out whole.
        self.stretches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as long as it lives.
#[derive(Debug)]
pub struct Stretch {
    backlog: Arc<Backlog>,
    number: u64,
}

impl Stretch {
    /// What waits in it now.
    pub fn set(&self, waiting: Waiting) {
        self.backlog.stretches().insert(self.number, waiting);
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        self.backlog.stretches().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_counts_until_it_is_dropped() {
        let backlog = Arc::<Backlog>::default();
        let of = |rows| Waiting { rows, bytes: 10 * rows, oldest_ms: 7 };
        let (first, second) = (backlog.count(of(1)), backlog.count(of(2)));
        assert_eq!(backlog.waiting(), [of(1), of(2)]);
        drop(first);
        second.set(of(3));
        let third = backlog.count(of(4));
        assert_eq!(backlog.waiting(), [of(3), of(4)]);
        drop((second, third));
        assert_eq!(backlog.waiting(), []);
    }
}
