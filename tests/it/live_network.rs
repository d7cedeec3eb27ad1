//! A network that cuts connections to ClickHouse at the worst moments: behind an insert that was committed, and in the
//! middle of one. What may be there is looked for; nothing is missing and nothing is there twice.

use std::time::Duration;

use crate::harness::{Trellis, eventually, service};
use crate::live::{CLICKHOUSE, Database, REDIS};
use crate::load::{Load, Visits};
use crate::proxy::{Flow, Proxy, Rules};

/// Times that the network is bad in one test, and good again.
const ROUNDS: usize = 3;
const STORED: &str = r#"trellis_clicks_total{fate="stored"}"#;

/// Under load, `cut` is made of the network again and again; each time `is_bad` says when it has shown, and then `looks`
/// grows: `trellis_batch_looks_total` for what must be found.
fn cut_under_load(test: &str, cut: Rules, is_bad: impl Fn(&Trellis, &Database) -> bool, found: &str) {
    let Some(clickhouse) = service(CLICKHOUSE, test) else { return };
    let database = Database::new(&clickhouse);
    let network = Proxy::before(clickhouse.strip_prefix("http://").expect("a URL").parse().expect("an address"));
    let url = format!("http://{}", network.address());
    let mut settings = database.settings();
    // Some thousand rows a batch.
    settings.extend([("store.clickhouse.url", url.as_str()), ("edge.threads", "1"), ("batch.age_max", "300ms")]);
    let mut node = Trellis::start_with(&settings);
    for text in ["did not take a batch", "does not answer"] {
        node.expect_log(text);
    }
    node.link("a", "https://a.example/?id={click_id}");
    let visits = Visits { connections: 8, pause: Duration::from_millis(2), ..Visits::fast("n") };
    let load = Load::start(node.edge(), &visits);
    let looks = format!(r#"trellis_batch_looks_total{{found="{found}"}}"#);
    eventually("clicks are stored", || node.metric(STORED) > 0.0);
    for _ in 0..ROUNDS {
        let (failures, looked) = (node.metric("trellis_insert_failures_total"), node.metric(&looks));
        network.set(cut);
        eventually("the store is cut off", || node.metric("trellis_insert_failures_total") > failures);
        eventually("the cut has shown", || is_bad(&node, &database));
        load.wait_answers(100);
        network.set(Rules::default());
        eventually("the batch was looked for", || node.metric(&looks) > looked);
    }
    let seen = load.finish();
    seen.assert_answered(false);
    seen.settle(&mut node, || database.rows("clicks"));
    assert_eq!(database.rows_sent_again("clicks"), 0);
}

#[test]
fn an_insert_whose_answer_is_lost_is_found_and_not_sent_again() {
    let lost = Rules { answers: Flow { cut_after: Some(0), ..Flow::default() }, ..Rules::default() };
    let is_there = |node: &Trellis, database: &Database| {
        let rows: f64 = database.sql("SELECT count() FROM clicks").parse().expect("a number");
        rows > node.metric(STORED)
    };
    cut_under_load("an_insert_whose_answer_is_lost_is_found_and_not_sent_again", lost, is_there, "all");
}

#[test]
fn an_insert_that_is_cut_in_its_middle_is_sent_again_whole() {
    // More than any head or question has, less than the rows of a batch.
    let broken = Rules { requests: Flow { cut_after: Some(16_000), ..Flow::default() }, ..Rules::default() };
    cut_under_load("an_insert_that_is_cut_in_its_middle_is_sent_again_whole", broken, |_, _| true, "none");
}

#[test]
fn every_tenth_answer_of_redis_and_clickhouse_late_costs_no_click_and_no_label() {
    let test = "every_tenth_answer_of_redis_and_clickhouse_late_costs_no_click_and_no_label";
    let (Some(redis), Some(clickhouse)) = (service(REDIS, test), service(CLICKHOUSE, test)) else { return };
    let database = Database::new(&clickhouse);
    let before =
        |url: &str, scheme| Proxy::before(url.strip_prefix(scheme).expect("a URL").parse().expect("an address"));
    let (to_redis, to_clickhouse) = (before(&redis, "redis://"), before(&clickhouse, "http://"));
    let urls = (format!("redis://{}", to_redis.address()), format!("http://{}", to_clickhouse.address()));
    let mut settings = database.settings();
    settings.extend([
        ("dedup.backend", "redis"),
        ("redis.url", urls.0.as_str()),
        // Above the delay, and long enough for a machine with other work.
        ("redis.timeout", "5s"),
        ("store.clickhouse.url", urls.1.as_str()),
    ]);
    let mut node = Trellis::start_with(&settings);
    node.link("a", "https://a.example/?id={click_id}");
    let late = Rules::slow_every(10, Duration::from_millis(100));
    to_redis.set(late);
    to_clickhouse.set(late);
    let load = Load::start(node.edge(), &Visits::steady("s"));
    eventually("both were late more than a few times", || to_redis.delayed() >= 10 && to_clickhouse.delayed() >= 10);
    load.wait_answers(1_000);
    let seen = load.finish();
    seen.assert_answered(false);
    seen.wait_stored(|| database.rows("clicks"));
    assert_eq!(node.metric(r#"trellis_dedup_checks_total{result="unknown"}"#), 0.0);
    seen.settle(&mut node, || database.rows("clicks"));
    assert_eq!(database.sql("SELECT groupUniqArray(dedup) FROM clicks FINAL"), "['unique']");
}
