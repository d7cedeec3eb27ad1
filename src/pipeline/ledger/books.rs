//! The port to what the ledger keeps on disk.
//!
//! Everything that it changes goes in one transaction, so that a crash leaves all of it or nothing. All calls block;
//! none is made on a request thread.

use std::ops::Range;
use std::sync::Arc;

use super::Minutes;
use crate::click::ClickId;
use crate::segment::Position;

/// The books cannot be read or written now.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct BooksError(pub String);

/// Names one stretch of a journal (see [`crate::handoff::Stretch`]) among all runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StretchName {
    /// Name of its run folder.
    pub run: Arc<str>,
    /// Edge thread that wrote it.
    pub core: u32,
    /// Segment that it began with.
    pub origin: u32,
}

/// Visits of one minute of one run, as its edge threads counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visits {
    /// Clicks written to the journal.
    pub accepted: u64,
    /// Clicks that the journal could not take.
    pub untracked: u64,
}

/// Clicks of one minute that have left the journal, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// All of them, as they were read.
    pub taken: u64,
    /// In the store.
    pub stored: u64,
    /// Put on the refused shelf.
    pub refused: u64,
    /// Read, and not understood.
    pub damaged: u64,
}

impl Figures {
    /// Adds the others to these.
    pub fn add(&mut self, other: Self) {
        self.taken += other.taken;
        self.stored += other.stored;
        self.refused += other.refused;
        self.damaged += other.damaged;
    }
}

/// What the books have of one minute and one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whole minutes since 1970.
    pub minute: u64,
    /// Name of its folder.
    pub run: Arc<str>,
    /// At the door.
    pub visits: Visits,
    /// At their end.
    pub figures: Figures,
}

/// What is to be changed, all of it or nothing.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// Run and minute, with the sums that take the place of those before.
    pub visits: Vec<(Arc<str>, u64, Visits)>,
    /// Figures to be added, of clicks of this stretch before this position and behind its mark, which moves there.
    pub spill: Option<(&'a StretchName, Position, &'a Minutes)>,
    /// Minutes with the clicks that their rollups were computed of.
    pub rolled: Vec<(u64, u64)>,
}

/// The port: where the ledger is kept.
pub trait Books: Send {
    /// Changes everything, or nothing.
    ///
    /// # Errors
    /// [`BooksError`]; nothing has changed then.
    fn change(&mut self, changes: &Changes<'_>) -> Result<(), BooksError>;

    /// What is kept of these minutes, in the order of time.
    ///
    /// # Errors
    /// [`BooksError`]
    fn read(&mut self, minutes: Range<u64>) -> Result<Vec<Entry>, BooksError>;

    /// How far each stretch is in the books; of those that are left out, nothing is.
    ///
    /// # Errors
    /// [`BooksError`]
    fn marks(&mut self) -> Result<Vec<(StretchName, Position)>, BooksError>;

    /// Minutes in which the backup was made that the books come from: of them the store may have more.
    ///
    /// # Errors
    /// [`BooksError`]
    fn copied(&mut self) -> Result<Vec<u64>, BooksError>;

    /// Notes the name under which this node stores clicks from this minute on; since when it has this name. 0 for books
    /// that are new: nothing was stored under another one.
    ///
    /// # Errors
    /// [`BooksError`]
    fn named(&mut self, node: &str, minute: u64) -> Result<u64, BooksError>;

    /// Of these minutes, the clicks that their rollups were computed of.
    ///
    /// # Errors
    /// [`BooksError`]
    fn rolled(&mut self, minutes: Range<u64>) -> Result<Vec<(u64, u64)>, BooksError>;

    /// Clicks of which it is not known yet whether they are erased: an erase of them was begun and not ended.
    ///
    /// # Errors
    /// [`BooksError`]
    fn erasing(&mut self) -> Result<Vec<ClickId>, BooksError>;

    /// Begins to erase these stored clicks of this node; those of before that did not end stay begun.
    ///
    /// # Errors
    /// [`BooksError`]; nothing has changed then.
    fn begin_erasing(&mut self, ids: &[ClickId]) -> Result<(), BooksError>;

    /// All erases that were begun have ended: from here on only their number is known, by the minute.
    ///
    /// # Errors
    /// [`BooksError`]; nothing has changed then.
    fn end_erasing(&mut self) -> Result<(), BooksError>;

    /// Of these minutes, the clicks that were stored and are, or are being, erased.
    ///
    /// # Errors
    /// [`BooksError`]
    fn erased(&mut self, minutes: Range<u64>) -> Result<Vec<(u64, u64)>, BooksError>;

    /// Minutes of which other clicks are stored than their rollups were computed of.
    ///
    /// # Errors
    /// [`BooksError`]
    fn unrolled(&mut self) -> Result<Vec<u64>, BooksError>;

    /// Forgets minutes before this one but those of the runs named, and the marks of all runs that are not named.
    ///
    /// # Errors
    /// [`BooksError`]
    fn forget(&mut self, before: u64, runs: &[Arc<str>]) -> Result<(), BooksError>;
}
