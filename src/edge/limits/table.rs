//! What many sources owe, in a table that never grows: shared by all edge threads, no lock, no allocation.
//!
//! ```text
//! hash of the source (keyed) -> set -> 8 words, one cache line
//! word: tag u22 | time at which the source has paid u42, in ticks, modulo 2^42 (5 days)
//! ```
//! A source is one word, so a change is one compare-and-swap and no reader sees half of it. A new source takes the place of
//! the one of its set that owes least: nearly always one that owes nothing and loses nothing. Where all eight owe, the
//! displaced one begins with a fresh burst. One that is being limited owes the most there is, and goes only when seven
//! others of its set do: who does not know the hash's key cannot choose such neighbours, and a million sources that ask
//! once displace each other.
//!
//! One table for all threads: the system spreads connections over them unevenly, and a share of the rate for each thread
//! would limit a visitor with one connection to that share.
//!
//! Two sources with one tag in one set count as one: of a million sources in 2^18 words, about two have such a twin. Two
//! threads that meet a new source at the same moment may give it two words; the second one falls idle and goes. Words that
//! owe nothing are emptied in passing ([`Table::retire`]), long before their time could be taken for one to come.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::gcra::{DEBT_MAX, Gcra};

const WAYS: usize = 8;
const TIME_BITS: u32 = 42;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// Sets looked at by one call of [`Table::retire`].
const RETIRED_SETS: usize = 256;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Set([AtomicU64; WAYS]);

/// The word of a source, or the one that it would take.
struct Place<'t> {
    slot: &'t AtomicU64,
    word: u64,
    debt: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Table {
    sets: Box<[Set]>,
    next_retired: AtomicUsize,
}

impl Table {
    /// For so many sources, rounded up to a power of two; 8 bytes each.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        let sets = entries.next_power_of_two().div_ceil(WAYS);
        Self { sets: (0..sets).map(|_| Set::default()).collect(), next_retired: AtomicUsize::new(0) }
    }

    /// Charges the source one request at this time; its debt after it.
    ///
    /// # Errors
    /// The ticks until it may ask again; nothing is charged.
    pub fn charge(&self, source: u64, now: u64, by: &Gcra) -> Result<u64, u64> {
        loop {
            let Place { slot, word, debt } = self.find(source, now);
            let charged = by.charge(debt)?;
            let next = tag(source) | ((now + charged) & TIME_MASK);
            // Another thread was faster: its charge counts, and ours goes on top.
            if slot.compare_exchange_weak(word, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Ok(charged);
            }
        }
    }

    /// Whether the source may ask at this time; charges nothing.
    ///
    /// # Errors
    /// The ticks until it may.
    pub fn peek(&self, source: u64, now: u64, by: &Gcra) -> Result<(), u64> {
        by.charge(self.find(source, now).debt).map(drop)
    }

    fn find(&self, source: u64, now: u64) -> Place<'_> {
        let set = &self.sets[source as usize & (self.sets.len() - 1)].0;
        let mut least = Place { slot: &set[0], word: 0, debt: u64::MAX };
        for slot in set {
            let word = slot.load(Ordering::Relaxed);
            let debt = debt(word, now);
            if word & !TIME_MASK == tag(source) {
                return Place { slot, word, debt };
            }
            if debt < least.debt {
                least = Place { slot, word, debt };
            }
        }
        // It is new here, and owes nothing.
        Place { debt: 0, ..least }
    }

    /// Empties words that owe nothing, some sets at a time. To be called about once a second: the largest table, of 2^24
    /// words, is passed in 3 h then, and a word's time is told from one to come for 2 days.
    pub fn retire(&self, now: u64) {
        let first = self.next_retired.fetch_add(RETIRED_SETS, Ordering::Relaxed);
        for set in (first..first + RETIRED_SETS.min(self.sets.len())).map(|at| &self.sets[at & (self.sets.len() - 1)]) {
            for slot in &set.0 {
                let word = slot.load(Ordering::Relaxed);
                if word != 0 && debt(word, now) == 0 {
                    let _ = slot.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The tag of a source, in its place in a word; never zero, which is an empty word's. Of other bits than its set.
const fn tag(source: u64) -> u64 {
    let tag = source & !TIME_MASK;
    if tag == 0 { 1 << TIME_BITS } else { tag }
}

/// What a word owes at this time. A time further ahead than any debt is one that has passed.
const fn debt(word: u64, now: u64) -> u64 {
    let ahead = (word & TIME_MASK).wrapping_sub(now) & TIME_MASK;
    if word == 0 || ahead > DEBT_MAX { 0 } else { ahead }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::gcra::ticks;
    use super::*;

    const SECOND: u64 = ticks(Duration::from_secs(1));

    #[test]
    fn sources_are_charged_apart_and_all_threads_together() {
        let (table, gcra) = (Table::new(1 << 10), Gcra::new(1, 1000));
        let admitted: usize = std::thread::scope(|scope| {
            let ask = || (0..900).filter(|_| table.charge(7 << 50, 5, &gcra).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000, "no charge is lost between threads");
        assert_eq!(table.peek(7 << 50, 5, &gcra), Err(SECOND));
        assert!(table.charge(8 << 50, 5, &gcra).is_ok());
        assert_eq!(table.peek(7 << 50, 5 + SECOND, &gcra), Ok(()));
    }

    #[test]
    fn a_set_that_is_full_forgets_who_owes_least() {
        let (table, gcra) = (Table::new(8), Gcra::new(1, 8));
        for source in 1..=8_u64 {
            (0..source).for_each(|_| _ = table.charge(source << 50, 0, &gcra).unwrap());
        }
        assert!(table.peek(8 << 50, 0, &gcra).is_err());
        // Every newcomer takes the place of the one before it, who owes no more than it does.
        for source in 100..1_000_100_u64 {
            table.charge((source << 43) | (1 << 42), 0, &gcra).unwrap();
        }
        assert!(table.peek(8 << 50, 0, &gcra).is_err(), "who is limited stays so");
        assert_eq!(table.charge(7 << 50, 0, &gcra), Ok(8 * SECOND), "and who owes much too");
        assert_eq!(table.charge(1 << 50, 0, &gcra), Ok(SECOND), "who owed least begins anew");
    }

    #[test]
    fn a_million_sources_stay_within_the_table_and_nobody_within_the_limit_is_refused() {
        let (table, gcra) = (Table::new(1 << 14), Gcra::new(10, 2));
        let mut random = fastrand::Rng::with_seed(1);
        let sources: Vec<u64> = (0..1_000_000).map(|_| random.u64(..)).collect();
        let refused =
            sources.iter().zip(0..).filter(|(source, at)| table.charge(**source, *at, &gcra).is_err()).count();
        // Twins of one tag in one set are the only ones that can be.
        assert!(refused <= 3, "{refused}");
        assert_eq!(table.sets.len() * WAYS, 1 << 14);
    }

    #[test]
    fn a_time_that_has_passed_is_never_taken_for_one_to_come() {
        let (table, gcra) = (Table::new(8), Gcra::new(1, 2));
        let wrap = 1 << TIME_BITS;
        let source = 3 << 50;
        // Across the end of the numbers.
        for now in [wrap - 1, wrap, wrap + 1] {
            table.charge(source, now, &gcra).unwrap_or_default();
        }
        assert!(table.peek(source, wrap + 1, &gcra).is_err());
        assert_eq!(table.charge(source, wrap + 3 * SECOND, &gcra), Ok(SECOND));
        // Without a word of it in between, a whole turn later.
        assert!(table.charge(source, 2 * wrap + 3 * SECOND, &gcra).unwrap() > SECOND, "which is why words retire");
        table.retire(2 * wrap + 10 * SECOND);
        assert!(table.sets.iter().flat_map(|set| &set.0).all(|slot| slot.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn who_owes_is_not_retired_and_every_set_has_its_turn() {
        let (table, gcra) = (Table::new(1 << 14), Gcra::new(1, 100));
        for set in 0..1 << 11 {
            table.charge(set | (5 << 50), 0, &gcra).unwrap();
        }
        table.charge(9 | (6 << 50), 0, &gcra).unwrap();
        table.charge(9 | (6 << 50), 0, &gcra).unwrap();
        for _ in 0..(1 << 11) / RETIRED_SETS {
            table.retire(SECOND);
        }
        let left: Vec<_> =
            table.sets.iter().flat_map(|set| &set.0).filter(|s| s.load(Ordering::Relaxed) != 0).collect();
        assert_eq!(left.len(), 1);
        assert_eq!(table.charge(9 | (6 << 50), SECOND, &gcra), Ok(2 * SECOND));
    }
}
