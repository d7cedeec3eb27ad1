//! The ledger: for each minute, what became of every visit.
//!
//! ```text
//! visits   = accepted + untracked
//! accepted = stored + in flight + refused + dropped + erased + damaged + residual   the residual is 0, or somebody is told
//!
//! edge threads --a ring of minutes each, copied every second--> accepted, untracked
//! workers      --note of a checkpoint, spilled (see `account`)--> taken, stored, refused, damaged
//! refused shelf --its files--> which of the refused wait, were stored later, were dropped
//! ```
//! One line for each minute (of the click, UTC) and run: a *run* is one process's journal. What a run has not finished
//! goes on under its name when a later process takes it up, so the books balance across restarts.
//!
//! **In flight** is what was accepted and not claimed by a worker, and what was claimed and is not finished. Once a run
//! is over, or its workers have read everything of a minute, nothing is left to be claimed: what was accepted and not
//! claimed is *lost* then, and shows as the residual. So the sides are counted apart, and a click that vanishes on the
//! way is seen. What a worker has taken was accepted: where a crash took the edge's last second, the worker's figure
//! stands. Untracked visits of that second are gone.
//!
//! It never holds up a click: the edge adds to memory of its own, and workers write to the disk some times a day. It
//! knows no database; [`Books`] is the port. Bounds: the minutes of `ledger.keep` in memory, some 50 bytes each; one
//! range of minutes a question, which the caller limits.

mod account;
mod books;
mod erasing;
mod lines;
mod minutes;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use account::Account;
pub use books::{Books, BooksError, Changes, Entry, Figures, StretchName, Visits};
pub use lines::Line;
pub use minutes::{BATCH_MINUTES_MAX, Minutes, NOTE_MINUTES_MAX};
pub use upkeep::{Checked, UpkeepError, check, roll_up};

use super::dead_letter::{Shelf, Tally};
use crate::clock::Clock;
use crate::handoff::Orphan;
use crate::segment::Position;
use crate::telemetry::books::LedgerShard;
use crate::telemetry::metrics::EdgeShard;
use crate::telemetry::minutes::{Counted, SLOTS};

/// The ledger of one data folder. Shared by `Arc`.
pub struct Ledger {
    /// Taken before `state`, where both are.
    books: Mutex<Box<dyn Books>>,
    state: Mutex<State>,
    shelf: Arc<Shelf>,
    node: Arc<str>,
    clock: Arc<dyn Clock>,
    figures: Arc<LedgerShard>,
}

/// What is not in the books, or not yet.
#[derive(Default)]
struct State {
    live: Option<Live>,
    /// Runs that are not over: this process's, and those of earlier ones that are not finished.
    runs: BTreeSet<Arc<str>>,
    stretches: BTreeMap<StretchName, Open>,
    marks: BTreeMap<StretchName, Position>,
    /// Minutes whose rollups may not say what is stored.
    dirty: BTreeSet<u64>,
    /// Minutes that are to be checked.
    touched: BTreeSet<u64>,
    /// Where the next check goes on.
    check_from: u64,
    suspects: BTreeMap<u64, upkeep::Suspect>,
    /// Minutes of which the store may have more.
    copied: BTreeSet<u64>,
    /// Minutes before this one cannot be compared with the store: they were stored under another name.
    named_since: u64,
    /// As the shelf was seen last.
    on_shelf: BTreeMap<u64, Tally>,
}

/// This process's run.
struct Live {
    run: Arc<str>,
    /// The minute in which it began.
    began: u64,
    edges: Vec<(Arc<EdgeShard>, [Counted; SLOTS])>,
    visits: BTreeMap<u64, Visits>,
    unsaved: BTreeSet<u64>,
    failing: bool,
}

/// A stretch that is not finished.
#[derive(Clone, Debug, Default)]
struct Open {
    /// What is behind the mark and before `finished_to`.
    note: Minutes,
    finished_to: Position,
    /// Clicks that were claimed and are not finished, by the minute.
    claimed: BTreeMap<u64, u64>,
    is_live: bool,
    /// Everything that was accepted before this wall time was claimed, Unix milliseconds.
    idle_ms: Option<u64>,
}

impl Ledger {
    /// Opens the books of the node of this name. Blocks.
    ///
    /// # Errors
    /// [`BooksError`]
    pub fn open(
        mut books: Box<dyn Books>,
        node: &str,
        shelf: Arc<Shelf>,
        clock: Arc<dyn Clock>,
        figures: Arc<LedgerShard>,
    ) -> Result<Self, BooksError> {
        let marks = books.marks()?.into_iter().collect();
        let dirty = books.unrolled()?.into_iter().collect();
        let copied = books.copied()?.into_iter().collect();
        let state = Mutex::new(State { marks, dirty, copied, ..State::default() });
        Ok(Self { books: Mutex::new(books), state, shelf, node: node.into(), clock, figures })
    }

    /// Takes up this process's run, before its edge threads start. Blocks.
    ///
    /// # Errors
    /// [`BooksError`]
    pub fn begin_run(&self, folder: &Path, edges: impl IntoIterator<Item = Arc<EdgeShard>>) -> Result<(), BooksError> {
        let run = run_name(folder);
        // The minute of a change has clicks of both names.
        let named_since = self.books().named(&self.node, self.now_ms() / minutes::MINUTE_MS + 1)?;
        let mut state = self.state();
        state.named_since = named_since;
        let edges: Vec<_> = edges.into_iter().map(|edge| (edge, [Counted::default(); SLOTS])).collect();
        for core in 0..edges.len() {
            let of = StretchName { run: Arc::clone(&run), core: u32::try_from(core).unwrap_or(u32::MAX), origin: 0 };
            state.stretches.insert(of, Open { is_live: true, ..Open::default() });
        }
        state.runs.insert(Arc::clone(&run));
        let began = self.now_ms() / minutes::MINUTE_MS;
        state.live =
            Some(Live { run, began, edges, visits: BTreeMap::new(), unsaved: BTreeSet::new(), failing: false });
        Ok(())
    }

    /// Takes up a run that an earlier process left.
    ///
    /// # Errors
    /// The system's.
    pub fn adopt_run(&self, orphan: &Orphan) -> std::io::Result<()> {
        let run = run_name(orphan.folder());
        let noted = orphan.notes()?;
        let mut state = self.state();
        for (stretch, position, note) in noted {
            let of = StretchName { run: Arc::clone(&run), core: stretch.core, origin: stretch.first_seq };
            state.register(&of, position, &note);
        }
        state.runs.insert(run);
        Ok(())
    }

    /// A run of an earlier process is finished, and its folder gone. Blocks.
    ///
    /// # Errors
    /// [`BooksError`]; it is over all the same.
    pub fn end_run(&self, folder: &Path) -> Result<(), BooksError> {
        let run = run_name(folder);
        let mut books = self.books();
        self.state().runs.remove(&run);
        // What it has lost shows now, and in minutes that nothing else touches.
        let entries = books.read(0..u64::MAX)?;
        self.state().touched.extend(entries.iter().filter(|entry| entry.run == run).map(|entry| entry.minute));
        Ok(())
    }

    /// Copies what the edge threads have counted, and writes it to the books. To be called every second, and once more
    /// when they have ended. Blocks.
    pub fn collect(&self) {
        let mut books = self.books();
        let mut state = self.state();
        state.count_visits();
        let Some(live) = &mut state.live else { return };
        let visits = live.unsaved.iter().filter_map(|minute| {
            let visits = live.visits.get(minute)?;
            Some((Arc::clone(&live.run), *minute, *visits))
        });
        let visits: Vec<_> = visits.collect();
        if visits.is_empty() {
            return;
        }
        // The disk is not waited for under this lock, which workers take.
        drop(state);
        let saved = books.change(&Changes { visits: visits.clone(), ..Changes::default() });
        let mut state = self.state();
        let Some(live) = &mut state.live else { return };
        match saved {
            Ok(()) => {
                for (_, minute, saved) in &visits {
                    if live.visits.get(minute) == Some(saved) {
                        live.unsaved.remove(minute);
                    }
                }
                if std::mem::take(&mut live.failing) {
                    tracing::info!("the ledger is written again");
                }
            }
            Err(error) if !std::mem::replace(&mut live.failing, true) => {
                tracing::warn!(%error, "the ledger cannot be written; what the edge counts is kept in memory");
            }
            Err(_) => {}
        }
    }

    /// Forgets minutes before this one, where everything in them is over, and what belongs to runs that are gone. Blocks.
    ///
    /// # Errors
    /// [`BooksError`]
    pub fn forget_before(&self, minute: u64) -> Result<(), BooksError> {
        let mut books = self.books();
        let mut state = self.state();
        let before = state.dirty.first().map_or(minute, |dirty| minute.min(*dirty));
        let runs: Vec<_> = state.runs.iter().cloned().collect();
        state.marks.retain(|of, _| runs.contains(&of.run));
        if let Some(live) = &mut state.live {
            live.visits.retain(|minute, _| *minute >= before || live.unsaved.contains(minute));
        }
        drop(state);
        books.forget(before, &runs)
    }

    /// Name of the node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The time of its clock, Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn books(&self) -> MutexGuard<'_, Box<dyn Books>> {
        // A transaction that a panic broke off is undone.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a few additions that cannot panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Makes a stretch known as its checkpoint has it, unless it is.
    fn register(&mut self, of: &StretchName, checkpoint: Position, note: &[u8]) {
        if self.stretches.contains_key(of) {
            return;
        }
        let mark = self.marks.get(of).copied().filter(|mark| *mark >= checkpoint);
        let open = match mark {
            // The books have it, and perhaps more.
            Some(mark) => Open { finished_to: mark, ..Open::default() },
            None => {
                let note = Minutes::decode(note).unwrap_or_else(|| {
                    let (run, core) = (&of.run, of.core);
                    tracing::error!(%run, core, "the figures of a checkpoint are not understood; the ledger misses them");
                    Minutes::default()
                });
                Open { note, finished_to: checkpoint, ..Open::default() }
            }
        };
        for (minute, _) in open.note.iter() {
            self.dirty.insert(minute);
            self.touched.insert(minute);
        }
        self.stretches.insert(of.clone(), open);
    }

    /// Adds what the edge threads have counted since the last time.
    fn count_visits(&mut self) {
        let Some(live) = &mut self.live else { return };
        for (edge, before) in &mut live.edges {
            for (slot, now) in edge.minutes.copy().into_iter().enumerate() {
                let Some(now) = now else { continue };
                let known = if before[slot].turn == now.turn { before[slot] } else { Counted::default() };
                before[slot] = now;
                let new =
                    Visits { accepted: now.accepted - known.accepted, untracked: now.untracked - known.untracked };
                if new != Visits::default() {
                    let visits = live.visits.entry(now.minute).or_default();
                    visits.accepted += new.accepted;
                    visits.untracked += new.untracked;
                    live.unsaved.insert(now.minute);
                    self.touched.insert(now.minute);
                }
            }
        }
    }

    /// Whether the store may have more of this minute than is known here. Of the last second of a process that was killed only its
    /// journal knows, which is looked at again when it was read ([`Ledger::end_run`]); a backup may be older than the store.
    fn may_be_short(&self, minute: u64) -> bool {
        let began = self.live.as_ref().map_or(u64::MAX, |live| live.began);
        let is_read = self.runs.iter().all(|run| self.live.as_ref().is_some_and(|live| live.run == *run));
        self.copied.contains(&minute) || (minute <= began && !is_read)
    }

    /// Whether nothing of this minute is left to be claimed in this run.
    fn is_claimed(&self, run: &Arc<str>, minute: u64) -> bool {
        if !self.runs.contains(run) {
            return true;
        }
        if self.live.as_ref().is_none_or(|live| live.run != *run) {
            return false;
        }
        let end_ms = account::end_ms(minute).saturating_add(TURN_MS_MAX);
        let of_run = self.stretches.iter().filter(|(of, _)| of.run == *run);
        of_run.into_iter().all(|(_, open)| open.is_live && open.idle_ms.is_some_and(|ms| ms >= end_ms))
    }
}

/// A click carries the time at which its turn of the event loop began; so much later, it is in the journal.
const TURN_MS_MAX: u64 = 5_000;

/// The name of a run, from its folder.
fn run_name(folder: &Path) -> Arc<str> {
    folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()).into()
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}
