//! Redis and ClickHouse killed, stopped, emptied and slow under load. Clients see nothing of it, one of them slows nothing of
//! the other, and every id that a client read is stored once.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Trellis, eventually, exchange, service, skipped};
use crate::live::{CLICKHOUSE, Database, REDIS, Services};
use crate::live_resources::may_mount;
use crate::load::{Load, Seen, Visits, sqlite_rows};
use crate::proxy::{Proxy, Rules};

/// Answers that a load waits for while something is wrong: so many more than would come if each waited for it.
const MEANWHILE: u64 = 500;

fn metric_grows(node: &Trellis, line: &str) {
    let before = node.metric(line);
    eventually(&format!("{line} grows from {before}"), || node.metric(line) > before);
}

const STORED: &str = r#"trellis_clicks_total{fate="stored"}"#;
const UNIQUE: &str = r#"trellis_dedup_checks_total{result="unique"}"#;
const UNKNOWN: &str = r#"trellis_dedup_checks_total{result="unknown"}"#;

/// One command of Redis that must be obeyed.
fn tell_redis(url: &str, command: &str) {
    let to = url.strip_prefix("redis://").expect("a URL").parse().expect("an address");
    let answer = exchange(to, format!("{command}\r\nQUIT\r\n").as_bytes());
    assert!(answer.starts_with(b"+OK"), "{command}: {}", String::from_utf8_lossy(&answer));
}

#[test]
fn whatever_happens_to_redis_costs_labels_and_nothing_else() {
    let test = "whatever_happens_to_redis_costs_labels_and_nothing_else";
    let Some(services) = Services::up_redis(test) else { return };
    let redis = services.redis.strip_prefix("redis://").expect("a URL").parse().expect("an address");
    let network = Proxy::before(redis);
    let url = format!("redis://{}", network.address());
    let mut node = Trellis::start_with(&[("dedup.backend", "redis"), ("redis.url", &url), ("redis.timeout", "1s")]);
    for text in ["Redis gives no labels", "does not answer"] {
        node.expect_log(text);
    }
    node.link("a", "https://a.example/");
    let load = Load::start(node.edge(), &Visits::steady("r"));
    let without_labels = || {
        metric_grows(&node, UNKNOWN);
        metric_grows(&node, STORED);
        load.wait_answers(MEANWHILE);
    };
    let with_labels = || metric_grows(&node, UNIQUE);
    with_labels();

    services.call(&["kill", "redis"]);
    without_labels();
    services.call(&["start", "redis"]);
    with_labels();

    services.signal("redis", Signal::STOP);
    without_labels();
    services.signal("redis", Signal::CONT);
    with_labels();

    network.set(Rules::slow(Duration::from_secs(2)));
    without_labels();
    network.set(Rules::default());
    with_labels();

    tell_redis(&services.redis, "CONFIG SET maxmemory 1");
    without_labels();
    tell_redis(&services.redis, "CONFIG SET maxmemory 0");
    with_labels();

    tell_redis(&services.redis, "FLUSHALL");
    load.wait_answers(MEANWHILE);
    with_labels();

    let seen = load.finish();
    seen.assert_answered(false);
    let folder = node.folder();
    seen.settle(&mut node, || sqlite_rows(folder.path()));
}

#[test]
fn whatever_happens_to_clickhouse_misses_no_click_and_slows_no_label() {
    let test = "whatever_happens_to_clickhouse_misses_no_click_and_slows_no_label";
    let Some(services) = Services::up(test) else { return };
    let database = Database::new(&services.clickhouse);
    let mut settings = database.settings();
    settings.extend([
        ("dedup.backend", "redis"),
        ("redis.url", &services.redis),
        // Long enough for a machine with other work: Redis is well here.
        ("redis.timeout", "5s"),
        ("store.clickhouse.insert_timeout", "1s"),
        ("store.clickhouse.query_timeout", "1s"),
    ]);
    let mut node = Trellis::start_with(&settings);
    for text in ["did not take a batch", "does not answer"] {
        node.expect_log(text);
    }
    node.link("a", "https://a.example/");
    let load = Load::start(node.edge(), &Visits::steady("c"));
    let without_store = || {
        metric_grows(&node, "trellis_insert_failures_total");
        metric_grows(&node, UNIQUE);
        load.wait_answers(MEANWHILE);
        assert_eq!(node.api_raw("GET", "/health/ready", &[], b"").status, 200, "redirects go on: ready");
    };
    let with_store = || metric_grows(&node, STORED);
    with_store();

    services.call(&["kill", "clickhouse"]);
    without_store();
    services.call(&["start", "clickhouse"]);
    with_store();

    services.signal("clickhouse", Signal::STOP);
    without_store();
    services.signal("clickhouse", Signal::CONT);
    with_store();

    services.signal("clickhouse", Signal::TERM);
    without_store();
    services.call(&["start", "clickhouse"]);
    with_store();

    let seen = load.finish();
    seen.assert_answered(false);
    seen.settle(&mut node, || database.rows("clicks"));
}

#[test]
fn a_table_that_somebody_takes_away_is_waited_for() {
    let test = "a_table_that_somebody_takes_away_is_waited_for";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let mut node = Trellis::start_with(&database.settings());
    for text in ["will not take a batch", "does not answer"] {
        node.expect_log(text);
    }
    node.link("a", "https://a.example/");
    let load = Load::start(node.edge(), &Visits::steady("t"));
    eventually("clicks are stored", || node.metric(STORED) > 100.0);
    // Dropped with rows in it, it would take those along, and nobody could make up the books.
    database.sql("RENAME TABLE clicks TO taken_away");
    eventually("batches wait for a person", || node.metric("trellis_batches_parked") > 0.0);
    load.wait_answers(MEANWHILE);
    let migrated = node.cli(&["migrate"]);
    assert!(String::from_utf8_lossy(&migrated.stdout).contains("applied 001_clicks"), "{migrated:?}");
    eventually("none waits", || node.metric("trellis_batches_parked") == 0.0);
    metric_grows(&node, STORED);
    let seen = load.finish();
    seen.assert_answered(false);
    seen.settle(&mut node, || [database.rows("clicks"), database.rows("taken_away")].concat());
}

#[test]
fn with_nothing_to_be_reached_from_before_the_start_every_link_answers() {
    let test = "with_nothing_to_be_reached_from_before_the_start_every_link_answers";
    let (Some(redis), Some(clickhouse)) = (service(REDIS, test), service(CLICKHOUSE, test)) else { return };
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let mut prepared = Trellis::start_in(Arc::clone(&folder), &[]);
    prepared.link("a", "https://a.example/");
    assert_eq!(prepared.stop().code(), Some(0));
    let database = Database::new(&clickhouse);
    let mut seen = Seen::default();
    // Names that nobody can resolve (RFC 2606), and ports that refuse.
    for (redis, clickhouse) in
        [("redis://redis.invalid", "http://clickhouse.invalid:8123"), ("redis://127.0.0.1:1", "http://127.0.0.1:1")]
    {
        let mut settings = database.settings();
        settings.extend([
            ("dedup.backend", "redis"),
            ("redis.url", redis),
            ("store.clickhouse.url", clickhouse),
            ("shutdown.drain_deadline", "300ms"),
        ]);
        let mut node = Trellis::start_in(Arc::clone(&folder), &settings);
        for text in ["Redis gives no labels", "does not answer", "did not take", "cannot be made", "drain_deadline"] {
            node.expect_log(text);
        }
        assert_eq!(node.api_raw("GET", "/health/ready", &[], b"").status, 200);
        let load = Load::start(node.edge(), &Visits::fast(clickhouse));
        load.wait_answers(4 * MEANWHILE);
        let ready = node.api_raw("GET", "/health/ready", &[], b"").json();
        let dependencies = &ready["dependencies"];
        assert_eq!((&dependencies["dedup"]["up"], &dependencies["store"]["up"]), (&false.into(), &false.into()));
        let answered = load.finish();
        answered.assert_answered(false);
        seen.add(answered);
        assert_eq!(node.stop().code(), Some(0));
    }
    let mut settings = database.settings();
    settings.extend([("dedup.backend", "redis"), ("redis.url", &redis)]);
    let mut node = Trellis::start_in(folder, &settings);
    seen.settle(&mut node, || database.rows("clicks"));
}

/// Makes the file `$1` this node's `resolv.conf`, seen by it alone. The rest is the node's command line.
const WITH_RESOLVER: &str = r#"set -e
mount --make-rprivate /
mount --bind "$1" /etc/resolv.conf
shift
exec "$@""#;

#[test]
fn a_resolver_that_never_answers_holds_up_no_visitor_and_no_end() {
    let test = "a_resolver_that_never_answers_holds_up_no_visitor_and_no_end";
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    // An address that nothing else has; it takes every question and answers none.
    let Ok(silent) = std::net::UdpSocket::bind("127.99.0.53:53") else {
        return skipped(test, "needs root, to be a resolver");
    };
    if !may_mount(test) {
        return;
    }
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let mut prepared = Trellis::start_in(Arc::clone(&folder), &[]);
    prepared.link("a", "https://a.example/");
    assert_eq!(prepared.stop().code(), Some(0));
    let resolver = folder.path().join("resolv.conf");
    // Far above what anything here waits for.
    std::fs::write(&resolver, "nameserver 127.99.0.53\noptions timeout:30 attempts:3\n").expect("a file");
    let database = Database::new(&clickhouse);
    let settings = [
        ("dedup.backend", "redis"),
        ("redis.url", "redis://redis.trellis.test"),
        ("store.backend", "clickhouse"),
        ("store.clickhouse.url", "http://clickhouse.trellis.test:8123"),
        ("store.clickhouse.query_timeout", "1s"),
        ("store.clickhouse.insert_timeout", "1s"),
        ("retry.insert.max", "200ms"),
        ("shutdown.drain_deadline", "300ms"),
    ];
    let at = resolver.display().to_string();
    let by = ["unshare", "-m", "sh", "-c", WITH_RESOLVER, "sh", &at];
    let mut node = Trellis::start_under(&by, Arc::clone(&folder), &settings);
    for text in ["Redis gives no labels", "does not answer", "did not take", "cannot be made", "drain_deadline"] {
        node.expect_log(text);
    }
    assert_eq!(node.api_raw("GET", "/health/ready", &[], b"").status, 200);
    let load = Load::start(node.edge(), &Visits::steady("d"));
    load.wait_answers(MEANWHILE);
    eventually("the resolver was asked", || silent.peek(&mut [0; 512]).is_ok());
    metric_grows(&node, UNKNOWN);
    metric_grows(&node, "trellis_insert_failures_total");
    load.wait_answers(MEANWHILE);
    let seen = load.finish();
    seen.assert_answered(false);
    assert_eq!(node.stop().code(), Some(0));
    let mut node = Trellis::start_in(folder, &database.settings());
    seen.settle(&mut node, || database.rows("clicks"));
}
