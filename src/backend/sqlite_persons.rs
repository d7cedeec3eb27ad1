//! Clicks of one person in the embedded store: found by reading every click, and erased so that the file no longer has them.
//!
//! There is no index by external id or address: one would be written at another place for every click, for a question that
//! is asked now and then. Reading goes in slices, so that other questions get their turn. `sqlite_clicks` calls in here on
//! its threads. Bounds: [`SLICE_CLICKS`] a call, [`SLICES_MAX`] slices a page.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::sqlite_file;
use super::sqlite_questions::{MINUTE_MS, SELECT, stored_click};
use super::sqlite_rollups::count_anew;
use crate::click::ClickId;
use crate::pipeline::StoredClick;
use crate::pipeline::persons::Selector;

/// Clicks read at a time: some 50 ms.
const SLICE_CLICKS: i64 = 50_000;
/// Rows on each side of an erased one that are written anew: 30 pages at least.
const NEIGHBOURS: i64 = 255;
/// Clicks erased in one transaction.
pub(super) const ERASED_AT_ONCE: usize = 100;
/// Slices of one page.
pub(super) const SLICES_MAX: usize = 100;

/// Clicks of a person in the next slice behind an id, and where it ended; `None` at the end of the table.
pub(super) fn find_slice(
    connection: &mut Connection,
    who: &Selector,
    behind: Option<ClickId>,
    limit: usize,
) -> rusqlite::Result<(Vec<StoredClick>, Option<ClickId>)> {
    let transaction = connection.transaction()?;
    let behind = behind.map(|id| id.to_string()).unwrap_or_default();
    let (column, value) = match who {
        Selector::ClickId(id) => ("click_id", id.to_string()),
        Selector::ExternalClickId(external) => ("external_click_id", external.clone()),
        Selector::Ip(ip) => ("ip", ip.clone()),
    };
    let last: Option<String> = match who {
        Selector::ClickId(_) => None,
        _ => transaction
            .prepare_cached("SELECT click_id FROM clicks WHERE click_id > ?1 ORDER BY click_id LIMIT 1 OFFSET ?2")?
            .query_row(params![behind, SLICE_CLICKS - 1], |row| row.get(0))
            .optional()?,
    };
    // No id sorts behind this one.
    let to = last.as_deref().unwrap_or("~");
    let mut statement = transaction.prepare_cached(&format!(
        "{SELECT} WHERE click_id > ?1 AND click_id <= ?2 AND {column} = ?3 ORDER BY click_id LIMIT ?4"
    ))?;
    let limit_sql = i64::try_from(limit).unwrap_or(i64::MAX);
    let clicks: Vec<_> =
        statement.query_map(params![behind, to, value, limit_sql], stored_click)?.collect::<Result<_, _>>()?;
    let next = if clicks.len() < limit { last } else { clicks.last().map(|click| click.click_id.clone()) };
    Ok((clicks, next.and_then(|id| id.parse().ok())))
}

/// Removes clicks and counts their minutes anew, in one transaction, with zeros in their place; then empties the log.
///
/// SQLite zeroes what is deleted, and not what a page held before its rows were moved to the next one. So the rows around
/// are written anew: pages that are emptied are zeroed whole. Rows move to neighbours only.
pub(super) fn erase(connection: &mut Connection, ids: &[ClickId]) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA secure_delete = ON")?;
    let erased = erase_with_zeros(connection, ids);
    connection.execute_batch("PRAGMA secure_delete = OFF")?;
    erased
}

fn erase_with_zeros(connection: &mut Connection, ids: &[ClickId]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut minutes = BTreeSet::new();
    for id in ids {
        if transaction.prepare_cached("DELETE FROM clicks WHERE click_id = ?1")?.execute([id.to_string()])? > 0 {
            minutes.insert(id.unix_ms() / MINUTE_MS);
        }
    }
    write_neighbours_anew(&transaction, ids)?;
    for minute in minutes {
        count_anew(&transaction, minute)?;
    }
    transaction.commit()?;
    sqlite_file::empty_log(connection)
}

/// The rows on both sides of these ids.
fn write_neighbours_anew(connection: &Connection, ids: &[ClickId]) -> rusqlite::Result<()> {
    let edge = |sql: &str, id: &str| {
        let mut statement = connection.prepare_cached(sql)?;
        statement.query_row(params![id, NEIGHBOURS], |row| row.get::<_, String>(0)).optional()
    };
    let mut sorted: Vec<_> = ids.iter().map(ToString::to_string).collect();
    sorted.sort_unstable();
    let mut done = String::new();
    connection.execute_batch("CREATE TEMP TABLE near AS SELECT * FROM clicks WHERE false")?;
    for id in &sorted {
        if *id <= done {
            continue;
        }
        let before = "SELECT click_id FROM clicks WHERE click_id < ?1 ORDER BY click_id DESC LIMIT 1 OFFSET ?2";
        let behind = "SELECT click_id FROM clicks WHERE click_id > ?1 ORDER BY click_id LIMIT 1 OFFSET ?2";
        let from = edge(before, id)?.unwrap_or_default();
        let to = edge(behind, id)?.unwrap_or_else(|| "~".to_owned());
        for sql in [
            "INSERT INTO near SELECT * FROM clicks WHERE click_id >= ?1 AND click_id <= ?2",
            "DELETE FROM clicks WHERE click_id >= ?1 AND click_id <= ?2",
        ] {
            connection.prepare_cached(sql)?.execute([&from, &to])?;
        }
        for sql in ["INSERT INTO clicks SELECT * FROM near ORDER BY click_id", "DELETE FROM near"] {
            connection.prepare_cached(sql)?.execute([])?;
        }
        // The next ids of the same stretch have neighbours enough only in its first part.
        done = edge("SELECT click_id FROM clicks WHERE click_id > ?1 ORDER BY click_id LIMIT 1 OFFSET ?2 / 2", id)?
            .unwrap_or(to);
    }
    connection.execute_batch("DROP TABLE near")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::samples;
    use crate::backend::sqlite_clicks::SqliteClicks;
    use crate::click::Click;
    use crate::pipeline::persons::Persons as _;
    use crate::pipeline::{ClickFilter, Store as _};

    const T0: u64 = 1_700_000_000_000;

    /// 6,000 clicks, some of which are the person's: batches of two nodes that lie between each other, so that pages are
    /// split in the middle.
    async fn filled(folder: &tempfile::TempDir, of_person: &[u64]) -> SqliteClicks {
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), samples::retention()).unwrap();
        store.migrate().await.unwrap();
        for half in 0..2 {
            for batch in 0..15 {
                let rows = (0..200).map(|n| {
                    let at = (batch * 200 + n) * 2 + half;
                    let query = match of_person.contains(&at) {
                        true => format!("click_id=pl4nted&n={at}"),
                        false => format!("click_id=other&p={}", "y".repeat(at as usize * 7 % 900)),
                    };
                    samples::row(&Click { id: ClickId::new(T0 + at * 20, &[9; 10]), ..samples::click(&query) })
                });
                store.insert(&store.seal(samples::batch_of(rows))).await.unwrap();
            }
        }
        store
    }

    #[tokio::test]
    async fn what_is_erased_is_in_no_byte_of_the_files_and_the_minutes_are_counted_anew() {
        let folder = tempfile::tempdir().unwrap();
        let of_person: Vec<u64> = (0..120).map(|n| n * 50 + n % 7).chain([3_000, 3_001, 3_002, 5_999]).collect();
        let store = filled(&folder, &of_person).await;
        let who = Selector::ExternalClickId("pl4nted".into());
        let (mut ids, mut behind) = (Vec::new(), None);
        loop {
            let found = store.find(&who, behind, 50).await.unwrap();
            ids.extend(found.clicks.iter().map(|click| click.click_id.parse::<ClickId>().unwrap()));
            behind = found.next;
            if behind.is_none() {
                break;
            }
        }
        let expected: BTreeSet<_> = of_person.iter().map(|at| T0 + at * 20).collect();
        assert!(ids.is_sorted() && ids.iter().map(|id| id.unix_ms()).collect::<BTreeSet<_>>() == expected);
        let raw = |planted: &[u8]| {
            ["clicks.db", "clicks.db-wal"].map(|file| {
                let bytes = std::fs::read(folder.path().join(file)).unwrap();
                bytes.windows(planted.len()).filter(|part| *part == planted).count()
            })
        };
        assert_ne!(raw(b"pl4nted"), [0, 0]);
        for _ in 0..2 {
            store.erase(&ids).await.unwrap();
            assert_eq!(raw(b"pl4nted"), [0, 0]);
            assert_eq!(store.find(&who, None, 50).await.unwrap(), Default::default());
            assert_eq!(store.count(&ClickFilter::default()).await.unwrap().total, 6_000 - expected.len() as u64);
            let minute = T0 / MINUTE_MS;
            assert_eq!(store.compare(minute..minute + 10).await.unwrap(), []);
        }
        let id = Selector::ClickId(ClickId::new(T0 + 20, &[9; 10]));
        assert_eq!(store.find(&id, None, 50).await.unwrap().clicks.len(), 1, "others stay as they were");
        let ip = Selector::Ip("203.0.113.0".into());
        assert_eq!(store.find(&ip, None, 10_000).await.unwrap().clicks.len(), 6_000 - expected.len());
    }
}
