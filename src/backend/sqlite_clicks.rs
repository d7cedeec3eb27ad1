//! The embedded store: clicks in one SQLite file.
//!
//! One thread writes, one reads; a question never holds up a batch. A batch is one transaction, and a click that is
//! there already is left alone, so a batch sent twice is stored once. Rows carry the second from
//! which they may go, and go when `expire` is called. `app` opens it once; workers call `insert`, the operator side the rest.
//! Bounds: two threads, 64 waiting calls each, 4 + 2 MiB of page cache. Texts that are no UTF-8 are kept with U+FFFD in
//! the place of what is not.

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use uuid::Uuid;

use super::database_thread::{DatabaseThread, Gone};
use super::sqlite_expiry;
use super::sqlite_file::{self, FileError, Migration, Pages};
use super::sqlite_insert;
use super::sqlite_persons;
use super::sqlite_questions;
use super::sqlite_rollups;
use crate::BoxFuture;
use crate::click::ClickId;
use crate::config::Retention;
use crate::pipeline::persons::{Found, Persons, Selector};
use crate::pipeline::store::{ClickCursor, DIFFERENCES_MAX, Difference, Expired, LinkCount};
use crate::pipeline::{Batch, ClickFilter, Counts, Payload, Sealed, Store, StoreError, StoredClick};

const MIGRATIONS: [Migration; 6] = [
    Migration { name: "001_clicks", sql: include_str!("../../schema/sqlite/clicks/001_clicks.sql") },
    Migration { name: "002_expiry", sql: include_str!("../../schema/sqlite/clicks/002_expiry.sql") },
    Migration { name: "003_privacy", sql: include_str!("../../schema/sqlite/clicks/003_privacy.sql") },
    Migration { name: "004_domain", sql: include_str!("../../schema/sqlite/clicks/004_domain.sql") },
    Migration { name: "005_place", sql: include_str!("../../schema/sqlite/clicks/005_place.sql") },
    Migration { name: "006_org", sql: include_str!("../../schema/sqlite/clicks/006_org.sql") },
];

/// Minutes.
const HOUR: u64 = 60;
/// A click has some 700 bytes; in pages of 4 KiB, five of them, it costs a tenth more to write.
const PAGES: Pages = Pages { bytes: 16 * 1024, cache_kib: 4 * 1024 };
const READER_CACHE_KIB: u32 = 2 * 1024;

/// Clicks in a SQLite file.
#[derive(Debug)]
pub struct SqliteClicks {
    writer: DatabaseThread,
    reader: DatabaseThread,
    retention: Retention,
}

impl SqliteClicks {
    /// Opens the file and makes it when it is missing; [`Store::migrate`] makes the table. Blocks for some milliseconds.
    ///
    /// # Errors
    /// The file cannot be opened or written, is no database, or comes from a newer program.
    pub fn open(path: &Path, retention: Retention) -> Result<Self, StoreError> {
        let open = || -> Result<Self, FileError> {
            let writer = sqlite_file::open(path, PAGES, &MIGRATIONS)?;
            // Second: the writer has made the file.
            let reader = sqlite_file::open_reader(path, READER_CACHE_KIB)?;
            Ok(Self {
                writer: DatabaseThread::start("clicks-db-write", writer)?,
                reader: DatabaseThread::start("clicks-db-read", reader)?,
                retention,
            })
        };
        open().map_err(|e| StoreError::operator(format!("{}: {e}", path.display())))
    }

    async fn read<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Connection) -> rusqlite::Result<R> + Send + 'static,
    ) -> Result<R, StoreError> {
        Ok(self.reader.call(f).await??)
    }
}

impl Store for SqliteClicks {
    fn name(&self) -> &'static str {
        "sqlite"
    }

    fn seal(&self, batch: Batch) -> Sealed {
        Sealed {
            id: batch.id,
            part: batch.part,
            token: batch.token(),
            rows: batch.rows.len(),
            payload: Payload::Rows(Arc::new(batch)),
        }
    }

    fn insert<'a>(&'a self, batch: &'a Sealed) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let Payload::Rows(rows) = &batch.payload else {
                return Err(StoreError::operator("the batch was sealed by another store"));
            };
            let (rows, retention) = (Arc::clone(rows), self.retention.clone());
            self.writer.call(move |c| sqlite_insert::write(c, &rows, &retention)).await?.map_err(of_insert)
        })
    }

    fn stored_of(&self, batch: Uuid, span_ms: RangeInclusive<u64>) -> BoxFuture<'_, Result<Vec<ClickId>, StoreError>> {
        Box::pin(self.read(move |c| sqlite_questions::stored_of(c, batch, &span_ms)))
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async { Ok(self.writer.call(|c| sqlite_file::migrate(c, &MIGRATIONS)).await??) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.read(|c| c.query_row("SELECT 1 FROM clicks UNION ALL SELECT 1 LIMIT 1", [], |_| Ok(()))))
    }

    fn count<'a>(&'a self, filter: &'a ClickFilter) -> BoxFuture<'a, Result<Counts, StoreError>> {
        let filter = filter.clone();
        Box::pin(self.read(move |c| sqlite_questions::count(c, &filter)))
    }

    fn recent<'a>(
        &'a self,
        filter: &'a ClickFilter,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredClick>, StoreError>> {
        let filter = filter.clone();
        Box::pin(self.read(move |c| sqlite_questions::recent(c, &filter, behind.map(|cursor| cursor.id), limit)))
    }

    fn roll_up<'a>(&'a self, minutes: &'a [u64]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async {
            // An hour's worth a transaction: a batch waits for no more.
            for minutes in minutes.chunks(HOUR as usize) {
                let minutes = minutes.to_vec();
                self.writer.call(move |c| sqlite_rollups::roll_up(c, &minutes)).await??;
            }
            Ok(())
        })
    }

    /// In the transaction that stores the clicks.
    fn keeps_rollups(&self) -> bool {
        true
    }

    fn compare(&self, minutes: Range<u64>) -> BoxFuture<'_, Result<Vec<Difference>, StoreError>> {
        Box::pin(async move {
            let mut found = Vec::new();
            for hour in hours(minutes) {
                found.extend(self.read(move |c| sqlite_rollups::compare(c, &hour)).await?);
                if found.len() >= DIFFERENCES_MAX {
                    found.truncate(DIFFERENCES_MAX);
                    break;
                }
            }
            Ok(found)
        })
    }

    fn top_links(&self, minutes: Range<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<LinkCount>, StoreError>> {
        Box::pin(self.read(move |connection| sqlite_rollups::top_links(connection, &minutes, limit)))
    }

    fn counts_by_minute<'a>(
        &'a self,
        node: &'a str,
        minutes: Range<u64>,
    ) -> BoxFuture<'a, Result<Vec<(u64, u64)>, StoreError>> {
        Box::pin(async move {
            let mut counts = Vec::new();
            for hour in hours(minutes) {
                let node = node.to_owned();
                counts.extend(self.read(move |c| sqlite_rollups::counts_by_minute(c, &node, &hour)).await?);
            }
            Ok(counts)
        })
    }

    fn persons(&self) -> Option<&dyn Persons> {
        Some(self)
    }

    fn expire(&self, now_ms: u64) -> BoxFuture<'_, Result<Expired, StoreError>> {
        Box::pin(async move { Ok(self.writer.call(move |c| sqlite_expiry::expire(c, now_ms)).await??) })
    }
}

impl Persons for SqliteClicks {
    fn find<'a>(
        &'a self,
        who: &'a Selector,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Found, StoreError>> {
        Box::pin(async move {
            let (mut clicks, mut behind) = (Vec::new(), behind.map(|cursor| cursor.id));
            for _ in 0..sqlite_persons::SLICES_MAX {
                let (who, left) = (who.clone(), limit - clicks.len());
                let (found, next) = self.read(move |c| sqlite_persons::find_slice(c, &who, behind, left)).await?;
                clicks.extend(found);
                behind = next;
                if behind.is_none() || clicks.len() >= limit {
                    break;
                }
            }
            Ok(Found { clicks, next: behind.map(|id| ClickCursor { unix_ms: id.unix_ms(), id }) })
        })
    }

    fn erase<'a>(&'a self, ids: &'a [ClickId]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            // A batch waits for no more.
            for ids in ids.chunks(sqlite_persons::ERASED_AT_ONCE) {
                let ids = ids.to_vec();
                self.writer.call(move |c| sqlite_persons::erase(c, &ids)).await??;
            }
            Ok(())
        })
    }
}

/// Cuts minutes at full hours: one call to a thread each, so that others get their turn.
fn hours(minutes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = minutes;
    let hours = if start < end { start / HOUR..end.div_ceil(HOUR) } else { 0..0 };
    hours.map(move |hour| start.max(hour.saturating_mul(HOUR))..end.min((hour + 1).saturating_mul(HOUR)))
}

impl From<Gone> for StoreError {
    fn from(gone: Gone) -> Self {
        Self::operator(gone.to_string())
    }
}

impl From<FileError> for StoreError {
    fn from(error: FileError) -> Self {
        let text = error.to_string();
        match error {
            _ if error.passes() => Self::Transient(text),
            FileError::Sqlite(error) => Self::Operator { code: sqlite_file::code_of(&error), text },
            FileError::Newer { .. } | FileError::Thread(_) => Self::operator(text),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        FileError::from(error).into()
    }
}

/// Why a batch was not stored.
fn of_insert(error: rusqlite::Error) -> StoreError {
    if sqlite_file::refuses_row(&error) {
        return StoreError::Poison { code: sqlite_file::code_of(&error), text: error.to_string() };
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::samples;

    async fn store(folder: &tempfile::TempDir) -> SqliteClicks {
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), samples::retention()).unwrap();
        store.migrate().await.unwrap();
        store
    }

    #[tokio::test]
    async fn a_batch_sent_twice_is_stored_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let sealed = store.seal(samples::batch(1_700_000_000_000, 100));
        store.insert(&sealed).await.unwrap();
        store.insert(&sealed).await.unwrap();
        let counts = store.count(&ClickFilter::default()).await.unwrap();
        assert_eq!((sealed.rows, counts.total), (100, 100));
        assert_eq!(counts.unique + counts.duplicate + counts.unknown, 100);
    }

    #[tokio::test]
    async fn the_rows_of_a_batch_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let whole = samples::batch(1_700_000_000_000, 20);
        let span = 1_700_000_000_000..=1_700_000_000_019;
        assert_eq!(store.stored_of(whole.id, span.clone()).await.unwrap(), []);
        let half = Batch { rows: whole.rows[..10].to_vec(), ..whole.clone() };
        store.insert(&store.seal(half)).await.unwrap();
        assert_eq!(store.stored_of(whole.id, span.clone()).await.unwrap().len(), 10);
        assert_eq!(store.stored_of(uuid::Uuid::nil(), span).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_click_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let click = samples::click("click_id=a%20b&source=mail&x=%22&x=2");
        store.insert(&store.seal(samples::batch_of([samples::row(&click)]))).await.unwrap();
        let stored = store.recent(&ClickFilter::default(), None, 10).await.unwrap();
        assert_eq!(stored, [samples::stored(&click)]);
    }

    #[tokio::test]
    async fn a_row_that_the_table_refuses_is_poison_and_its_batch_is_not_stored() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let other = Connection::open(folder.path().join("clicks.db")).unwrap();
        // 19 x 256 + 7: SQLITE_CONSTRAINT_TRIGGER.
        other
            .execute_batch(
                "CREATE TRIGGER no BEFORE INSERT ON clicks WHEN NEW.link = 'l7' BEGIN SELECT RAISE(ABORT, 'no'); END",
            )
            .unwrap();
        let error = store.insert(&store.seal(samples::batch(1_700_000_000_000, 10))).await.unwrap_err();
        assert!(matches!(error, StoreError::Poison { code: 1811, .. }), "{error:?}");
        assert_eq!(store.count(&ClickFilter::default()).await.unwrap().total, 0);
        store.insert(&store.seal(samples::batch(1_700_000_000_000, 7))).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_table_waits_for_a_person() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), samples::retention()).unwrap();
        let sealed = store.seal(samples::batch(1_700_000_000_000, 1));
        for error in [store.insert(&sealed).await.unwrap_err(), store.ping().await.unwrap_err()] {
            assert!(
                matches!(&error, StoreError::Operator { code: 1, text } if text.contains("no such table: clicks")),
                "{error}"
            );
        }
        let all = ["001_clicks", "002_expiry", "003_privacy", "004_domain", "005_place", "006_org"];
        assert_eq!(store.migrate().await.unwrap(), all);
        assert!(store.migrate().await.unwrap().is_empty());
        store.insert(&sealed).await.unwrap();
        store.ping().await.unwrap();
    }

    #[tokio::test]
    async fn clicks_of_a_file_with_days_expire_at_the_same_time_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clicks.db");
        let mut old = sqlite_file::open(&path, Pages::small(100), &MIGRATIONS[..1]).unwrap();
        sqlite_file::migrate(&mut old, &MIGRATIONS[..1]).unwrap();
        let texts = "'', ".repeat(6);
        let sql = format!(
            "INSERT INTO clicks VALUES ('018bcfe5-687b-7909-8909-090909090909', 1700000000123, 'o', '', 'a', '', '', '', 302,
             '', '', 'human', '[]', 'unique', 0, {texts} '', '', '{{}}', 1, 'n', 'b', 19705)"
        );
        old.execute(&sql, []).unwrap();
        drop(old);
        let store = store(&folder).await;
        let [before] = &store.recent(&ClickFilter::default(), None, 2).await.unwrap()[..] else { panic!("one click") };
        assert_eq!((before.domain.as_str(), before.path.as_str()), ("*", ""));
        assert_eq!((before.region.as_str(), before.city.as_str(), before.asn), ("", "", 0));
        store.roll_up(&[1_700_000_000_123 / 60_000]).await.unwrap();
        let day_ms = 86_400_000;
        assert_eq!(store.expire(19_705 * day_ms - 1).await.unwrap().clicks, 0);
        assert_eq!(store.expire(19_705 * day_ms).await.unwrap().clicks, 1);
    }
}
