//! Months of the tables: their sizes, and merging those that are over. Called by the operator side.
//!
//! The server does not stop a merge when its client goes away, so one that takes long is begun once and then looked at.
//! Bounds: [`STEP`] and `query_timeout` for an answer.

use std::time::Duration;

use serde::Deserialize;

use super::{ClickHouseStore, errors, queries};
use crate::BoxFuture;
use crate::pipeline::StoreError;
use crate::pipeline::months::{Column, Merge, Month, Months, Report};

/// How long an answer waits for a merge; below the control side's deadline.
const STEP: Duration = Duration::from_secs(20);
/// How often a merge is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Tables whose partitions are months; on a cluster, those of the server that answers.
const TABLES: [&str; 8] = [
    "clicks",
    "rollup_1m",
    "rollup_1h",
    "rollup_1d",
    "clicks_local",
    "rollup_1m_local",
    "rollup_1h_local",
    "rollup_1d_local",
];

impl Months for ClickHouseStore {
    fn report(&self) -> BoxFuture<'_, Result<Report, StoreError>> {
        Box::pin(report(self))
    }

    fn merge<'a>(&'a self, table: &'a str, month: &'a str) -> BoxFuture<'a, Result<Merge, StoreError>> {
        Box::pin(merge(self, table, month))
    }
}

/// How the server says it.
#[derive(Deserialize)]
struct Row {
    table: String,
    partition: String,
    parts: u64,
    rows: u64,
    compressed: u64,
    uncompressed: u64,
    is_over: u8,
}

#[derive(Deserialize)]
struct Count {
    n: u64,
}

fn tables() -> String {
    TABLES.map(|table| format!("'{table}'")).join(", ")
}

async fn months(store: &ClickHouseStore) -> Result<Vec<Month>, StoreError> {
    let sql = format!(
        "SELECT table, partition, count() AS parts, sum(rows) AS rows, sum(data_compressed_bytes) AS compressed,
         sum(data_uncompressed_bytes) AS uncompressed, partition < toString(toYYYYMM(now('UTC'))) AS is_over
         FROM system.parts WHERE database = currentDatabase() AND active AND table IN ({})
         GROUP BY table, partition ORDER BY table, partition",
        tables()
    );
    let found: Vec<Row> = queries::rows(store, store.reading().query_raw(&sql)).await?;
    let month = |row: Row| {
        let (year, month) = row.partition.split_at_checked(4).filter(|(_, month)| month.len() == 2)?;
        Some(Month {
            month: format!("{year}-{month}"),
            table: row.table,
            parts: row.parts,
            rows: row.rows,
            compressed: row.compressed,
            uncompressed: row.uncompressed,
            over: row.is_over == 1,
        })
    };
    // A table that a person made has partitions of another kind: not ours to merge.
    Ok(found.into_iter().filter_map(month).collect())
}

/// See [`crate::pipeline::months::Months::report`].
async fn report(store: &ClickHouseStore) -> Result<Report, StoreError> {
    let sql = format!(
        "SELECT table, name AS column, data_compressed_bytes AS compressed, data_uncompressed_bytes AS uncompressed
         FROM system.columns WHERE database = currentDatabase() AND table IN ({})
         ORDER BY table, compressed DESC, name",
        tables()
    );
    let columns: Vec<Column> = queries::rows(store, store.reading().query_raw(&sql)).await?;
    Ok(Report { months: months(store).await?, columns })
}

/// See [`crate::pipeline::months::Months::merge`].
async fn merge(store: &ClickHouseStore, table: &str, month: &str) -> Result<Merge, StoreError> {
    let look = async || {
        let found = months(store).await?.into_iter().find(|found| found.table == table && found.month == month);
        Ok::<_, StoreError>(found)
    };
    let Some(before) = look().await? else { return Ok(Merge::Unknown) };
    if !before.over {
        return Ok(Merge::NotOver);
    }
    let partition = month.replace('-', "");
    let begun = !is_merging(store, table, &partition).await?;
    if begun && before.parts <= 1 {
        return Ok(Merge::Nothing(before));
    }
    let wait = async {
        if begun {
            // Table and partition are names that the server has just given.
            let sql = format!("OPTIMIZE TABLE {table} PARTITION ID '{partition}' FINAL");
            let _lease = store.pool.lease().await;
            // It ends when it ends: no limit of a question is meant for it.
            let ask = store.reading().query_raw(&sql).with_setting("max_execution_time", "0");
            return ask.execute().await.map_err(|error| errors::of_query(store.noted(&error)));
        }
        while is_merging(store, table, &partition).await? {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    };
    match tokio::time::timeout(STEP, wait).await {
        Ok(answer) => answer?,
        Err(_) => return Ok(Merge::Running { begun }),
    }
    // All of it may have expired.
    let after =
        look().await?.unwrap_or_else(|| Month { parts: 0, rows: 0, compressed: 0, uncompressed: 0, ..before.clone() });
    Ok(Merge::Done { before, after })
}

async fn is_merging(store: &ClickHouseStore, table: &str, partition: &str) -> Result<bool, StoreError> {
    let sql =
        "SELECT count() AS n FROM system.merges WHERE database = currentDatabase() AND table = ? AND partition_id = ?";
    let found: Vec<Count> = queries::rows(store, store.reading().query(sql).bind(table).bind(partition)).await?;
    Ok(found.iter().any(|found| found.n > 0))
}
