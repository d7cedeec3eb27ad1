//! Domains and organisations of clicks in the real ClickHouse engine, also of clicks from before there were any.

#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(feature = "testing")]

use trellis::click::Click;
use trellis::pipeline::{ClickFilter, Label, Store};

use crate::live_backends::{Database, T0, batch, click, row};

#[tokio::test]
async fn clickhouse_tells_clicks_by_domain_and_those_of_before_are_of_any() {
    let test = "clickhouse_tells_clicks_by_domain_and_those_of_before_are_of_any";
    let Some(database) = Database::migrated(test).await else { return };
    // As the step before left it.
    database.raw("ALTER TABLE {db}.clicks DROP COLUMN domain, DROP COLUMN path").await;
    database.raw("ALTER TABLE {db}.trellis_migrations DELETE WHERE version >= 5 SETTINGS mutations_sync = 1").await;
    database.raw("INSERT INTO {db}.clicks (click_id, ts, link) VALUES (generateUUIDv7(), now64(3), 'old')").await;
    assert_eq!(database.store.migrate().await.unwrap(), ["005_domain", "006_place"]);

    let bound = |n, domain| Click { domain, ..click(T0 + n, "a", "") };
    let orphan = Click { link: "/", path: b"/x\xff", variant: "unknown", ..bound(3, "go.example") };
    let clicks = [bound(0, "*"), bound(1, "go.example"), bound(2, "shop.example"), orphan];
    let rows = clicks.iter().map(|click| row(click, Label::Unique)).collect();
    database.store.insert(&database.store.seal(batch(rows))).await.unwrap();
    let stored = async |domain: Option<&str>, link: Option<&str>| {
        let [domain, link] = [domain, link].map(|name| name.map(str::to_owned));
        let filter = ClickFilter { domain, link, ..ClickFilter::default() };
        let found = database.store.recent(&filter, None, 10).await.unwrap();
        assert_eq!(database.store.count(&filter).await.unwrap().total, found.len() as u64);
        found.into_iter().map(|click| [click.domain, click.link, click.path].join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(stored(Some("*"), None).await, ["* old ", "* a "]);
    assert_eq!(stored(Some("go.example"), None).await, ["go.example / /x\u{fffd}", "go.example a "]);
    assert_eq!(stored(Some("go.example"), Some("a")).await, ["go.example a "]);
    assert_eq!(stored(Some("other.example"), None).await.len(), 0);
    assert_eq!(stored(None, Some("a")).await.len(), 3, "all domains together");
    database.drop().await;
}

#[tokio::test]
async fn clickhouse_tells_an_organisation_of_its_own_clicks_alone() {
    let test = "clickhouse_tells_an_organisation_of_its_own_clicks_alone";
    let Some(database) = Database::migrated(test).await else { return };
    let of = |n, link, org| Click { org, ..click(T0 + n, link, "") };
    let clicks = [of(0, "a", "default"), of(1, "a", "acme"), of(2, "b", "acme"), of(3, "a", "o'ther")];
    let rows = clicks.iter().map(|click| row(click, Label::Unique)).collect();
    database.store.insert(&database.store.seal(batch(rows))).await.unwrap();
    let stored = async |org: Option<&str>, link: Option<&str>| {
        let [org, link] = [org, link].map(|name| name.map(str::to_owned));
        let filter = ClickFilter { org, link, ..ClickFilter::default() };
        let found = database.store.recent(&filter, None, 10).await.unwrap();
        assert_eq!(database.store.count(&filter).await.unwrap().total, found.len() as u64);
        found.into_iter().map(|click| [click.org, click.link].join(" ")).collect::<Vec<_>>()
    };
    assert_eq!(stored(Some("acme"), None).await, ["acme b", "acme a"]);
    assert_eq!(stored(Some("acme"), Some("a")).await, ["acme a"]);
    assert_eq!(stored(Some("default"), None).await, ["default a"]);
    assert_eq!(stored(Some("o'ther"), None).await, ["o'ther a"]);
    assert_eq!(stored(Some("nobody"), None).await.len(), 0);
    assert_eq!(stored(None, Some("a")).await.len(), 3, "the control token sees all");
    database.drop().await;
}
