//! The connections to a real ClickHouse engine: no more than the pool has, none that grows old, all counted. The network
//! in between is a proxy's.

#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(feature = "testing")]

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use trellis::backend::clickhouse::{ClickHouseStore, Parts};
use trellis::clock::Clock;
use trellis::config::{self, Retention};
use trellis::pipeline::{ClickFilter, Store, StoreError};
use trellis::telemetry::metrics::Metrics;
use trellis::telemetry::pools::{PoolShard, Pooled};
use trellis::testing::ManualClock;

use crate::harness::service;
use crate::live::CLICKHOUSE;
use crate::live_redis::soon;
use crate::proxy::{Flow, Proxy, Rules};

const HOUR: Duration = Duration::from_secs(3600);

/// A pool of ten connections for two runtimes, and a proxy between it and the engine.
struct Bench {
    proxy: Proxy,
    config: config::ClickHouse,
    clock: Arc<ManualClock>,
    pool: Arc<PoolShard>,
}

impl Bench {
    fn new(test: &str) -> Option<Self> {
        let url = service(CLICKHOUSE, test)?;
        let proxy = Proxy::before(url.strip_prefix("http://").unwrap().parse().unwrap());
        let limit = Duration::from_secs(30);
        let config = config::ClickHouse {
            url: format!("http://{}", proxy.address()),
            database: "trellis_that_is_not_there".into(),
            user: "default".into(),
            password: config::Secret::new(""),
            pool: 10,
            insert_timeout: limit,
            query_timeout: limit,
        };
        let pool = Metrics::new(0, 0, &[], || 0).unwrap().pool(Pooled::ClickHouse);
        Some(Self { proxy, config, clock: Arc::new(ManualClock::new(1_000_000)), pool })
    }

    fn store(&self) -> Arc<ClickHouseStore> {
        let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&self.clock);
        let retention = Retention::new(24 * HOUR, [].into());
        let parts = Parts { clock, metrics: Arc::clone(&self.pool) };
        Arc::new(ClickHouseStore::new(&self.config, retention, 2, parts))
    }
}

/// As many questions at one time; each must be answered, if only that there is no such database.
async fn ask(store: &Arc<ClickHouseStore>, number: usize) {
    let mut questions = JoinSet::new();
    for _ in 0..number {
        let store = Arc::clone(store);
        questions.spawn(async move { store.count(&ClickFilter::default()).await });
    }
    for answer in questions.join_all().await {
        assert!(matches!(answer, Err(StoreError::Operator { code: 81, .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn sixty_questions_at_once_share_the_connections_of_their_pool() {
    let test = "sixty_questions_at_once_share_the_connections_of_their_pool";
    let Some(bench) = Bench::new(test) else { return };
    bench.proxy.set(Rules::slow(Duration::from_millis(20)));
    let (one, other) = (bench.store(), bench.store());
    tokio::join!(ask(&one, 30), ask(&other, 30));
    assert_eq!(bench.proxy.open_max(), 10);
    // Connections that become idle and new ones are asked for together.
    bench.proxy.set(Rules::default());
    for _ in 0..19 {
        tokio::join!(ask(&one, 30), ask(&other, 30));
    }
    assert_eq!(bench.proxy.open_max(), 10);
    assert_eq!((bench.pool.requests(), bench.pool.failures(), bench.pool.busy()), (1_200, 0, 0));
    assert_eq!(bench.pool.connections(), 10, "they are kept for the next questions");
    drop((one, other));
    soon("all are closed", || bench.proxy.open() == 0 && bench.pool.connections() == 0).await;
}

#[tokio::test]
async fn a_connection_is_not_used_for_an_hour() {
    let Some(bench) = Bench::new("a_connection_is_not_used_for_an_hour") else { return };
    let store = bench.store();
    for minutes in 0..120 {
        ask(&store, 1).await;
        assert!(bench.pool.oldest() < HOUR, "after {minutes} minutes: {:?}", bench.pool.oldest());
        bench.clock.advance(HOUR / 60);
    }
    assert!((4..20).contains(&bench.proxy.accepted()), "{} connections", bench.proxy.accepted());
    assert_eq!(bench.pool.failures(), 0);
}

#[tokio::test]
async fn a_connection_that_is_refused_or_breaks_is_a_failure_and_the_next_question_has_another() {
    let test = "a_connection_that_is_refused_or_breaks_is_a_failure_and_the_next_question_has_another";
    let Some(bench) = Bench::new(test) else { return };
    let store = bench.store();
    bench.proxy.set(Rules { refuse: true, ..Rules::default() });
    let error = store.count(&ClickFilter::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Transient(_)), "{error}");
    assert_eq!((bench.pool.failures(), bench.pool.busy()), (1, 0));
    bench.proxy.set(Rules { answers: Flow { stall: true, ..Flow::default() }, ..Rules::default() });
    let waiting = Arc::clone(&store);
    let waiting = tokio::spawn(async move { waiting.count(&ClickFilter::default()).await });
    soon("it is under way", || bench.pool.busy() == 1).await;
    soon("it has a connection", || bench.pool.connections() == 1).await;
    bench.proxy.cut();
    waiting.await.unwrap().unwrap_err();
    assert_eq!((bench.pool.failures(), bench.pool.busy()), (2, 0));
    bench.proxy.set(Rules::default());
    ask(&store, 1).await;
    assert_eq!((bench.pool.requests(), bench.pool.failures()), (3, 2));
}
