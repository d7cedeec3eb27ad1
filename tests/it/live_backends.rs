//! The backends against a real Redis and a real ClickHouse engine.
//!
//! A test runs when the URL of its service is in the environment (`tests/services up` prints both) and says SKIPPED
//! otherwise. Every test has a database, or fingerprints, of its own, so they run side by side and again.

#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(feature = "testing")]

use std::sync::Arc;
use std::time::Duration;

use trellis::backend::clickhouse::{self as backend, ClickHouseStore};
use trellis::backend::redis::{Parts, RedisDeduper};
use trellis::catalog::agents::Agent;
use trellis::catalog::geo::Place;
use trellis::click::dedup::Window;
use trellis::click::{Class, Click, ClickId, Fingerprint, Reasons};
use trellis::clock::{Clock, SystemClock};
use trellis::config::{self, Retention};
use trellis::pipeline::breaker::Breaker;
use trellis::pipeline::store::ClickCursor;
use trellis::pipeline::{Batch, Claim, ClickFilter, Deduper, Label, Row, Store, StoreError};
use trellis::telemetry::calls::Calls;
use trellis::telemetry::metrics::{Guarded, Metrics};
use trellis::telemetry::pools::Pooled;
use trellis::testing::ManualClock;
use uuid::Uuid;

use crate::harness::service;

pub(crate) const REDIS: &str = "TRELLIS_TEST_REDIS_URL";
const CLICKHOUSE: &str = "TRELLIS_TEST_CLICKHOUSE_URL";

/// 2026-02-03T04:05:06.000Z; rows of the tests are not past their retention.
pub(crate) const T0: u64 = 1_770_091_506_000;

fn random() -> [u8; 10] {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    random
}

// --- ClickHouse --------------------------------------------------------------------------------------------------------

/// A database of one test, dropped with it.
pub(crate) struct Database {
    pub store: ClickHouseStore,
    raw: clickhouse::Client,
    name: String,
}

impl Database {
    /// `None` when there is no server.
    fn new(test: &str) -> Option<Self> {
        Self::with(test, Retention::new(Duration::from_secs(2557 * 86_400), [].into()), Duration::from_secs(30))
    }

    /// Without tables; with this retention and limit of a question.
    pub(crate) fn with(test: &str, retention: Retention, query_timeout: Duration) -> Option<Self> {
        let url = service(CLICKHOUSE, test)?;
        let name = format!("trellis_test_{:016x}", fastrand::u64(..));
        let config = config::ClickHouse {
            url: url.clone(),
            database: name.clone(),
            user: "default".into(),
            password: config::Secret::new(""),
            pool: 4,
            insert_timeout: Duration::from_secs(30),
            query_timeout,
        };
        let raw = clickhouse::Client::default().with_url(url).with_compression(clickhouse::Compression::None);
        let parts = backend::Parts { clock: Arc::new(SystemClock::new()), metrics: Arc::default() };
        Some(Self { store: ClickHouseStore::new(&config, retention, 1, parts), raw, name })
    }

    pub(crate) async fn migrated(test: &str) -> Option<Self> {
        let database = Self::new(test)?;
        database.store.migrate().await.unwrap();
        Some(database)
    }

    pub(crate) async fn raw(&self, sql: &str) -> String {
        let sql = sql.replace("{db}", &self.name);
        let bytes = self.raw.query_raw(&sql).fetch_bytes("TabSeparated").unwrap().collect().await.unwrap();
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    }

    pub(crate) async fn drop(self) {
        self.raw("DROP DATABASE IF EXISTS {db}").await;
    }
}

pub(crate) fn click<'a>(unix_ms: u64, link: &'a str, query: &'a str) -> Click<'a> {
    Click {
        route_version: u64::MAX,
        address: Some(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 0).into()),
        campaign: if link.len().is_multiple_of(2) { "spring" } else { "" },
        link,
        destination: b"https://a.example/?x=1",
        referrer: b"https://b.example/",
        ua: b"curl/8 \xff",
        language: b"de",
        query,
        ..trellis::testing::click(ClickId::new(unix_ms, &random()))
    }
}

pub(crate) fn row(click: &Click<'_>, dedup: Label) -> Row {
    let mut frame = Vec::new();
    click.encode(&mut frame);
    let agent = Agent { browser: "Other", os: "Other", device: "bot", reasons: Default::default() };
    let reasons = Reasons::AGENT_CRAWLER;
    let place = Place { region: "BE", city: "Berlin", asn: 3320 };
    Row { frame: frame.into(), country: Some(*b"DE"), place, class: Class::Bot, reasons, fraud_score: 60, dedup, agent }
}

pub(crate) fn batch(rows: Vec<Row>) -> Batch {
    Batch { id: Uuid::from_u128(fastrand::u128(..)), part: 0, node: "node-1".into(), rows }
}

fn filter(link: &str) -> ClickFilter {
    ClickFilter { link: Some(link.into()), ..ClickFilter::default() }
}

#[tokio::test]
async fn clickhouse_migrations_make_database_and_table_once() {
    let Some(database) = Database::new("clickhouse_migrations_make_database_and_table_once") else { return };
    let sealed = database.store.seal(batch(vec![row(&click(T0, "a", ""), Label::Unique)]));
    let error = database.store.insert(&sealed).await.unwrap_err();
    assert!(matches!(&error, StoreError::Operator { code: 81, .. }), "{error}");
    assert_eq!(
        database.store.migrate().await.unwrap(),
        ["001_clicks", "002_rollups", "003_expires", "004_privacy", "005_domain", "006_place"]
    );
    assert!(database.store.migrate().await.unwrap().is_empty());
    database.store.ping().await.unwrap();
    database.raw("DROP TABLE {db}.clicks").await;
    let error = database.store.insert(&sealed).await.unwrap_err();
    assert!(matches!(&error, StoreError::Operator { code: 60, .. }), "{error}");
    let error = database.store.count(&ClickFilter::default()).await.unwrap_err();
    assert!(matches!(&error, StoreError::Operator { code: 60, .. }), "{error}");
    database.raw("INSERT INTO {db}.trellis_migrations (version, name) VALUES (999, 'later')").await;
    let error = database.store.migrate().await.unwrap_err();
    assert!(matches!(&error, StoreError::Operator { text, .. } if text.contains("newer trellis")), "{error}");
    database.drop().await;
}

#[tokio::test]
async fn a_batch_sent_to_clickhouse_again_is_stored_once() {
    let Some(database) = Database::migrated("a_batch_sent_to_clickhouse_again_is_stored_once").await else { return };
    let rows: Vec<_> = (0..5_000).map(|i| row(&click(T0 + i, "a", "b=1"), Label::ALL[i as usize % 3])).collect();
    let sealed = database.store.seal(batch(rows.clone()));
    for _ in 0..3 {
        database.store.insert(&sealed).await.unwrap();
    }
    assert_eq!(database.raw("SELECT count(), uniqExact(click_id) FROM {db}.clicks").await, "5000\t5000");
    // The same clicks in a batch of another id, as after a crash between the insert and its checkpoint.
    database.store.insert(&database.store.seal(batch(rows))).await.unwrap();
    assert_eq!(database.raw("SELECT count() FROM {db}.clicks FINAL").await, "5000");
    let counts = database.store.count(&filter("a")).await.unwrap();
    assert_eq!((counts.total, counts.unique, counts.duplicate, counts.unknown), (5000, 1667, 1667, 1666));
    assert_eq!(counts.by_class.get("bot"), Some(&5000));
    database.drop().await;
}

#[tokio::test]
async fn what_clickhouse_refuses_at_the_end_of_an_insert_is_told_with_its_code_and_nothing_is_stored() {
    let test = "what_clickhouse_refuses_at_the_end_of_an_insert_is_told_with_its_code_and_nothing_is_stored";
    let Some(database) = Database::migrated(test).await else { return };
    database.raw("ALTER TABLE {db}.clicks ADD CONSTRAINT c CHECK link != 'bad'").await;
    // Some thirty frames, and the bad row in the last one.
    let mut rows: Vec<_> = (0..20_000).map(|i| row(&click(T0 + i, "a", "b=1"), Label::Unique)).collect();
    rows.push(row(&click(T0, "bad", ""), Label::Unique));
    let error = database.store.insert(&database.store.seal(batch(rows.clone()))).await.unwrap_err();
    assert!(matches!(&error, StoreError::Poison { code: 469, .. }), "{error}");
    assert!(error.to_string().contains("Code: 469. DB::Exception: Constraint `c`"), "{error}");
    let months = (0..101).map(|i| row(&click(T0 - i * 31 * 86_400_000, "a", ""), Label::Unique));
    let error = database.store.insert(&database.store.seal(batch(months.collect()))).await.unwrap_err();
    assert!(matches!(&error, StoreError::Divide(_)), "{error}");
    assert_eq!(database.raw("SELECT count() FROM {db}.clicks").await, "0");
    rows.pop();
    database.store.insert(&database.store.seal(batch(rows))).await.unwrap();
    assert_eq!(database.raw("SELECT count() FROM {db}.clicks").await, "20000");
    database.drop().await;
}

#[tokio::test]
async fn the_rows_of_a_batch_are_found_in_clickhouse_and_the_missing_ones_can_follow() {
    let test = "the_rows_of_a_batch_are_found_in_clickhouse_and_the_missing_ones_can_follow";
    let Some(database) = Database::migrated(test).await else { return };
    let clicks: Vec<_> = (0..100).map(|i| click(T0 + i, "a", "b=1")).collect();
    let rows: Vec<_> = clicks.iter().map(|c| row(c, Label::Unique)).collect();
    let whole = batch(rows.clone());
    let span = || T0..=T0 + 99;
    assert_eq!(database.store.stored_of(whole.id, span()).await.unwrap(), []);
    // Some rows came in, and nobody said so.
    let first = Batch { rows: rows[..30].to_vec(), ..whole.clone() };
    database.store.insert(&database.store.seal(first)).await.unwrap();
    let mut found = database.store.stored_of(whole.id, span()).await.unwrap();
    found.sort();
    assert_eq!(found, clicks[..30].iter().map(|c| c.id).collect::<Vec<_>>());
    // The rest goes under a token of its own: under the first one the server would drop it.
    let rest = Batch { rows: rows[30..].to_vec(), part: 1, ..whole.clone() };
    database.store.insert(&database.store.seal(rest)).await.unwrap();
    assert_eq!(database.store.stored_of(whole.id, span()).await.unwrap().len(), 100);
    assert_eq!(database.raw("SELECT count() FROM {db}.clicks").await, "100");
    database.drop().await;
}

#[tokio::test]
async fn a_click_comes_back_from_clickhouse_as_it_was() {
    let Some(database) = Database::migrated("a_click_comes_back_from_clickhouse_as_it_was").await else { return };
    let click = click(T0 + 7, r"a'b\c?", "click_id=x%20%22y&source=m&click_id=z&k=%ff%00");
    let sealed = database.store.seal(batch(vec![row(&click, Label::Duplicate)]));
    database.store.insert(&sealed).await.unwrap();
    let [stored] = &database.store.recent(&filter(click.link), None, 10).await.unwrap()[..] else {
        panic!("one click")
    };
    assert_eq!(
        (stored.click_id.as_str(), stored.ts.as_str()),
        (click.id.to_string().as_str(), "2026-02-03T04:05:06.007Z")
    );
    let texts = [&stored.org, &stored.campaign, &stored.link, &stored.destination, &stored.external_click_id];
    assert_eq!(texts, ["default", "spring", r"a'b\c?", "https://a.example/?x=1", "x \"y"]);
    let texts = [&stored.source, &stored.class, &stored.dedup, &stored.country, &stored.device, &stored.os];
    assert_eq!(texts, ["m", "bot", "duplicate", "DE", "bot", "Other"]);
    let texts = [&stored.browser, &stored.language, &stored.referrer, &stored.ua, &stored.ip, &stored.node];
    assert_eq!(texts, ["Other", "de", "https://b.example/", "curl/8 \u{fffd}", "2001:db8:aaaa::", "node-1"]);
    assert_eq!((stored.region.as_str(), stored.city.as_str(), stored.asn), ("BE", "Berlin", 3320));
    assert_eq!((stored.status, stored.route_version, stored.fraud_score), (302, u64::MAX, 60));
    assert_eq!((&stored.reasons[..], &stored.batch_id), (&["agent_crawler".to_owned()][..], &sealed.id.to_string()));
    let query: Vec<_> = stored.query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(query, [("click_id", "x \"y"), ("k", "\u{fffd}\0"), ("source", "m")]);
    // In the table, the visitor's bytes are as they came, and a row goes seven years later.
    let raw = database.raw("SELECT hex(ua), hex(query['k']), expires, rule, fraud_score FROM {db}.clicks").await;
    assert_eq!(raw, "6375726C2F3820FF\tFF00\t2033-02-03 04:06:00\t\t60");
    database.drop().await;
}

#[tokio::test]
async fn counts_from_clickhouse_keep_to_link_campaign_and_time() {
    let Some(database) = Database::migrated("counts_from_clickhouse_keep_to_link_campaign_and_time").await else {
        return;
    };
    let links = ["a", "bb"];
    let rows = (0..100).map(|i| row(&click(T0 + i, links[i as usize % 2], ""), Label::Unique)).collect();
    database.store.insert(&database.store.seal(batch(rows))).await.unwrap();
    let total = async |filter: ClickFilter| database.store.count(&filter).await.unwrap().total;
    assert_eq!(total(filter("a")).await, 50);
    assert_eq!(total(filter("a' OR '1'='1")).await, 0);
    assert_eq!(total(ClickFilter { campaign: Some("spring".into()), ..ClickFilter::default() }).await, 50);
    let times = |from: u64, to: u64| ClickFilter { from_ms: Some(from), to_ms: Some(to), ..ClickFilter::default() };
    assert_eq!(total(times(T0 + 10, T0 + 20)).await, 10);
    assert_eq!(total(times(0, u64::MAX)).await, 100);
    assert_eq!(total(ClickFilter { to_ms: Some(T0 + 3), ..filter("a") }).await, 2);
    database.drop().await;
}

#[tokio::test]
async fn pages_of_clicks_from_clickhouse_go_on_without_a_gap() {
    let Some(database) = Database::migrated("pages_of_clicks_from_clickhouse_go_on_without_a_gap").await else {
        return;
    };
    // Three clicks in each millisecond, so that a page ends inside one.
    let clicks: Vec<_> = (0..30).map(|i| click(T0 + i / 3, "a", "")).collect();
    let rows = clicks.iter().map(|click| row(click, Label::Unique)).collect();
    database.store.insert(&database.store.seal(batch(rows))).await.unwrap();
    let (mut seen, mut behind) = (Vec::new(), None);
    loop {
        let page = database.store.recent(&ClickFilter::default(), behind, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        let id: ClickId = last.click_id.parse().unwrap();
        behind = Some(ClickCursor { unix_ms: id.unix_ms(), id });
        seen.extend(page.into_iter().map(|click| click.click_id));
    }
    let mut expected: Vec<_> = clicks.iter().map(|click| click.id.to_string()).collect();
    expected.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(seen, expected);
    database.drop().await;
}

// --- Redis -------------------------------------------------------------------------------------------------------------

fn deduper(url: &str, window_s: u64) -> RedisDeduper {
    let config = config::Redis {
        url: config::Secret::new(url),
        pool: 4,
        // Longer than in service: a busy machine must not make a label unknown here.
        timeout: Duration::from_secs(10),
        lifetime_max: Duration::from_secs(3300),
    };
    let rule = config::Dedup {
        backend: config::DedupBackend::Redis,
        window: Duration::from_secs(window_s),
        lag_max: Duration::from_secs(60),
        secret: config::Secret::default(),
        entries_max: 1,
        checks_in_flight_max: 16,
    };
    let retry = config::Policy { tries: 5, base: Duration::from_millis(10), max: Duration::from_secs(1), jitter: true };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(T0));
    let metrics = Metrics::new(0, 0, &[], || 0).unwrap();
    let breaker = Breaker::new("dedup", retry, Arc::clone(&clock), metrics.breaker(Guarded::Dedup));
    let (calls, metrics) = (Calls::new(Arc::clone(&clock)), metrics.pool(Pooled::Redis));
    let parts = Parts { retry, breaker: Arc::new(breaker), clock, metrics, calls };
    RedisDeduper::new(&config, &rule, 1, parts).unwrap()
}

fn claim(fingerprint: Fingerprint, unix_ms: u64) -> Claim {
    Claim { fingerprint, id: ClickId::new(unix_ms, &random()), window: None }
}

fn key(fingerprint: &Fingerprint) -> Vec<u8> {
    [&b"trellis:fp:"[..], &fingerprint.0].concat()
}

fn fingerprint() -> Fingerprint {
    Fingerprint(fastrand::u128(..).to_le_bytes())
}

#[tokio::test]
async fn redis_calls_one_click_of_a_visitor_unique() {
    let Some(url) = service(REDIS, "redis_calls_one_click_of_a_visitor_unique") else { return };
    let (here, there) = (deduper(&url, 10), deduper(&url, 10));
    let (a, b) = (fingerprint(), fingerprint());
    let claims = [claim(a, 5_000), claim(a, 5_001), claim(b, 5_001), claim(a, 14_999)];
    let labels = here.check(&claims).await;
    assert_eq!(labels, [Label::Unique, Label::Duplicate, Label::Unique, Label::Duplicate]);
    assert_eq!(there.check(&claims).await, labels, "asked again by another node, the same answers");
    assert_eq!(there.check(&[claim(a, 4_990)]).await, [Label::Duplicate], "the earlier click came later");
    here.ping().await.unwrap();
}

#[tokio::test]
async fn after_the_window_a_visitor_is_unique_in_redis_once_more() {
    let Some(url) = service(REDIS, "after_the_window_a_visitor_is_unique_in_redis_once_more") else { return };
    let deduper = deduper(&url, 10);
    let visitor = fingerprint();
    assert_eq!(deduper.check(&[claim(visitor, 5_000)]).await, [Label::Unique]);
    let later = [claim(visitor, 15_000), claim(visitor, 15_001)];
    assert_eq!(deduper.check(&later).await, [Label::Unique, Label::Duplicate], "two of one call take it over");
    assert_eq!(deduper.check(&[claim(visitor, 16_000)]).await, [Label::Duplicate]);
    assert_eq!(deduper.check(&[claim(visitor, 5_001)]).await, [Label::Unique], "a late replay");
    assert_eq!(deduper.check(&[claim(visitor, 17_000)]).await, [Label::Duplicate], "which took nothing over");
}

#[tokio::test]
async fn in_one_question_to_redis_each_click_is_judged_by_the_window_of_its_campaign() {
    let test = "in_one_question_to_redis_each_click_is_judged_by_the_window_of_its_campaign";
    let Some(url) = service(REDIS, test) else { return };
    let deduper = deduper(&url, 10);
    let (short, long, of_settings) = (fingerprint(), fingerprint(), fingerprint());
    let own = |visitor, unix_ms, seconds| Claim { window: Window::of_seconds(seconds), ..claim(visitor, unix_ms) };
    let first = [own(short, 5_000, 2), own(long, 5_000, 3_600), claim(of_settings, 5_000)];
    assert_eq!(deduper.check(&first).await, [Label::Unique; 3]);
    let all_at = |unix_ms| [own(short, unix_ms, 2), own(long, unix_ms, 3_600), claim(of_settings, unix_ms)];
    for (unix_ms, expected) in [
        (6_999, [Label::Duplicate; 3]),
        (7_000, [Label::Unique, Label::Duplicate, Label::Duplicate]),
        (15_000, [Label::Unique, Label::Duplicate, Label::Unique]),
        (3_604_999, [Label::Unique, Label::Duplicate, Label::Unique]),
        (3_605_000, [Label::Duplicate, Label::Unique, Label::Duplicate]),
    ] {
        let claims = all_at(unix_ms);
        assert_eq!(deduper.check(&claims).await, expected, "{unix_ms}");
        assert_eq!(deduper.check(&claims).await, expected, "asked again, as after a kill");
    }
    assert_eq!(deduper.check(&[own(long, 4_999, 3_600)]).await, [Label::Unique], "from before the owner's window");
    let mut raw = redis::Client::open(url.as_str()).unwrap().get_multiplexed_async_connection().await.unwrap();
    for (visitor, kept) in [(short, 62), (long, 3_660), (of_settings, 70)] {
        let left: i64 = redis::cmd("TTL").arg(key(&visitor)).query_async(&mut raw).await.unwrap();
        assert!((kept - 30..=kept).contains(&left), "window and lag: {left} of {kept}");
    }
}

#[tokio::test]
async fn of_claims_that_race_in_redis_one_is_unique() {
    let Some(url) = service(REDIS, "of_claims_that_race_in_redis_one_is_unique") else { return };
    let dedupers: Vec<_> = (0..4).map(|_| deduper(&url, 10)).collect();
    let visitors: Vec<_> = (0..500).map(|_| fingerprint()).collect();
    // The first round claims, the second takes over.
    for round in 0..2 {
        let lists: Vec<Vec<Claim>> =
            (0..4).map(|i| visitors.iter().map(|v| claim(*v, 1_000 + round * 60_000 + i)).collect()).collect();
        let (a, b, c, d) = tokio::join!(
            dedupers[0].check(&lists[0]),
            dedupers[1].check(&lists[1]),
            dedupers[2].check(&lists[2]),
            dedupers[3].check(&lists[3])
        );
        for i in 0..visitors.len() {
            let labels = [a[i], b[i], c[i], d[i]];
            let count = |label| labels.iter().filter(|l| **l == label).count();
            assert_eq!((count(Label::Unique), count(Label::Duplicate)), (1, 3), "round {round}: {labels:?}");
        }
    }
}

#[tokio::test]
async fn a_key_of_a_wrong_type_in_redis_costs_one_label_only() {
    let Some(url) = service(REDIS, "a_key_of_a_wrong_type_in_redis_costs_one_label_only") else { return };
    let mut raw = redis::Client::open(url.as_str()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let (list, short, free) = (fingerprint(), fingerprint(), fingerprint());
    let () = redis::cmd("LPUSH").arg(key(&list)).arg("x").query_async(&mut raw).await.unwrap();
    let () = redis::cmd("SET").arg(key(&short)).arg("x").query_async(&mut raw).await.unwrap();
    let claims = [claim(list, 5_000), claim(free, 5_000), claim(short, 5_000)];
    let labels = deduper(&url, 10).check(&claims).await;
    assert_eq!(labels, [Label::Unknown, Label::Unique, Label::Unknown]);
    let left: i64 = redis::cmd("TTL").arg(key(&free)).query_async(&mut raw).await.unwrap();
    assert!((60..=70).contains(&left), "window and lag: {left}");
    let () = redis::cmd("DEL").arg(key(&list)).arg(key(&short)).query_async(&mut raw).await.unwrap();
}
