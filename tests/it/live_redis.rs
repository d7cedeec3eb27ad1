//! The connections to a real Redis: many at a time, none slowed by another, none that grows old, all back after an
//! outage. The network in between is a proxy's.

#![cfg(feature = "testing")]

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use trellis::backend::redis::{Parts, RedisDeduper};
use trellis::click::dedup::Window;
use trellis::click::{ClickId, Fingerprint};
use trellis::clock::Clock;
use trellis::config::{self, Policy};
use trellis::pipeline::breaker::Breaker;
use trellis::pipeline::{Claim, Deduper, Label};
use trellis::telemetry::calls::Calls;
use trellis::telemetry::metrics::{Guarded, Metrics};
use trellis::telemetry::pools::{PoolShard, Pooled};
use trellis::testing::ManualClock;

use crate::harness::service;
use crate::live_backends::REDIS;
use crate::proxy::{Flow, Proxy, Rules};

/// What dedupers of one process share, and a proxy between them and Redis.
struct Bench {
    proxy: Proxy,
    config: config::Redis,
    clock: Arc<ManualClock>,
    parts: Parts,
}

impl Bench {
    /// With one of Redis' numbered databases; `None` without a Redis.
    fn new(test: &str, database: u8, timeout: Duration) -> Option<Self> {
        let url = service(REDIS, test)?;
        let at = url.strip_prefix("redis://").expect("a URL of Redis").parse().expect("an address");
        let proxy = Proxy::before(at);
        let url = config::Secret::new(format!("redis://{}/{}", proxy.address(), database));
        let config = config::Redis { url, pool: 50, timeout, lifetime_max: Duration::from_secs(1) };
        let clock = Arc::new(ManualClock::new(1_000_000));
        let metrics = Metrics::new(0, 0, &[], || 0).expect("metrics");
        let retry = Policy { tries: 5, base: Duration::from_millis(1), max: Duration::from_secs(1), jitter: true };
        let shared: Arc<dyn Clock> = Arc::<ManualClock>::clone(&clock);
        let breaker = Breaker::new("dedup", retry, Arc::clone(&shared), metrics.breaker(Guarded::Dedup));
        let (metrics, calls) = (metrics.pool(Pooled::Redis), Calls::new(Arc::clone(&shared)));
        let parts = Parts { retry, breaker: Arc::new(breaker), clock: shared, metrics, calls };
        Some(Self { proxy, config, clock, parts })
    }

    fn deduper(&self, workers: usize) -> Arc<RedisDeduper> {
        let rule = config::Dedup {
            backend: config::DedupBackend::Redis,
            window: Duration::from_secs(10),
            lag_max: Duration::from_secs(60),
            secret: config::Secret::default(),
            entries_max: 1,
            checks_in_flight_max: 16,
        };
        Arc::new(RedisDeduper::new(&self.config, &rule, workers, self.parts.clone()).expect("a deduper"))
    }

    fn pool(&self) -> &PoolShard {
        &self.parts.metrics
    }
}

/// A click of a visitor who was never here.
fn claim() -> Claim {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let fingerprint = Fingerprint(fastrand::u128(..).to_le_bytes());
    Claim { fingerprint, id: ClickId::new(5_000, &random), window: None }
}

/// As many checks at one time, of a new visitor each.
fn start(deduper: &Arc<RedisDeduper>, number: usize) -> JoinSet<Label> {
    let mut checks = JoinSet::new();
    for _ in 0..number {
        let deduper = Arc::clone(deduper);
        checks.spawn(async move { deduper.check(&[claim()]).await[0] });
    }
    checks
}

/// Their labels.
async fn checks(deduper: &Arc<RedisDeduper>, number: usize) -> Vec<Label> {
    start(deduper, number).join_all().await
}

/// Their labels from a Redis that answers none of them before each has a connection: how slow it would have to be for that is up
/// to the machine.
async fn checks_at_once(bench: &Bench, deduper: &Arc<RedisDeduper>, number: usize) -> Vec<Label> {
    bench.proxy.set(Rules { answers: Flow { stall: true, ..Flow::default() }, ..Rules::default() });
    let running = start(deduper, number);
    soon("each has a connection", || bench.proxy.open() == number).await;
    bench.proxy.set(Rules::default());
    running.join_all().await
}

/// Waits on this runtime, on which the connections are driven too.
pub(crate) async fn soon(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn thirty_checks_of_a_slow_redis_use_more_than_twenty_connections() {
    let test = "thirty_checks_of_a_slow_redis_use_more_than_twenty_connections";
    let Some(bench) = Bench::new(test, 0, Duration::from_secs(30)) else { return };
    let deduper = bench.deduper(1);
    assert_eq!(checks_at_once(&bench, &deduper, 30).await, [Label::Unique; 30]);
    let most = bench.proxy.open_max();
    assert!((21..=50).contains(&most), "{most}");
    assert_eq!((bench.pool().connections(), bench.pool().busy()), (bench.proxy.open() as u64, 0));
    assert_eq!((bench.pool().requests(), bench.pool().failures()), (30, 0));
    // Pools of several workers add up.
    let other = bench.deduper(2);
    assert_eq!(checks(&other, 60).await, [Label::Unique; 60]);
    assert!(bench.proxy.open() <= most + 25 && bench.pool().connections() == bench.proxy.open() as u64);
    drop((deduper, other));
    assert_eq!(bench.pool().connections(), 0);
    soon("all are closed", || bench.proxy.open() == 0).await;
}

#[tokio::test]
async fn a_chunk_of_clicks_with_windows_of_their_own_is_one_round_trip() {
    let test = "a_chunk_of_clicks_with_windows_of_their_own_is_one_round_trip";
    let Some(bench) = Bench::new(test, 0, Duration::from_secs(30)) else { return };
    let claims: Vec<_> = (0..512).map(|n| Claim { window: Window::of_seconds(n), ..claim() }).collect();
    let deduper = bench.deduper(1);
    assert_eq!(deduper.check(&claims).await, [Label::Unique; 512]);
    assert_eq!((bench.pool().requests(), bench.pool().failures()), (1, 0));
}

#[tokio::test]
async fn a_connection_that_stalls_slows_no_other_and_is_lent_no_more() {
    let test = "a_connection_that_stalls_slows_no_other_and_is_lent_no_more";
    let Some(bench) = Bench::new(test, 0, Duration::from_secs(2)) else { return };
    let deduper = bench.deduper(1);
    assert_eq!(checks_at_once(&bench, &deduper, 10).await, [Label::Unique; 10]);
    let there = usize::try_from(bench.pool().connections()).expect("few");
    assert!(there > 5, "{there}");
    let stalled = Flow { stall: true, ..Flow::default() };
    bench.proxy.set(Rules { answers: stalled, only: Some(0), ..Rules::default() });
    // The one that was given back first is lent first: each is lent once, the one that stalls too.
    let mut running = start(&deduper, there);
    for _ in 1..there {
        assert_eq!(running.join_next().await.expect("a check").expect("a label"), Label::Unique);
        assert_eq!(bench.pool().failures(), 0, "it waits for no time-out");
    }
    assert_eq!(running.join_all().await, [Label::Unique], "tried again on another");
    assert_eq!(bench.pool().failures(), 1);
    assert_eq!(checks(&deduper, 50).await, [Label::Unique; 50]);
    assert_eq!(bench.pool().failures(), 1);
}

#[tokio::test]
async fn a_thread_that_was_held_up_does_not_blame_redis() {
    let Some(bench) = Bench::new("a_thread_that_was_held_up_does_not_blame_redis", 0, Duration::from_millis(300))
    else {
        return;
    };
    let deduper = bench.deduper(1);
    assert_eq!(checks(&deduper, 8).await, [Label::Unique; 8]);
    let running = start(&deduper, 8);
    // They have asked by then; as long as a disk may take to force a batch, nobody looks whether an answer is there.
    tokio::task::yield_now().await;
    let (_sender, nothing) = std::sync::mpsc::sync_channel::<()>(0);
    assert!(nothing.recv_timeout(Duration::from_millis(900)).is_err());
    assert_eq!(running.join_all().await, [Label::Unique; 8]);
    assert_eq!(bench.pool().failures(), 0);
}

#[tokio::test]
async fn connections_are_closed_when_they_are_old() {
    let Some(bench) = Bench::new("connections_are_closed_when_they_are_old", 0, Duration::from_secs(30)) else {
        return;
    };
    let deduper = bench.deduper(1);
    assert_eq!(checks(&deduper, 1).await, [Label::Unique]);
    bench.clock.advance(Duration::from_millis(999));
    assert_eq!(checks(&deduper, 1).await, [Label::Unique]);
    assert_eq!((bench.proxy.accepted(), bench.pool().oldest()), (1, Duration::from_millis(999)));
    bench.clock.advance(Duration::from_millis(1));
    assert_eq!(checks(&deduper, 1).await, [Label::Unique]);
    assert_eq!((bench.proxy.accepted(), bench.pool().oldest()), (2, Duration::ZERO), "a new one is lent");
    bench.clock.advance(Duration::from_secs(1));
    soon("the idle one is closed, though nobody asks", || bench.proxy.open() == 0).await;
    assert_eq!((bench.pool().connections(), bench.pool().failures()), (0, 0));
}

#[tokio::test]
async fn workers_find_out_together_that_redis_is_away_and_back() {
    let test = "workers_find_out_together_that_redis_is_away_and_back";
    let Some(bench) = Bench::new(test, 0, Duration::from_secs(30)) else { return };
    let (here, there) = (bench.deduper(2), bench.deduper(2));
    assert_eq!((checks(&here, 1).await, checks(&there, 1).await), (vec![Label::Unique], vec![Label::Unique]));
    bench.proxy.set(Rules { refuse: true, ..Rules::default() });
    bench.proxy.cut();
    soon("all are cut", || bench.proxy.open() == 0).await;
    assert_eq!(checks(&here, 1).await, [Label::Unknown]);
    let asked = bench.pool().requests();
    assert_eq!(asked, 2 + 5, "every try of the policy");
    assert_eq!(checks(&there, 20).await, [Label::Unknown; 20]);
    assert_eq!(bench.pool().requests(), asked, "the other worker asks no more");
    bench.proxy.set(Rules::default());
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!((checks(&there, 1).await, checks(&here, 1).await), (vec![Label::Unique], vec![Label::Unique]));
}

#[tokio::test]
async fn after_a_flush_labels_start_anew() {
    let Some(bench) = Bench::new("after_a_flush_labels_start_anew", 1, Duration::from_secs(30)) else { return };
    let deduper = bench.deduper(1);
    let visitor = claim();
    let again = Claim { fingerprint: visitor.fingerprint, ..claim() };
    assert_eq!(deduper.check(&[visitor, again]).await, [Label::Unique, Label::Duplicate]);
    let client = redis::Client::open(bench.config.url.expose()).expect("a URL");
    let mut raw = client.get_multiplexed_async_connection().await.expect("Redis");
    let () = redis::cmd("FLUSHDB").query_async(&mut raw).await.expect("flushed");
    assert_eq!(deduper.check(&[again, visitor]).await, [Label::Unique, Label::Duplicate]);
}
