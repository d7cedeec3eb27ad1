//! The metrics that an objective may name: what `/metrics` shows, but for the figures of the objectives themselves.
//!
//! It stands here because the configuration is checked before there is a registry; a test of `telemetry` holds this list
//! and what a registry gathers equal. A new metric gets a line here.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// A number of now.
    Gauge,
    /// Counts by size; a threshold must be one of these upper bounds, in base units.
    Histogram(&'static [f64]),
}

/// A metric with its labels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
}

/// Every threshold that the objectives set for a duration, in seconds; each ends a bucket of all histograms of durations.
pub const DURATIONS: &[f64] = &[
    100e-9, 250e-9, 500e-9, 1000e-9, 2500e-9, 5000e-9, 10000e-9, 25000e-9, 50000e-9, 0.0001, 0.0002, 0.0003, 0.00035,
    0.0005, 0.0008, 0.001, 0.002, 0.003, 0.0035, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06,
    0.075, 0.1, 0.12, 0.15, 0.18, 0.2, 0.22, 0.25, 0.3, 0.35, 0.5, 0.55, 0.8, 1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0,
    45.0, 60.0,
];
const ROWS: &[f64] = &[1.0, 10.0, 100.0, 1e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6];
const SCORES: &[f64] = &[0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0];

const fn counter(name: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels }
}

const fn gauge(name: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels }
}

const fn duration(name: &'static str, labels: &'static [&'static str]) -> Metric {
    Metric { name, kind: MetricKind::Histogram(DURATIONS), labels }
}

/// All of them.
pub const METRICS: &[Metric] = &[
    // Every listener.
    counter("trellis_requests_total", &["listener", "status_class"]),
    counter("trellis_errors_total", &["stage"]),
    // The edge.
    counter("trellis_redirects_total", &["outcome"]),
    counter("trellis_decisions_total", &["strategy"]),
    counter("trellis_destinations_total", &["result"]),
    counter("trellis_privacy_total", &["level"]),
    duration("trellis_redirect_duration_seconds", &[]),
    duration("trellis_phase_duration_seconds", &["phase"]),
    duration("trellis_resolve_duration_seconds", &[]),
    duration("trellis_compliance_duration_seconds", &[]),
    duration("trellis_routing_duration_seconds", &["strategy"]),
    counter("trellis_connections_total", &["event"]),
    gauge("trellis_connections", &[]),
    counter("trellis_limited_total", &["limit"]),
    counter("trellis_shed_total", &["what"]),
    gauge("trellis_overload_level", &[]),
    gauge("trellis_event_loop_lag_seconds", &[]),
    // The journal and the queue.
    counter("trellis_clicks_accepted_total", &[]),
    duration("trellis_journal_append_duration_seconds", &[]),
    counter("trellis_journal_bytes_total", &[]),
    counter("trellis_journal_failures_total", &[]),
    gauge("trellis_journal_lag_bytes", &[]),
    duration("trellis_journal_sync_duration_seconds", &[]),
    counter("trellis_journal_sync_failures_total", &[]),
    counter("trellis_journal_possibly_lost_bytes_total", &[]),
    counter("trellis_journal_unforced_total", &[]),
    gauge("trellis_queue_length", &[]),
    gauge("trellis_queue_capacity", &[]),
    counter("trellis_queue_overflow_total", &[]),
    counter("trellis_unreadable_total", &[]),
    // The pipeline.
    counter("trellis_clicks_total", &["fate"]),
    gauge("trellis_clicks_pending", &[]),
    counter("trellis_clicks_adopted_total", &[]),
    counter("trellis_handoff_total", &["via"]),
    counter("trellis_dedup_checks_total", &["result"]),
    duration("trellis_dedup_duration_seconds", &[]),
    Metric { name: "trellis_fraud_score", kind: MetricKind::Histogram(SCORES), labels: &[] },
    counter("trellis_class_reasons_total", &["reason"]),
    gauge("trellis_work_in_flight", &["stage"]),
    gauge("trellis_batches_parked", &[]),
    Metric { name: "trellis_batch_rows", kind: MetricKind::Histogram(ROWS), labels: &[] },
    duration("trellis_batch_duration_seconds", &[]),
    duration("trellis_ingest_lag_seconds", &[]),
    counter("trellis_insert_failures_total", &[]),
    counter("trellis_batch_looks_total", &["found"]),
    gauge("trellis_dead_letter_rows", &["shelf"]),
    gauge("trellis_dead_letter_bytes", &["shelf"]),
    gauge("trellis_dead_letter_oldest_age_seconds", &["shelf"]),
    // The ledger.
    gauge("trellis_ledger_residual_clicks", &[]),
    gauge("trellis_ledger_store_difference_clicks", &[]),
    counter("trellis_ledger_checks_total", &[]),
    gauge("trellis_ledger_dirty", &[]),
    // The catalog and its keys.
    gauge("trellis_links", &[]),
    gauge("trellis_catalog_version", &[]),
    gauge("trellis_catalog_entries", &["kind"]),
    counter("trellis_releases_total", &["kind"]),
    duration("trellis_release_apply_duration_seconds", &[]),
    counter("trellis_catalog_revalidations_total", &["result"]),
    duration("trellis_auth_duration_seconds", &["outcome"]),
    counter("trellis_auth_cache_total", &["result"]),
    counter("trellis_cache_total", &["cache", "result"]),
    // The operator side.
    counter("trellis_api_requests_total", &["op", "status_class"]),
    duration("trellis_api_duration_seconds", &["op"]),
    counter("trellis_audit_entries_total", &[]),
    counter("trellis_audit_failures_total", &[]),
    duration("trellis_audit_write_duration_seconds", &[]),
    duration("trellis_release_apply_duration_seconds", &[]),
    // Answers and errors of all listeners.
    counter("trellis_requests_total", &["listener", "status_class"]),
    counter("trellis_errors_total", &["stage"]),
    // What memory knew.
    counter("trellis_cache_total", &["cache", "result"]),
    // What the node depends on.
    gauge("trellis_dependency_up", &["dependency"]),
    gauge("trellis_breaker_state", &["dependency"]),
    counter("trellis_breaker_opened_total", &["dependency"]),
    duration("trellis_store_op_duration_seconds", &["dependency", "op"]),
    counter("trellis_slow_operations_total", &["dependency", "level"]),
    gauge("trellis_pool_connections", &["pool", "state"]),
    duration("trellis_pool_wait_seconds", &["pool"]),
    counter("trellis_pool_requests_total", &["pool"]),
    counter("trellis_pool_failures_total", &["pool"]),
    gauge("trellis_pool_oldest_seconds", &["pool"]),
    gauge("trellis_redis_used_memory_bytes", &[]),
    gauge("trellis_redis_memory_max_bytes", &[]),
    gauge("trellis_redis_memory_fragmentation_ratio", &[]),
    counter("trellis_redis_cpu_seconds_total", &[]),
    counter("trellis_redis_evicted_keys_total", &[]),
    counter("trellis_redis_expired_keys_total", &[]),
    counter("trellis_redis_keyspace_hits_total", &[]),
    counter("trellis_redis_keyspace_misses_total", &[]),
    gauge("trellis_redis_connected_clients", &[]),
    gauge("trellis_redis_uptime_seconds", &[]),
    gauge("trellis_redis_replication_lag_seconds", &[]),
    gauge("trellis_clickhouse_parts", &[]),
    gauge("trellis_clickhouse_partition_parts_max", &[]),
    gauge("trellis_clickhouse_merges", &[]),
    gauge("trellis_clickhouse_memory_bytes", &[]),
    gauge("trellis_clickhouse_query_p95_seconds", &[]),
    counter("trellis_clickhouse_delayed_inserts_total", &[]),
    counter("trellis_clickhouse_rejected_inserts_total", &[]),
    gauge("trellis_clickhouse_replication_lag_seconds", &[]),
    gauge("trellis_clickhouse_uptime_seconds", &[]),
    // The machine and the event loops.
    gauge("trellis_cpu_cores", &[]),
    gauge("trellis_memory_limit_bytes", &[]),
    gauge("trellis_heap_bytes", &[]),
    counter("trellis_io_bytes_total", &["direction"]),
    counter("trellis_network_bytes_total", &["direction"]),
    gauge("trellis_disk_bytes", &[]),
    gauge("trellis_disk_free_bytes", &[]),
    counter("trellis_disk_busy_seconds_total", &[]),
    gauge("trellis_runtime_tasks", &["runtime"]),
    gauge("trellis_runtime_lag_seconds", &["runtime"]),
    // What the node asks itself.
    gauge("trellis_probe_success", &["check"]),
    gauge("trellis_probe_duration_seconds", &["check"]),
    gauge("trellis_probe_freshness_seconds", &[]),
    // The process.
    gauge("trellis_build_info", &["version"]),
    counter("process_cpu_seconds_total", &[]),
    gauge("process_open_fds", &[]),
    gauge("process_max_fds", &[]),
    gauge("process_virtual_memory_bytes", &[]),
    gauge("process_resident_memory_bytes", &[]),
    gauge("process_start_time_seconds", &[]),
    gauge("process_threads", &[]),
];

/// The metric of this name.
pub(super) fn metric(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}
