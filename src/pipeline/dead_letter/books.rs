//! What the shelf tells of its rows, and how they change. Blocks on the disk.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;

use uuid::Uuid;

use super::file::Kept;
use super::{Entry, Refusal, RowState, Shelf, Tally};
use crate::click::ClickId;

const MINUTE_MS: u64 = 60_000;

/// The shelf as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows that wait.
    pub rows: u64,
    /// Batches with such rows.
    pub batches: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Time of the oldest click that waits, Unix milliseconds.
    pub oldest_ms: Option<u64>,
    /// Names of damaged files; nothing else is known of them.
    pub damaged: Vec<String>,
}

/// Which batches are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    /// Behind this one.
    pub behind: Option<Uuid>,
    /// The newest first, otherwise the oldest. Batch ids sort by time.
    pub newest_first: bool,
    /// Also those of which no row waits.
    pub settled: bool,
    /// So many at most.
    pub limit: usize,
}

impl Entry {
    fn waits(&self) -> bool {
        // One that could not be read may have any rows.
        self.rows.is_empty() || self.rows.iter().any(|(_, state)| *state == RowState::Waiting)
    }
}

impl Shelf {
    /// Every row in the files, by the Unix minute of its click. A file that was removed after `dead_letter.keep`, and a
    /// damaged one, is no longer in it.
    #[must_use]
    pub fn tally(&self) -> BTreeMap<u64, Tally> {
        let mut minutes = BTreeMap::<u64, Tally>::new();
        for (id, state) in self.index().batches.values().flat_map(|entry| &entry.rows) {
            minutes.entry(id.unix_ms() / MINUTE_MS).or_default().add(*state);
        }
        minutes
    }

    /// What is on it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut index = self.index();
        self.sweep(&mut index);
        let (oldest_ms, rows) = (self.figures.oldest_ms.get(), self.figures.rows.get());
        Summary {
            rows,
            batches: index.batches.values().filter(|entry| entry.waits()).count() as u64,
            bytes: index.bytes(),
            oldest_ms: (rows > 0).then_some(oldest_ms),
            damaged: index.damaged.clone(),
        }
    }

    /// The ids of these batches.
    #[must_use]
    pub fn page(&self, page: Page) -> Vec<Uuid> {
        let index = self.index();
        let behind = page.behind.map_or(Bound::Unbounded, Bound::Excluded);
        let asked = |(_, entry): &(&Uuid, &Entry)| page.settled || entry.waits();
        if page.newest_first {
            let batches = index.batches.range((Bound::Unbounded, behind)).rev();
            batches.filter(asked).take(page.limit).map(|(batch, _)| *batch).collect()
        } else {
            let batches = index.batches.range((behind, Bound::Unbounded));
            batches.filter(asked).take(page.limit).map(|(batch, _)| *batch).collect()
        }
    }

    /// All rows of a batch; `None` when none of it is here.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, batch: Uuid) -> io::Result<Option<Refusal>> {
        let mut index = self.index();
        Ok(self.load(&mut index, batch)?.map(|(kept, _)| kept.refusal))
    }

    /// These rows are at their end, if they wait; how many did.
    pub(super) fn settle(&self, batch: Uuid, ids: &[ClickId], state: RowState) -> io::Result<usize> {
        self.change(batch, |kept| {
            let waiting = |row: &&mut super::RefusedRow| row.state == RowState::Waiting && ids.contains(&row.click_id);
            let mut settled = 0;
            for row in kept.refusal.rows.iter_mut().filter(waiting) {
                (row.state, row.frame) = (state, bytes::Bytes::new());
                settled += 1;
            }
            kept.sending.clear();
            settled
        })
    }

    /// The store said no once more to a row that waits.
    pub(super) fn refuse_again(&self, batch: Uuid, id: ClickId, code: u32, reason: &str) -> io::Result<()> {
        let now_ms = self.clock.wall_ms();
        self.change(batch, |kept| {
            if let Some(row) = kept.refusal.rows.iter_mut().find(|row| row.click_id == id) {
                let again = super::RefusedRow::new(id, row.label, code, reason, row.frame.clone(), now_ms);
                *row = super::RefusedRow { state: row.state, observed: row.observed, ..again };
            }
            kept.sending.clear();
        })
    }

    /// The number under which these rows are sent: that of the last time, if they are the same and it is not known how
    /// that ended.
    pub(super) fn begin_replay(&self, batch: Uuid, ids: &[ClickId]) -> io::Result<u32> {
        self.change(batch, |kept| {
            if kept.sending != ids {
                kept.replays += 1;
                kept.sending = ids.to_vec();
            }
            kept.replays
        })
    }

    /// It is known how the last replay ended, and its number is used up.
    pub(super) fn end_replay(&self, batch: Uuid) -> io::Result<()> {
        self.change(batch, |kept| kept.sending.clear())
    }

    /// Changes a file that must be there.
    pub(super) fn change<T>(&self, batch: Uuid, edit: impl FnOnce(&mut Kept) -> T) -> io::Result<T> {
        let mut index = self.index();
        let (mut kept, _) = self.load(&mut index, batch)?.ok_or(io::ErrorKind::NotFound)?;
        let answer = edit(&mut kept);
        let waits = kept.refusal.rows.iter().any(|row| row.state == RowState::Waiting);
        kept.settled_at_ms = if waits { None } else { kept.settled_at_ms.or(Some(self.clock.wall_ms())) };
        self.write(&mut index, &kept)?;
        Ok(answer)
    }
}
