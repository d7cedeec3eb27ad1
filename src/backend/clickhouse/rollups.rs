//! Rollups: minutes from clicks, hours and days from minutes; and whether they agree.
//!
//! ```text
//! clicks --count--> rollup_1m --sum--> rollup_1h
//!                            \---sum--> rollup_1d
//! ```
//! A level is computed anew, never added to: groups as they are now, and a zero for each group that has a line and no
//! click any more. So computing twice changes nothing, and computing mends. Lines carry a version. It is asked of the
//! server **before** the level below is read: whoever stores clicks computes their minutes afterwards, so the highest
//! version has seen all of them, however many nodes compute at one time.
//!
//! What has expired is nobody's error: only rows and lines that live on are counted or compared, and an hour or a day of
//! which a part may have expired is not compared. Called by the operator side and by the task that follows the batches;
//! never for a visitor. Bounds: one hour of clicks, or one day of lines, a statement; `query_timeout` for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

use serde::Deserialize;

use super::{ClickHouseStore, queries};
use crate::click::canary;
use crate::click::domain::NO_LINK;
use crate::pipeline::StoreError;
use crate::pipeline::store::{DIFFERENCES_MAX, Difference, Level, LinkCount};

const HOUR: u64 = 60;
const DAY: u64 = 24 * HOUR;
/// The last minute of a `DateTime`: 2106-02-07.
const MINUTE_MAX: u64 = u32::MAX as u64 / 60;

/// What a line counts.
const GROUP: &str = "org, campaign, link, class, dedup";

/// Table and time column of a level.
const fn place(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::Minute => ("rollup_1m", "minute"),
        Level::Hour => ("rollup_1h", "hour"),
        Level::Day => ("rollup_1d", "day"),
    }
}

/// See [`crate::pipeline::Store::roll_up`].
pub(super) async fn roll_up(store: &ClickHouseStore, minutes: &[u64]) -> Result<(), StoreError> {
    let mut days: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for minute in minutes {
        within_calendar(*minute)?;
        days.entry(minute / DAY).or_default().insert(*minute);
    }
    for (day, minutes) in days {
        let hours: BTreeSet<u64> = minutes.iter().map(|minute| minute / HOUR).collect();
        for hour in &hours {
            let span = hour * HOUR..(hour + 1) * HOUR;
            let touched: Vec<u64> = minutes.range(span).copied().collect();
            write(store, Level::Minute, &touched).await?;
        }
        write(store, Level::Hour, &hours.iter().map(|hour| hour * HOUR).collect::<Vec<_>>()).await?;
        write(store, Level::Day, &[day * DAY]).await?;
    }
    Ok(())
}

fn within_calendar(minute: u64) -> Result<(), StoreError> {
    if minute <= MINUTE_MAX {
        return Ok(());
    }
    Err(StoreError::operator(format!("minute {minute} lies behind the year 2106, where ClickHouse's DateTime ends")))
}

/// Computes the lines of a level that begin at these minutes; there is at least one, and they are in their order.
async fn write(store: &ClickHouseStore, level: Level, starts: &[u64]) -> Result<(), StoreError> {
    let (table, time) = place(level);
    let list = list(starts);
    let version = version(store, level, &list).await?;
    let (first, end) = (starts[0], starts[starts.len() - 1] + level.minutes());
    let below = below(level, first..end);
    let sql = format!(
        "INSERT INTO {table} ({time}, {GROUP}, clicks, expires, version)
         SELECT {time}, {GROUP}, sum(n), max(e), {version}
         FROM (
             {below}
             UNION ALL
             SELECT {time}, {GROUP}, 0 AS n, expires AS e FROM {table} FINAL
             WHERE clicks > 0 AND expires > now() AND {time} IN ({list})
         )
         WHERE {time} IN ({list}) GROUP BY {time}, {GROUP}"
    );
    store.within(store.query_timeout, store.reading().query_raw(&sql).execute()).await
}

/// Higher than that of every line there is, even when the server's clock was set back.
async fn version(store: &ClickHouseStore, level: Level, list: &str) -> Result<u64, StoreError> {
    #[derive(Deserialize)]
    struct Answer {
        version: u64,
    }
    let (table, time) = place(level);
    let sql = format!(
        "SELECT greatest(toUInt64(toUnixTimestamp64Nano(now64(9))), max(version) + 1) AS version
         FROM {table} WHERE {time} IN ({list})"
    );
    let answers: Vec<Answer> = queries::rows(store, store.reading().query_raw(&sql)).await?;
    answers.first().map(|answer| answer.version).ok_or_else(|| StoreError::operator("ClickHouse answered no version"))
}

/// What a level is made of, counted for its groups: `n` clicks, which expire at `e`.
fn below(level: Level, minutes: Range<u64>) -> String {
    let (from, to) = (minutes.start * 60, minutes.end * 60);
    match level {
        // FINAL: a row that was sent twice is counted once, with what the newest one says.
        Level::Minute => format!(
            "SELECT toStartOfMinute(ts) AS minute, {GROUP}, count() AS n, max(expires) AS e FROM clicks FINAL
             WHERE ts >= toDateTime64({from}, 3, 'UTC') AND ts < toDateTime64({to}, 3, 'UTC') AND expires > now()
             GROUP BY minute, {GROUP}"
        ),
        Level::Hour | Level::Day => {
            let (_, time) = place(level);
            let start = if level == Level::Hour { "toStartOfHour" } else { "toStartOfDay" };
            format!(
                "SELECT {start}(minute) AS {time}, {GROUP}, sum(clicks) AS n, max(expires) AS e FROM rollup_1m FINAL
                 WHERE minute >= toDateTime({from}, 'UTC') AND minute < toDateTime({to}, 'UTC') AND expires > now()
                 GROUP BY {time}, {GROUP}"
            )
        }
    }
}

/// Minutes as a list of times.
fn list(starts: &[u64]) -> String {
    let mut list = String::with_capacity(starts.len() * 32);
    for start in starts {
        let comma = if list.is_empty() { "" } else { ", " };
        // Into memory: cannot fail.
        let _ = write!(list, "{comma}toDateTime({}, 'UTC')", start * 60);
    }
    list
}

/// See [`crate::pipeline::Store::compare`].
pub(super) async fn compare(store: &ClickHouseStore, minutes: Range<u64>) -> Result<Vec<Difference>, StoreError> {
    let mut found = Vec::new();
    if minutes.is_empty() {
        return Ok(found);
    }
    within_calendar(minutes.end)?;
    for day in minutes.start / DAY..minutes.end.div_ceil(DAY) {
        let within = minutes.start.max(day * DAY)..minutes.end.min((day + 1) * DAY);
        let hours = within.start / HOUR..within.end.div_ceil(HOUR);
        for hour in hours.clone() {
            let span = within.start.max(hour * HOUR)..within.end.min((hour + 1) * HOUR);
            found.extend(differences(store, Level::Minute, span).await?);
        }
        found.extend(differences(store, Level::Hour, hours.start * HOUR..hours.end * HOUR).await?);
        found.extend(differences(store, Level::Day, day * DAY..(day + 1) * DAY).await?);
        if found.len() >= DIFFERENCES_MAX {
            found.truncate(DIFFERENCES_MAX);
            break;
        }
    }
    Ok(found)
}

/// Where a level does not say what the level below says.
async fn differences(
    store: &ClickHouseStore,
    level: Level,
    minutes: Range<u64>,
) -> Result<Vec<Difference>, StoreError> {
    #[derive(Deserialize)]
    struct Found {
        start: u64,
        groups: u64,
        clicks: u64,
        counted: u64,
    }
    let (table, time) = place(level);
    let (from, to, below) = (minutes.start * 60, minutes.end * 60, below(level, minutes));
    // The last of its minutes lives that much longer than the first.
    let partly = (level.minutes() - 1) * 60;
    let sql = format!(
        "SELECT toUInt64(toUnixTimestamp({time})) AS start, count() AS groups, sum(n) AS clicks, sum(c) AS counted
         FROM (
             SELECT {time}, {GROUP}, sum(n) AS n, sum(c) AS c FROM (
                 SELECT *, 0 AS c FROM ({below})
                 UNION ALL
                 SELECT {time}, {GROUP}, 0 AS n, expires AS e, clicks AS c FROM {table} FINAL
                 WHERE {time} >= toDateTime({from}, 'UTC') AND {time} < toDateTime({to}, 'UTC') AND expires > now()
             )
             GROUP BY {time}, {GROUP} HAVING n != c AND max(e) > now() + {partly}
         )
         GROUP BY {time} ORDER BY {time} LIMIT {DIFFERENCES_MAX}"
    );
    let found: Vec<Found> = queries::rows(store, store.reading().query_raw(&sql)).await?;
    let difference =
        |f: Found| Difference { level, minute: f.start / 60, groups: f.groups, clicks: f.clicks, counted: f.counted };
    Ok(found.into_iter().map(difference).collect())
}

/// See [`crate::pipeline::Store::top_links`].
pub(super) async fn top_links(
    store: &ClickHouseStore,
    minutes: Range<u64>,
    limit: usize,
) -> Result<Vec<LinkCount>, StoreError> {
    #[derive(Deserialize)]
    struct Top {
        link: String,
        people: u64,
        n: u64,
    }
    within_calendar(minutes.end)?;
    let sql = "SELECT link, sumIf(clicks, class = 'human') AS people, sum(clicks) AS n FROM rollup_1m FINAL
               WHERE minute >= toDateTime(?, 'UTC') AND minute < toDateTime(?, 'UTC') AND link NOT IN ('', ?, ?)
               GROUP BY link HAVING n > 0 ORDER BY people DESC, n DESC, link LIMIT ?";
    let query = store.reading().query(sql).bind(minutes.start * 60).bind(minutes.end * 60).bind(NO_LINK);
    let top: Vec<Top> = queries::rows(store, query.bind(canary::SLUG).bind(limit)).await?;
    Ok(top.into_iter().map(|top| LinkCount { link: top.link, people: top.people, clicks: top.n }).collect())
}

/// See [`crate::pipeline::Store::counts_by_minute`]. By the hour: `FINAL` merges a stream, and keeps no set of ids.
pub(super) async fn counts_by_minute(
    store: &ClickHouseStore,
    node: &str,
    minutes: Range<u64>,
) -> Result<Vec<(u64, u64)>, StoreError> {
    #[derive(Deserialize)]
    struct Counted {
        start: u64,
        clicks: u64,
    }
    let sql = "SELECT toUInt64(toUnixTimestamp(toStartOfMinute(ts))) AS start, count() AS clicks FROM clicks FINAL
               WHERE node = ? AND ts >= toDateTime64(?, 3, 'UTC') AND ts < toDateTime64(?, 3, 'UTC')
               GROUP BY start ORDER BY start";
    let mut counts = Vec::new();
    if minutes.is_empty() {
        return Ok(counts);
    }
    within_calendar(minutes.end)?;
    for hour in minutes.start / HOUR..minutes.end.div_ceil(HOUR) {
        let (from, to) = (minutes.start.max(hour * HOUR), minutes.end.min((hour + 1) * HOUR));
        let query = store.reading().query(sql).bind(node).bind(from * 60).bind(to * 60);
        let counted: Vec<Counted> = queries::rows(store, query).await?;
        counts.extend(counted.into_iter().map(|counted| (counted.start / 60, counted.clicks)));
    }
    Ok(counts)
}
