//! Clicks of one person in ClickHouse: found by a scan of one column, and erased by a mutation.
//!
//! A lightweight `DELETE` would only hide rows until a merge, so the parts that have some are written anew, and the answer
//! waits for it. The server removes the files of before some minutes later (`old_parts_lifetime`, 8 minutes). On a cluster
//! (`clicks` is a Distributed table) nothing is erased, and said so. Called by the operator side. Bounds: `query_timeout`
//! for a page; [`MUTATION_TIMEOUT`] for an answer, behind which the server goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

use super::{ClickHouseStore, queries, rollups};
use crate::BoxFuture;
use crate::click::ClickId;
use crate::pipeline::StoreError;
use crate::pipeline::persons::{Found, Persons, Selector};
use crate::pipeline::store::ClickCursor;

/// Below the control side's deadline.
const MUTATION_TIMEOUT: Duration = Duration::from_secs(15);
const MINUTE_MS: u64 = 60_000;

impl Persons for ClickHouseStore {
    fn find<'a>(
        &'a self,
        who: &'a Selector,
        behind: Option<ClickCursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Found, StoreError>> {
        Box::pin(find(self, who, behind, limit))
    }

    fn erase<'a>(&'a self, ids: &'a [ClickId]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(erase(self, ids))
    }
}

async fn find(
    store: &ClickHouseStore,
    who: &Selector,
    behind: Option<ClickCursor>,
    limit: usize,
) -> Result<Found, StoreError> {
    let clicks = queries::of_person(store, who, behind, limit).await?;
    let last = clicks.last().filter(|_| clicks.len() == limit);
    let next =
        last.and_then(|click| click.click_id.parse().ok()).map(|id: ClickId| ClickCursor { unix_ms: id.unix_ms(), id });
    Ok(Found { clicks, next })
}

async fn erase(store: &ClickHouseStore, ids: &[ClickId]) -> Result<(), StoreError> {
    refuse_cluster(store).await?;
    let mut months = BTreeMap::<i64, Vec<ClickId>>::new();
    for id in ids {
        months.entry(month(id.unix_ms())).or_default().push(*id);
    }
    for (month, ids) in months {
        // Numbers and UUIDs: nothing in them needs an escape.
        let list = ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", ");
        let sql = format!("ALTER TABLE clicks DELETE IN PARTITION {month} WHERE click_id IN ({list})");
        let ask =
            store.reading().query_raw(&sql).with_setting("mutations_sync", "2").with_setting("max_execution_time", "0");
        store.within(MUTATION_TIMEOUT, ask.execute()).await?;
    }
    let minutes: BTreeSet<u64> = ids.iter().map(|id| id.unix_ms() / MINUTE_MS).collect();
    rollups::roll_up(store, &minutes.into_iter().collect::<Vec<_>>()).await
}

/// 202611.
fn month(unix_ms: u64) -> i64 {
    let time =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
    i64::from(date.year()) * 100 + i64::from(date.month())
}

async fn refuse_cluster(store: &ClickHouseStore) -> Result<(), StoreError> {
    #[derive(Deserialize)]
    struct Table {
        engine: String,
    }
    let sql = "SELECT engine FROM system.tables WHERE database = currentDatabase() AND name = 'clicks'";
    let tables: Vec<Table> = queries::rows(store, store.reading().query_raw(sql)).await?;
    match tables.first() {
        Some(table) if table.engine == "Distributed" => Err(StoreError::operator(
            "erasing on a cluster is not built yet: ALTER TABLE clicks_local ON CLUSTER ... DELETE WHERE ... by hand, and \
             then trellis verify",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_click_is_in_the_month_of_its_time_in_utc() {
        assert_eq!(
            [0, 1_700_000_000_000, 1_701_388_799_999, 1_701_388_800_000].map(month),
            [197_001, 202_311, 202_311, 202_312]
        );
    }
}
