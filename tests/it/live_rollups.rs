//! Rollups in the real ClickHouse engine: they say what is stored, whatever was sent twice, and mend what is wrong.

#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(feature = "testing")]

use std::collections::BTreeSet;

use trellis::pipeline::store::{Difference, Level};
use trellis::pipeline::{Batch, Label, Store};

use crate::live_backends::{Database, batch, click, row};

/// 2026-02-03T04:58:00Z, and its minute: two minutes before a full hour.
const T0: u64 = 1_770_094_680_000;
const M0: u64 = T0 / 60_000;

/// Ten clicks in each of four minutes, two in the next hour.
fn clicks() -> Batch {
    let links = ["a", "bb"];
    let rows = (0..40).map(|i| row(&click(T0 + i * 6_000, links[i as usize % 2], ""), Label::ALL[i as usize % 3]));
    batch(rows.collect())
}

/// Level, minutes behind M0, groups, clicks and what was counted.
fn told(found: &[Difference]) -> Vec<(Level, i64, u64, u64, u64)> {
    found.iter().map(|d| (d.level, d.minute as i64 - M0 as i64, d.groups, d.clicks, d.counted)).collect()
}

async fn sums(database: &Database) -> Vec<String> {
    let mut sums = Vec::new();
    for table in ["rollup_1m", "rollup_1h", "rollup_1d"] {
        let sql = format!("SELECT count(), sum(clicks), uniqExact(link, class, dedup) FROM {{db}}.{table} FINAL");
        sums.push(database.raw(&sql).await);
    }
    sums
}

#[tokio::test]
async fn a_batch_that_is_in_the_table_twice_is_counted_once_by_every_rollup() {
    let test = "a_batch_that_is_in_the_table_twice_is_counted_once_by_every_rollup";
    let Some(database) = Database::migrated(test).await else { return };
    let whole = clicks();
    database.store.insert(&database.store.seal(whole.clone())).await.unwrap();
    // Under another id, hence another token: the rows are there twice until the server merges.
    database.store.insert(&database.store.seal(batch(whole.rows))).await.unwrap();
    assert_eq!(database.raw("SELECT count() FROM {db}.clicks").await, "80");
    let minutes: Vec<_> = (M0..M0 + 4).collect();
    for _ in 0..3 {
        database.store.roll_up(&minutes).await.unwrap();
        assert_eq!(sums(&database).await, ["24\t40\t6", "12\t40\t6", "6\t40\t6"]);
        assert_eq!(database.store.compare(M0..M0 + 4).await.unwrap(), []);
    }
    let top = database.store.top_links(M0..M0 + 3, 9).await.unwrap();
    let top: Vec<_> = top.iter().map(|top| (top.link.as_str(), top.people, top.clicks)).collect();
    assert_eq!(top, [("a", 0, 15), ("bb", 0, 15)]);
    assert_eq!(database.store.top_links(M0..M0 + 3, 1).await.unwrap().len(), 1);
    let counts = database.store.counts_by_minute("node-1", M0 - 100..M0 + 3).await.unwrap();
    assert_eq!(counts, [(M0, 10), (M0 + 1, 10), (M0 + 2, 10)]);
    assert_eq!(database.store.counts_by_minute("' OR 1", M0..M0 + 3).await.unwrap(), []);
    database.drop().await;
}

#[tokio::test]
async fn wrong_missing_and_extra_lines_of_every_level_are_found_and_mended() {
    let test = "wrong_missing_and_extra_lines_of_every_level_are_found_and_mended";
    let Some(database) = Database::migrated(test).await else { return };
    database.store.insert(&database.store.seal(clicks())).await.unwrap();
    let span = || M0..M0 + 4;
    let found = database.store.compare(span()).await.unwrap();
    let minutes = |i: i64| (Level::Minute, i, 6, 10, 0);
    assert_eq!(told(&found), [0, 1, 2, 3].map(minutes), "nothing was rolled up, so hours and days agree");
    database.store.roll_up(&[M0 + 3, M0, M0 + 1, M0 + 2, M0]).await.unwrap();
    assert_eq!(database.store.compare(span()).await.unwrap(), []);

    // Lines with a version that no clock will reach, one of them extra; one line is gone.
    let plant = |table: &str, time: &str, link: &str, clicks: u64| {
        format!(
            "INSERT INTO {{db}}.{table} SELECT org, campaign, {time}, '{link}', class, dedup, {clicks}, expires,
             9223372036854775807 FROM {{db}}.{table} FINAL WHERE link = 'a' ORDER BY {time}, dedup LIMIT 1"
        )
    };
    for sql in [
        plant("rollup_1m", "minute", "a", 999),
        plant("rollup_1m", "minute", "extra", 5),
        plant("rollup_1h", "hour", "a", 0),
        plant("rollup_1d", "day", "extra", 3),
        format!(
            "ALTER TABLE {{db}}.rollup_1m DELETE WHERE toUnixTimestamp(minute) = {} AND link = 'bb'",
            (M0 + 2) * 60
        ),
    ] {
        database.raw(&sql).await;
    }
    let found = database.store.compare(span()).await.unwrap();
    let wrong: BTreeSet<_> = found.iter().map(|d| (d.level.minutes(), d.minute)).collect();
    let (hour, day) = (M0 / 60 * 60, M0 / 1440 * 1440);
    let expected = [(1, M0), (1, M0 + 2), (60, hour), (60, hour + 60), (1440, day)];
    assert_eq!(wrong, BTreeSet::from(expected), "{found:?}");
    let minutes: Vec<_> = found.iter().map(|d| d.minute).collect();
    database.store.roll_up(&minutes).await.unwrap();
    assert_eq!(database.store.compare(span()).await.unwrap(), []);
    let zeros = database.raw("SELECT count() FROM {db}.rollup_1m FINAL WHERE clicks = 0 AND link = 'extra'").await;
    assert_eq!((sums(&database).await[0].split('\t').nth(1), zeros.as_str()), (Some("40"), "1"));
    database.drop().await;
}

#[tokio::test]
async fn clicks_that_are_gone_from_the_table_leave_zeros_in_the_rollups() {
    let test = "clicks_that_are_gone_from_the_table_leave_zeros_in_the_rollups";
    let Some(database) = Database::migrated(test).await else { return };
    database.store.insert(&database.store.seal(clicks())).await.unwrap();
    let minutes: Vec<_> = (M0..M0 + 4).collect();
    database.store.roll_up(&minutes).await.unwrap();
    database.raw("ALTER TABLE {db}.clicks DELETE WHERE link = 'a'").await;
    assert_eq!(database.store.compare(M0..M0 + 4).await.unwrap().len(), 4);
    database.store.roll_up(&minutes).await.unwrap();
    assert_eq!(database.store.compare(M0..M0 + 4).await.unwrap(), []);
    let sums = sums(&database).await;
    assert!(sums.iter().all(|sum| sum.split('\t').nth(1) == Some("20")), "{sums:?}");
    let error = database.store.roll_up(&[u64::MAX]).await.unwrap_err();
    assert!(error.to_string().contains("2106"), "{error}");
    database.drop().await;
}
