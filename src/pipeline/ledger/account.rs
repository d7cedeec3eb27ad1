//! A worker's side of the ledger: what becomes of the clicks of one stretch.
//!
//! ```text
//! clicks claimed --> open ----their range is finished----> note -------spilled-------> books
//!                   (memory)         (checkpoint, with the position)   (one transaction, with the mark)
//! ```
//! The note is written with the checkpoint's position, in one slot: it has what was finished behind the mark and before
//! that position. A spill adds it to the books and moves the mark to the position in one transaction, and the next
//! checkpoint begins a new note. So after a crash anywhere:
//!
//! | mark | the note | clicks behind the checkpoint |
//! |---|---|---|
//! | before the checkpoint | counts | are counted when they are finished |
//! | at the checkpoint | is in the books already | likewise |
//! | beyond it (the slot written last is damaged; a backup copied the books later) | likewise | are counted from the mark on |
//!
//! While the books cannot be written, the note grows, up to [`NOTE_MINUTES_MAX`] minutes; then ranges stay unfinished, in
//! the journal, until it works. Clicks are stored all the same.

use std::sync::Arc;
use std::time::Duration;

use super::minutes::MINUTE_MS;
use super::{BATCH_MINUTES_MAX, Changes, Ledger, Minutes, NOTE_MINUTES_MAX, StretchName};
use crate::click::frame;
use crate::handoff::{Follower, Item};
use crate::segment::Position;

/// From a spill that failed to the next try.
const SPILL_AGAIN: Duration = Duration::from_secs(1);

/// The account of one stretch. One at a time for each.
#[derive(Debug)]
pub struct Account {
    ledger: Arc<Ledger>,
    of: StretchName,
    counted_to: Position,
    /// What is in the note, and where it ends. Nobody else changes it.
    note: Minutes,
    finished_to: Position,
    spill_at: Duration,
    failing: bool,
}

impl Account {
    /// Opens the account of a follower's stretch, at its checkpoint. What an earlier account of it had claimed and not
    /// finished will be claimed again.
    #[must_use]
    pub fn open(ledger: &Arc<Ledger>, follower: &Follower) -> Self {
        Self::open_at(ledger, StretchName::of(follower), follower.checkpoint(), follower.note(), follower.is_live())
    }

    pub(super) fn open_at(
        ledger: &Arc<Ledger>,
        of: StretchName,
        checkpoint: Position,
        note: &[u8],
        is_live: bool,
    ) -> Self {
        let mut state = ledger.state();
        state.register(&of, checkpoint, note);
        let open = state.stretches.entry(of.clone()).or_default();
        open.is_live = is_live;
        open.idle_ms = None;
        open.claimed.clear();
        let (counted_to, note) = (open.finished_to, open.note.clone());
        drop(state);
        let ledger = Arc::clone(ledger);
        Self { ledger, of, counted_to, note, finished_to: counted_to, spill_at: Duration::ZERO, failing: false }
    }

    /// Everything before it was counted before: a batch must not have clicks of both sides.
    #[must_use]
    pub const fn counted_to(&self) -> Position {
        self.counted_to
    }

    /// Clicks were claimed.
    pub fn claim(&self, items: &[Item]) {
        let mut claimed = Minutes::default();
        for item in items.iter().filter(|item| item.end > self.counted_to) {
            claimed.at_ms(frame::unix_ms(&item.frame).unwrap_or(0)).taken += 1;
        }
        self.claim_minutes(&claimed);
    }

    /// The clicks of a range that ends here were claimed.
    pub fn claim_range(&self, end: Position, taken: &Minutes) {
        if end > self.counted_to {
            self.claim_minutes(taken);
        }
    }

    fn claim_minutes(&self, claimed: &Minutes) {
        if claimed.is_empty() {
            return;
        }
        let mut state = self.ledger.state();
        let open = state.stretches.entry(self.of.clone()).or_default();
        for (minute, figures) in claimed.iter() {
            *open.claimed.entry(minute).or_default() += figures.taken;
        }
    }

    /// Everything that was accepted before this wall time was claimed.
    pub fn idle(&self, wall_ms: u64) {
        self.ledger.state().stretches.entry(self.of.clone()).or_default().idle_ms = Some(wall_ms);
    }

    /// The range that ends here is finished, and so is everything before it. False when it must wait, because the note is
    /// full and the books cannot be written. Blocks when the note is spilled.
    #[must_use]
    pub fn finish(&mut self, end: Position, figures: &Minutes) -> bool {
        if end <= self.counted_to {
            return true;
        }
        let mut note = self.note.clone();
        note.add(figures);
        if note.len() > BATCH_MINUTES_MAX && self.spill(end, &note, figures) {
            return true;
        }
        if note.len() > NOTE_MINUTES_MAX {
            return false;
        }
        self.settle(end, note, figures);
        true
    }

    /// What belongs to the checkpoint of what is finished.
    #[must_use]
    pub fn note(&self) -> Vec<u8> {
        self.note.encode()
    }

    /// Brings everything to the books: nothing of the stretch is left. Blocks.
    ///
    /// # Errors
    /// False: the books cannot be written; the stretch must stay.
    #[must_use]
    pub fn close(&mut self) -> bool {
        if !self.note.is_empty() {
            self.spill_at = Duration::ZERO;
            let note = self.note.clone();
            if !self.spill(self.finished_to, &note, &Minutes::default()) {
                return false;
            }
        }
        self.ledger.state().stretches.remove(&self.of);
        true
    }

    /// One transaction: these figures, and the mark. The last of them are those of the range that has just been finished.
    fn spill(&mut self, end: Position, note: &Minutes, last: &Minutes) -> bool {
        let now = self.ledger.clock.now();
        if now < self.spill_at {
            return false;
        }
        let ledger = Arc::clone(&self.ledger);
        let mut books = ledger.books();
        match books.change(&Changes { spill: Some((&self.of, end, note)), ..Changes::default() }) {
            Ok(()) => {
                // Under the lock of the books: whoever reads finds the figures there or in memory, and not in both.
                ledger.state().marks.insert(self.of.clone(), end);
                self.settle(end, Minutes::default(), last);
                if std::mem::take(&mut self.failing) {
                    tracing::info!(run = %self.of.run, core = self.of.core, "the ledger is written again");
                }
                true
            }
            Err(error) => {
                self.spill_at = now + SPILL_AGAIN;
                if !std::mem::replace(&mut self.failing, true) {
                    let (run, core) = (&self.of.run, self.of.core);
                    tracing::warn!(%error, %run, core, "the ledger cannot be written; its figures wait beside the journal");
                }
                false
            }
        }
    }

    fn settle(&mut self, end: Position, note: Minutes, figures: &Minutes) {
        let mut state = self.ledger.state();
        let open = state.stretches.entry(self.of.clone()).or_default();
        for (minute, figures) in figures.iter() {
            if let Some(claimed) = open.claimed.get_mut(&minute) {
                *claimed = claimed.saturating_sub(figures.taken);
            }
        }
        open.claimed.retain(|_, claimed| *claimed > 0);
        open.note = note.clone();
        open.finished_to = end;
        let minutes: Vec<_> = figures.iter().map(|(minute, _)| minute).collect();
        state.dirty.extend(&minutes);
        state.touched.extend(minutes);
        self.note = note;
        self.finished_to = end;
    }
}

impl StretchName {
    /// The name of a follower's stretch.
    #[must_use]
    pub fn of(follower: &Follower) -> Self {
        let run = super::run_name(follower.folder());
        Self { run, core: follower.core(), origin: follower.origin() }
    }
}

/// Unix milliseconds at which a minute is over.
pub(super) const fn end_ms(minute: u64) -> u64 {
    minute.saturating_add(1).saturating_mul(MINUTE_MS)
}
