//! ClickHouse as the store, over HTTP.
//!
//! A batch is encoded and compressed once, when it is sealed, and every try sends the same bytes under the same token
//! (`insert_deduplication_token`), so the server recognises it. It never retries, never splits a batch and never deletes:
//! it says what happened, and the worker decides. A click is stored when the server has answered, not before.
//!
//! `app` makes one of these **for each runtime** (every worker, and the control side): connections are driven by the
//! runtime that opened them. Making one costs a few microseconds and connects to nothing. Bounds: `insert_timeout`,
//! `query_timeout`, its share of `pool` as connections; the memory of a sealed batch is its caller's.

mod errors;
mod figures;
mod frames;
mod months;
mod persons;
mod pool;
mod queries;
mod rollups;
mod rowbinary;
mod schema;

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use bytes::Bytes;
use clickhouse::error::Error;
use clickhouse::{Client, Compression};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use uuid::Uuid;

pub use self::pool::Parts;
use self::pool::{Connector, Pool};
use self::rowbinary::Shared;
use crate::BoxFuture;
use crate::click::ClickId;
use crate::click::query::Parameters;
use crate::config::{self, Retention};
use crate::pipeline::months::Months;
use crate::pipeline::persons::Persons;
use crate::pipeline::store::{ClickCursor, Difference, Expired, LinkCount};
use crate::pipeline::{Batch, ClickFilter, Counts, Payload, Sealed, Store, StoreError, StoredClick};
use crate::telemetry::figures::Figure;

/// A server closes a silent connection after 3 s (older ones) or more; we are faster, so that none is lost under a batch.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// A store that takes longer to say `1` is not well.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The store in ClickHouse, for one runtime.
#[derive(Debug)]
pub struct ClickHouseStore {
    pool: Pool<Clients>,
    insert_sql: String,
    database: String,
    insert_timeout: Duration,
    query_timeout: Duration,
    retention: Retention,
}

impl ClickHouseStore {
    /// A store for one of `runtimes` runtimes, which have equal shares of `config.pool` connections, but two at least: a
    /// question must not hold up the look whether the server is there. Connects to nothing.
    #[must_use]
    pub fn new(config: &config::ClickHouse, retention: Retention, runtimes: usize, parts: Parts) -> Self {
        let share = (config.pool / runtimes.max(1)).max(2);
        let settings = config.clone();
        Self {
            pool: Pool::new(share, parts, move |connector| clients(&settings, share, connector)),
            insert_sql: insert_sql(),
            database: config.database.clone(),
            insert_timeout: config.insert_timeout,
            query_timeout: config.query_timeout,
            retention,
        }
    }

    /// For questions.
    fn reading(&self) -> Client {
        self.pool.client().reading
    }

    /// For questions that belong to no database.
    fn server(&self) -> Client {
        self.pool.client().server
    }

    async fn send(&self, batch: &Sealed) -> Result<(), StoreError> {
        let Payload::Bytes(body) = &batch.payload else {
            return Err(StoreError::operator("the batch was sealed by another store"));
        };
        // Those before it in the line are bounded by their own time-outs.
        let _lease = self.pool.lease().await;
        let mut insert = self
            .pool
            .client()
            .writing
            .insert_formatted_with(self.insert_sql.as_str())
            .with_setting("insert_deduplication_token", batch.token.as_str())
            // The first timeout never runs: the one piece that is sent has its place at once. The second covers
            // connecting, sending and waiting, and ends the request with its connection, which dropping it would not.
            .with_timeouts(Some(self.insert_timeout), Some(self.insert_timeout));
        let sent = match insert.send(body.clone()).await {
            Ok(()) => insert.end().await,
            Err(error) => Err(error),
        };
        sent.map_err(|error| errors::of_insert(self.noted(&error)))
    }

    /// Bounds a question and its wait for a connection; dropping it closes its connection, and the server stops working
    /// on it.
    async fn within<R>(
        &self,
        limit: Duration,
        question: impl Future<Output = Result<R, Error>>,
    ) -> Result<R, StoreError> {
        let asked = async {
            let _lease = self.pool.lease().await;
            question.await
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.map_err(|error| errors::of_query(self.noted(&error))),
            Err(_) => {
                self.pool.note_failure();
                Err(StoreError::Transient(format!("ClickHouse did not answer within {limit:?}")))
            }
        }
    }

    /// Counts what is the connection's fault.
    fn noted<'a>(&self, error: &'a Error) -> &'a Error {
        if matches!(error, Error::Network(_) | Error::TimedOut) {
            self.pool.note_failure();
        }
        error
    }
}

impl Store for ClickHouseStore {
    fn name(&self) -> &'static str {
        "clickhouse"
    }

    fn seal(&self, batch: Batch) -> Sealed {
        let shared = Shared { batch_id: batch.id, node: &batch.node, retention: &self.retention };
        let body = encode(&batch, &shared);
        Sealed {
            id: batch.id,
            part: batch.part,
            token: batch.token(),
            rows: batch.rows.len(),
            payload: Payload::Bytes(body),
        }
    }

    fn insert<'a>(&'a self, batch: &'a Sealed) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.send(batch))
    }

    fn stored_of(&self, batch: Uuid, span_ms: RangeInclusive<u64>) -> BoxFuture<'_, Result<Vec<ClickId>, StoreError>> {
        Box::pin(queries::stored_of(self, batch, span_ms))
    }

    fn migrate(&self) -> BoxFuture<'_, Result<Vec<String>, StoreError>> {
        Box::pin(schema::migrate(self))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.within(PING_TIMEOUT.min(self.query_timeout), self.reading().query("SELECT 1").execute()))
    }

    fn count<'a>(&'a self, filter: &'a ClickFilter) -> BoxFuture<'a, Result<Counts, StoreError>> {
        Box::pin(queries::count(self, filter))
    }

    fn recent<'a>(
        &'a self,
        filter: &'a ClickFilter,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredClick>, StoreError>> {
        Box::pin(queries::recent(self, filter, behind, limit))
    }

    fn roll_up<'a>(&'a self, minutes: &'a [u64]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(rollups::roll_up(self, minutes))
    }

    fn compare(&self, minutes: Range<u64>) -> BoxFuture<'_, Result<Vec<Difference>, StoreError>> {
        Box::pin(rollups::compare(self, minutes))
    }

    fn counts_by_minute<'a>(
        &'a self,
        node: &'a str,
        minutes: Range<u64>,
    ) -> BoxFuture<'a, Result<Vec<(u64, u64)>, StoreError>> {
        Box::pin(rollups::counts_by_minute(self, node, minutes))
    }

    fn top_links(&self, minutes: Range<u64>, limit: usize) -> BoxFuture<'_, Result<Vec<LinkCount>, StoreError>> {
        Box::pin(rollups::top_links(self, minutes, limit))
    }

    /// The server removes by itself: the tables have a TTL.
    fn expire(&self, _: u64) -> BoxFuture<'_, Result<Expired, StoreError>> {
        Box::pin(std::future::ready(Ok(Expired::default())))
    }

    fn figures(&self) -> &'static [Figure] {
        &figures::FIGURES
    }

    fn figure(&self, figure: Figure) -> BoxFuture<'_, Result<f64, StoreError>> {
        Box::pin(figures::figure(self, figure))
    }

    fn persons(&self) -> Option<&dyn Persons> {
        Some(self)
    }

    fn months(&self) -> Option<&dyn Months> {
        Some(self)
    }
}

fn insert_sql() -> String {
    let columns = rowbinary::COLUMNS.map(|(name, _)| name).join(", ");
    format!("INSERT INTO clicks ({columns}) FORMAT RowBinaryWithNamesAndTypes")
}

/// Rows to bytes to frames, a frame at a time, so that what is compressed was just written.
fn encode(batch: &Batch, shared: &Shared<'_>) -> Bytes {
    let mut content = Vec::with_capacity(frames::CONTENT_BYTES + 16 * 1024);
    let mut body = Vec::new();
    let mut parameters = Parameters::default();
    rowbinary::append_head(&mut content);
    for row in &batch.rows {
        if let Err(problem) = rowbinary::append(row, shared, &mut parameters, &mut content) {
            // The worker has decoded this very frame; no disk lies between.
            tracing::error!(%problem, batch = %batch.id, "a click cannot be encoded and is not stored");
        }
        if content.len() >= frames::CONTENT_BYTES {
            frames::append(&content, &mut body);
            content.clear();
        }
    }
    if !content.is_empty() {
        frames::append(&content, &mut body);
    }
    body.shrink_to_fit();
    body.into()
}

/// What sends requests.
#[derive(Clone)]
struct Clients {
    /// No database is set: for making it.
    server: Client,
    /// For questions.
    reading: Client,
    /// For batches.
    writing: Client,
}

/// Clients that connect to nothing yet. Redirects are not followed.
fn clients(config: &config::ClickHouse, idle_max: usize, connector: Connector) -> Clients {
    let http = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(idle_max)
        .build(connector);
    let server = Client::with_http_client(http)
        .with_url(&config.url)
        .with_user(&config.user)
        .with_password(config.password.expose())
        .with_compression(Compression::None)
        .with_product_info("trellis", crate::VERSION);
    let of_database = server.clone().with_database(&config.database);
    let reading = of_database
        .clone()
        .with_setting("max_execution_time", seconds(config.query_timeout))
        .with_setting("cancel_http_readonly_queries_on_client_close", "1")
        .with_setting("output_format_json_quote_64bit_integers", "0")
        .with_setting("date_time_output_format", "iso")
        // A click has one time, so its rows are in one month: months need not be merged with each other.
        .with_setting("do_not_merge_across_partitions_select_final", "1");
    let writing = of_database
        // The body holds frames of our own making.
        .with_setting("decompress", "1")
        .with_setting("async_insert", "0")
        .with_setting("insert_deduplicate", "1")
        .with_setting("max_execution_time", seconds(config.insert_timeout));
    Clients { server, reading, writing }
}

/// A limit for the server, in whole seconds, at least one.
fn seconds(limit: Duration) -> String {
    limit.as_secs().max(1).to_string()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;
    use crate::backend::samples;
    use crate::clock::SystemClock;

    fn store(port: u16) -> ClickHouseStore {
        let config = config::ClickHouse {
            url: format!("http://127.0.0.1:{port}"),
            database: "default".into(),
            user: "default".into(),
            password: config::Secret::new("hunter2"),
            pool: 25,
            insert_timeout: Duration::from_millis(100),
            query_timeout: Duration::from_millis(100),
        };
        let parts = Parts { clock: Arc::new(SystemClock::new()), metrics: Arc::default() };
        ClickHouseStore::new(&config, samples::retention(), 3, parts)
    }

    #[tokio::test]
    async fn a_server_that_is_away_passes() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let store = store(port);
        let error = store.insert(&store.seal(samples::batch(1_700_000_000_000, 10))).await.unwrap_err();
        assert!(matches!(error, StoreError::Transient(_)), "{error}");
        assert!(matches!(store.ping().await, Err(StoreError::Transient(_))));
        assert!(!format!("{store:?} {error}").contains("hunter2"));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_leaves_the_batch_in_doubt() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let store = store(listener.local_addr().unwrap().port());
        let error = store.insert(&store.seal(samples::batch(1_700_000_000_000, 10))).await.unwrap_err();
        assert!(matches!(error, StoreError::Ambiguous(_)), "{error}");
        assert!(matches!(store.ping().await, Err(StoreError::Transient(_))));
    }

    /// Every kind of question, in an order that does not matter.
    async fn questions(store: &ClickHouseStore) -> Vec<(&'static str, Option<StoreError>)> {
        let filter = ClickFilter::default();
        vec![
            ("count", store.count(&filter).await.err()),
            ("recent", store.recent(&filter, None, 10).await.err()),
            ("compare", store.compare(0..1).await.err()),
            ("counts_by_minute", store.counts_by_minute("n", 0..1).await.err()),
            ("stored_of", store.stored_of(Uuid::nil(), 0..=1).await.err()),
            ("roll_up", store.roll_up(&[0]).await.err()),
            ("report", Months::report(store).await.err()),
        ]
    }

    #[tokio::test]
    async fn every_question_has_an_end_here() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for (question, error) in questions(&store(listener.local_addr().unwrap().port())).await {
            let error = error.expect("nobody answers");
            assert!(matches!(&error, StoreError::Transient(text) if text.contains("100ms")), "{question}: {error}");
        }
    }

    #[tokio::test]
    async fn every_question_tells_the_server_the_end_that_is_configured_by_default() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = config::Config::load(&config::Sources::default()).unwrap().store.clickhouse;
        assert_eq!(config.query_timeout, Duration::from_secs(30));
        config.url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        // Answers each question with an error that none is tried again for.
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = vec![0; 64 * 1024];
                let read = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await.unwrap();
                heard.lock().unwrap().push(String::from_utf8_lossy(&bytes[..read]).into_owned());
                let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\nConnection: close\r\n\r\nCode: 60";
                tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
            }
        });
        let parts = Parts { clock: Arc::new(SystemClock::new()), metrics: Arc::default() };
        let store = ClickHouseStore::new(&config, samples::retention(), 1, parts);
        let questions = questions(&store).await;
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), questions.len(), "{asked:#?}");
        for request in &*asked {
            let head = request.lines().next().unwrap_or_default();
            assert!(head.contains("max_execution_time=30"), "{head}");
        }
    }

    #[test]
    fn a_sealed_batch_holds_every_row_once() {
        let store = store(1);
        let batch = samples::batch(1_700_000_000_000, 3000);
        let mut expected = Vec::new();
        rowbinary::append_head(&mut expected);
        let shared = Shared { batch_id: batch.id, node: &batch.node, retention: &samples::retention() };
        for row in &batch.rows {
            rowbinary::append(row, &shared, &mut Parameters::default(), &mut expected).unwrap();
        }
        assert!(expected.len() > 2 * frames::CONTENT_BYTES, "several frames");
        let sealed = store.seal(batch.clone());
        let Payload::Bytes(mut body) = sealed.payload else { panic!("bytes are sent") };
        let mut content = Vec::new();
        while !body.is_empty() {
            let size = u32::from_le_bytes(body[17..21].try_into().unwrap()) as usize;
            let content_size = u32::from_le_bytes(body[21..25].try_into().unwrap()) as usize;
            content.extend(lz4_flex::block::decompress(&body[25..16 + size], content_size).unwrap());
            body = body.slice(16 + size..);
        }
        assert_eq!((sealed.rows, sealed.id), (3000, batch.id));
        assert!(content == expected);
    }
}
