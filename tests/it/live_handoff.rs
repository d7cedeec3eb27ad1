//! The way of clicks from the edge to the worker under load, with a real Redis and a real ClickHouse engine: the queue while
//! it has room, the journal for the rest.

use crate::harness::{Trellis, eventually, service};
use crate::live::{CLICKHOUSE, Database, REDIS};
use crate::load::{Load, Visits};

const BY_QUEUE: &str = r#"trellis_handoff_total{via="queue"}"#;
const BY_JOURNAL: &str = r#"trellis_handoff_total{via="journal"}"#;

/// A node with real services and so much room in its queues.
fn node(test: &str, groups_max: &str) -> Option<(Trellis, Database)> {
    let (redis, clickhouse) = (service(REDIS, test)?, service(CLICKHOUSE, test)?);
    let database = Database::new(&clickhouse);
    let mut settings = database.settings();
    settings.extend([("dedup.backend", "redis"), ("redis.url", &redis), ("queue.groups_max", groups_max)]);
    // Labels are not what is tested here, and a busy machine may be slow to answer.
    settings.push(("redis.timeout", "5s"));
    let node = Trellis::start_with(&settings);
    node.link("a", "https://a.example/");
    Some((node, database))
}

#[test]
fn while_the_store_keeps_up_the_queue_hands_over_every_click_and_the_journal_is_not_read() {
    let test = "while_the_store_keeps_up_the_queue_hands_over_every_click_and_the_journal_is_not_read";
    let Some((mut node, database)) = node(test, "1000") else { return };
    let load = Load::start(node.edge(), &Visits::steady("q"));
    load.wait_answers(4_000);
    let seen = load.finish();
    seen.assert_answered(false);
    seen.wait_stored(|| database.rows("clicks"));
    assert_eq!((node.metric(BY_QUEUE), node.metric(BY_JOURNAL)), (seen.kept.len() as f64, 0.0));
    seen.settle(&mut node, || database.rows("clicks"));
}

#[test]
fn with_room_for_four_groups_the_journal_hands_over_the_rest_and_nothing_is_lost() {
    let test = "with_room_for_four_groups_the_journal_hands_over_the_rest_and_nothing_is_lost";
    let Some((mut node, database)) = node(test, "4") else { return };
    let load = Load::start(node.edge(), &Visits::fast("f"));
    load.wait_answers(2_000);
    eventually("both ways are taken", || node.metric(BY_QUEUE) > 0.0 && node.metric(BY_JOURNAL) > 0.0);
    let seen = load.finish();
    seen.assert_answered(false);
    seen.wait_stored(|| database.rows("clicks"));
    assert_eq!(node.metric(BY_QUEUE) + node.metric(BY_JOURNAL), seen.kept.len() as f64, "each by one way, once");
    assert_eq!(node.metric("trellis_clicks_pending"), 0.0);
    seen.settle(&mut node, || database.rows("clicks"));
}
