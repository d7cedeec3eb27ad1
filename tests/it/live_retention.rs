//! Retention in the real ClickHouse engine, with seconds.

#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(feature = "testing")]

use std::time::Duration;

use trellis::click::Click;
use trellis::config::Retention;
use trellis::pipeline::{Label, Store};

use crate::harness::service;
use crate::live_backends::{Database, batch, click, row};

/// How often the server is told to merge; a merge of this table takes some 10 ms.
const MERGES_MAX: usize = 2000;

#[tokio::test]
async fn clicks_of_one_organisation_are_gone_after_seconds_and_those_of_others_stay() {
    let test = "clicks_of_one_organisation_are_gone_after_seconds_and_those_of_others_stay";
    let Some(url) = service("TRELLIS_TEST_CLICKHOUSE_URL", test) else { return };
    let raw = clickhouse::Client::default().with_url(url).with_compression(clickhouse::Compression::None);
    let now_s = async || -> u64 {
        let mut now = raw.query_raw("SELECT toUnixTimestamp(now())").fetch_bytes("TabSeparated").unwrap();
        String::from_utf8(now.collect().await.unwrap().into()).unwrap().trim().parse().unwrap()
    };
    let began_s = now_s().await;
    // Clicks of an hour ago, kept until three seconds from now.
    let minute = (began_s - 3600) / 60;
    let brief = Duration::from_secs(began_s + 3 - (minute + 1) * 60);
    let retention = Retention::new(Duration::from_secs(7 * 86_400), [("brief".to_owned(), brief)].into());
    let database = Database::with(test, retention, Duration::from_secs(30)).unwrap();
    database.store.migrate().await.unwrap();
    let orgs = ["brief", "default"];
    let rows = (0..100).map(|i| {
        let click = Click { org: orgs[i as usize % 2], ..click(minute * 60_000 + i * 500, "a", "") };
        row(&click, Label::Unique)
    });
    database.store.insert(&database.store.seal(batch(rows.collect()))).await.unwrap();
    database.store.roll_up(&[minute]).await.unwrap();
    let clicks = "SELECT org, count() FROM {db}.clicks GROUP BY org ORDER BY org";
    let lines = "SELECT org, sum(clicks) FROM {db}.rollup_1m FINAL GROUP BY org ORDER BY org";
    database.raw("OPTIMIZE TABLE {db}.clicks FINAL").await;
    let kept = database.raw(clicks).await;
    // On a machine that stood still meanwhile there is nothing to be seen of the time before.
    assert!(kept == "brief\t50\ndefault\t50" || now_s().await >= began_s + 3, "not yet: {kept}");

    let mut merges = 0;
    for table in ["clicks", "rollup_1m"] {
        while database.raw(&format!("SELECT count() FROM {{db}}.{table} WHERE org = 'brief'")).await != "0" {
            assert!(merges < MERGES_MAX, "{table} keeps what has expired");
            merges += 1;
            // Whatever is expired and still there, or gone, is no difference.
            assert_eq!(database.store.compare(minute..minute + 1).await.unwrap(), []);
            database.raw(&format!("OPTIMIZE TABLE {{db}}.{table} FINAL")).await;
        }
    }
    assert_eq!(database.raw(clicks).await, "default\t50");
    assert_eq!(database.raw(lines).await, "default\t50");
    database.store.roll_up(&[minute]).await.unwrap();
    assert_eq!(database.store.compare(minute..minute + 1).await.unwrap(), []);
    assert_eq!(database.raw(lines).await, "default\t50");
    database.drop().await;
}
