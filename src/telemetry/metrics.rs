//! Every metric of Trellis, one struct for each stage.
//!
//! An edge thread owns an [`EdgeShard`], a worker owns a [`WorkerShard`]; a scrape merges them. Names are part of the
//! interface: prefix `trellis_`, base units, no label whose values come from outside. There are no globals: each app has
//! its own [`Metrics`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder as _, Registry, TextEncoder};

use super::shard::{Cell, Histogram, LATENCY_US, ROWS, Snapshot};

/// How the edge answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A redirect with an `X-Click-Id`.
    Redirected,
    /// A redirect without one: the journal could not take the click.
    Untracked,
    /// No such link, or a paused one: 404.
    UnknownLink,
    /// A request that the edge does not answer: 405, 414, 501.
    Refused,
    /// `/robots.txt` and the like.
    Other,
}

impl Outcome {
    const NAMES: [&str; 5] = ["redirected", "untracked", "unknown_link", "refused", "other"];
}

/// Written by one edge thread.
#[derive(Debug)]
pub struct EdgeShard {
    outcomes: [Cell; Outcome::NAMES.len()],
    /// From the request head to the written journal, for redirects.
    pub redirect_duration: Histogram,
    /// One journal write.
    pub append_duration: Histogram,
    /// Clicks written to the journal.
    pub accepted: Cell,
    /// Bytes written to the journal.
    pub journal_bytes: Cell,
    /// Groups offered to the queue and taken by it.
    pub groups_sent: Cell,
    /// Groups that the queue had no room for.
    pub groups_left_to_journal: Cell,
    /// Connections accepted since start.
    pub connections_accepted: Cell,
    /// Connections refused at the cap.
    pub connections_refused: Cell,
    /// Connections closed by a time-out.
    pub connections_timed_out: Cell,
    /// Open now.
    pub connections_open: Cell,
    /// Failed journal writes.
    pub journal_failures: Cell,
}

impl EdgeShard {
    fn new() -> Self {
        Self {
            outcomes: Default::default(),
            redirect_duration: Histogram::new(LATENCY_US),
            append_duration: Histogram::new(LATENCY_US),
            accepted: Cell::default(),
            journal_bytes: Cell::default(),
            groups_sent: Cell::default(),
            groups_left_to_journal: Cell::default(),
            connections_accepted: Cell::default(),
            connections_refused: Cell::default(),
            connections_timed_out: Cell::default(),
            connections_open: Cell::default(),
            journal_failures: Cell::default(),
        }
    }

    /// Counts one answer.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].add(1);
    }
}

/// Written by one worker.
#[derive(Debug)]
pub struct WorkerShard {
    /// Clicks of live journals taken up.
    pub claimed: Cell,
    /// Clicks taken up from journals of earlier runs.
    pub adopted: Cell,
    /// Clicks that came through the queue.
    pub via_queue: Cell,
    /// Clicks that were read from the journal.
    pub via_journal: Cell,
    /// Groups taken from the queue.
    pub groups_received: Cell,
    /// Labels, in the order unique, duplicate, unknown.
    pub labels: [Cell; 3],
    /// One check of a chunk of clicks.
    pub dedup_duration: Histogram,
    /// Clicks of a batch.
    pub batch_rows: Histogram,
    /// One batch, from the first try to stored.
    pub batch_duration: Histogram,
    /// Batches at the store now.
    pub batches_in_flight: Cell,
    /// Clicks stored.
    pub stored: Cell,
    /// Inserts that failed and are tried again.
    pub insert_failures: Cell,
    /// From the click to its batch being stored, once a click.
    pub ingest_lag: Histogram,
    /// Journal bytes skipped because they could not be read, or frames that could not be decoded.
    pub unreadable: Cell,
    /// Bytes of live journals taken up.
    pub claimed_bytes: Cell,
}

impl WorkerShard {
    fn new() -> Self {
        Self {
            claimed: Cell::default(),
            adopted: Cell::default(),
            via_queue: Cell::default(),
            via_journal: Cell::default(),
            groups_received: Cell::default(),
            labels: Default::default(),
            dedup_duration: Histogram::new(LATENCY_US),
            batch_rows: Histogram::new(ROWS),
            batch_duration: Histogram::new(LATENCY_US),
            batches_in_flight: Cell::default(),
            stored: Cell::default(),
            insert_failures: Cell::default(),
            ingest_lag: Histogram::new(LATENCY_US),
            unreadable: Cell::default(),
            claimed_bytes: Cell::default(),
        }
    }
}

/// The shards of one process and the registry that renders them.
#[derive(Debug)]
pub struct Metrics {
    shards: Arc<Shards>,
    registry: Registry,
}

struct Shards {
    edges: Vec<Arc<EdgeShard>>,
    /// One for each edge thread, then one for the journals of earlier runs.
    workers: Vec<Arc<WorkerShard>>,
    dependencies: Vec<(&'static str, AtomicBool)>,
    queue_capacity: usize,
    links: Box<dyn Fn() -> usize + Send + Sync>,
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards").field("edges", &self.edges).field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Shards for this many edge threads, with the queue's capacity in groups for each, the names of the dependencies
    /// and a way to count links.
    ///
    /// # Errors
    /// When the registry refuses a collector, which would be a mistake in this file.
    pub fn new(
        threads: usize,
        queue_capacity: usize,
        dependencies: &[&'static str],
        links: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        let shards = Arc::new(Shards {
            edges: (0..threads).map(|_| Arc::new(EdgeShard::new())).collect(),
            workers: (0..=threads).map(|_| Arc::new(WorkerShard::new())).collect(),
            dependencies: dependencies.iter().map(|name| (*name, AtomicBool::new(false))).collect(),
            queue_capacity: queue_capacity * threads,
            links: Box::new(links),
        });
        let registry = Registry::new();
        registry.register(Box::new(ShardCollector { shards: Arc::clone(&shards), descriptions: describe(&shards)? }))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { shards, registry })
    }

    /// The shard of an edge thread.
    #[must_use]
    pub fn edge(&self, core: usize) -> Arc<EdgeShard> {
        Arc::clone(&self.shards.edges[core])
    }

    /// The shard of a worker; the one past the last edge thread belongs to the journals of earlier runs.
    #[must_use]
    pub fn worker(&self, core: usize) -> Arc<WorkerShard> {
        Arc::clone(&self.shards.workers[core])
    }

    /// Notes whether a dependency answers.
    pub fn set_dependency(&self, name: &str, up: bool) {
        if let Some((_, cell)) = self.shards.dependencies.iter().find(|(known, _)| *known == name) {
            cell.store(up, Ordering::Relaxed);
        }
    }

    /// Clicks accepted by this run and not yet claimed by a worker.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.shards.pending()
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory cannot fail, and a family without metrics is never made.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

struct ShardCollector {
    shards: Arc<Shards>,
    descriptions: Vec<Desc>,
}

impl Collector for ShardCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.shards.families()
    }
}

fn describe(shards: &Shards) -> Result<Vec<Desc>, prometheus::Error> {
    shards
        .families()
        .iter()
        .map(|family| Desc::new(family.name().into(), family.help().into(), Vec::new(), Default::default()))
        .collect()
}

impl Shards {
    fn pending(&self) -> u64 {
        // Claimed first: a click is accepted before it is claimed, so the difference never falls below zero.
        let claimed = self.sum_workers(|w| w.claimed.get());
        self.sum_edges(|e| e.accepted.get()).saturating_sub(claimed)
    }

    fn sum_edges(&self, of: impl Fn(&EdgeShard) -> u64) -> u64 {
        self.edges.iter().map(|edge| of(edge)).sum()
    }

    fn sum_workers(&self, of: impl Fn(&WorkerShard) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(worker)).sum()
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.edge_families();
        families.extend(self.worker_families());
        let dependencies =
            self.dependencies.iter().map(|(name, up)| (*name, u64::from(up.load(Ordering::Relaxed)))).collect::<Vec<_>>();
        families.push(gauge("trellis_dependency_up", "1 when the dependency answered last", "dependency", &dependencies));
        families.push(gauge("trellis_links", "Links served", "", &[("", (self.links)() as u64)]));
        families.push(gauge("trellis_build_info", "Always 1; the label is the version", "version", &[(crate::VERSION, 1)]));
        families
    }

    fn edge_families(&self) -> Vec<MetricFamily> {
        let outcomes: Vec<_> = Outcome::NAMES
            .into_iter()
            .enumerate()
            .map(|(i, name)| (name, self.sum_edges(|e| e.outcomes[i].get())))
            .collect();
        let queued = self.sum_edges(|e| e.groups_sent.get()).saturating_sub(self.sum_workers(|w| w.groups_received.get()));
        let connections = [
            ("accepted", self.sum_edges(|e| e.connections_accepted.get())),
            ("refused", self.sum_edges(|e| e.connections_refused.get())),
            ("timed_out", self.sum_edges(|e| e.connections_timed_out.get())),
        ];
        vec![
            counter("trellis_redirects_total", "Answers of the edge", "outcome", &outcomes),
            self.edge_histogram(
                "trellis_redirect_duration_seconds",
                "Request head to written journal",
                |e| &e.redirect_duration,
            ),
            self.edge_histogram("trellis_journal_append_duration_seconds", "One journal write", |e| &e.append_duration),
            single("trellis_clicks_accepted_total", "Clicks written to the journal", self.sum_edges(|e| e.accepted.get())),
            single("trellis_journal_bytes_total", "Bytes written", self.sum_edges(|e| e.journal_bytes.get())),
            single("trellis_journal_failures_total", "Failed writes", self.sum_edges(|e| e.journal_failures.get())),
            gauge("trellis_queue_length", "Groups waiting for a worker", "", &[("", queued)]),
            gauge("trellis_queue_capacity", "Groups that may wait", "", &[("", self.queue_capacity as u64)]),
            single(
                "trellis_queue_overflow_total",
                "Groups without room in the queue; read from the journal",
                self.sum_edges(|e| e.groups_left_to_journal.get()),
            ),
            counter("trellis_connections_total", "Connections of the edge", "event", &connections),
            gauge("trellis_connections", "Open connections", "", &[("", self.sum_edges(|e| e.connections_open.get()))]),
        ]
    }

    fn worker_families(&self) -> Vec<MetricFamily> {
        let untracked = self.sum_edges(|e| e.outcomes[Outcome::Untracked as usize].get());
        let fates = [("stored", self.sum_workers(|w| w.stored.get())), ("untracked", untracked)];
        let via = [
            ("queue", self.sum_workers(|w| w.via_queue.get())),
            ("journal", self.sum_workers(|w| w.via_journal.get())),
        ];
        let labels: Vec<_> = ["unique", "duplicate", "unknown"]
            .into_iter()
            .enumerate()
            .map(|(i, name)| (name, self.sum_workers(|w| w.labels[i].get())))
            .collect();
        let claimed_bytes = self.sum_workers(|w| w.claimed_bytes.get());
        let lag_bytes = self.sum_edges(|e| e.journal_bytes.get()).saturating_sub(claimed_bytes);
        let in_flight = [("insert", self.sum_workers(|w| w.batches_in_flight.get()))];
        vec![
            counter("trellis_clicks_total", "Clicks that came to their end", "fate", &fates),
            gauge("trellis_clicks_pending", "Accepted and not yet claimed by a worker", "", &[("", self.pending())]),
            single("trellis_clicks_adopted_total", "Clicks of earlier runs", self.sum_workers(|w| w.adopted.get())),
            counter("trellis_handoff_total", "Clicks by the way they took", "via", &via),
            counter("trellis_dedup_checks_total", "Labels", "result", &labels),
            self.worker_histogram("trellis_dedup_duration_seconds", "One check of a chunk", 1e6, |w| &w.dedup_duration),
            gauge("trellis_work_in_flight", "Batches at the store", "stage", &in_flight),
            self.worker_histogram("trellis_batch_rows", "Clicks of a batch", 1.0, |w| &w.batch_rows),
            self.worker_histogram("trellis_batch_duration_seconds", "First try to stored", 1e6, |w| &w.batch_duration),
            self.worker_histogram("trellis_ingest_lag_seconds", "Click to queryable", 1e6, |w| &w.ingest_lag),
            single("trellis_insert_failures_total", "Inserts tried again", self.sum_workers(|w| w.insert_failures.get())),
            single("trellis_unreadable_total", "Frames not understood", self.sum_workers(|w| w.unreadable.get())),
            gauge(
                "trellis_journal_lag_bytes",
                "Bytes between the workers' cursors and the journals' ends",
                "",
                &[("", lag_bytes)],
            ),
        ]
    }

    fn edge_histogram(&self, name: &str, help: &str, of: impl Fn(&EdgeShard) -> &Histogram) -> MetricFamily {
        let mut total = Snapshot::default();
        self.edges.iter().for_each(|edge| of(edge).merge_into(&mut total));
        histogram(name, help, &total, 1e6)
    }

    fn worker_histogram(
        &self,
        name: &str,
        help: &str,
        unit: f64,
        of: impl Fn(&WorkerShard) -> &Histogram,
    ) -> MetricFamily {
        let mut total = Snapshot::default();
        self.workers.iter().for_each(|worker| of(worker).merge_into(&mut total));
        histogram(name, help, &total, unit)
    }
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(label: &str, value: &str) -> Metric {
    let mut metric = Metric::default();
    if !label.is_empty() {
        let mut pair = LabelPair::default();
        pair.set_name(label.into());
        pair.set_value(value.into());
        metric.set_label(vec![pair]);
    }
    metric
}

fn counter(name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> MetricFamily {
    let metrics = values.iter().map(|(of, value)| {
        let mut counter = Counter::default();
        counter.set_value(*value as f64);
        let mut metric = labelled(label, of);
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics.collect())
}

fn single(name: &str, help: &str, value: u64) -> MetricFamily {
    counter(name, help, "", &[("", value)])
}

fn gauge(name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> MetricFamily {
    let metrics = values.iter().map(|(of, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(*value as f64);
        let mut metric = labelled(label, of);
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, metrics.collect())
}

fn histogram(name: &str, help: &str, total: &Snapshot, unit: f64) -> MetricFamily {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(total.bounds.len());
    for (bound, count) in total.bounds.iter().zip(&total.counts) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / unit);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = prometheus::proto::Histogram::default();
    histogram.set_sample_count(total.counts.iter().sum());
    histogram.set_sample_sum(total.sum as f64 / unit);
    histogram.set_bucket(buckets);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_adds_the_shards_up() {
        let metrics = Metrics::new(2, 10, &["store"], || 7).unwrap();
        metrics.edge(0).count(Outcome::Redirected);
        metrics.edge(1).count(Outcome::Redirected);
        metrics.edge(0).accepted.add(5);
        metrics.worker(1).claimed.add(2);
        metrics.edge(1).redirect_duration.observe(60);
        metrics.set_dependency("store", true);
        let text = metrics.render();
        for line in [
            "trellis_redirects_total{outcome=\"redirected\"} 2",
            "trellis_clicks_pending 3",
            "trellis_redirect_duration_seconds_bucket{le=\"0.00005\"} 0",
            "trellis_redirect_duration_seconds_bucket{le=\"0.0001\"} 1",
            "trellis_redirect_duration_seconds_count 1",
            "trellis_dependency_up{dependency=\"store\"} 1",
            "trellis_links 7",
            "trellis_queue_capacity 20",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
