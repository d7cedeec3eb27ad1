//! A store and the ledger's books whose calls are timed, whoever they are.
//!
//! They change nothing of what they pass on. What Redis, a Warden and the catalog are asked is timed by themselves, where all
//! they are asked goes one way: a check there is more than one call, or none.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use uuid::Uuid;

use crate::BoxFuture;
use crate::click::ClickId;
use crate::pipeline::ledger::{Books, BooksError, Changes, Entry, StretchName};
use crate::pipeline::months::{Merge, Months, Report};
use crate::pipeline::persons::{Found, Persons, Selector};
use crate::pipeline::store::{ClickCursor, Difference, Expired, LinkCount};
use crate::pipeline::{Batch, ClickFilter, Counts, Sealed, Store, StoreError, StoredClick};
use crate::segment::Position;
use crate::telemetry::calls::{Call, Calls};
use crate::telemetry::figures::Figure;

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A store and where its calls are noted.
pub struct TimedStore {
    store: Arc<dyn Store>,
    calls: Arc<Calls>,
}

impl TimedStore {
    /// Passes everything on to this store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, calls: Arc<Calls>) -> Self {
        Self { store, calls }
    }

    fn timed<'a, T: 'a>(&'a self, call: Call, answer: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(self.calls.time(call, answer))
    }
}

impl Store for TimedStore {
    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn seal(&self, batch: Batch) -> Sealed {
        self.store.seal(batch)
    }

    fn insert<'a>(&'a self, batch: &'a Sealed) -> Answer<'a, ()> {
        self.timed(Call::StoreInsert, self.store.insert(batch))
    }

    fn stored_of(&self, batch: Uuid, span_ms: RangeInclusive<u64>) -> Answer<'_, Vec<ClickId>> {
        self.timed(Call::StoreLook, self.store.stored_of(batch, span_ms))
    }

    fn migrate(&self) -> Answer<'_, Vec<String>> {
        self.timed(Call::StoreMigrate, self.store.migrate())
    }

    fn ping(&self) -> Answer<'_, ()> {
        self.timed(Call::StorePing, self.store.ping())
    }

    fn count<'a>(&'a self, filter: &'a ClickFilter) -> Answer<'a, Counts> {
        self.timed(Call::StoreCount, self.store.count(filter))
    }

    fn recent<'a>(
        &'a self,
        filter: &'a ClickFilter,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> Answer<'a, Vec<StoredClick>> {
        self.timed(Call::StoreRecent, self.store.recent(filter, behind, limit))
    }

    fn top_links(&self, minutes: Range<u64>, limit: usize) -> Answer<'_, Vec<LinkCount>> {
        self.timed(Call::StoreTopLinks, self.store.top_links(minutes, limit))
    }

    fn roll_up<'a>(&'a self, minutes: &'a [u64]) -> Answer<'a, ()> {
        self.timed(Call::StoreRollUp, self.store.roll_up(minutes))
    }

    fn keeps_rollups(&self) -> bool {
        self.store.keeps_rollups()
    }

    fn compare(&self, minutes: Range<u64>) -> Answer<'_, Vec<Difference>> {
        self.timed(Call::StoreCompare, self.store.compare(minutes))
    }

    fn counts_by_minute<'a>(&'a self, node: &'a str, minutes: Range<u64>) -> Answer<'a, Vec<(u64, u64)>> {
        self.timed(Call::StoreMinutes, self.store.counts_by_minute(node, minutes))
    }

    fn expire(&self, now_ms: u64) -> Answer<'_, Expired> {
        self.timed(Call::StoreExpire, self.store.expire(now_ms))
    }

    fn figures(&self) -> &'static [Figure] {
        self.store.figures()
    }

    fn figure(&self, figure: Figure) -> Answer<'_, f64> {
        self.timed(Call::StoreFigures, self.store.figure(figure))
    }

    fn persons(&self) -> Option<&dyn Persons> {
        self.store.persons().map(|_| self as &dyn Persons)
    }

    fn months(&self) -> Option<&dyn Months> {
        self.store.months().map(|_| self as &dyn Months)
    }
}

/// Of a part that the store has not: nobody is handed this one for it.
fn absent<'a, T: Send + 'a>() -> Answer<'a, T> {
    Box::pin(std::future::ready(Err(StoreError::operator("the store has no such part"))))
}

impl Persons for TimedStore {
    fn find<'a>(&'a self, who: &'a Selector, behind: Option<ClickCursor>, limit: usize) -> Answer<'a, Found> {
        let found = self.store.persons().map_or_else(absent, |persons| persons.find(who, behind, limit));
        self.timed(Call::StoreFind, found)
    }

    fn erase<'a>(&'a self, ids: &'a [ClickId]) -> Answer<'a, ()> {
        let erased = self.store.persons().map_or_else(absent, |persons| persons.erase(ids));
        self.timed(Call::StoreErase, erased)
    }
}

impl Months for TimedStore {
    fn report(&self) -> Answer<'_, Report> {
        self.timed(Call::StoreMonths, self.store.months().map_or_else(absent, Months::report))
    }

    fn merge<'a>(&'a self, table: &'a str, month: &'a str) -> Answer<'a, Merge> {
        let merged = self.store.months().map_or_else(absent, |months| months.merge(table, month));
        self.timed(Call::StoreMerge, merged)
    }
}

impl std::fmt::Debug for TimedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimedStore").field("store", &self.store.name()).finish_non_exhaustive()
    }
}

/// Books and where their calls are noted.
pub struct TimedBooks<B> {
    books: B,
    calls: Arc<Calls>,
}

impl<B: Books> TimedBooks<B> {
    /// Passes everything on to these books.
    #[must_use]
    pub fn new(books: B, calls: Arc<Calls>) -> Self {
        Self { books, calls }
    }

    fn ask<T>(&mut self, ask: impl FnOnce(&mut B) -> Result<T, BooksError>) -> Result<T, BooksError> {
        let _under_way = self.calls.begin(Call::BooksRead);
        ask(&mut self.books)
    }

    fn write<T>(&mut self, change: impl FnOnce(&mut B) -> Result<T, BooksError>) -> Result<T, BooksError> {
        let _under_way = self.calls.begin(Call::BooksWrite);
        change(&mut self.books)
    }
}

impl<B: Books> Books for TimedBooks<B> {
    fn change(&mut self, changes: &Changes<'_>) -> Result<(), BooksError> {
        self.write(|books| books.change(changes))
    }

    fn read(&mut self, minutes: Range<u64>) -> Result<Vec<Entry>, BooksError> {
        self.ask(|books| books.read(minutes))
    }

    fn marks(&mut self) -> Result<Vec<(StretchName, Position)>, BooksError> {
        self.ask(B::marks)
    }

    fn copied(&mut self) -> Result<Vec<u64>, BooksError> {
        self.ask(B::copied)
    }

    fn named(&mut self, node: &str, minute: u64) -> Result<u64, BooksError> {
        self.write(|books| books.named(node, minute))
    }

    fn rolled(&mut self, minutes: Range<u64>) -> Result<Vec<(u64, u64)>, BooksError> {
        self.ask(|books| books.rolled(minutes))
    }

    fn erasing(&mut self) -> Result<Vec<ClickId>, BooksError> {
        self.ask(B::erasing)
    }

    fn begin_erasing(&mut self, ids: &[ClickId]) -> Result<(), BooksError> {
        self.write(|books| books.begin_erasing(ids))
    }

    fn end_erasing(&mut self) -> Result<(), BooksError> {
        self.write(B::end_erasing)
    }

    fn erased(&mut self, minutes: Range<u64>) -> Result<Vec<(u64, u64)>, BooksError> {
        self.ask(|books| books.erased(minutes))
    }

    fn unrolled(&mut self) -> Result<Vec<u64>, BooksError> {
        self.ask(B::unrolled)
    }

    fn forget(&mut self, before: u64, runs: &[Arc<str>]) -> Result<(), BooksError> {
        self.write(|books| books.forget(before, runs))
    }
}

impl<B> std::fmt::Debug for TimedBooks<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TimedBooks").finish_non_exhaustive()
    }
}
