//! Books in memory, shared by whoever has a clone, that can be made to fail.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::click::ClickId;
use crate::pipeline::ledger::{Books, BooksError, Changes, Entry, Figures, StretchName, Visits};
use crate::segment::Position;

/// What is kept as a file would be: a clone sees the same.
#[derive(Clone, Debug, Default)]
pub struct MemoryBooks(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    accounts: BTreeMap<(u64, Arc<str>), (Visits, Figures)>,
    marks: BTreeMap<StretchName, Position>,
    rolled: BTreeMap<u64, u64>,
    copied: Vec<u64>,
    node: Option<(String, u64)>,
    erasing: BTreeSet<ClickId>,
    erased: BTreeMap<u64, u64>,
    fails: bool,
}

impl MemoryBooks {
    /// From now on nothing can be changed, or again.
    pub fn fail(&self, fails: bool) {
        self.kept().fails = fails;
    }

    /// The figures of all minutes and runs together.
    #[must_use]
    pub fn sum(&self) -> (Visits, Figures) {
        let mut sum = (Visits::default(), Figures::default());
        for (visits, figures) in self.kept().accounts.values() {
            sum.0.accepted += visits.accepted;
            sum.0.untracked += visits.untracked;
            sum.1.add(*figures);
        }
        sum
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books for MemoryBooks {
    fn change(&mut self, changes: &Changes<'_>) -> Result<(), BooksError> {
        let mut kept = self.kept();
        if kept.fails {
            return Err(BooksError("as the test says".into()));
        }
        for (run, minute, visits) in &changes.visits {
            kept.accounts.entry((*minute, Arc::clone(run))).or_default().0 = *visits;
        }
        if let Some((of, position, minutes)) = changes.spill {
            for (minute, figures) in minutes.iter() {
                kept.accounts.entry((minute, Arc::clone(&of.run))).or_default().1.add(figures);
            }
            kept.marks.insert(of.clone(), position);
        }
        kept.rolled.extend(changes.rolled.iter().copied());
        Ok(())
    }

    fn read(&mut self, minutes: Range<u64>) -> Result<Vec<Entry>, BooksError> {
        let kept = self.kept();
        let within = kept.accounts.iter().filter(|((minute, _), _)| minutes.contains(minute));
        let entry = |((minute, run), (visits, figures)): (&(u64, Arc<str>), &(Visits, Figures))| Entry {
            minute: *minute,
            run: Arc::clone(run),
            visits: *visits,
            figures: *figures,
        };
        Ok(within.map(entry).collect())
    }

    fn marks(&mut self) -> Result<Vec<(StretchName, Position)>, BooksError> {
        Ok(self.kept().marks.iter().map(|(of, position)| (of.clone(), *position)).collect())
    }

    fn copied(&mut self) -> Result<Vec<u64>, BooksError> {
        Ok(self.kept().copied.clone())
    }

    fn named(&mut self, node: &str, minute: u64) -> Result<u64, BooksError> {
        let mut kept = self.kept();
        let since = match &kept.node {
            None => 0,
            Some((known, since)) if known == node => *since,
            Some(_) => minute,
        };
        kept.node = Some((node.to_owned(), since));
        Ok(since)
    }

    fn rolled(&mut self, minutes: Range<u64>) -> Result<Vec<(u64, u64)>, BooksError> {
        Ok(self.kept().rolled.range(minutes).map(|(minute, stored)| (*minute, *stored)).collect())
    }

    fn erasing(&mut self) -> Result<Vec<ClickId>, BooksError> {
        Ok(self.kept().erasing.iter().copied().collect())
    }

    fn begin_erasing(&mut self, ids: &[ClickId]) -> Result<(), BooksError> {
        self.kept().erasing.extend(ids);
        Ok(())
    }

    fn end_erasing(&mut self) -> Result<(), BooksError> {
        let mut kept = self.kept();
        for id in std::mem::take(&mut kept.erasing) {
            *kept.erased.entry(id.unix_ms() / 60_000).or_default() += 1;
        }
        Ok(())
    }

    fn erased(&mut self, minutes: Range<u64>) -> Result<Vec<(u64, u64)>, BooksError> {
        let kept = self.kept();
        let mut erased = kept.erased.clone();
        kept.erasing.iter().for_each(|id| *erased.entry(id.unix_ms() / 60_000).or_default() += 1);
        Ok(erased.range(minutes).map(|(minute, clicks)| (*minute, *clicks)).collect())
    }

    fn unrolled(&mut self) -> Result<Vec<u64>, BooksError> {
        let kept = self.kept();
        let mut stored = BTreeMap::<u64, u64>::new();
        for ((minute, _), (_, figures)) in &kept.accounts {
            *stored.entry(*minute).or_default() += figures.stored;
        }
        for (minute, erased) in &kept.erased {
            stored.entry(*minute).and_modify(|stored| *stored = stored.saturating_sub(*erased));
        }
        stored.retain(|minute, stored| kept.rolled.get(minute).copied().unwrap_or(0) != *stored);
        Ok(stored.into_keys().collect())
    }

    fn forget(&mut self, before: u64, runs: &[Arc<str>]) -> Result<(), BooksError> {
        let mut kept = self.kept();
        if kept.fails {
            return Err(BooksError("as the test says".into()));
        }
        kept.accounts.retain(|(minute, run), _| *minute >= before || runs.contains(run));
        kept.rolled.retain(|minute, _| *minute >= before);
        kept.copied.retain(|minute| *minute >= before);
        kept.erased.retain(|minute, _| *minute >= before);
        kept.marks.retain(|of, _| runs.contains(&of.run));
        Ok(())
    }
}
