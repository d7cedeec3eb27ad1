//! The lines of `click_counts`: whether they say what the table of clicks says, and counting a minute anew.
//!
//! The embedded store keeps the lines in the transaction that stores the clicks, so they differ only where a file was
//! damaged or a person wrote into it. Minutes are its one level: an hour is 60 lines a group. `sqlite_clicks` calls in
//! here, on its threads. Bounds: an hour of minutes a call.

use std::ops::Range;

use rusqlite::{Connection, TransactionBehavior, params};

use super::sqlite_insert::number;
use super::sqlite_questions::{MINUTE_MS, first_id};
use crate::click::canary;
use crate::click::domain::NO_LINK;
use crate::pipeline::store::{Difference, Level, LinkCount};

/// Clicks by the groups of `click_counts`, of the ids from ?1 up to ?2.
const COUNTED: &str = "SELECT ts / 60000 AS minute, link, campaign, org, class, dedup, count(*) AS n, 0 AS c
     FROM clicks WHERE click_id >= ?1 AND click_id < ?2 GROUP BY 1, 2, 3, 4, 5, 6";

/// See [`crate::pipeline::Store::roll_up`]. All of the minutes, or none.
pub(super) fn roll_up(connection: &mut Connection, minutes: &[u64]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for minute in minutes {
        count_anew(&transaction, *minute)?;
    }
    transaction.commit()
}

/// Replaces the lines of a minute, within a transaction.
pub(super) fn count_anew(connection: &Connection, minute: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM click_counts WHERE minute = ?1")?.execute([number(minute)])?;
    let (from, to) = ids(&(minute..minute.saturating_add(1)));
    let sql = format!(
        "INSERT INTO click_counts (minute, link, campaign, org, class, dedup, clicks)
         SELECT minute, link, campaign, org, class, dedup, n FROM ({COUNTED})"
    );
    connection.prepare_cached(&sql)?.execute([from, to])?;
    Ok(())
}

/// See [`crate::pipeline::Store::compare`].
pub(super) fn compare(connection: &Connection, minutes: &Range<u64>) -> rusqlite::Result<Vec<Difference>> {
    let sql = format!(
        "SELECT minute, count(*), sum(n), sum(c) FROM (
             SELECT minute, sum(n) AS n, sum(c) AS c FROM (
                 SELECT * FROM ({COUNTED})
                 UNION ALL
                 SELECT minute, link, campaign, org, class, dedup, 0, clicks FROM click_counts
                 WHERE minute >= ?3 AND minute < ?4
             )
             GROUP BY minute, link, campaign, org, class, dedup HAVING sum(n) != sum(c)
         )
         GROUP BY minute ORDER BY minute"
    );
    let (from, to) = ids(minutes);
    let mut statement = connection.prepare_cached(&sql)?;
    let found = statement.query_map(params![from, to, number(minutes.start), number(minutes.end)], |row| {
        let unsigned = |i| row.get::<_, i64>(i).map(|n| u64::try_from(n).unwrap_or_default());
        Ok(Difference {
            level: Level::Minute,
            minute: unsigned(0)?,
            groups: unsigned(1)?,
            clicks: unsigned(2)?,
            counted: unsigned(3)?,
        })
    })?;
    found.collect()
}

/// See [`crate::pipeline::Store::counts_by_minute`].
pub(super) fn counts_by_minute(
    connection: &Connection,
    node: &str,
    minutes: &Range<u64>,
) -> rusqlite::Result<Vec<(u64, u64)>> {
    let sql = "SELECT ts / 60000, count(*) FROM clicks WHERE click_id >= ?1 AND click_id < ?2 AND node = ?3
               GROUP BY 1 ORDER BY 1";
    let (from, to) = ids(minutes);
    let mut statement = connection.prepare_cached(sql)?;
    let counts = statement.query_map((from, to, node), |row| {
        let unsigned = |i| row.get::<_, i64>(i).map(|n| u64::try_from(n).unwrap_or_default());
        Ok((unsigned(0)?, unsigned(1)?))
    })?;
    counts.collect()
}

/// See [`crate::pipeline::Store::top_links`].
pub(super) fn top_links(
    connection: &Connection,
    minutes: &Range<u64>,
    limit: usize,
) -> rusqlite::Result<Vec<LinkCount>> {
    let sql = "SELECT link, coalesce(sum(clicks) FILTER (WHERE class = 'human'), 0) AS people, sum(clicks) AS n
               FROM click_counts WHERE minute >= ?1 AND minute < ?2 AND link NOT IN ('', ?3, ?4)
               GROUP BY link ORDER BY people DESC, n DESC, link LIMIT ?5";
    let mut statement = connection.prepare_cached(sql)?;
    let values = params![number(minutes.start), number(minutes.end), NO_LINK, canary::SLUG, number(limit as u64)];
    let top = statement.query_map(values, |row| {
        let unsigned = |i| row.get::<_, i64>(i).map(|n| u64::try_from(n).unwrap_or_default());
        Ok(LinkCount { link: row.get(0)?, people: unsigned(1)?, clicks: unsigned(2)? })
    })?;
    top.collect()
}

/// The ids of these minutes: from the first one up to the other.
fn ids(minutes: &Range<u64>) -> (String, String) {
    (first_id(minutes.start.saturating_mul(MINUTE_MS)), first_id(minutes.end.saturating_mul(MINUTE_MS)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::samples;
    use crate::backend::sqlite_clicks::SqliteClicks;
    use crate::pipeline::{ClickFilter, Store};

    /// 2023-11-14T22:00:00Z, and its minute.
    const T0: u64 = 1_699_999_200_000;
    const M0: u64 = T0 / MINUTE_MS;

    /// 200 clicks in each of four minutes.
    async fn filled(folder: &tempfile::TempDir) -> (SqliteClicks, Connection) {
        let path = folder.path().join("clicks.db");
        let store = SqliteClicks::open(&path, samples::retention()).unwrap();
        store.migrate().await.unwrap();
        for minute in 0..4 {
            store.insert(&store.seal(samples::batch(T0 + minute * MINUTE_MS, 200))).await.unwrap();
        }
        (store, Connection::open(&path).unwrap())
    }

    #[tokio::test]
    async fn wrong_missing_and_extra_lines_are_found_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let (store, other) = filled(&folder).await;
        assert_eq!(store.compare(M0 - 1440..M0 + 1440).await.unwrap(), [], "kept as they should be");
        for sql in [
            "UPDATE click_counts SET clicks = clicks + 3 WHERE minute = ?1 + 0 AND link = 'l1' AND dedup = 'unique'",
            "DELETE FROM click_counts WHERE minute = ?1 + 1 AND link IN ('l2', 'l3')",
            "INSERT INTO click_counts VALUES (?1 + 2, 'nobody', '', 'default', 'human', 'unique', 7)",
            "INSERT INTO click_counts VALUES (?1 + 9, 'nobody', '', 'default', 'human', 'unique', 1)",
        ] {
            assert!(other.execute(sql, [number(M0)]).unwrap() > 0, "{sql}");
        }
        let found = store.compare(M0..M0 + 10).await.unwrap();
        let told: Vec<_> = found.iter().map(|d| (d.minute - M0, d.groups, d.clicks, d.counted)).collect();
        assert_eq!(told, [(0, 1, 6, 9), (1, 6, 40, 0), (2, 1, 0, 7), (9, 1, 0, 1)]);
        assert_eq!(store.compare(M0 + 1..M0 + 2).await.unwrap().len(), 1, "only what was asked for");
        let minutes: Vec<_> = found.iter().map(|d| d.minute).collect();
        for _ in 0..2 {
            store.roll_up(&minutes).await.unwrap();
            assert_eq!(store.compare(M0..M0 + 10).await.unwrap(), []);
            assert_eq!(store.count(&ClickFilter::default()).await.unwrap().total, 800);
        }
        store.roll_up(&[M0 + 3, u64::MAX, 0]).await.unwrap();
        assert_eq!(store.compare(M0..M0 + 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn the_links_that_people_followed_most_come_first_and_what_is_no_link_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let (store, other) = filled(&folder).await;
        other.execute("DELETE FROM click_counts", []).unwrap();
        for (minute, link, class, clicks) in [
            (0, "a", "human", 3),
            (1, "a", "human", 4),
            (0, "a", "bot", 90),
            (0, "b", "human", 9),
            (1, "c", "bot", 5),
            (0, "", "human", 50),
            (0, NO_LINK, "human", 60),
            (0, canary::SLUG, "monitor", 70),
            (2, "later", "human", 99),
        ] {
            let sql = "INSERT INTO click_counts VALUES (?1, ?2, '', 'default', ?3, 'unique', ?4)";
            other.execute(sql, params![number(M0 + minute), link, class, clicks]).unwrap();
        }
        let top = store.top_links(M0..M0 + 2, 10).await.unwrap();
        let told: Vec<_> = top.iter().map(|top| (top.link.as_str(), top.people, top.clicks)).collect();
        assert_eq!(told, [("b", 9, 9), ("a", 7, 97), ("c", 0, 5)]);
        assert_eq!(store.top_links(M0..M0 + 2, 1).await.unwrap(), top[..1]);
        assert_eq!(store.top_links(M0 + 5..M0 + 9, 1).await.unwrap(), []);
    }

    #[tokio::test]
    async fn clicks_of_a_node_are_counted_by_the_minute() {
        let folder = tempfile::tempdir().unwrap();
        let (store, other) = filled(&folder).await;
        other.execute("UPDATE clicks SET node = 'other' WHERE link = 'l0' AND ts < ?1", [number(T0 + 60_000)]).unwrap();
        let counts = store.counts_by_minute("node-1", M0..M0 + 3).await.unwrap();
        assert_eq!(counts, [(M0, 180), (M0 + 1, 200), (M0 + 2, 200)]);
        assert_eq!(store.counts_by_minute("other", M0 - 1440..M0 + 1440).await.unwrap(), [(M0, 20)]);
        assert_eq!(store.counts_by_minute("nobody", M0..M0 + 3).await.unwrap(), []);
        assert_eq!(store.counts_by_minute("node-1", M0..M0).await.unwrap(), []);
    }
}
