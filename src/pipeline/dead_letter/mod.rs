//! The shelf "refused" of the dead-letter queue: rows to which the store said no, on disk until a person decides.
//!
//! ```text
//! <data_dir>/dead-letters/<batch id>.refused      one file for each batch (see `file`), written beside and renamed
//!                         <batch id>.next         being written; what an end of the process left is removed at start
//!                         <batch id>.<n>.damaged  could not be understood; kept for a person, and never read again
//!
//! row:   waiting --replayed--> stored
//!           |----dropped by a person--> dropped
//!           |----erased for a person--> erased
//! ```
//! The other shelf, *backlog*, is the journal itself: clicks that the store has not taken yet. A row is refused before
//! its range is finished, so a crash between the two leaves it in both places, and [`Shelf::of_batch`] tells the restarted
//! batch what not to send. The files are the books for the rows that went here ([`Shelf::tally`]); one whose rows are
//! all stored or dropped is kept, without frames, for `dead_letter.keep`.
//!
//! It never loses a row silently, never stops a start over a damaged file, and knows no store. Workers call
//! [`Shelf::refuse`], rarely; the operator side calls the rest through [`DeadLetters`]. All calls block on the disk.
//! Bounds: `dead_letter.max_bytes` on disk; in memory some 20 bytes for each row in it.

mod books;
mod erase;
mod file;
mod replay;
#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;

pub use books::{Page, Summary};
pub use erase::IsMeant;
pub use replay::{Actor, DeadLetterError, DeadLetters, Dropped, EnricherMaker, Listed, Replayed, ReplayedAll};

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::file::Kept;
use super::Label;
use super::intent::read_whole;
use crate::click::{ClickId, Reasons};
use crate::clock::Clock;
use crate::config;
use crate::segment::{Disk, Open};
use crate::telemetry::metrics::DeadLetterShard;

/// Characters kept of a store's reason.
pub const REASON_CHARS_MAX: usize = 500;

/// What became of a refused row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowState {
    /// It waits for a person.
    Waiting,
    /// The store has it: a replay was taken.
    Stored,
    /// A person gave it up.
    Dropped,
    /// A person had it erased: its id is not that of the click any more, only of its minute.
    Erased,
}

/// A row that the store refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its click; carries the time.
    pub click_id: ClickId,
    /// What the deduper said: a replay keeps it.
    pub label: Label,
    /// The reasons that only the worker finds: a replay keeps them too.
    pub observed: Reasons,
    /// The store's number for the error.
    pub code: u32,
    /// In its words, cut to [`REASON_CHARS_MAX`].
    pub reason: String,
    /// The click as the edge wrote it; empty once the row is stored or dropped.
    pub frame: Bytes,
    /// When it was refused last, Unix milliseconds.
    pub refused_at_ms: u64,
    /// What became of it.
    pub state: RowState,
}

impl RefusedRow {
    /// A row that waits from now on, and of which nothing was observed.
    #[must_use]
    pub fn new(click_id: ClickId, label: Label, code: u32, reason: &str, frame: Bytes, now_ms: u64) -> Self {
        let reason = reason.chars().take(REASON_CHARS_MAX).collect();
        let (observed, state) = (Reasons::default(), RowState::Waiting);
        Self { click_id, label, observed, code, reason, frame, refused_at_ms: now_ms, state }
    }
}

/// Refused rows of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The batch's id.
    pub batch: Uuid,
    /// Name of the node that sent it; stored with each row.
    pub node: String,
    /// At least one.
    pub rows: Vec<RefusedRow>,
}

/// Refused rows of clicks of one minute, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// They wait.
    pub waiting: u64,
    /// They were stored later.
    pub stored: u64,
    /// They were dropped.
    pub dropped: u64,
    /// They were erased.
    pub erased: u64,
}

impl Tally {
    fn add(&mut self, state: RowState) {
        match state {
            RowState::Waiting => self.waiting += 1,
            RowState::Stored => self.stored += 1,
            RowState::Dropped => self.dropped += 1,
            RowState::Erased => self.erased += 1,
        }
    }
}

/// The shelf. Shared by `Arc`.
#[derive(Debug)]
pub struct Shelf {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    limits: config::DeadLetter,
    clock: Arc<dyn Clock>,
    /// Written under the lock of `index`: one writer at a time.
    figures: Arc<DeadLetterShard>,
    index: Mutex<Index>,
}

/// What the files say, without what is in their frames.
#[derive(Debug, Default)]
struct Index {
    batches: BTreeMap<Uuid, Entry>,
    /// Names of damaged files.
    damaged: Vec<String>,
}

#[derive(Debug, Default)]
struct Entry {
    bytes: u64,
    rows: Vec<(ClickId, RowState)>,
    settled_at_ms: Option<u64>,
}

impl Shelf {
    /// Opens the folder and makes it if it is not there. Files that cannot be understood are set aside and reported.
    ///
    /// # Errors
    /// The system's, for the folder as a whole.
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: PathBuf,
        limits: config::DeadLetter,
        clock: Arc<dyn Clock>,
        figures: Arc<DeadLetterShard>,
    ) -> io::Result<Self> {
        disk.make_folder(&folder)?;
        // A power cut must not take the folder with what will be forced in it.
        disk.sync_dir(folder.parent().unwrap_or(Path::new("")))?;
        // Nor what the process before had put there and not forced.
        disk.sync_dir(&folder)?;
        let shelf = Self { disk, folder, limits, clock, figures, index: Mutex::default() };
        let mut index = shelf.index();
        for entry in shelf.disk.list(&shelf.folder)? {
            let Some(name) = entry.name.to_str() else { continue };
            match name.rsplit_once('.') {
                Some((_, "next")) => shelf.disk.unlink(&shelf.folder.join(name))?,
                Some((_, "damaged")) => index.damaged.push(name.to_owned()),
                Some((batch, "refused")) => match batch.parse() {
                    Ok(batch) => shelf.take_in(&mut index, batch),
                    Err(_) => {
                        tracing::error!(name, "a file among the dead letters is named by no batch; it is left alone")
                    }
                },
                _ => {}
            }
        }
        shelf.sweep(&mut index);
        drop(index);
        Ok(shelf)
    }

    /// Reads one file at start.
    fn take_in(&self, index: &mut Index, batch: Uuid) {
        match self.load(index, batch) {
            Ok(Some((kept, bytes))) => index.note(&kept, bytes),
            // Set aside, and said so.
            Ok(None) => {}
            Err(error) => {
                tracing::error!(%error, %batch, "a dead letter cannot be read; it stays where it is");
                index.batches.insert(batch, Entry::default());
            }
        }
    }

    /// Puts refused rows on the shelf. When this returns, they are on the disk for good. Rows that are there already stay
    /// as they are, so that repeating it adds nothing.
    ///
    /// # Errors
    /// The system's, or that `dead_letter.max_bytes` is reached: the rows must stay where they are then.
    pub fn refuse(&self, refusal: &Refusal) -> io::Result<()> {
        let mut index = self.index();
        self.sweep(&mut index);
        let found = self.load(&mut index, refusal.batch)?.map(|(kept, _)| kept);
        let mut kept = found.unwrap_or_else(|| {
            let refusal = Refusal { rows: Vec::new(), ..refusal.clone() };
            Kept { refusal, replays: 0, sending: Vec::new(), settled_at_ms: None }
        });
        // A file that could not be forced is not counted yet.
        let before = index.batches.get(&refusal.batch).map_or(0, |entry| entry.bytes);
        for row in &refusal.rows {
            if kept.refusal.rows.iter().all(|known| known.click_id != row.click_id) {
                kept.refusal.rows.push(row.clone());
            }
        }
        if kept.refusal.rows.iter().any(|row| row.state == RowState::Waiting) {
            kept.settled_at_ms = None;
        }
        let after = file::encode(&kept).len() as u64;
        let total = index.bytes() - before + after;
        if after > before && total > self.limits.max_bytes {
            let text = format!(
                "dead_letter.max_bytes ({} bytes) does not hold {} more; replay or drop dead letters, or raise it",
                self.limits.max_bytes,
                after - before
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        // Also when nothing is new: an earlier try may have failed to force it.
        self.write(&mut index, &kept)
    }

    /// Every row of this batch that was ever refused, whatever became of it: a restarted batch sends none of them.
    ///
    /// # Errors
    /// The system's, when its file cannot be read.
    pub fn of_batch(&self, batch: Uuid) -> io::Result<Vec<ClickId>> {
        let mut index = self.index();
        let Some(entry) = index.batches.get(&batch) else { return Ok(Vec::new()) };
        if entry.rows.is_empty() {
            // It could not be read at start.
            if let Some((kept, bytes)) = self.load(&mut index, batch)? {
                index.note(&kept, bytes);
            }
        }
        let rows = index.batches.get(&batch).map(|entry| entry.rows.as_slice()).unwrap_or_default();
        Ok(rows.iter().map(|(id, _)| *id).collect())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // What a panic left there is what the files say, or less: nothing that is not true.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, batch: Uuid) -> PathBuf {
        self.folder.join(format!("{batch}.refused"))
    }

    /// The file of a batch, and its length; `None` when there is none. A damaged one is set aside, and there is none.
    fn load(&self, index: &mut Index, batch: Uuid) -> io::Result<Option<(Kept, u64)>> {
        let path = self.path(batch);
        let length = match self.disk.open(&path, Open::Read).and_then(|file| file.length()) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let decoded = if length > file::FILE_BYTES_MAX {
            Err(format!("it has {length} bytes"))
        } else {
            file::decode(&read_whole(&*self.disk, &path)?)
        };
        match decoded {
            Ok(kept) if kept.refusal.batch == batch => Ok(Some((kept, length))),
            Ok(_) => self.set_aside(index, batch, "it is the file of another batch").map(|()| None),
            Err(reason) => self.set_aside(index, batch, &reason).map(|()| None),
        }
    }

    /// Keeps a damaged file under another name.
    fn set_aside(&self, index: &mut Index, batch: Uuid, reason: &str) -> io::Result<()> {
        let taken = |name: &String| index.damaged.contains(name);
        let name = (1..u32::MAX).map(|n| format!("{batch}.{n}.damaged")).find(|name| !taken(name));
        let name = name.ok_or(io::ErrorKind::AlreadyExists)?;
        self.disk.rename(&self.path(batch), &self.folder.join(&name))?;
        self.disk.sync_dir(&self.folder)?;
        tracing::error!(
            reason,
            name,
            "a dead letter is damaged; it is kept for inspection, and its rows are not counted"
        );
        index.damaged.push(name);
        index.batches.remove(&batch);
        Ok(())
    }

    /// Writes a file in the place of the one before, and forces it to the disk.
    fn write(&self, index: &mut Index, kept: &Kept) -> io::Result<()> {
        let (batch, bytes) = (kept.refusal.batch, file::encode(kept));
        let next = self.folder.join(format!("{batch}.next"));
        let written = self.disk.open(&next, Open::Any).and_then(|file| {
            file.truncate(0)?;
            file.write_all_at(&bytes, 0).map_err(|(_, error)| error)?;
            file.sync()
        });
        if let Err(error) = written.and_then(|()| self.disk.rename(&next, &self.path(batch))) {
            // On a full disk its space is wanted; what is left of it says nothing.
            let _ = self.disk.unlink(&next);
            return Err(error);
        }
        // Nobody may rely on it before its name is forced: a batch that finds its rows here is finished.
        self.disk.sync_dir(&self.folder)?;
        index.note(kept, bytes.len() as u64);
        self.publish(index);
        Ok(())
    }

    /// Removes files that say nothing any more: all rows settled, and `dead_letter.keep` over.
    fn sweep(&self, index: &mut Index) {
        let keep_ms = u64::try_from(self.limits.keep.as_millis()).unwrap_or(u64::MAX);
        let now_ms = self.clock.wall_ms();
        let is_over = |entry: &Entry| entry.settled_at_ms.is_some_and(|ms| now_ms.saturating_sub(ms) >= keep_ms);
        index.batches.retain(|batch, entry| {
            if !is_over(entry) {
                return true;
            }
            match self.disk.unlink(&self.path(*batch)) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => {
                    tracing::warn!(%error, %batch, "a dead letter that is settled could not be removed");
                    true
                }
            }
        });
        self.publish(index);
    }

    /// Sets the metrics to what the files say.
    fn publish(&self, index: &Index) {
        let rows = index.batches.values().flat_map(|entry| &entry.rows);
        let waiting = rows.filter(|(_, state)| *state == RowState::Waiting).map(|(id, _)| id.unix_ms());
        let (rows, oldest_ms) = waiting.fold((0, u64::MAX), |(rows, oldest), ms| (rows + 1, oldest.min(ms)));
        self.figures.rows.set(rows);
        self.figures.bytes.set(index.bytes());
        self.figures.oldest_ms.set(if rows == 0 { 0 } else { oldest_ms });
    }
}

impl Index {
    fn note(&mut self, kept: &Kept, bytes: u64) {
        let rows = kept.refusal.rows.iter().map(|row| (row.click_id, row.state)).collect();
        let entry = Entry { bytes, rows, settled_at_ms: kept.settled_at_ms };
        self.batches.insert(kept.refusal.batch, entry);
    }

    fn bytes(&self) -> u64 {
        self.batches.values().map(|entry| entry.bytes).sum()
    }
}
