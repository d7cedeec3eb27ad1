//! Slow calls to what a node depends on: held up on purpose, told by their level, counted, and no more lines than are useful.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Trellis, eventually, service, within};
use crate::live::{CLICKHOUSE, Database, REDIS};
use crate::proxy::{Proxy, Rules};

/// A slow call as its log line tells it.
#[derive(Debug)]
struct Told {
    op: String,
    duration: Duration,
    severity: String,
    is_warning: bool,
}

/// The slow calls to this dependency that are in the log.
fn told(node: &Trellis, dependency: &str) -> Vec<Told> {
    let about = format!("slow operation dependency=\"{dependency}\" op=\"");
    let log = node.log();
    let found = log.iter().filter_map(|line| line.split_once(&about)).map(|(before, behind)| {
        let value =
            |name: &str| behind.split_once(name).expect("the field").1.split(['"', ' ']).next().expect("a value");
        Told {
            op: behind.split('"').next().expect("its name").to_owned(),
            duration: Duration::from_millis(value("duration_ms=").parse().expect("a number")),
            severity: value("severity=\"").to_owned(),
            is_warning: before.contains(" WARN ") && !before.contains("ERROR "),
        }
    });
    found.collect()
}

/// One of these calls took at least as long as it was held up, is told as slow as it was, and was counted.
fn assert_told(node: &Trellis, dependency: &str, ops: &[&str], held_up: Duration) {
    let mut found = None;
    eventually(&format!("a call {ops:?} to {dependency} is told"), || {
        found = told(node, dependency).into_iter().find(|told| ops.contains(&&*told.op) && told.duration >= held_up);
        found.is_some()
    });
    let Told { op, duration, severity, is_warning } = found.expect("found above");
    let expected = match duration.as_millis() {
        0..100 => panic!("that is not slow: {duration:?}"),
        100..500 => "warning",
        500..1000 => "error",
        _ => "critical",
    };
    assert_eq!((severity.as_str(), is_warning), (expected, expected == "warning"), "{duration:?}");
    let counted = format!("trellis_slow_operations_total{{dependency=\"{dependency}\",level=\"{severity}\"}}");
    assert!(node.metric(&counted) >= 1.0);
    let sum = format!("trellis_store_op_duration_seconds_sum{{dependency=\"{dependency}\",op=\"{op}\"}}");
    assert!(node.metric(&sum) >= held_up.as_secs_f64(), "{}", node.metric(&sum));
}

/// Nobody else writes to this database of the node for so long.
fn hold_up(node: &Trellis, database: &str, time: Duration) {
    let connection = rusqlite::Connection::open(node.data_dir().join(database)).expect("the file");
    connection.busy_timeout(Duration::from_secs(60)).expect("a time");
    connection.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    assert!(!within(time, || false), "the fault is its length");
    connection.execute_batch("ROLLBACK").expect("the end of it");
}

#[test]
fn a_catalog_and_a_store_that_are_held_up_are_told_by_their_level_and_counted() {
    let node = Trellis::start();
    node.link("a", "https://a.example/");
    let held_up = Duration::from_millis(1_200);
    std::thread::scope(|scope| {
        let holding = scope.spawn(|| hold_up(&node, "catalog.db", held_up));
        // One at least waits for it: each is answered when it is kept.
        let mut n = 0;
        while !holding.is_finished() {
            node.link(&format!("b{n}"), "https://b.example/");
            n += 1;
        }
    });
    // Whichever of its calls was at the lock: the link itself, or the entry about it. The lock may have waited for its turn.
    assert_told(&node, "catalog", &["commit", "audit_write", "caps_save"], held_up / 2);
    std::thread::scope(|scope| {
        let holding = scope.spawn(|| hold_up(&node, "clicks.db", held_up));
        while !holding.is_finished() {
            node.get("/a");
        }
    });
    assert_told(&node, "store", &["insert"], held_up / 2);
    let quick = "trellis_slow_operations_total{dependency=\"warden\",level=\"warning\"}";
    assert_eq!(node.metric(quick), 0.0, "it was not asked");
}

#[test]
fn a_slow_redis_is_told_and_every_slow_call_is_counted() {
    let test = "a_slow_redis_is_told_and_every_slow_call_is_counted";
    let Some(redis) = service(REDIS, test) else { return };
    let held_up = Duration::from_millis(150);
    let proxy = Proxy::before(redis.strip_prefix("redis://").expect("a URL").parse().expect("an address"));
    let url = format!("redis://{}/3", proxy.address());
    let node = Trellis::start_with(&[("dedup.backend", "redis"), ("redis.url", &url), ("redis.timeout", "10s")]);
    node.link("a", "https://a.example/");
    proxy.set(Rules::slow(held_up));
    assert_told(&node, "redis", &["ping"], held_up);
    for n in 0..20 {
        node.get(&format!("/a?click_id={n}"));
        node.wait_stored(n + 1);
    }
    assert_told(&node, "redis", &["claim"], held_up);
    proxy.set(Rules::default());
    let level =
        |level| node.metric(&format!("trellis_slow_operations_total{{dependency=\"redis\",level=\"{level}\"}}"));
    let slow = level("warning") + level("error") + level("critical");
    assert!(slow >= 21.0, "all are counted: {slow}");
}

#[test]
fn a_slow_clickhouse_is_told_and_loses_nothing() {
    let test = "a_slow_clickhouse_is_told_and_loses_nothing";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let proxy = Proxy::before(clickhouse.strip_prefix("http://").expect("a URL").parse().expect("an address"));
    let url = format!("http://{}", proxy.address());
    let mut settings = database.settings();
    settings.push(("store.clickhouse.url", &url));
    let node = Trellis::start_with(&settings);
    // It may be asked whether it is there while it is slow.
    node.expect_log("does not answer");
    node.link("a", "https://a.example/");
    let held_up = Duration::from_millis(1_000);
    proxy.set(Rules::slow(held_up));
    node.get("/a");
    node.wait_stored(1);
    assert_told(&node, "store", &["insert"], held_up);
    assert_told(&node, "store", &["count"], held_up);
    proxy.set(Rules::default());
    assert!(told(&node, "store").iter().any(|told| told.op == "insert" && told.severity == "critical"));
}

#[test]
fn a_slow_warden_is_told() {
    let folder = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
    let token = "a-token-of-the-tests";
    let warden =
        Trellis::start_warden(folder, &[("warden.serve.listen", "127.0.0.1:0"), ("warden.serve.token", token)]);
    let made = warden.api("POST", "/api/v1/keys", Some(&json!({ "scopes": ["ingress"] }).to_string()));
    let key = format!("Bearer {}", made.json()["secret"].as_str().expect("a key"));
    let proxy = Proxy::before(warden.edge());
    let url = format!("http://{}", proxy.address());
    let node = Trellis::start_with(&[
        ("warden.mode", "grpc"),
        ("warden.grpc.url", &url),
        ("warden.grpc.token", token),
        ("warden.grpc.deadline", "1s"),
        ("ingress.enabled", "true"),
        ("ingress.fallback_url", "https://else.example/"),
    ]);
    node.expect_log("dependency=\"warden\" backend=\"grpc\"");
    let is_up = || node.metric("trellis_dependency_up{dependency=\"warden\"}") == 1.0;
    eventually("the node hears of changes", is_up);
    let held_up = Duration::from_millis(120);
    proxy.set(Rules::slow(held_up));
    eventually("the key is good", || node.edge_request("GET", "/in", &[("Authorization", &key)]).status == 302);
    assert_told(&node, "warden", &["validate"], held_up);
}
