//! Figures that others keep and that are asked for now and then: Redis, ClickHouse, the system.
//!
//! A closed set. A figure that was never read, or can no longer be read, is shown nowhere: 0 would be a figure. Why is kept
//! for those who tell people. Pollers write, each its own figures, a few times a minute; never a request thread. Bounds: a
//! cell for each [`Figure`], a reason of [`REASON_CHARS_MAX`] characters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::proto::{Counter, Gauge, Metric, MetricFamily, MetricType};

use super::families::{family, pair};
use super::metrics::Metrics;

/// Of why a figure cannot be read: it may be text of others.
pub const REASON_CHARS_MAX: usize = 200;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the table below has their names and what they are")]
pub enum Figure {
    RedisMemory,
    RedisMemoryMax,
    RedisFragmentation,
    RedisCpu,
    RedisEvicted,
    RedisExpired,
    RedisHits,
    RedisMisses,
    RedisClients,
    RedisUptime,
    RedisLag,
    ClickHouseParts,
    ClickHousePartsMax,
    ClickHouseMerges,
    ClickHouseMemory,
    ClickHouseQueryP95,
    ClickHouseDelayed,
    ClickHouseRejected,
    ClickHouseLag,
    ClickHouseUptime,
    CpuCores,
    MemoryLimit,
    Heap,
    IoRead,
    IoWritten,
    NetworkReceived,
    NetworkSent,
    DiskBytes,
    DiskFree,
    DiskBusy,
}

use MetricType::{COUNTER, GAUGE};

/// Name, label with its value, kind and what it is; in the order of [`Figure`]. Lines of one name stand together.
const TABLE: [(&str, &str, MetricType, &str); 30] = [
    ("trellis_redis_used_memory_bytes", "", GAUGE, "Memory that Redis uses"),
    ("trellis_redis_memory_max_bytes", "", GAUGE, "What it may use; without maxmemory all of its machine"),
    ("trellis_redis_memory_fragmentation_ratio", "", GAUGE, "Its resident memory to what it uses"),
    ("trellis_redis_cpu_seconds_total", "", COUNTER, "Its CPU time"),
    ("trellis_redis_evicted_keys_total", "", COUNTER, "Keys that went for want of memory"),
    ("trellis_redis_expired_keys_total", "", COUNTER, "Keys that went because their time was over"),
    ("trellis_redis_keyspace_hits_total", "", COUNTER, "Look-ups that found a key"),
    ("trellis_redis_keyspace_misses_total", "", COUNTER, "Look-ups that found none"),
    ("trellis_redis_connected_clients", "", GAUGE, "Its clients, of all nodes"),
    ("trellis_redis_uptime_seconds", "", GAUGE, "Since it was started"),
    ("trellis_redis_replication_lag_seconds", "", GAUGE, "Of the replica that is furthest behind"),
    ("trellis_clickhouse_parts", "", GAUGE, "Active parts of the database"),
    ("trellis_clickhouse_partition_parts_max", "", GAUGE, "Active parts of the partition that has the most"),
    ("trellis_clickhouse_merges", "", GAUGE, "Merges under way on the server"),
    ("trellis_clickhouse_memory_bytes", "", GAUGE, "Memory that the server uses"),
    ("trellis_clickhouse_query_p95_seconds", "", GAUGE, "Of the server's queries of five minutes"),
    ("trellis_clickhouse_delayed_inserts_total", "", COUNTER, "Inserts that waited because of too many parts"),
    ("trellis_clickhouse_rejected_inserts_total", "", COUNTER, "Inserts refused because of too many parts"),
    ("trellis_clickhouse_replication_lag_seconds", "", GAUGE, "Of the table that is furthest behind"),
    ("trellis_clickhouse_uptime_seconds", "", GAUGE, "Since the server was started"),
    ("trellis_cpu_cores", "", GAUGE, "Cores that this process may use"),
    ("trellis_memory_limit_bytes", "", GAUGE, "Memory that this process may use"),
    ("trellis_heap_bytes", "", GAUGE, "Resident memory that is no file's: heap and stacks"),
    ("trellis_io_bytes_total", "direction=read", COUNTER, "Between this process and disks"),
    ("trellis_io_bytes_total", "direction=write", COUNTER, ""),
    ("trellis_network_bytes_total", "direction=receive", COUNTER, "Through all interfaces but the loopback"),
    ("trellis_network_bytes_total", "direction=transmit", COUNTER, ""),
    ("trellis_disk_bytes", "", GAUGE, "Size of the data folder's disk"),
    ("trellis_disk_free_bytes", "", GAUGE, "What is free of it for this process"),
    ("trellis_disk_busy_seconds_total", "", COUNTER, "Time in which it had something to do"),
];

impl Figure {
    /// The name of its metric.
    #[must_use]
    pub const fn name(self) -> &'static str {
        TABLE[self as usize].0
    }
}

/// The names of all metrics that may be absent because nobody can read them.
#[must_use]
pub fn names() -> std::collections::BTreeSet<&'static str> {
    TABLE.iter().map(|(name, ..)| *name).collect()
}

/// One reading: the value, or why there is none.
pub type Reading = (Figure, Result<f64, String>);

/// The figures of one process.
#[derive(Debug)]
pub struct Board {
    /// The bits of an `f64`; of no number where there is no figure.
    values: [AtomicU64; TABLE.len()],
    reasons: Mutex<BTreeMap<Figure, String>>,
}

impl Default for Board {
    fn default() -> Self {
        Self { values: std::array::from_fn(|_| AtomicU64::new(f64::NAN.to_bits())), reasons: Mutex::default() }
    }
}

impl Board {
    /// Notes what was read, and what could not be.
    pub fn note(&self, readings: impl IntoIterator<Item = Reading>) {
        let mut reasons = self.reasons();
        for (figure, read) in readings {
            let value = read.as_ref().ok().copied().filter(|value| value.is_finite());
            self.values[figure as usize].store(value.unwrap_or(f64::NAN).to_bits(), Ordering::Relaxed);
            match read {
                Ok(_) if value.is_some() => drop(reasons.remove(&figure)),
                Ok(value) => drop(reasons.insert(figure, format!("{value} is no figure"))),
                Err(why) => drop(reasons.insert(figure, why.chars().take(REASON_CHARS_MAX).collect())),
            }
        }
    }

    /// As it was read last.
    #[must_use]
    pub fn value(&self, figure: Figure) -> Option<f64> {
        Some(f64::from_bits(self.values[figure as usize].load(Ordering::Relaxed))).filter(|value| value.is_finite())
    }

    /// What was asked for and cannot be read: the metric's name, and why.
    #[must_use]
    pub fn unread(&self) -> Vec<(&'static str, String)> {
        self.reasons().iter().map(|(figure, why)| (figure.name(), why.clone())).collect()
    }

    fn reasons(&self) -> MutexGuard<'_, BTreeMap<Figure, String>> {
        // An entry is put in or taken out whole.
        self.reasons.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let mut families: Vec<MetricFamily> = Vec::new();
        for ((name, label, kind, help), cell) in TABLE.into_iter().zip(&self.values) {
            if families.last().is_none_or(|last| last.name() != name) {
                families.push(family(name, help, kind, Vec::new()));
            }
            let value = f64::from_bits(cell.load(Ordering::Relaxed));
            if let (Some(family), true) = (families.last_mut(), value.is_finite()) {
                family.mut_metric().push(metric(kind, label, value));
            }
        }
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn metric(kind: MetricType, label: &str, value: f64) -> Metric {
    let mut metric = Metric::default();
    if let Some((label, of)) = label.split_once('=') {
        metric.set_label(vec![pair(label, of)]);
    }
    if kind == COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

impl Metrics {
    /// Where figures of others are noted.
    #[must_use]
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.shards.watched.board)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_shown_and_what_was_not_is_absent_with_its_reason() {
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        let board = metrics.board();
        assert!(!metrics.render(0).contains("_redis_"), "nothing was read");
        board.note([
            (Figure::RedisMemory, Ok(0.0)),
            (Figure::IoWritten, Ok(7.0)),
            (Figure::CpuCores, Ok(1.5)),
            (Figure::RedisLag, Err("it has no replica".repeat(100))),
            (Figure::RedisClients, Ok(f64::NAN)),
        ]);
        let text = metrics.render(0);
        for line in [
            "# TYPE trellis_redis_used_memory_bytes gauge",
            "trellis_redis_used_memory_bytes 0",
            "# HELP trellis_io_bytes_total Between this process and disks",
            "# TYPE trellis_io_bytes_total counter",
            "trellis_io_bytes_total{direction=\"write\"} 7",
            "trellis_cpu_cores 1.5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("replication_lag") && !text.contains("connected_clients") && !text.contains("\"read\""));
        let unread = board.unread();
        assert_eq!(
            unread.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["trellis_redis_connected_clients", "trellis_redis_replication_lag_seconds"]
        );
        assert!(unread[0].1 == "NaN is no figure" && unread[1].1.chars().count() == REASON_CHARS_MAX);
        board.note([(Figure::RedisLag, Ok(2.0)), (Figure::RedisMemory, Err("it is away".into()))]);
        assert_eq!((board.value(Figure::RedisLag), board.value(Figure::RedisMemory)), (Some(2.0), None));
        assert!(!metrics.render(0).contains("used_memory"), "what cannot be read any more is not shown as it was");
    }

    #[test]
    fn the_table_is_in_the_order_of_the_figures() {
        assert_eq!(Figure::DiskBusy as usize + 1, TABLE.len());
        for (figure, name) in [
            (Figure::RedisLag, "trellis_redis_replication_lag_seconds"),
            (Figure::ClickHouseParts, "trellis_clickhouse_parts"),
            (Figure::ClickHouseUptime, "trellis_clickhouse_uptime_seconds"),
            (Figure::NetworkSent, "trellis_network_bytes_total"),
            (Figure::DiskBusy, "trellis_disk_busy_seconds_total"),
        ] {
            assert_eq!(figure.name(), name);
        }
    }
}
