//! Removing clicks that have expired from the embedded store, some at a time.
//!
//! `click_expiry` says in which minutes there are some, so nothing is searched for. The lines of `click_counts` are
//! counted anew in the same transaction. `sqlite_clicks` calls in here on its writing thread, when `app` says so, every
//! hour. Bounds: [`CLICKS_MAX`] clicks and [`MINUTES_MAX`] minutes a call. The file keeps its size: its free pages are used
//! again.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};

use super::sqlite_insert::number;
use super::sqlite_questions::{MINUTE_MS, first_id};
use super::sqlite_rollups::count_anew;
use crate::pipeline::store::Expired;

/// Removing one takes about 5 µs: a batch waits for 50 ms at most.
const CLICKS_MAX: u64 = 10_000;
const MINUTES_MAX: usize = 100;

/// See [`crate::pipeline::Store::expire`]. One transaction.
pub(super) fn expire(connection: &mut Connection, now_ms: u64) -> rusqlite::Result<Expired> {
    let now = number(now_ms / 1000);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut clicks = 0;
    let mut more = true;
    for _ in 0..MINUTES_MAX {
        let Some(minute) = first_minute(&transaction, now)? else {
            more = false;
            break;
        };
        let removed = remove(&transaction, minute, now, CLICKS_MAX - clicks)?;
        clicks += removed;
        count_anew(&transaction, minute)?;
        if clicks >= CLICKS_MAX {
            break;
        }
        let done = "DELETE FROM click_expiry WHERE expires <= ?1 AND minute = ?2";
        transaction.prepare_cached(done)?.execute(params![now, number(minute)])?;
    }
    transaction.commit()?;
    Ok(Expired { clicks, more })
}

/// The minute whose clicks expired first.
fn first_minute(connection: &Connection, now: i64) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT minute FROM click_expiry WHERE expires <= ?1 ORDER BY expires, minute LIMIT 1";
    let minute = connection.prepare_cached(sql)?.query_row([now], |row| row.get::<_, i64>(0)).optional()?;
    Ok(minute.map(|minute| u64::try_from(minute).unwrap_or_default()))
}

fn remove(connection: &Connection, minute: u64, now: i64, limit: u64) -> rusqlite::Result<u64> {
    let (from, to) = (minute.saturating_mul(MINUTE_MS), minute.saturating_add(1).saturating_mul(MINUTE_MS));
    let sql = "DELETE FROM clicks WHERE click_id IN
         (SELECT click_id FROM clicks WHERE click_id >= ?1 AND click_id < ?2 AND expires <= ?3 LIMIT ?4)";
    let mut statement = connection.prepare_cached(sql)?;
    Ok(statement.execute(params![first_id(from), first_id(to), now, number(limit)])? as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::samples;
    use crate::backend::sqlite_clicks::SqliteClicks;
    use crate::click::{Click, ClickId};
    use crate::pipeline::{ClickFilter, Store};

    /// 2023-11-14T22:00:00Z: the beginning of a minute.
    const T0: u64 = 1_699_999_200_000;
    const HOUR_MS: u64 = 3_600_000;

    /// Two minutes with a click of `brief`, kept for an hour, and one of `default`, kept for 30 days, each second.
    async fn filled(folder: &tempfile::TempDir) -> SqliteClicks {
        let store = SqliteClicks::open(&folder.path().join("clicks.db"), samples::retention()).unwrap();
        store.migrate().await.unwrap();
        let rows = (0..240).map(|i| {
            let org = ["brief", "default"][i as usize % 2];
            samples::row(&Click { id: ClickId::new(T0 + i * 500, &[9; 10]), org, ..samples::click("") })
        });
        store.insert(&store.seal(samples::batch_of(rows))).await.unwrap();
        store
    }

    async fn total(store: &SqliteClicks) -> u64 {
        let (minutes, rows) = (ClickFilter::default(), ClickFilter { from_ms: Some(1), ..ClickFilter::default() });
        let total = store.count(&minutes).await.unwrap().total;
        assert_eq!(store.count(&rows).await.unwrap().total, total);
        assert_eq!(store.recent(&minutes, None, 1000).await.unwrap().len() as u64, total);
        assert_eq!(store.compare(T0 / MINUTE_MS..T0 / MINUTE_MS + 2).await.unwrap(), [], "expiry is no error");
        total
    }

    #[tokio::test]
    async fn clicks_of_one_organisation_go_and_those_of_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(&folder).await;
        let expire = async |now_ms| store.expire(now_ms).await.unwrap();
        assert_eq!(expire(T0 + MINUTE_MS + HOUR_MS - 1).await, Expired { clicks: 0, more: false });
        assert_eq!(total(&store).await, 240);
        assert_eq!(expire(T0 + MINUTE_MS + HOUR_MS).await, Expired { clicks: 60, more: false });
        assert_eq!(total(&store).await, 180);
        assert_eq!(expire(T0 + 48 * HOUR_MS).await, Expired { clicks: 60, more: false });
        assert_eq!(expire(T0 + 48 * HOUR_MS).await, Expired::default());
        assert!(store.recent(&ClickFilter::default(), None, 1000).await.unwrap().iter().all(|c| c.org == "default"));
        assert_eq!(total(&store).await, 120);
        assert_eq!(expire(u64::MAX).await, Expired { clicks: 120, more: false });
        assert_eq!(total(&store).await, 0);
    }

    #[tokio::test]
    async fn a_step_takes_no_more_than_it_may() {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(&folder).await;
        for minute in 2..4 {
            store.insert(&store.seal(samples::batch(T0 + minute * MINUTE_MS, 8000))).await.unwrap();
        }
        assert_eq!(store.expire(u64::MAX).await.unwrap(), Expired { clicks: 10_000, more: true });
        assert_eq!(store.compare(T0 / MINUTE_MS..T0 / MINUTE_MS + 4).await.unwrap(), []);
        assert_eq!(store.expire(u64::MAX).await.unwrap(), Expired { clicks: 6_240, more: false });
        assert_eq!(total(&store).await, 0);
    }
}
