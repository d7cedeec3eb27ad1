//! The embedded store: clicks in one SQLite file.
//!
//! One thread writes, one reads; a question never holds up a batch. A batch is one transaction, and a click that is
//! there already is left alone, so a batch sent twice is stored once. It keeps every click: old rows carry the day they
//! may go, and nothing here removes them yet. `app` opens it once; workers call `insert`, the operator side the rest.
//! Bounds: two threads, 64 waiting calls each, 16 + 4 MiB of page cache. Texts that are no UTF-8 are kept with U+FFFD in
//! the place of what is not.

use std::path::Path;
use std::sync::Arc;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Row as SqlRow, TransactionBehavior, params, params_from_iter};
use uuid::Uuid;

use super::columns::{self, Parameters};
use super::database_thread::{DatabaseThread, Gone};
use super::sqlite_file::{self, FileError, Migration};
use crate::BoxFuture;
use crate::click::Click;
use crate::pipeline::store::ClickCursor;
use crate::pipeline::{Batch, ClickFilter, Counts, Payload, Row, Sealed, Store, StoreError, StoredClick};

const MIGRATIONS: [Migration; 1] =
    [Migration { name: "001_clicks", sql: include_str!("../../schema/sqlite/clicks/001_clicks.sql") }];

const WRITER_CACHE_KIB: u32 = 16 * 1024;
const READER_CACHE_KIB: u32 = 4 * 1024;

/// Only the key may be there already; anything else that a row breaks is an error.
const INSERT: &str = "INSERT INTO clicks (click_id, ts, org, campaign, link, rule, variant, destination, status,
     external_click_id, source, class, reasons, dedup, fraud_score, country, device, os, browser, language, referrer, ua,
     ip, query, route_version, node, batch_id, expires)
     VALUES (?1, ?2, ?3, ?4, ?5, '', '', ?6, ?7, ?8, ?9, ?10, ?11, ?12, 0, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
     ?22, ?23, ?24, ?25)
     ON CONFLICT (click_id) DO NOTHING";

const SELECT: &str = "SELECT click_id, ts, org, campaign, link, destination, status, external_click_id, source, class,
     reasons, dedup, country, device, os, browser, language, referrer, ua, ip, query, route_version, node, batch_id
     FROM clicks";

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
        open().map_err(|e| StoreError::Operator(format!("{}: {e}", path.display())))
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
        Sealed { id: batch.id, rows: batch.rows.len(), payload: Payload::Rows(Arc::new(batch)) }
    }

    fn insert<'a>(&'a self, batch: &'a Sealed) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let Payload::Rows(rows) = &batch.payload else {
                return Err(StoreError::Operator("the batch was sealed by another store".into()));
            };
            let (rows, retention_days) = (Arc::clone(rows), self.retention_days);
            Ok(self.writer.call(move |c| write(c, &rows, retention_days)).await??)
        })
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(async { Ok(self.writer.call(|c| sqlite_file::migrate(c, &MIGRATIONS)).await??) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.read(|c| c.query_row("SELECT 1 FROM clicks UNION ALL SELECT 1 LIMIT 1", [], |_| Ok(()))))
    }

    fn count<'a>(&'a self, filter: &'a ClickFilter) -> BoxFuture<'a, Result<Counts, StoreError>> {
        let (condition, values) = conditions(filter, None);
        let sql = format!("SELECT class, dedup, count(*) FROM clicks {condition} GROUP BY class, dedup");
        Box::pin(self.read(move |c| {
            let mut statement = c.prepare_cached(&sql)?;
            let groups = statement.query_map(params_from_iter(values), |row| {
                Ok((row.get(0)?, row.get(1)?, u64::try_from(row.get::<_, i64>(2)?).unwrap_or_default()))
            })?;
            Ok(columns::counts(groups.collect::<rusqlite::Result<Vec<_>>>()?))
        }))
    }

    fn recent<'a>(
        &'a self,
        filter: &'a ClickFilter,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredClick>, StoreError>> {
        let (condition, mut values) = conditions(filter, behind);
        values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let sql = format!("{SELECT} {condition} ORDER BY click_id DESC LIMIT ?{}", values.len());
        Box::pin(self.read(move |c| {
            let mut statement = c.prepare_cached(&sql)?;
            statement.query_map(params_from_iter(values), stored_click)?.collect()
        }))
    }
}

impl From<Gone> for StoreError {
    fn from(gone: Gone) -> Self {
        Self::Operator(gone.to_string())
    }
}

impl From<FileError> for StoreError {
    fn from(error: FileError) -> Self {
        if error.passes() { Self::Transient(error.to_string()) } else { Self::Operator(error.to_string()) }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        FileError::from(error).into()
    }
}

/// Writes a batch: all of it, or none.
fn write(connection: &mut Connection, batch: &Batch, retention_days: u32) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut statement = transaction.prepare_cached(INSERT)?;
        let mut batch_id = [0; 36];
        let batch_id = &*batch.id.hyphenated().encode_lower(&mut batch_id);
        let (mut parameters, mut json) = (Parameters::default(), Vec::new());
        for row in &batch.rows {
            match Click::decode(&row.frame) {
                Ok(click) => {
                    parameters.read(click.query);
                    json.clear();
                    parameters.write_json(&mut json);
                    let expires = columns::expires_day(click.id.unix_ms(), retention_days);
                    let derived =
                        Derived { parameters: &parameters, json: &json, node: &batch.node, batch_id, expires };
                    write_row(&mut statement, row, &click, &derived)?;
                }
                // The worker has decoded this very frame; no disk lies between.
                Err(problem) => {
                    tracing::error!(%problem, batch = batch_id, "a click cannot be encoded and is not stored")
                }
            }
        }
    }
    transaction.commit()
}

/// What a row needs beside its click.
struct Derived<'a> {
    parameters: &'a Parameters<'a>,
    json: &'a [u8],
    node: &'a str,
    batch_id: &'a str,
    expires: u16,
}

fn write_row(
    statement: &mut rusqlite::Statement<'_>,
    row: &Row,
    click: &Click<'_>,
    derived: &Derived<'_>,
) -> rusqlite::Result<()> {
    let lossy = String::from_utf8_lossy;
    let json = ToSqlOutput::Borrowed(ValueRef::Text(derived.json));
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    statement.execute(params![
        click.id.hyphenated(&mut [0; 36]),
        number(click.id.unix_ms()),
        click.org,
        click.campaign,
        click.link,
        lossy(click.destination),
        click.status,
        lossy(derived.parameters.get("click_id")),
        lossy(derived.parameters.get("source")),
        row.class.name(),
        reasons_json(row),
        row.dedup.name(),
        lossy(row.country.as_ref().map_or(&[], |c| c.as_slice())),
        row.agent.device,
        row.agent.os,
        row.agent.browser,
        lossy(click.language),
        lossy(click.referrer),
        lossy(click.ua),
        click.address.map_or_else(String::new, |a| a.to_string()),
        json,
        number(click.route_version),
        derived.node,
        derived.batch_id,
        derived.expires,
    ])?;
    Ok(())
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

/// The WHERE clause of a question, and its values in their order.
fn conditions(filter: &ClickFilter, behind: Option<ClickCursor>) -> (String, Vec<Value>) {
    let mut parts = Vec::new();
    let mut values = Vec::new();
    let mut push = |part: &str, value: String| {
        values.push(Value::Text(value));
        parts.push(format!("{part} ?{}", values.len()));
    };
    if let Some(link) = &filter.link {
        push("link =", link.clone());
    }
    if let Some(campaign) = &filter.campaign {
        // Said aloud where it holds, so that the partial index may be used.
        push(if campaign.is_empty() { "campaign =" } else { "campaign <> '' AND campaign =" }, campaign.clone());
    }
    if let Some(from) = filter.from_ms {
        push("click_id >=", first_id(from));
    }
    if let Some(to) = filter.to_ms {
        push("click_id <", first_id(to));
    }
    if let Some(cursor) = behind {
        push("click_id <", cursor.id.to_string());
    }
    (if parts.is_empty() { String::new() } else { format!("WHERE {}", parts.join(" AND ")) }, values)
}

/// The text before which every id of an earlier time sorts, and no other. Ids end in the year 10889; later times sort
/// behind all of them.
fn first_id(unix_ms: u64) -> String {
    if unix_ms >= 1 << 48 { "g".into() } else { Uuid::from_u128(u128::from(unix_ms) << 80).hyphenated().to_string() }
}

fn stored_click(row: &SqlRow<'_>) -> rusqlite::Result<StoredClick> {
    // JSON of our own writing; what a person has changed by hand reads as empty.
    let reasons = row.get_ref("reasons")?.as_bytes().map(|json| serde_json::from_slice(json).unwrap_or_default());
    let query = row.get_ref("query")?.as_bytes().map(|json| serde_json::from_slice(json).unwrap_or_default());
    let milliseconds: i64 = row.get("ts")?;
    Ok(StoredClick {
        click_id: row.get("click_id")?,
        ts: jiff::Timestamp::from_millisecond(milliseconds).map_or_else(|_| String::new(), |ts| format!("{ts:.3}")),
        org: row.get("org")?,
        campaign: row.get("campaign")?,
        link: row.get("link")?,
        destination: row.get("destination")?,
        status: row.get("status")?,
        external_click_id: row.get("external_click_id")?,
        source: row.get("source")?,
        class: row.get("class")?,
        reasons: reasons.unwrap_or_default(),
        dedup: row.get("dedup")?,
        country: row.get("country")?,
        device: row.get("device")?,
        os: row.get("os")?,
        browser: row.get("browser")?,
        language: row.get("language")?,
        referrer: row.get("referrer")?,
        ua: row.get("ua")?,
        ip: row.get("ip")?,
        query: query.unwrap_or_default(),
        route_version: u64::try_from(row.get::<_, i64>("route_version")?).unwrap_or_default(),
        node: row.get("node")?,
        batch_id: row.get("batch_id")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::samples;
    use crate::click::ClickId;

    async fn store(folder: &tempfile::TempDir) -> SqliteClicks {
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), 30).unwrap();
        store.migrate().await.unwrap();
        store
    }

    fn filter(link: &str) -> ClickFilter {
        ClickFilter { link: Some(link.into()), ..ClickFilter::default() }
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
    async fn a_click_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        let click = samples::click("click_id=a%20b&source=mail&x=%22&x=2");
        store.insert(&store.seal(samples::batch_of([samples::row(&click)]))).await.unwrap();
        let stored = store.recent(&ClickFilter::default(), None, 10).await.unwrap();
        assert_eq!(stored, [samples::stored(&click)]);
    }

    #[tokio::test]
    async fn counts_keep_to_link_campaign_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        // One click a millisecond; links l0 to l9 in turn, campaign on the even ones.
        store.insert(&store.seal(samples::batch(1_700_000_000_000, 100))).await.unwrap();
        let total = async |filter: ClickFilter| store.count(&filter).await.unwrap().total;
        assert_eq!(total(filter("l3")).await, 10);
        assert_eq!(total(ClickFilter { campaign: Some("spring".into()), ..ClickFilter::default() }).await, 50);
        assert_eq!(total(ClickFilter { campaign: Some(String::new()), ..ClickFilter::default() }).await, 50);
        let times = |from: u64, to: u64| ClickFilter { from_ms: Some(from), to_ms: Some(to), ..ClickFilter::default() };
        assert_eq!(total(times(1_700_000_000_010, 1_700_000_000_020)).await, 10);
        assert_eq!(total(times(1_700_000_000_010, u64::MAX)).await, 90);
        assert_eq!(total(times(u64::MAX, u64::MAX)).await, 0);
        assert_eq!(total(ClickFilter { to_ms: Some(1_700_000_000_013), ..filter("l3") }).await, 1);
    }

    #[tokio::test]
    async fn pages_of_clicks_go_on_without_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        store.insert(&store.seal(samples::batch(1_700_000_000_000, 50))).await.unwrap();
        let (mut seen, mut behind) = (Vec::new(), None);
        loop {
            let page = store.recent(&filter("l4"), behind, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            let id: ClickId = last.click_id.parse().unwrap();
            behind = Some(ClickCursor { unix_ms: id.unix_ms(), id });
            seen.extend(page.into_iter().map(|c| c.ts));
        }
        let expected = ["44", "34", "24", "14", "04"].map(|ms| format!("2023-11-14T22:13:20.0{ms}Z"));
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn questions_use_the_indexes() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder).await;
        for (question, index) in [
            (filter("a"), "COVERING INDEX clicks_by_link (link=? AND click_id>?"),
            (ClickFilter { campaign: Some("c".into()), ..ClickFilter::default() }, "COVERING INDEX clicks_by_campaign"),
            (ClickFilter::default(), "USING PRIMARY KEY (click_id>?"),
        ] {
            let (condition, values) = conditions(&ClickFilter { from_ms: Some(1), to_ms: Some(2), ..question }, None);
            let sql = format!("EXPLAIN QUERY PLAN SELECT class, dedup, count(*) FROM clicks {condition} GROUP BY 1, 2");
            let plan: String = store
                .read(move |c| c.query_row(&sql, params_from_iter(values), |row| row.get("detail")))
                .await
                .unwrap();
            assert!(plan.contains(index), "{plan}");
        }
    }

    #[tokio::test]
    async fn a_missing_table_waits_for_a_person() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), 30).unwrap();
        let sealed = store.seal(samples::batch(1_700_000_000_000, 1));
        for error in [store.insert(&sealed).await.unwrap_err(), store.ping().await.unwrap_err()] {
            assert!(matches!(&error, StoreError::Operator(text) if text.contains("no such table: clicks")), "{error}");
        }
        assert_eq!(store.migrate().await.unwrap(), ["001_clicks"]);
        assert!(store.migrate().await.unwrap().is_empty());
        store.insert(&sealed).await.unwrap();
        store.ping().await.unwrap();
    }
}
