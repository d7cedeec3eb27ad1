//! The gate of a cap: how many more clicks this node may let through in this period, shared out among its cores.
//!
//! ```text
//! Caps (catalog, once a second)  --raise, lower-->  pool  --chunks-->  cells, one for each core  --take--> a click
//!                                <----------------gather: the cores give back what they hold---
//! ```
//! Each place of a period is in the pool, in one cell, or taken: so a node never lets through more than it was granted,
//! however many cores ask at one time, and the last place goes to whoever asks first. A core asks its own cell, and the
//! pool once for a chunk; the fewer places there are, the smaller the chunk, down to one. No lock, no allocation, no clock.
//!
//! A word holds its period in the upper half and a number in the lower one, so the first visit of a new period opens the
//! gate by itself, with what the node may begin a period with (`fresh`). A visit that comes with the period before (the
//! clock of its turn is a moment older) is taken into the new one.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// Places that a core takes from the pool at one time.
const CHUNK_MAX: u64 = 64;
const LOWER: u64 = u32::MAX as u64;

/// See the module. All numbers are below 2^32.
#[derive(Debug, Default)]
pub struct Gate {
    pool: AtomicU64,
    fresh: AtomicU64,
    cells: Box<[Cell]>,
    /// Where its keeper finds it.
    index: usize,
}

/// One core's part: nobody else takes from it or counts in it.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Cell {
    left: AtomicU64,
    /// Places on their way from the pool.
    fetching: AtomicU64,
    admitted: AtomicU64,
}

/// What a gate holds, when its cores have given back what they had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// The period that it is in: later than the one asked for where the clock was set back.
    pub period: u32,
    /// Places that nobody has taken.
    pub unspent: u64,
    /// Clicks that this process has let through in this period. One that is just being let through may be in both.
    pub admitted: u64,
}

impl Gate {
    /// A gate for so many cores, closed until it is raised. Without cores it keeps nobody out and counts nothing.
    #[must_use]
    pub fn new(cores: usize, index: usize) -> Self {
        let cells = (0..cores).map(|_| Cell::default()).collect();
        Self { cells, index, ..Self::default() }
    }

    /// Where its keeper finds it.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Whether a visit of this period would be let through, on this core.
    #[must_use]
    pub fn is_open(&self, core: usize, period: u32) -> bool {
        let Some(cell) = self.cells.get(core) else { return true };
        let (period, places) = self.places(self.pool.load(Relaxed), period);
        places > 0 || of(cell.left.load(Relaxed), period) > 0
    }

    /// Whether it would be on any core.
    #[must_use]
    pub fn is_open_somewhere(&self, period: u32) -> bool {
        self.cells.is_empty() || (0..self.cells.len()).any(|core| self.is_open(core, period))
    }

    /// Takes a place; the period in which it counts, or `None` when there is none. Only the thread of this core may ask.
    #[must_use]
    pub fn take(&self, core: usize, period: u32) -> Option<u32> {
        let Some(cell) = self.cells.get(core) else { return Some(period) };
        loop {
            let pool = self.pool.load(Relaxed);
            let (period, places) = self.places(pool, period);
            let held = cell.left.load(Relaxed);
            if of(held, period) == 0 && places == 0 {
                return None;
            }
            // Counted before the place is gone: who looks in between sees the click twice, and never not at all.
            cell.count(period, 1);
            let taken = if of(held, period) > 0 {
                cell.left.compare_exchange(held, held - 1, AcqRel, Relaxed).is_ok()
            } else {
                let chunk = (places / (4 * self.cells.len() as u64)).clamp(1, CHUNK_MAX);
                cell.fetch(&self.pool, pool, word(period, places), chunk)
            };
            if taken {
                return Some(period);
            }
            cell.count(period, -1);
        }
    }

    /// Gives back a place that was taken in this period: its click does not count. Only the thread of this core may.
    pub fn give_back(&self, core: usize, period: u32) {
        let Some(cell) = self.cells.get(core) else { return };
        if of(cell.admitted.load(Relaxed), period) == 0 {
            return;
        }
        self.raise(period, 1);
        cell.count(period, -1);
    }

    /// The period of a visit that comes with this one, and the places of the pool then.
    fn places(&self, pool: u64, period: u32) -> (u32, u64) {
        if period_of(pool) < period { (period, self.fresh.load(Relaxed)) } else { (period_of(pool), pool & LOWER) }
    }

    /// Takes back what the cores hold, and begins the period if it is new. One thread at a time.
    pub fn gather(&self, period: u32) -> Gathered {
        for cell in &self.cells {
            if cell.left.load(Relaxed) & LOWER > 0 {
                let held = cell.left.swap(0, AcqRel);
                self.raise(period_of(held), held & LOWER);
            }
        }
        let begun = |pool| (period_of(pool) < period).then(|| word(period, self.fresh.load(Relaxed)));
        let _ = self.pool.try_update(AcqRel, Acquire, begun);
        // In the order in which a place goes: seen twice where it is just going, never not at all.
        let pool = self.pool.load(Acquire);
        let period = period_of(pool);
        let places = |word: &AtomicU64| of(word.load(Acquire), period);
        let on_the_way: u64 = self.cells.iter().map(|cell| places(&cell.fetching)).sum();
        let held: u64 = self.cells.iter().map(|cell| places(&cell.left)).sum();
        let admitted = self.cells.iter().map(|cell| places(&cell.admitted)).sum();
        Gathered { period, unspent: (pool & LOWER) + on_the_way + held, admitted }
    }

    /// Adds places to this period, if it is not over.
    pub fn raise(&self, period: u32, places: u64) {
        let _ = self.pool.try_update(AcqRel, Relaxed, |pool| {
            (period_of(pool) == period).then(|| word(period, ((pool & LOWER) + places).min(LOWER)))
        });
    }

    /// Takes places away, as far as nobody has taken them.
    pub fn lower(&self, period: u32, places: u64) {
        let _ = self.pool.try_update(AcqRel, Relaxed, |pool| {
            (period_of(pool) == period).then(|| word(period, (pool & LOWER).saturating_sub(places)))
        });
    }

    /// The places with which a period begins before anybody was asked.
    pub fn set_fresh(&self, places: u64) {
        self.fresh.store(places.min(LOWER), Relaxed);
    }
}

impl Cell {
    /// Brings a chunk of the pool's `places` here, one of them taken at once; false when others were there first.
    fn fetch(&self, pool: &AtomicU64, before: u64, places: u64, chunk: u64) -> bool {
        let period = period_of(places);
        self.fetching.store(word(period, chunk - 1), Release);
        let fetched = pool.compare_exchange(before, places - chunk, AcqRel, Relaxed).is_ok();
        if fetched {
            // What is in there is of an earlier period, or nothing.
            self.left.store(word(period, chunk - 1), Release);
        }
        self.fetching.store(0, Release);
        fetched
    }

    /// Counts a click of this period; its thread alone writes here.
    fn count(&self, period: u32, by: i64) {
        let admitted = of(self.admitted.load(Relaxed), period).saturating_add_signed(by);
        self.admitted.store(word(period, admitted), Release);
    }
}

const fn word(period: u32, number: u64) -> u64 {
    ((period as u64) << 32) | number
}

const fn period_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// The number, if it is of this period.
const fn of(word: u64, period: u32) -> u64 {
    if period_of(word) == period { word & LOWER } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(cores: usize, places: u64) -> Gate {
        let gate = Gate::new(cores, 0);
        gate.set_fresh(places);
        gate
    }

    #[test]
    fn as_many_are_let_through_as_there_are_places_whatever_the_core() {
        for cores in [1, 2, 5, 16] {
            for places in [0, 1, 2, 7, 100, 5_000] {
                let gate = opened(cores, places);
                let mut random = fastrand::Rng::with_seed(places);
                let mut taken = 0;
                // A core that has nothing may still find others holding a chunk: a gathering brings it back.
                for _ in 0..20 {
                    while let Some(core) = (0..cores * 3).map(|_| random.usize(..cores)).find(|c| gate.is_open(*c, 7)) {
                        assert_eq!(gate.take(core, 7), Some(7));
                        taken += 1;
                    }
                    let gathered = gate.gather(7);
                    assert_eq!((gathered.admitted, gathered.unspent), (taken, places - taken), "{cores} {places}");
                }
                assert_eq!(taken, places);
                assert!((0..cores).all(|core| gate.take(core, 7).is_none()));
            }
        }
    }

    #[test]
    fn the_last_place_goes_to_whichever_core_asks_first() {
        for core in 0..4 {
            let gate = opened(4, 1);
            assert!((0..4).all(|core| gate.is_open(core, 1)));
            assert_eq!(gate.take(core, 1), Some(1));
            assert!(!gate.is_open_somewhere(1) && (0..4).all(|core| gate.take(core, 1).is_none()));
        }
    }

    #[test]
    fn a_new_period_opens_by_itself_and_one_that_is_over_takes_nothing_back() {
        let gate = opened(2, 2);
        assert_eq!([gate.take(0, 5), gate.take(1, 5), gate.take(0, 5)], [Some(5), Some(5), None]);
        gate.give_back(1, 5);
        assert_eq!([gate.take(0, 5), gate.take(0, 5)], [Some(5), None], "the place of a click that does not count");
        assert!(gate.is_open(0, 6));
        assert_eq!(gate.take(0, 6), Some(6));
        gate.give_back(0, 5);
        // A turn that began a moment before the hour.
        assert_eq!([gate.take(1, 5), gate.take(1, 5)], [Some(6), None]);
        assert_eq!(gate.gather(6), Gathered { period: 6, unspent: 0, admitted: 2 });
        assert_eq!(gate.gather(7), Gathered { period: 7, unspent: 2, admitted: 0 });
        gate.lower(6, 2);
        gate.raise(6, 9);
        assert_eq!(gate.gather(7).unspent, 2);
        gate.lower(7, 1);
        gate.raise(7, 3);
        gate.lower(7, 9);
        assert_eq!(gate.gather(7).unspent, 0);
    }

    #[test]
    fn threads_that_race_for_the_places_of_a_gate_while_it_is_gathered_get_no_more_than_there_are() {
        let gate = &opened(4, 10_000);
        let taken: u64 = std::thread::scope(|scope| {
            let take = |core| move || (0..20_000).filter(|_| gate.take(core, 3).is_some()).count() as u64;
            let takers: Vec<_> = (0..4).map(|core| scope.spawn(take(core))).collect();
            while takers.iter().any(|taker| !taker.is_finished()) {
                let gathered = gate.gather(3);
                assert!(
                    gathered.unspent + gathered.admitted >= 10_000,
                    "a place is never seen by nobody: {gathered:?}"
                );
            }
            takers.into_iter().map(|taker| taker.join().unwrap()).sum()
        });
        let gathered = gate.gather(3);
        assert_eq!((gathered.admitted, gathered.unspent), (taken, 10_000 - taken));
    }

    #[test]
    fn a_gate_without_cores_keeps_nobody_out() {
        let gate = Gate::default();
        assert!(gate.is_open(0, 1) && gate.is_open_somewhere(1) && gate.take(0, 1) == Some(1));
        assert_eq!(gate.gather(1).admitted, 0);
    }
}
