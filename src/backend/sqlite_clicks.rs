//! The embedded store: clicks in one SQLite file.
//!
//! One thread writes, one reads; a question never holds up a batch. A batch is one transaction, and a click that is
//! there already is left alone, so a batch sent twice is stored once. It keeps every click: old rows carry the day they
//! may go, and nothing here removes them yet. `app` opens it once; workers call `insert`, the operator side the rest.
//! Bounds: two threads, 64 waiting calls each, 4 + 2 MiB of page cache. Texts that are no UTF-8 are kept with U+FFFD in
//! the place of what is not.

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, TransactionBehavior, params};
use uuid::Uuid;

use super::columns;
use super::database_thread::{DatabaseThread, Gone};
use super::sqlite_file::{self, FileError, Migration};
use super::sqlite_questions::{self, MINUTE_MS};
use super::sqlite_rollups;
use crate::BoxFuture;
use crate::click::query::Parameters;
use crate::click::{Click, ClickId};
use crate::pipeline::store::{ClickCursor, DIFFERENCES_MAX, Difference};
use crate::pipeline::{Batch, ClickFilter, Counts, Payload, Row, Sealed, Store, StoreError, StoredClick};

const MIGRATIONS: [Migration; 1] =
    [Migration { name: "001_clicks", sql: include_str!("../../schema/sqlite/clicks/001_clicks.sql") }];

/// Minutes.
const HOUR: u64 = 60;
const WRITER_CACHE_KIB: u32 = 4 * 1024;
const READER_CACHE_KIB: u32 = 2 * 1024;

/// Only the key may be there already; anything else that a row breaks is an error.
const INSERT: &str = "INSERT INTO clicks (click_id, ts, org, campaign, link, rule, variant, destination, status,
     external_click_id, source, class, reasons, dedup, fraud_score, country, device, os, browser, language, referrer, ua,
     ip, query, route_version, node, batch_id, expires)
     VALUES (?1, ?2, ?3, ?4, ?5, '', '', ?6, ?7, ?8, ?9, ?10, ?11, ?12, 0, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
     ?22, ?23, ?24, ?25)
     ON CONFLICT (click_id) DO NOTHING";

const ADD: &str = "INSERT INTO click_counts (minute, link, campaign, class, dedup, clicks)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT (minute, link, campaign, class, dedup) DO UPDATE SET clicks = clicks + excluded.clicks";

/// Clicks in a SQLite file.
#[derive(Debug)]
pub struct SqliteClicks {
    writer: DatabaseThread,
    reader: DatabaseThread,
    retention_days: u32,
}

impl SqliteClicks {
    /// Opens the file and makes it when it is missing; [`Store::migrate`] makes the table. Blocks for some milliseconds.
    ///
    /// # Errors
    /// The file cannot be opened or written, is no database, or comes from a newer program.
    pub fn open(path: &Path, retention_days: u32) -> Result<Self, StoreError> {
        let open = || -> Result<Self, FileError> {
            let writer = sqlite_file::open(path, WRITER_CACHE_KIB, &MIGRATIONS)?;
            // Second: the writer has made the file.
            let reader = sqlite_file::open_reader(path, READER_CACHE_KIB)?;
            Ok(Self {
                writer: DatabaseThread::start("clicks-db-write", writer)?,
                reader: DatabaseThread::start("clicks-db-read", reader)?,
                retention_days,
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
            let (rows, retention_days) = (Arc::clone(rows), self.retention_days);
            self.writer.call(move |c| write(c, &rows, retention_days)).await?.map_err(of_insert)
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

/// Writes a batch: all of it, or none.
fn write(connection: &mut Connection, batch: &Batch, retention_days: u32) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut batch_id = [0; 36];
    let mut writing = Writing {
        batch_id: batch.id.hyphenated().encode_lower(&mut batch_id),
        node: &batch.node,
        retention_days,
        parameters: Parameters::default(),
        json: Vec::new(),
    };
    let mut counts = MinuteCounts::default();
    {
        let mut insert = transaction.prepare_cached(INSERT)?;
        for row in &batch.rows {
            match Click::decode(&row.frame) {
                Ok(click) => {
                    if writing.row(&mut insert, row, &click)? {
                        let minute = click.id.unix_ms() / MINUTE_MS;
                        let key = (minute, click.link, click.campaign, row.class.name(), row.dedup.name());
                        *counts.entry(key).or_default() += 1;
                    }
                }
                // The worker has decoded this very frame; no disk lies between.
                Err(problem) => {
                    tracing::error!(%problem, batch = %batch.id, "a click cannot be encoded and is not stored")
                }
            }
        }
        // In the order of the table, so that a page is changed once.
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable();
        let mut add = transaction.prepare_cached(ADD)?;
        for ((minute, link, campaign, class, dedup), clicks) in counts {
            add.execute(params![number(minute), link, campaign, class, dedup, clicks])?;
        }
    }
    transaction.commit()
}

/// Clicks by minute, link, campaign, class and label.
type MinuteCounts<'b> =
    HashMap<(u64, &'b str, &'b str, &'static str, &'static str), u32, foldhash::quality::RandomState>;

/// What all rows of a batch share, and memory that is lent from row to row.
struct Writing<'b> {
    batch_id: &'b str,
    node: &'b str,
    retention_days: u32,
    parameters: Parameters<'b>,
    json: Vec<u8>,
}

impl<'b> Writing<'b> {
    /// Writes a row; false when the click is there already.
    fn row(&mut self, insert: &mut Statement<'_>, row: &Row, click: &Click<'b>) -> rusqlite::Result<bool> {
        self.parameters.read(click.query);
        self.json.clear();
        columns::write_json(&self.parameters, &mut self.json);
        let lossy = String::from_utf8_lossy;
        let written = insert.execute(params![
            click.id.hyphenated(&mut [0; 36]),
            number(click.id.unix_ms()),
            click.org,
            click.campaign,
            click.link,
            lossy(click.destination),
            click.status,
            lossy(self.parameters.get("click_id")),
            lossy(self.parameters.get("source")),
            row.class.name(),
            reasons_json(row),
            row.dedup.name(),
            lossy(row.country.as_ref().map_or(&[], |country| country.as_slice())),
            row.agent.device,
            row.agent.os,
            row.agent.browser,
            lossy(click.language),
            lossy(click.referrer),
            lossy(click.ua),
            click.address.map_or_else(String::new, |address| address.to_string()),
            ToSqlOutput::Borrowed(ValueRef::Text(&self.json)),
            number(click.route_version),
            self.node,
            self.batch_id,
            columns::expires_day(click.id.unix_ms(), self.retention_days),
        ])?;
        Ok(written == 1)
    }
}

/// SQLite's integers have a sign.
pub(super) fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn reasons_json(row: &Row) -> std::borrow::Cow<'static, str> {
    let mut names = row.reasons.names().peekable();
    if names.peek().is_none() {
        return "[]".into();
    }
    // Our own words: nothing in them needs an escape.
    let quoted: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    format!("[{}]", quoted.join(",")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::samples;

    async fn store(folder: &tempfile::TempDir) -> SqliteClicks {
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), 30).unwrap();
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
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), 30).unwrap();
        let sealed = store.seal(samples::batch(1_700_000_000_000, 1));
        for error in [store.insert(&sealed).await.unwrap_err(), store.ping().await.unwrap_err()] {
            assert!(
                matches!(&error, StoreError::Operator { code: 1, text } if text.contains("no such table: clicks")),
                "{error}"
            );
        }
        assert_eq!(store.migrate().await.unwrap(), ["001_clicks"]);
        assert!(store.migrate().await.unwrap().is_empty());
        store.insert(&sealed).await.unwrap();
        store.ping().await.unwrap();
    }
}
