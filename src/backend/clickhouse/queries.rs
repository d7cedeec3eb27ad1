//! Questions about stored clicks. Called by the operator side, never for a visitor.
//!
//! Values travel as escaped literals through the client's `bind`, never as text of ours. `FINAL` merges rows that were
//! sent twice, so a click counts once. Bounds: `query_timeout`, on both ends; a page of `recent` is its caller's to limit.

use std::ops::RangeInclusive;

use clickhouse::query::Query;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::ClickHouseStore;
use crate::backend::columns;
use crate::click::ClickId;
use crate::pipeline::persons::Selector;
use crate::pipeline::store::ClickCursor;
use crate::pipeline::{ClickFilter, Counts, StoreError, StoredClick};

const SELECT: &str = "SELECT click_id, ts, org, campaign, domain, link, path, rule, variant, destination, status, external_click_id,
    source, class, reasons, dedup, fraud_score, country, region, city, asn, device, os, browser, language, referrer, ua, ip,
    privacy, query, route_version, node, batch_id
    FROM clicks FINAL";
/// The id is compared as text, because a UUID of ClickHouse sorts by its lower half first.
const NEWEST_FIRST: &str = "ORDER BY ts DESC, toString(click_id) DESC LIMIT ?";

#[derive(Deserialize)]
struct Group {
    class: String,
    dedup: String,
    clicks: u64,
}

/// A value to bind.
enum Literal<'a> {
    Text(&'a str),
    Id(String),
    Number(u64),
}

/// See [`crate::pipeline::Store::count`].
pub(super) async fn count(store: &ClickHouseStore, filter: &ClickFilter) -> Result<Counts, StoreError> {
    let (condition, literals) = conditions(filter, None);
    let sql = format!("SELECT class, dedup, count() AS clicks FROM clicks FINAL {condition} GROUP BY class, dedup");
    let groups: Vec<Group> = rows(store, bind(store.reading().query(&sql), literals)).await?;
    Ok(columns::counts(groups.into_iter().map(|group| (group.class, group.dedup, group.clicks))))
}

/// See [`crate::pipeline::Store::stored_of`]. Without `FINAL`: a row that is there twice is there.
pub(super) async fn stored_of(
    store: &ClickHouseStore,
    batch: Uuid,
    span_ms: RangeInclusive<u64>,
) -> Result<Vec<ClickId>, StoreError> {
    #[derive(Deserialize)]
    struct Stored {
        click_id: String,
    }
    let sql = "SELECT DISTINCT click_id FROM clicks WHERE batch_id = ? AND ts >= fromUnixTimestamp64Milli(?, 'UTC') \
               AND ts <= fromUnixTimestamp64Milli(?, 'UTC')";
    let (from, to) = (signed(*span_ms.start()), signed(*span_ms.end()));
    let query = store.reading().query(sql).bind(batch.to_string()).bind(from).bind(to);
    let stored: Vec<Stored> = rows(store, query).await?;
    let ids: Result<_, _> = stored.iter().map(|row| row.click_id.parse()).collect();
    ids.map_err(|e| StoreError::operator(format!("ClickHouse answered an id that is none: {e}")))
}

fn signed(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

/// See [`crate::pipeline::Store::recent`].
pub(super) async fn recent(
    store: &ClickHouseStore,
    filter: &ClickFilter,
    behind: Option<ClickCursor>,
    limit: usize,
) -> Result<Vec<StoredClick>, StoreError> {
    let (condition, mut literals) = conditions(filter, behind);
    literals.push(Literal::Number(limit as u64));
    rows(store, bind(store.reading().query(&format!("{SELECT} {condition} {NEWEST_FIRST}")), literals)).await
}

/// Clicks of a person, oldest first. See [`crate::pipeline::persons::Persons::find`].
pub(super) async fn of_person(
    store: &ClickHouseStore,
    who: &Selector,
    behind: Option<ClickCursor>,
    limit: usize,
) -> Result<Vec<StoredClick>, StoreError> {
    let id_text;
    let (column, value) = match who {
        Selector::ClickId(id) => {
            id_text = id.to_string();
            // The time is said too: it leaves out whole granules.
            ("ts = fromUnixTimestamp64Milli(toInt64(?)) AND click_id", Literal::Text(&id_text))
        }
        Selector::ExternalClickId(external) => ("external_click_id", Literal::Text(external)),
        Selector::Ip(ip) => ("ip", Literal::Text(ip)),
    };
    let mut literals = Vec::new();
    if let Selector::ClickId(id) = who {
        literals.push(Literal::Number(storable(id.unix_ms())));
    }
    literals.push(value);
    let mut condition = format!("WHERE {column} = ?");
    if let Some(cursor) = behind {
        condition.push_str(" AND (ts, toString(click_id)) > (fromUnixTimestamp64Milli(toInt64(?)), ?)");
        literals.extend([Literal::Number(storable(cursor.unix_ms)), Literal::Id(cursor.id.to_string())]);
    }
    literals.push(Literal::Number(limit as u64));
    let sql = format!("{SELECT} {condition} ORDER BY ts, toString(click_id) LIMIT ?");
    rows(store, bind(store.reading().query(&sql), literals)).await
}

/// The answer's rows. Bytes that are no UTF-8 are shown as U+FFFD.
pub(super) async fn rows<T: DeserializeOwned>(store: &ClickHouseStore, query: Query) -> Result<Vec<T>, StoreError> {
    let body = store.within(store.query_timeout, async { query.fetch_bytes("JSONEachRow")?.collect().await }).await?;
    let text = String::from_utf8_lossy(&body);
    let rows: Result<Vec<T>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
    rows.map_err(|e| StoreError::operator(format!("ClickHouse answered what this program cannot read: {e}")))
}

fn bind(query: Query, literals: Vec<Literal<'_>>) -> Query {
    literals.into_iter().fold(query, |query, literal| match literal {
        Literal::Text(text) => query.bind(text),
        Literal::Id(id) => query.bind(id),
        Literal::Number(number) => query.bind(number),
    })
}

/// The WHERE clause of a question, and its values in their order.
fn conditions(filter: &ClickFilter, behind: Option<ClickCursor>) -> (String, Vec<Literal<'_>>) {
    let mut parts = Vec::new();
    let mut literals = Vec::new();
    if let Some(domain) = &filter.domain {
        parts.push("domain = ?");
        literals.push(Literal::Text(domain));
    }
    if let Some(org) = &filter.org {
        parts.push("org = ?");
        literals.push(Literal::Text(org));
    }
    if let Some(link) = &filter.link {
        parts.push("link = ?");
        literals.push(Literal::Text(link));
    }
    if let Some(campaign) = &filter.campaign {
        parts.push("campaign = ?");
        literals.push(Literal::Text(campaign));
    }
    if let Some(from) = filter.from_ms {
        parts.push("ts >= fromUnixTimestamp64Milli(toInt64(?))");
        literals.push(Literal::Number(storable(from)));
    }
    if let Some(to) = filter.to_ms {
        parts.push("ts < fromUnixTimestamp64Milli(toInt64(?))");
        literals.push(Literal::Number(storable(to)));
    }
    if let Some(cursor) = behind {
        // Said twice: the first half can leave out whole granules, the second is exact.
        parts.push("ts <= fromUnixTimestamp64Milli(toInt64(?)) AND (ts, toString(click_id)) < (fromUnixTimestamp64Milli(toInt64(?)), ?)");
        let unix_ms = storable(cursor.unix_ms);
        literals.extend([Literal::Number(unix_ms), Literal::Number(unix_ms), Literal::Id(cursor.id.to_string())]);
    }
    (if parts.is_empty() { String::new() } else { format!("WHERE {}", parts.join(" AND ")) }, literals)
}

/// ClickHouse's DateTime64 ends with the year 2299.
fn storable(unix_ms: u64) -> u64 {
    unix_ms.min(10_413_791_999_999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let filter =
            ClickFilter { link: Some(r"a'b\".into()), campaign: Some("? OR 1".into()), ..ClickFilter::default() };
        let behind = ClickCursor { unix_ms: 5, id: crate::click::ClickId::new(5, &[1; 10]) };
        let filter = ClickFilter {
            org: Some("o'".into()),
            domain: Some("*'".into()),
            from_ms: Some(1),
            to_ms: Some(u64::MAX),
            ..filter
        };
        let (condition, literals) = conditions(&filter, Some(behind));
        let sql = bind(clickhouse::Client::default().query(&condition), literals).sql_display().to_string();
        assert_eq!(
            sql,
            r"WHERE domain = '*\'' AND org = 'o\'' AND link = 'a\'b\\' AND campaign = '? OR 1' AND ts >= fromUnixTimestamp64Milli(toInt64(1)) AND ts < \
              fromUnixTimestamp64Milli(toInt64(10413791999999)) AND ts <= fromUnixTimestamp64Milli(toInt64(5)) AND (ts, toString(click_id)) < \
              (fromUnixTimestamp64Milli(toInt64(5)), '00000000-0005-7101-8101-010101010101')"
                .replace("\\\n              ", "")
        );
    }
}
