//! Visits by the minute, as one edge thread counts them: a ring of a few minutes, with one writer and no lock.
//!
//! The edge counts a group at a time; the ledger copies the ring once a second, long before a minute is overwritten.
//! What was not copied is lost with the process. Bound: [`SLOTS`] minutes.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::shard::Cell;

/// Minutes in the ring.
pub const SLOTS: usize = 8;

/// The ring.
#[derive(Debug, Default)]
pub struct MinuteRing {
    slots: [Slot; SLOTS],
}

#[derive(Debug, Default)]
struct Slot {
    /// Odd while the slot gets another minute; its value names what is in it.
    turn: AtomicU64,
    minute: Cell,
    accepted: Cell,
    untracked: Cell,
}

/// A copy of one slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Changes with every minute that the slot gets: while it stays, the counts only grow.
    pub turn: u64,
    /// Whole minutes since 1970.
    pub minute: u64,
    /// Clicks written to the journal.
    pub accepted: u64,
    /// Clicks that the journal could not take.
    pub untracked: u64,
}

impl MinuteRing {
    /// Counts clicks of one minute. Only the owner of the shard may call this.
    pub fn count(&self, minute: u64, accepted: u64, untracked: u64) {
        let slot = &self.slots[(minute % SLOTS as u64) as usize];
        let turn = slot.turn.load(Ordering::Relaxed);
        if slot.minute.get() != minute || turn == 0 {
            slot.turn.store(turn + 1, Ordering::Relaxed);
            fence(Ordering::Release);
            slot.minute.set(minute);
            slot.accepted.set(0);
            slot.untracked.set(0);
            slot.turn.store(turn + 2, Ordering::Release);
        }
        slot.accepted.add(accepted);
        slot.untracked.add(untracked);
    }

    /// What is in each slot; `None` where nothing is, or where it just changes.
    #[must_use]
    pub fn copy(&self) -> [Option<Counted>; SLOTS] {
        self.slots.each_ref().map(|slot| {
            let turn = slot.turn.load(Ordering::Acquire);
            let (minute, accepted, untracked) = (slot.minute.get(), slot.accepted.get(), slot.untracked.get());
            fence(Ordering::Acquire);
            let is_whole = turn > 0 && turn.is_multiple_of(2) && slot.turn.load(Ordering::Relaxed) == turn;
            is_whole.then_some(Counted { turn, minute, accepted, untracked })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_keeps_its_counts_until_the_ring_has_come_round() {
        let ring = MinuteRing::default();
        for (minute, accepted, untracked) in [(80, 3, 0), (80, 2, 1), (81, 7, 0), (79, 1, 1)] {
            ring.count(minute, accepted, untracked);
        }
        let counts = |minute| {
            let found = ring.copy().into_iter().flatten().find(|c| c.minute == minute);
            found.map(|c| (c.turn, c.accepted, c.untracked))
        };
        assert_eq!([counts(80), counts(81), counts(79)], [Some((2, 5, 1)), Some((2, 7, 0)), Some((2, 1, 1))]);
        ring.count(88, 9, 0);
        assert_eq!([counts(80), counts(88)], [None, Some((4, 9, 0))], "told apart from what was there before");
        assert_eq!(ring.copy().iter().flatten().count(), 3);
    }

    #[test]
    fn the_first_minute_of_1970_is_a_minute_too() {
        let ring = MinuteRing::default();
        ring.count(0, 1, 0);
        assert_eq!(ring.copy()[0], Some(Counted { turn: 2, minute: 0, accepted: 1, untracked: 0 }));
    }
}
