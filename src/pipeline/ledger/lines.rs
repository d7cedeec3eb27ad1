//! Reading the ledger: what the books, the memory and the shelf say together, at one moment.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::{BooksError, Figures, Ledger, State, Visits};
use crate::pipeline::dead_letter::Tally;

/// One minute, or the sum of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Whole minutes since 1970 at which it begins.
    pub minute: u64,
    /// Clicks written to the journal.
    pub accepted: u64,
    /// Redirects whose click the journal could not take.
    pub untracked: u64,
    /// In the store, replays of refused rows included.
    pub stored: u64,
    /// On their way: in the journal, at a worker, or at the store.
    pub in_flight: u64,
    /// Refused by the store; they wait for a person.
    pub refused: u64,
    /// Refused by the store, and dropped by a person.
    pub dropped: u64,
    /// Erased, as a person asked, from the store or the refused shelf.
    pub erased: u64,
    /// Read from the journal, and not understood.
    pub damaged: u64,
}

impl Line {
    /// Redirects of links.
    #[must_use]
    pub const fn visits(&self) -> u64 {
        self.accepted + self.untracked
    }

    /// Accepted clicks of which nobody knows where they are; below zero, clicks that nobody accepted.
    #[must_use]
    pub const fn residual(&self) -> i64 {
        let known = self.stored + self.in_flight + self.refused + self.dropped + self.erased + self.damaged;
        self.accepted.cast_signed() - known.cast_signed()
    }

    /// Adds another line; the beginning stays.
    pub const fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.untracked += other.untracked;
        self.stored += other.stored;
        self.in_flight += other.in_flight;
        self.refused += other.refused;
        self.dropped += other.dropped;
        self.erased += other.erased;
        self.damaged += other.damaged;
    }
}

/// One minute of one run.
#[derive(Default)]
struct Row {
    visits: Visits,
    figures: Figures,
    /// Claimed and not finished.
    open: u64,
}

impl Ledger {
    /// A line for each of these minutes in which there was a visit, in the order of time. Blocks.
    ///
    /// # Errors
    /// [`BooksError`]
    pub fn lines(&self, minutes: Range<u64>) -> Result<Vec<Line>, BooksError> {
        let mut rows = BTreeMap::<(u64, Arc<str>), Row>::new();
        let mut books = self.books();
        for entry in books.read(minutes.clone())? {
            let (visits, figures) = (entry.visits, entry.figures);
            rows.insert((entry.minute, entry.run), Row { visits, figures, open: 0 });
        }
        let erased = books.erased(minutes.clone())?;
        let mut state = self.state();
        // The edge's side after the workers': what is claimed was accepted.
        state.count_visits();
        state.add_to(&mut rows, &minutes);
        let mut lines = BTreeMap::<u64, (Line, u64)>::new();
        for ((minute, run), row) in &rows {
            let (line, refused) = lines.entry(*minute).or_default();
            line.minute = *minute;
            let claimed = row.figures.taken + row.open;
            let accepted = row.visits.accepted.max(claimed);
            let unclaimed = if state.is_claimed(run, *minute) { 0 } else { accepted - claimed };
            line.accepted += accepted;
            line.untracked += row.visits.untracked;
            line.in_flight += row.open + unclaimed;
            line.stored += row.figures.stored;
            line.damaged += row.figures.damaged;
            *refused += row.figures.refused;
        }
        drop(state);
        drop(books);
        for (minute, tally) in self.shelf.tally().range(minutes) {
            if let Some((line, refused)) = lines.get_mut(minute) {
                line.add_shelf(*tally, *refused);
            }
        }
        for (minute, erased) in erased {
            if let Some((line, _)) = lines.get_mut(&minute) {
                // Books that were begun anew know less of what was stored.
                let erased = erased.min(line.stored);
                line.stored -= erased;
                line.erased += erased;
            }
        }
        Ok(lines.into_values().map(|(line, _)| line).collect())
    }
}

impl State {
    fn add_to(&self, rows: &mut BTreeMap<(u64, Arc<str>), Row>, minutes: &Range<u64>) {
        for (of, open) in &self.stretches {
            for (minute, figures) in open.note.iter().filter(|(minute, _)| minutes.contains(minute)) {
                rows.entry((minute, Arc::clone(&of.run))).or_default().figures.add(figures);
            }
            for (minute, claimed) in open.claimed.range(minutes.clone()) {
                rows.entry((*minute, Arc::clone(&of.run))).or_default().open += claimed;
            }
        }
        if let Some(live) = &self.live {
            for (minute, visits) in live.visits.range(minutes.clone()) {
                rows.entry((*minute, Arc::clone(&live.run))).or_default().visits = *visits;
            }
        }
    }
}

impl Line {
    /// Adds what became of the rows on the shelf. Workers have finished `refused` of them; those beyond are on the shelf
    /// and still in flight, because their batch is not finished.
    fn add_shelf(&mut self, tally: Tally, refused: u64) {
        let mut early = (tally.waiting + tally.stored + tally.dropped + tally.erased).saturating_sub(refused);
        let mut without_early = |rows: u64| {
            let of_these = early.min(rows);
            early -= of_these;
            rows - of_these
        };
        self.refused += without_early(tally.waiting);
        self.stored += without_early(tally.stored);
        self.dropped += without_early(tally.dropped);
        self.erased += without_early(tally.erased);
    }
}
