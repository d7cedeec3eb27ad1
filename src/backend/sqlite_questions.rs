//! Questions to the embedded store: how many, and the newest.
//!
//! ```text
//!   from              whole minutes               to
//!    |  rows  |  click_counts  |  click_counts  |  rows  |
//! ```
//! A count adds up whole minutes and reads rows at both ends only (of one domain it reads all rows, because minutes are
//! not counted by domain); the newest clicks of a link are looked for in the
//! minutes that have some. `sqlite_clicks` calls in here on its reading thread; nothing here writes. Bound: a count reads
//! one place for each minute that has clicks (a million minutes a second or so), and the clicks of two minutes; a page of
//! the newest reads as many minutes of clicks as it needs.

use std::ops::RangeInclusive;

use rusqlite::types::{Type, Value};
use rusqlite::{Connection, Row, params_from_iter};
use uuid::Uuid;

use super::columns;
use super::sqlite_insert::number;
use crate::click::ClickId;
use crate::pipeline::{ClickFilter, Counts, StoredClick};

/// Width of a line of `click_counts`.
pub(super) const MINUTE_MS: u64 = 60_000;

pub(super) const SELECT: &str =
    "SELECT click_id, ts, org, campaign, domain, link, path, rule, variant, destination, status, external_click_id, source, class,
     reasons, dedup, fraud_score, country, region, city, asn, device, os, browser, language, referrer, ua, ip, privacy, query,
     route_version, node, batch_id
     FROM clicks";

/// The minutes from ?1 up to ?2 that have clicks, one look-up each: SQLite does not skip through an index by itself.
const MINUTES: &str = "WITH RECURSIVE minutes (minute) AS (
         SELECT min(minute) FROM click_counts WHERE minute >= ?1 AND minute < ?2
         UNION ALL
         SELECT (SELECT min(c.minute) FROM click_counts c WHERE c.minute > m.minute AND c.minute < ?2)
         FROM minutes m WHERE m.minute IS NOT NULL)";
/// The same from the last one back.
const MINUTES_BACK: &str = "WITH RECURSIVE minutes (minute) AS (
         SELECT max(minute) FROM click_counts WHERE minute >= ?1 AND minute < ?2
         UNION ALL
         SELECT (SELECT max(c.minute) FROM click_counts c WHERE c.minute < m.minute AND c.minute >= ?1)
         FROM minutes m WHERE m.minute IS NOT NULL)";

/// See [`crate::pipeline::Store::count`].
pub(super) fn count(connection: &mut Connection, filter: &ClickFilter) -> rusqlite::Result<Counts> {
    let (from, to) = (filter.from_ms.unwrap_or(0), filter.to_ms.unwrap_or(u64::MAX));
    // One state of the file for all parts.
    let transaction = connection.transaction()?;
    let mut groups = Vec::new();
    if filter.domain.is_some() {
        count_rows(&transaction, filter, from, to, &mut groups)?;
        return Ok(columns::counts(groups));
    }
    let (first, end) = (from.div_ceil(MINUTE_MS), to / MINUTE_MS);
    if first < end {
        count_minutes(&transaction, filter, first, end, &mut groups)?;
        count_rows(&transaction, filter, from, first * MINUTE_MS, &mut groups)?;
        if filter.to_ms.is_some() {
            count_rows(&transaction, filter, end * MINUTE_MS, to, &mut groups)?;
        }
    } else {
        count_rows(&transaction, filter, from, to, &mut groups)?;
    }
    Ok(columns::counts(groups))
}

/// See [`crate::pipeline::Store::stored_of`]. Reads the rows of the span: ids are in the order of their times.
pub(super) fn stored_of(
    connection: &Connection,
    batch: Uuid,
    span_ms: &RangeInclusive<u64>,
) -> rusqlite::Result<Vec<ClickId>> {
    let first = ClickId::new(*span_ms.start(), &[0; 10]).to_string();
    let last = ClickId::new(*span_ms.end(), &[0xff; 10]).to_string();
    let sql = "SELECT click_id FROM clicks WHERE click_id >= ?1 AND click_id <= ?2 AND batch_id = ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let ids = statement.query_map((first, last, batch.to_string()), |row| row.get::<_, String>(0))?;
    ids.map(|id| id?.parse().map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, Box::new(e))))
        .collect()
}

type Groups = Vec<(String, String, u64)>;

fn count_minutes(
    connection: &Connection,
    filter: &ClickFilter,
    first: u64,
    end: u64,
    groups: &mut Groups,
) -> rusqlite::Result<()> {
    let mut values = vec![Value::Integer(number(first)), Value::Integer(number(end))];
    let condition = names(filter, &mut values);
    let sql = if filter.link.is_some() {
        format!(
            "{MINUTES} SELECT class, dedup, sum(clicks) FROM minutes CROSS JOIN click_counts USING (minute)
             WHERE true {condition} GROUP BY class, dedup"
        )
    } else {
        format!(
            "SELECT class, dedup, sum(clicks) FROM click_counts
             WHERE minute >= ?1 AND minute < ?2 {condition} GROUP BY class, dedup"
        )
    };
    collect(connection, &sql, values, groups)
}

fn count_rows(
    connection: &Connection,
    filter: &ClickFilter,
    from: u64,
    to: u64,
    groups: &mut Groups,
) -> rusqlite::Result<()> {
    if from >= to {
        return Ok(());
    }
    let mut values = vec![Value::Text(first_id(from)), Value::Text(first_id(to))];
    let condition = names_of_rows(filter, &mut values);
    let sql = format!(
        "SELECT class, dedup, count(*) FROM clicks WHERE click_id >= ?1 AND click_id < ?2 {condition} GROUP BY class, dedup"
    );
    collect(connection, &sql, values, groups)
}

fn collect(connection: &Connection, sql: &str, values: Vec<Value>, groups: &mut Groups) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        groups.push((row.get(0)?, row.get(1)?, u64::try_from(row.get::<_, i64>(2)?).unwrap_or_default()));
    }
    Ok(())
}

/// See [`crate::pipeline::Store::recent`].
pub(super) fn recent(
    connection: &mut Connection,
    filter: &ClickFilter,
    behind: Option<ClickId>,
    limit: usize,
) -> rusqlite::Result<Vec<StoredClick>> {
    let lowest = first_id(filter.from_ms.unwrap_or(0));
    let to = first_id(filter.to_ms.unwrap_or(u64::MAX));
    let highest = behind.map_or_else(|| to.clone(), |id| to.clone().min(id.to_string()));
    let mut page = Vec::new();
    let transaction = connection.transaction()?;
    if filter.link.is_none() && filter.campaign.is_none() && filter.org.is_none() {
        newest(&transaction, filter, lowest, highest, limit, &mut page)?;
        return Ok(page);
    }
    let to_ms = behind.map_or(u64::MAX, |id| id.unix_ms() + 1).min(filter.to_ms.unwrap_or(u64::MAX));
    let (first, end) = (filter.from_ms.unwrap_or(0) / MINUTE_MS, to_ms.div_ceil(MINUTE_MS));
    let mut values = vec![Value::Integer(number(first)), Value::Integer(number(end))];
    let condition = names(filter, &mut values);
    let mut statement = transaction.prepare_cached(&format!(
        "{MINUTES_BACK} SELECT minute FROM minutes
         WHERE EXISTS (SELECT 1 FROM click_counts c WHERE c.minute = minutes.minute {condition})"
    ))?;
    let mut minutes = statement.query(params_from_iter(values))?;
    while page.len() < limit
        && let Some(row) = minutes.next()?
    {
        let from_ms = u64::try_from(row.get::<_, i64>(0)?).unwrap_or_default().saturating_mul(MINUTE_MS);
        let (from, to) = (first_id(from_ms), first_id(from_ms.saturating_add(MINUTE_MS)));
        let (from, to) = (from.max(lowest.clone()), to.min(highest.clone()));
        newest(&transaction, filter, from, to, limit, &mut page)?;
    }
    Ok(page)
}

/// Adds the newest clicks with ids from `from` up to `to`, until the page has `limit`.
fn newest(
    connection: &Connection,
    filter: &ClickFilter,
    from: String,
    to: String,
    limit: usize,
    page: &mut Vec<StoredClick>,
) -> rusqlite::Result<()> {
    let mut values = vec![Value::Text(from), Value::Text(to), Value::Integer(number((limit - page.len()) as u64))];
    let condition = names_of_rows(filter, &mut values);
    let mut statement = connection.prepare_cached(&format!(
        "{SELECT} WHERE click_id >= ?1 AND click_id < ?2 {condition} ORDER BY click_id DESC LIMIT ?3"
    ))?;
    let mut rows = statement.query(params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        page.push(stored_click(row)?);
    }
    Ok(())
}

/// The conditions on names that minutes have too, with their values behind those that are there.
fn names(filter: &ClickFilter, values: &mut Vec<Value>) -> String {
    let mut condition = String::new();
    for (column, name) in [("link", &filter.link), ("campaign", &filter.campaign), ("org", &filter.org)] {
        if let Some(name) = name {
            values.push(Value::Text(name.clone()));
            condition.push_str(&format!("AND {column} = ?{} ", values.len()));
        }
    }
    condition
}

/// The same with those that only rows have.
fn names_of_rows(filter: &ClickFilter, values: &mut Vec<Value>) -> String {
    let mut condition = names(filter, values);
    if let Some(domain) = &filter.domain {
        values.push(Value::Text(domain.clone()));
        condition.push_str(&format!("AND domain = ?{} ", values.len()));
    }
    condition
}

/// The text before which every id of an earlier time sorts, and no other. Ids end in the year 10889; later times sort
/// behind all of them.
pub(super) fn first_id(unix_ms: u64) -> String {
    if unix_ms >= 1 << 48 { "g".into() } else { Uuid::from_u128(u128::from(unix_ms) << 80).hyphenated().to_string() }
}

pub(super) fn stored_click(row: &Row<'_>) -> rusqlite::Result<StoredClick> {
    // JSON of our own writing; what a person has changed by hand reads as empty.
    let reasons = row.get_ref("reasons")?.as_bytes().map(|json| serde_json::from_slice(json).unwrap_or_default());
    let query = row.get_ref("query")?.as_bytes().map(|json| serde_json::from_slice(json).unwrap_or_default());
    let milliseconds: i64 = row.get("ts")?;
    Ok(StoredClick {
        click_id: row.get("click_id")?,
        ts: jiff::Timestamp::from_millisecond(milliseconds).map_or_else(|_| String::new(), |ts| format!("{ts:.3}")),
        org: row.get("org")?,
        campaign: row.get("campaign")?,
        domain: row.get("domain")?,
        link: row.get("link")?,
        path: row.get("path")?,
        rule: row.get("rule")?,
        variant: row.get("variant")?,
        destination: row.get("destination")?,
        status: row.get("status")?,
        external_click_id: row.get("external_click_id")?,
        source: row.get("source")?,
        class: row.get("class")?,
        reasons: reasons.unwrap_or_default(),
        dedup: row.get("dedup")?,
        fraud_score: row.get("fraud_score")?,
        country: row.get("country")?,
        region: row.get("region")?,
        city: row.get("city")?,
        asn: row.get("asn")?,
        device: row.get("device")?,
        os: row.get("os")?,
        browser: row.get("browser")?,
        language: row.get("language")?,
        referrer: row.get("referrer")?,
        ua: row.get("ua")?,
        ip: row.get("ip")?,
        privacy: row.get("privacy")?,
        query: query.unwrap_or_default(),
        route_version: u64::try_from(row.get::<_, i64>("route_version")?).unwrap_or_default(),
        node: row.get("node")?,
        batch_id: row.get("batch_id")?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::samples;
    use crate::backend::sqlite_clicks::SqliteClicks;
    use crate::click::Click;
    use crate::pipeline::store::ClickCursor;
    use crate::pipeline::{Label, Store};

    /// 2023-11-14T22:00:00Z: the beginning of a minute.
    const T0: u64 = 1_699_999_200_000;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn filter(link: &str) -> ClickFilter {
        ClickFilter { link: Some(link.into()), ..ClickFilter::default() }
    }

    /// A click of the model: time, link, campaign, label, id, domain. Its organisation follows from its link.
    type Model = (u64, &'static str, &'static str, Label, String, &'static str);

    fn org_of(link: &str) -> &'static str {
        if link == "c" { "acme" } else { "default" }
    }

    async fn filled(folder: &tempfile::TempDir, clicks: &[(u64, u8, u8)]) -> (SqliteClicks, Vec<Model>) {
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), samples::retention()).unwrap();
        store.migrate().await.unwrap();
        let mut model: Vec<Model> = Vec::new();
        // Two batches, so that counts are added to.
        for half in clicks.chunks(clicks.len().div_ceil(2).max(1)) {
            let mut rows = Vec::new();
            for (after, which, tail) in half {
                let (link, campaign) = [("a", ""), ("b", "spring"), ("c", "spring")][usize::from(which % 3)];
                let (id, label) = (ClickId::new(T0 + after, &[*tail; 10]), Label::ALL[usize::from(tail % 3)]);
                let domain = ["*", "x.example"][usize::from(tail % 2)];
                rows.push(crate::pipeline::Row {
                    dedup: label,
                    ..samples::row(&Click { id, link, campaign, domain, org: org_of(link), ..samples::click("") })
                });
                let id = id.to_string();
                if !model.iter().any(|known| known.4 == id) {
                    model.push((T0 + after, link, campaign, label, id, domain));
                }
            }
            store.insert(&store.seal(samples::batch_of(rows))).await.unwrap();
        }
        model.sort_by(|a, b| b.4.cmp(&a.4));
        (store, model)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn answers_are_those_of_a_list(
            clicks in proptest::collection::vec((0_u64..400_000, 0_u8..3, 0_u8..4), 0..60),
            from in proptest::option::of(0_u64..420_000),
            to in proptest::option::of(0_u64..420_000),
            link in proptest::option::of(prop::sample::select(vec!["a", "b", "x"])),
            campaign in proptest::option::of(prop::sample::select(vec!["", "spring"])),
            domain in proptest::option::of(prop::sample::select(vec!["*", "x.example", "y.example"])),
            org in proptest::option::of(prop::sample::select(vec!["default", "acme", "nobody"])),
            limit in 1_usize..8,
        ) {
            let (from_ms, to_ms) = (from.map(|ms| T0 - 10_000 + ms), to.map(|ms| T0 - 10_000 + ms));
            let owned = |name: Option<&str>| name.map(str::to_owned);
            let [org_owned, domain_owned, link_owned, campaign_owned] = [org, domain, link, campaign].map(owned);
            let filter = ClickFilter {
                org: org_owned, domain: domain_owned, link: link_owned, campaign: campaign_owned, from_ms, to_ms,
            };
            let folder = tempfile::tempdir().unwrap();
            runtime().block_on(async {
                let (store, model) = filled(&folder, &clicks).await;
                let matching: Vec<_> = model
                    .iter()
                    .filter(|(ms, l, c, _, _, d)| {
                        domain.is_none_or(|domain| domain == *d)
                            && link.is_none_or(|link| link == *l)
                            && campaign.is_none_or(|campaign| campaign == *c)
                            && org.is_none_or(|org| org == org_of(l))
                            && from_ms.is_none_or(|from| *ms >= from)
                            && to_ms.is_none_or(|to| *ms < to)
                    })
                    .collect();
                let labelled = |label| matching.iter().filter(|click| click.3 == label).count() as u64;
                let counts = store.count(&filter).await.unwrap();
                assert_eq!(counts.total, matching.len() as u64);
                let labels = (counts.unique, counts.duplicate, counts.unknown);
                assert_eq!(labels, (labelled(Label::Unique), labelled(Label::Duplicate), labelled(Label::Unknown)));
                let (mut seen, mut behind) = (Vec::new(), None);
                loop {
                    let page = store.recent(&filter, behind, limit).await.unwrap();
                    assert!(page.len() <= limit);
                    let Some(last) = page.last() else { break };
                    let id: ClickId = last.click_id.parse().unwrap();
                    behind = Some(ClickCursor { unix_ms: id.unix_ms(), id });
                    seen.extend(page.into_iter().map(|click| click.click_id));
                }
                assert_eq!(seen, matching.iter().map(|click| click.4.clone()).collect::<Vec<_>>());
            });
        }
    }

    #[tokio::test]
    async fn times_at_the_end_of_all_numbers_are_no_trap() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = filled(&folder, &[(0, 0, 1), (60_000, 0, 1)]).await;
        for (from, to, clicks) in [(0, u64::MAX, 2), (u64::MAX, u64::MAX, 0), (u64::MAX, 0, 0), (T0 + 1, u64::MAX, 1)] {
            let filter = ClickFilter { from_ms: Some(from), to_ms: Some(to), ..filter("a") };
            assert_eq!(store.count(&filter).await.unwrap().total, clicks, "{from} {to}");
            assert_eq!(store.recent(&filter, None, 10).await.unwrap().len() as u64, clicks, "{from} {to}");
        }
        assert!(store.recent(&filter("a"), None, 0).await.unwrap().is_empty());
    }

    #[test]
    fn questions_look_up_minutes_and_scan_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clicks.db");
        runtime().block_on(async { SqliteClicks::open(&path, samples::retention()).unwrap().migrate().await.unwrap() });
        let connection = Connection::open(&path).unwrap();
        let sql = format!(
            "EXPLAIN QUERY PLAN {MINUTES} SELECT class, dedup, sum(clicks) FROM minutes CROSS JOIN click_counts USING (minute)
             WHERE true AND link = ?3 GROUP BY class, dedup"
        );
        let mut statement = connection.prepare(&sql).unwrap();
        let steps = statement.query_map([1, 2, 3], |row| row.get::<_, String>("detail")).unwrap();
        let plan = steps.collect::<Result<Vec<_>, _>>().unwrap().join("\n");
        assert!(plan.contains("SEARCH click_counts USING PRIMARY KEY (minute=? AND link=?)"), "{plan}");
        assert!(plan.contains("SEARCH c USING PRIMARY KEY (minute>? AND minute<?)"), "{plan}");
        assert!(!plan.contains("SCAN click_counts"), "{plan}");
    }
}
