//! From shards to the text of `/metrics`: names, help texts and labels of everything that is exported.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use super::api::ApiShard;
use super::auth::AuthShard;
use super::books::LedgerShard;
use super::catalog::CatalogShard;
use super::families::{counter, family, float_gauge, gauge, histogram, pair, single};
use super::metrics::{
    BreakerShard, DeadLetterShard, Decided, Destined, EdgeShard, Found, Guarded, KeeperShard, WorkerShard,
};
use super::overload::Lever;
use super::pools::{PoolShard, Pooled};
use super::probe::ProbeShard;
use super::recall::RecallShard;
use super::requests::ServedShard;
use super::shard::{Histogram, Snapshot};
use super::slo::SloShard;
use super::watched::Watched;
use crate::click::Reasons;
use crate::click::privacy::Level;

/// Everything that a scrape adds up.
pub(super) struct Shards {
    pub(super) edges: Vec<Arc<EdgeShard>>,
    /// One for each edge thread, then one for the journals of earlier runs.
    pub(super) workers: Vec<Arc<WorkerShard>>,
    /// In the order of [`Guarded`].
    pub(super) breakers: [Arc<BreakerShard>; Guarded::NAMES.len()],
    /// In the order of [`Pooled`].
    pub(super) pools: [Arc<PoolShard>; Pooled::NAMES.len()],
    pub(super) keeper: Arc<KeeperShard>,
    pub(super) lever: Arc<Lever>,
    pub(super) dependencies: Vec<(&'static str, AtomicBool)>,
    pub(super) queue_capacity: usize,
    pub(super) links: Box<dyn Fn() -> usize + Send + Sync>,
    pub(super) refused: Arc<DeadLetterShard>,
    pub(super) ledger: Arc<LedgerShard>,
    /// Set when the catalog is open.
    pub(super) catalog: OnceLock<Arc<CatalogShard>>,
    pub(super) auth: Arc<AuthShard>,
    pub(super) recall: Arc<RecallShard>,
    pub(super) api: Arc<ApiShard>,
    pub(super) watched: Watched,
    pub(super) probe: Arc<ProbeShard>,
    pub(super) slo: Arc<SloShard>,
    /// Set where a Warden is served.
    pub(super) served: OnceLock<Arc<ServedShard>>,
    /// Time of the scrape, Unix milliseconds.
    pub(super) now_ms: AtomicU64,
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards").field("edges", &self.edges).field("workers", &self.workers).finish_non_exhaustive()
    }
}

pub(super) struct ShardCollector {
    pub(super) shards: Arc<Shards>,
    pub(super) descriptions: Vec<Desc>,
}

impl Collector for ShardCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.shards.families()
    }
}

pub(super) fn describe(shards: &Shards) -> Result<Vec<Desc>, prometheus::Error> {
    shards
        .families()
        .iter()
        .map(|family| Desc::new(family.name().into(), family.help().into(), Vec::new(), Default::default()))
        .collect()
}

impl Shards {
    pub(super) fn pending(&self) -> u64 {
        // Claimed first: a click is accepted before it is claimed, so the difference never falls below zero.
        let claimed = self.sum_workers(|w| w.claimed.get());
        self.sum_edges(|e| e.accepted.get()).saturating_sub(claimed)
    }

    pub(super) fn sum_edges(&self, of: impl Fn(&EdgeShard) -> u64) -> u64 {
        self.edges.iter().map(|edge| of(edge)).sum()
    }

    pub(super) fn sum_workers(&self, of: impl Fn(&WorkerShard) -> u64) -> u64 {
        self.workers.iter().map(|worker| of(worker)).sum()
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.edge_families();
        families.extend(self.worker_families());
        families.extend(self.dead_letter_families());
        families.extend(self.keeper_families());
        families.extend(self.ledger_families());
        families.extend(self.catalog_families());
        families.push(self.auth_family());
        families.extend(self.phase_families());
        families.extend(self.request_families());
        families.extend(self.api_families());
        families.extend(self.probe_families());
        let dependencies = self
            .dependencies
            .iter()
            .map(|(name, up)| (*name, u64::from(up.load(Ordering::Relaxed))))
            .collect::<Vec<_>>();
        families.push(gauge(
            "trellis_dependency_up",
            "1 when the dependency answered last",
            "dependency",
            &dependencies,
        ));
        families.push(self.recall_family());
        families.extend(self.breaker_families());
        families.extend(self.overload_families());
        families.extend(self.pool_families());
        families.extend(self.watched.families());
        families.extend(self.slo_families());
        families.push(gauge("trellis_links", "Links served", "", &[("", (self.links)() as u64)]));
        families.push(gauge(
            "trellis_build_info",
            "Always 1; the label is the version",
            "version",
            &[(crate::VERSION, 1)],
        ));
        families
    }

    fn pool_families(&self) -> [MetricFamily; 5] {
        let pools = || Pooled::NAMES.into_iter().zip(&self.pools);
        let each = |of: fn(&PoolShard) -> u64| pools().map(|(name, pool)| (name, of(pool))).collect::<Vec<_>>();
        let mut connections = gauge("trellis_pool_connections", "Connections, by state", "state", &[]);
        let help = "From asking for a connection to having it";
        let mut waits = family("trellis_pool_wait_seconds", help, MetricType::HISTOGRAM, Vec::new());
        for (name, pool) in pools() {
            let (busy, open) = (pool.busy(), pool.connections());
            let states = [("busy", busy), ("idle", open.saturating_sub(busy)), ("max", pool.capacity())];
            let of_pool = gauge("", "", "state", &states).take_metric();
            connections.mut_metric().extend(of_pool.into_iter().map(|mut metric| {
                let mut labels = metric.take_label();
                labels.insert(0, pair("pool", name));
                metric.set_label(labels);
                metric
            }));
            let mut wait = Snapshot::default();
            pool.wait().merge_into(&mut wait);
            let mut of_pool = histogram("", "", &wait).take_metric();
            of_pool.iter_mut().for_each(|metric| metric.set_label(vec![pair("pool", name)]));
            waits.mut_metric().extend(of_pool);
        }
        [
            connections,
            waits,
            counter("trellis_pool_requests_total", "Connections asked for", "pool", &each(PoolShard::requests)),
            counter("trellis_pool_failures_total", "Not given, or broken", "pool", &each(PoolShard::failures)),
            gauge("trellis_pool_oldest_seconds", "Age of the oldest", "pool", &each(|pool| pool.oldest().as_secs())),
        ]
    }

    fn breaker_families(&self) -> [MetricFamily; 2] {
        let each = |of: fn(&BreakerShard) -> u64| {
            Guarded::NAMES
                .into_iter()
                .zip(&self.breakers)
                .map(|(name, breaker)| (name, of(breaker)))
                .collect::<Vec<_>>()
        };
        let (states, opened) = (each(|b| b.state.get()), each(|b| b.opened.get()));
        [
            gauge("trellis_breaker_state", "0 closed, 1 open, 2 half-open", "dependency", &states),
            counter("trellis_breaker_opened_total", "Times that a breaker opened", "dependency", &opened),
        ]
    }

    fn edge_families(&self) -> Vec<MetricFamily> {
        let decisions: Vec<_> = Decided::NAMES
            .iter()
            .enumerate()
            .map(|(i, name)| (*name, self.sum_edges(|e| e.decisions[i].get())))
            .collect();
        let destinations: Vec<_> = Destined::NAMES
            .iter()
            .enumerate()
            .map(|(i, name)| (*name, self.sum_edges(|e| e.destinations[i].get())))
            .collect();
        let levels: Vec<_> = Level::ALL
            .iter()
            .map(|level| (level.name(), self.sum_edges(|e| e.privacy[*level as usize].get())))
            .collect();
        let queued =
            self.sum_edges(|e| e.groups_sent.get()).saturating_sub(self.sum_workers(|w| w.groups_received.get()));
        let connections = [
            ("accepted", self.sum_edges(|e| e.connections_accepted.get())),
            ("refused", self.sum_edges(|e| e.connections_refused.get())),
            ("failed", self.sum_edges(|e| e.accepts_failed.get())),
            ("timed_out", self.sum_edges(|e| e.connections_timed_out.get())),
        ];
        vec![
            counter("trellis_redirects_total", "Answers of the edge", "outcome", &self.answers()),
            counter("trellis_decisions_total", "Visits of campaigns, by what decided", "strategy", &decisions),
            counter("trellis_destinations_total", "Visits, by what they were sent to", "result", &destinations),
            counter("trellis_privacy_total", "Visits, by what their clicks keep", "level", &levels),
            self.edge_histogram("trellis_redirect_duration_seconds", "Request head to written journal", |e| {
                &e.redirect_duration
            }),
            self.edge_histogram("trellis_journal_append_duration_seconds", "One journal write", |e| &e.append_duration),
            single(
                "trellis_clicks_accepted_total",
                "Clicks written to the journal",
                self.sum_edges(|e| e.accepted.get()),
            ),
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
        let untracked = self.answers().into_iter().find(|(name, _)| *name == "untracked").map_or(0, |(_, count)| count);
        let fates = [("stored", self.sum_workers(|w| w.stored.get())), ("untracked", untracked)];
        let via = [
            ("queue", self.sum_workers(|w| w.via_queue.get())),
            ("journal", self.sum_workers(|w| w.via_journal.get())),
        ];
        let looks: Vec<_> = Found::NAMES
            .into_iter()
            .enumerate()
            .map(|(i, name)| (name, self.sum_workers(|w| w.looks[i].get())))
            .collect();
        let labels: Vec<_> = ["unique", "duplicate", "unknown"]
            .into_iter()
            .enumerate()
            .map(|(i, name)| (name, self.sum_workers(|w| w.labels[i].get())))
            .collect();
        let reasons: Vec<_> = Reasons::ALL
            .into_iter()
            .enumerate()
            .map(|(i, (_, name))| (name, self.sum_workers(|w| w.class_reasons[i].get())))
            .collect();
        let claimed_bytes = self.sum_workers(|w| w.claimed_bytes.get());
        let lag_bytes = self.sum_edges(|e| e.journal_bytes.get()).saturating_sub(claimed_bytes);
        let in_flight = [
            ("dedup", self.sum_workers(|w| w.checking.get())),
            ("insert", self.sum_workers(|w| w.batches_in_flight.get())),
        ];
        vec![
            counter("trellis_clicks_total", "Clicks that came to their end", "fate", &fates),
            gauge("trellis_clicks_pending", "Accepted and not yet claimed by a worker", "", &[("", self.pending())]),
            single("trellis_clicks_adopted_total", "Clicks of earlier runs", self.sum_workers(|w| w.adopted.get())),
            counter("trellis_handoff_total", "Clicks by the way they took", "via", &via),
            counter("trellis_dedup_checks_total", "Labels", "result", &labels),
            self.worker_histogram("trellis_dedup_duration_seconds", "One check of a chunk", |w| &w.dedup_duration),
            self.worker_histogram("trellis_fraud_score", "Of a click, 0 to 100", |w| &w.fraud_score),
            counter("trellis_class_reasons_total", "Clicks by the reasons of class and score", "reason", &reasons),
            gauge("trellis_work_in_flight", "Clicks at the deduper, batches at the store", "stage", &in_flight),
            gauge(
                "trellis_batches_parked",
                "Batches that the store will not take until a person changes something",
                "",
                &[("", self.sum_workers(|w| w.batches_parked.get()))],
            ),
            self.worker_histogram("trellis_batch_rows", "Clicks of a batch", |w| &w.batch_rows),
            self.worker_histogram("trellis_batch_duration_seconds", "First try to stored", |w| &w.batch_duration),
            self.worker_histogram("trellis_ingest_lag_seconds", "Click to queryable", |w| &w.ingest_lag),
            single(
                "trellis_insert_failures_total",
                "Inserts tried again",
                self.sum_workers(|w| w.insert_failures.get()),
            ),
            counter("trellis_batch_looks_total", "Batches looked for before sending again", "found", &looks),
            single(
                "trellis_unreadable_total",
                "Parts of the journal not readable",
                self.sum_workers(|w| w.unreadable.get()),
            ),
            gauge(
                "trellis_journal_lag_bytes",
                "Bytes between the workers' cursors and the journals' ends",
                "",
                &[("", lag_bytes)],
            ),
        ]
    }

    pub(super) fn backlog(&self) -> DeadLetterShard {
        let backlog = DeadLetterShard::default();
        let waiting: Vec<_> = self.workers.iter().flat_map(|worker| worker.backlog.waiting()).collect();
        backlog.rows.set(waiting.iter().map(|stretch| stretch.rows).sum());
        backlog.bytes.set(waiting.iter().map(|stretch| stretch.bytes).sum());
        let times = waiting.iter().map(|stretch| stretch.oldest_ms);
        backlog.oldest_ms.set(times.filter(|ms| *ms > 0).min().unwrap_or(0));
        backlog
    }

    fn dead_letter_families(&self) -> [MetricFamily; 3] {
        let now_ms = self.now_ms.load(Ordering::Relaxed);
        let shelves = [("refused", &*self.refused), ("backlog", &self.backlog())];
        let age_s = |shelf: &DeadLetterShard| match shelf.oldest_ms.get() {
            0 => 0.0,
            oldest_ms => now_ms.saturating_sub(oldest_ms) as f64 / 1e3,
        };
        let ages = shelves.map(|(name, shelf)| (name, age_s(shelf)));
        let (rows, bytes) = (shelves.map(|(n, s)| (n, s.rows.get())), shelves.map(|(n, s)| (n, s.bytes.get())));
        [
            gauge("trellis_dead_letter_rows", "Rows that wait; of the backlog about so many", "shelf", &rows),
            gauge("trellis_dead_letter_bytes", "Bytes on the disk", "shelf", &bytes),
            float_gauge("trellis_dead_letter_oldest_age_seconds", "Of the oldest click that waits", "shelf", &ages),
        ]
    }

    fn keeper_families(&self) -> Vec<MetricFamily> {
        let keeper = &self.keeper;
        let mut syncs = Snapshot::default();
        keeper.sync_duration.merge_into(&mut syncs);
        vec![
            histogram("trellis_journal_sync_duration_seconds", "One sync of one journal", &syncs),
            single("trellis_journal_sync_failures_total", "Failed syncs", keeper.sync_failures.get()),
            single(
                "trellis_journal_possibly_lost_bytes_total",
                "Bytes not readable after a failed sync",
                keeper.possibly_lost_bytes.get(),
            ),
            single(
                "trellis_journal_unforced_total",
                "Clicks in the journal whose visitors got no id, for want of a sync",
                self.sum_edges(|e| e.unforced.get()),
            ),
        ]
    }

    fn edge_histogram(&self, name: &str, help: &str, of: impl Fn(&EdgeShard) -> &Histogram) -> MetricFamily {
        let mut total = Snapshot::default();
        self.edges.iter().for_each(|edge| of(edge).merge_into(&mut total));
        histogram(name, help, &total)
    }

    fn worker_histogram(&self, name: &str, help: &str, of: impl Fn(&WorkerShard) -> &Histogram) -> MetricFamily {
        let mut total = Snapshot::default();
        self.workers.iter().for_each(|worker| of(worker).merge_into(&mut total));
        histogram(name, help, &total)
    }
}
