//! What happened, by time: rings of slots of several lengths, all of them fed with every sample.
//!
//! ```text
//! slot     10 s   1 min   10 min   1 h   6 h
//! slots    30     60      36       72    120
//! reach    5 min  1 h     6 h      3 d   30 d
//! ```
//! A slot holds what was added in it, not a running total: a restart needs no care, and a window is the sum of its slots,
//! the one of now among them. So a window is up to one slot shorter than its name, and never longer. Bound: 318
//! slots for each measure.

use std::collections::VecDeque;
use std::time::Duration;

/// Length of a slot in milliseconds, and how many there are.
pub(super) const LEVELS: [(u64, u64); 5] =
    [(10_000, 30), (60_000, 60), (600_000, 36), (3_600_000, 72), (21_600_000, 120)];

/// Of all levels together.
#[cfg(test)]
pub(super) const SLOTS: u64 = 30 + 60 + 36 + 72 + 120;

/// What a slot holds.
pub(super) trait Sample: Clone {
    /// Takes in what happened in the same slot.
    fn add(&mut self, other: &Self);
}

/// The rings of one measure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rings<S> {
    /// Number of the slot since 1970, and what it holds; the newest last.
    pub(super) levels: [VecDeque<(u64, S)>; LEVELS.len()],
}

impl<S> Default for Rings<S> {
    fn default() -> Self {
        Self { levels: Default::default() }
    }
}

impl<S: Sample> Rings<S> {
    /// Adds what happened up to now.
    pub(super) fn add(&mut self, now_ms: u64, sample: &S) {
        for (ring, (length, slots)) in self.levels.iter_mut().zip(LEVELS) {
            let number = now_ms / length;
            // A clock that was set back by more than a ring: what it said before is no time at all.
            if ring.back().is_some_and(|(last, _)| *last >= number + slots) {
                ring.clear();
            }
            match ring.back_mut() {
                // Also where the clock was set back a little.
                Some((last, held)) if *last >= number => held.add(sample),
                _ => ring.push_back((number, sample.clone())),
            }
            while ring.front().is_some_and(|(first, _)| first + slots <= number) {
                ring.pop_front();
            }
        }
    }

    /// What happened in this much time up to now, from the finest slots that reach so far.
    pub(super) fn within(&self, now_ms: u64, window: Duration) -> impl Iterator<Item = &S> {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let reaches = |(length, slots): &(u64, u64)| length * slots >= window_ms;
        let level = LEVELS.iter().position(reaches).unwrap_or(LEVELS.len() - 1);
        let (length, slots) = LEVELS[level];
        let number = now_ms / length;
        let wanted = window_ms.div_ceil(length).min(slots);
        self.levels[level].iter().filter(move |(slot, _)| slot + wanted > number).map(|(_, held)| held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct Sum(u64);

    impl Sample for Sum {
        fn add(&mut self, other: &Self) {
            self.0 += other.0;
        }
    }

    fn sum(rings: &Rings<Sum>, now_ms: u64, window_s: u64) -> u64 {
        rings.within(now_ms, Duration::from_secs(window_s)).map(|sum| sum.0).sum()
    }

    const DAY: u64 = 86_400;

    #[test]
    fn a_window_holds_what_happened_in_it_and_nothing_older() {
        let mut rings = Rings::default();
        // Noon, so that slots of all lengths begin here.
        let begin = 20_000 * DAY * 1_000;
        for tick in 0..31 * DAY / 10 {
            rings.add(begin + tick * 10_000, &Sum(1));
        }
        let now = begin + 31 * DAY * 1_000 - 1;
        for (window_s, ticks) in
            [(60, 6), (300, 30), (3_600, 360), (6 * 3_600, 2_160), (3 * DAY, 25_920), (30 * DAY, 259_200)]
        {
            assert_eq!(sum(&rings, now, window_s), ticks, "{window_s} s, at the end of a slot");
        }
        assert_eq!(sum(&rings, now, 7 * DAY), 7 * DAY / 10, "in slots of 6 h");
        // In the middle of a slot it is shorter, never longer.
        assert_eq!(sum(&rings, now + 1, 3_600), 59 * 6, "nothing yet in the minute that began");
        assert!(rings.levels.iter().zip(LEVELS).all(|(ring, (_, slots))| ring.len() as u64 <= slots));
        assert_eq!(LEVELS.iter().map(|(_, slots)| slots).sum::<u64>(), SLOTS);
        // Nothing is added for two days.
        assert_eq!(
            (sum(&rings, now + 2 * DAY * 1_000, 6 * 3_600), sum(&rings, now + 2 * DAY * 1_000, 3 * DAY)),
            (0, 8_640)
        );
    }

    #[test]
    fn a_clock_that_is_set_back_loses_little_and_one_that_was_far_ahead_begins_anew() {
        let mut rings = Rings::default();
        let begin = 20_000 * DAY * 1_000;
        rings.add(begin, &Sum(1));
        rings.add(begin - 30_000, &Sum(2));
        assert_eq!(sum(&rings, begin, 60), 3);
        rings.add(begin + 40 * DAY * 1_000, &Sum(4));
        rings.add(begin + 10_000, &Sum(8));
        assert_eq!((sum(&rings, begin + 10_000, 60), sum(&rings, begin + 10_000, 30 * DAY)), (8, 8));
    }
}
