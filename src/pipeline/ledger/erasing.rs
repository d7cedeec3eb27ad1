//! Erasing stored clicks without a crash between the store and the books that nobody can mend.
//!
//! ```text
//! begin: the ids are in the books, and counted as erased --> the store removes them --> end: only their number is left
//! ```
//! After a crash in between the ids are still there: the next erase removes them once more, which changes nothing where they
//! are gone. All calls block.

use super::{BooksError, Ledger};
use crate::click::ClickId;
use crate::pipeline::ledger::minutes::MINUTE_MS;

impl Ledger {
    /// Whether nothing waits or is on its way but what the live cursors of this process will bring: no earlier run, and
    /// nothing that was cut off behind a live cursor.
    #[must_use]
    pub fn has_only_live_clicks(&self) -> bool {
        let state = self.state();
        let live = state.live.as_ref().map(|live| &live.run);
        state.runs.iter().all(|run| Some(run) == live) && state.stretches.values().all(|open| open.is_live)
    }

    /// Clicks of which an erase did not come to its end.
    ///
    /// # Errors
    /// [`BooksError`]
    pub fn erasing(&self) -> Result<Vec<ClickId>, BooksError> {
        self.books().erasing()
    }

    /// These stored clicks of this node are about to be erased.
    ///
    /// # Errors
    /// [`BooksError`]; nothing may be erased then.
    pub fn begin_erasing(&self, ids: &[ClickId]) -> Result<(), BooksError> {
        self.books().begin_erasing(ids)?;
        self.touch(ids);
        Ok(())
    }

    /// All that was begun is erased.
    ///
    /// # Errors
    /// [`BooksError`]; it is still begun then.
    pub fn end_erasing(&self, ids: &[ClickId]) -> Result<(), BooksError> {
        self.books().end_erasing()?;
        self.touch(ids);
        Ok(())
    }

    /// Their minutes are to be rolled up and checked.
    fn touch(&self, ids: &[ClickId]) {
        let mut state = self.state();
        for minute in ids.iter().map(|id| id.unix_ms() / MINUTE_MS) {
            state.dirty.insert(minute);
            state.touched.insert(minute);
        }
    }
}
