//! What ClickHouse says of itself: one question to its system tables for each figure, so that one that is missing, or that
//! this user may not read, costs no other.
//!
//! `app` asks every `watch.store_every`, on the runtime of the control side. Bound: [`TIMEOUT`] for each question, and on the
//! server as for any other.

use std::time::Duration;

use serde::Deserialize;

use super::ClickHouseStore;
use crate::pipeline::StoreError;
use crate::telemetry::figures::Figure;

/// For one question.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is asked for here.
pub(super) const FIGURES: [Figure; 9] = [
    Figure::ClickHouseParts,
    Figure::ClickHousePartsMax,
    Figure::ClickHouseMerges,
    Figure::ClickHouseMemory,
    Figure::ClickHouseQueryP95,
    Figure::ClickHouseDelayed,
    Figure::ClickHouseRejected,
    Figure::ClickHouseLag,
    Figure::ClickHouseUptime,
];

/// The question, and what it means when the answer is no number.
const fn question(figure: Figure) -> Option<(&'static str, &'static str)> {
    const OF_COUNT: &str = "it did not count";
    Some(match figure {
        Figure::ClickHouseParts => {
            ("SELECT count() AS value FROM system.parts WHERE active AND database = currentDatabase()", OF_COUNT)
        }
        Figure::ClickHousePartsMax => (
            "SELECT max(parts) AS value FROM (SELECT count() AS parts FROM system.parts
                 WHERE active AND database = currentDatabase() GROUP BY table, partition_id)",
            OF_COUNT,
        ),
        Figure::ClickHouseMerges => ("SELECT count() AS value FROM system.merges", OF_COUNT),
        Figure::ClickHouseMemory => (
            "SELECT maxOrNull(value) AS value FROM (SELECT value FROM system.metrics WHERE metric = 'MemoryTracking')",
            "system.metrics has no MemoryTracking",
        ),
        Figure::ClickHouseQueryP95 => (
            "SELECT quantileOrNull(0.95)(query_duration_ms) / 1000 AS value FROM system.query_log
                 WHERE event_date >= today() - 1 AND event_time >= now() - 300 AND type = 'QueryFinish'",
            "no query ended within five minutes",
        ),
        Figure::ClickHouseDelayed => (
            "SELECT sum(events) AS value FROM (SELECT value AS events FROM system.events WHERE event = 'DelayedInserts')",
            OF_COUNT,
        ),
        Figure::ClickHouseRejected => (
            "SELECT sum(events) AS value FROM (SELECT value AS events FROM system.events WHERE event = 'RejectedInserts')",
            OF_COUNT,
        ),
        Figure::ClickHouseLag => (
            "SELECT maxOrNull(absolute_delay) AS value FROM system.replicas WHERE database = currentDatabase()",
            "no table of the database is replicated",
        ),
        Figure::ClickHouseUptime => ("SELECT uptime() AS value", OF_COUNT),
        _ => return None,
    })
}

/// Asks for one figure.
pub(super) async fn figure(store: &ClickHouseStore, figure: Figure) -> Result<f64, StoreError> {
    let Some((sql, otherwise)) = question(figure) else {
        return Err(StoreError::operator(format!("ClickHouse does not know {}", figure.name())));
    };
    let query = store.reading().query(sql);
    let answer = async { query.fetch_bytes("JSONEachRow")?.collect().await };
    read(&store.within(TIMEOUT.min(store.query_timeout), answer).await?, otherwise)
}

fn read(answer: &[u8], otherwise: &str) -> Result<f64, StoreError> {
    #[derive(Deserialize)]
    struct Row {
        value: Option<f64>,
    }
    let row: Row = serde_json::from_slice(answer)
        .map_err(|e| StoreError::operator(format!("ClickHouse answered what this program cannot read: {e}")))?;
    row.value.ok_or_else(|| StoreError::operator(otherwise))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_and_null_is_told_in_words() {
        assert_eq!(read(b"{\"value\":12}\n", "x").unwrap().to_string(), "12");
        assert_eq!(read(b"{\"value\":0.025}\n", "x").unwrap().to_string(), "0.025");
        assert_eq!(read(b"{\"value\":null}\n", "there is none").unwrap_err().to_string(), "there is none");
        for broken in [&b""[..], b"{}x", b"{\"value\":\"12\"}"] {
            assert!(read(broken, "x").unwrap_err().to_string().contains("cannot read"), "{broken:?}");
        }
    }

    #[test]
    fn every_figure_has_its_question() {
        assert!(FIGURES.into_iter().all(|figure| question(figure).is_some()));
        assert!(question(Figure::RedisMemory).is_none());
    }
}
