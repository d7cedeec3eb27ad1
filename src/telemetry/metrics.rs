//! Every metric of Trellis, one struct for each stage.
//!
//! An edge thread owns an [`EdgeShard`], a worker owns a [`WorkerShard`]; a scrape merges them. Names are part of the
//! interface: prefix `trellis_`, base units, no label whose values come from outside. There are no globals: each app has
//! its own [`Metrics`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus::proto::MetricFamily;
use prometheus::{Encoder as _, Registry, TextEncoder};

use super::auth::AuthShard;
use super::exposition::{ShardCollector, Shards, describe};
use super::families::thin;
use super::minutes::MinuteRing;
use super::overload::{Lever, Signals};
use super::phases::RequestTimes;
use super::pools::{PoolShard, Pooled};
use super::shard::{Cell, Histogram, Scale};
use crate::click::privacy::Level;

pub use super::keeper::KeeperShard;
pub use super::outcomes::{Decided, Destined, Found, Guarded, Limit, Outcome, StatusClass};
pub use super::worker::WorkerShard;

/// Written by one edge thread.
#[derive(Debug)]
pub struct EdgeShard {
    pub(super) outcomes: [Cell; Outcome::KINDS.len()],
    pub(super) decisions: [Cell; Decided::NAMES.len()],
    pub(super) destinations: [Cell; Destined::NAMES.len()],
    pub(super) privacy: [Cell; Level::NAMES.len()],
    pub(super) limited: [Cell; Limit::NAMES.len()],
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
    /// Accepts that failed for want of descriptors or memory.
    pub accepts_failed: Cell,
    /// Connections closed by a time-out.
    pub connections_timed_out: Cell,
    /// Open now.
    pub connections_open: Cell,
    /// Failed journal writes.
    pub journal_failures: Cell,
    /// Clicks in the journal whose visitors got no id, because the journal could not be forced.
    pub unforced: Cell,
    /// Checks of keys that came to `/in`.
    pub auth: AuthShard,
    /// Where the time of requests goes.
    pub times: RequestTimes,
    /// Accepted and untracked clicks by the minute.
    pub minutes: MinuteRing,
    /// How late its event loop was when it was last looked at, microseconds.
    pub loop_lag_us: Cell,
    /// Connections accepted since none was waiting.
    pub accept_backlog: Cell,
    /// Connections refused because of overload.
    pub shed_connections: Cell,
    /// What is left undone now; not its to move.
    pub lever: Arc<Lever>,
}

impl EdgeShard {
    fn new(lever: Arc<Lever>) -> Self {
        Self {
            outcomes: Default::default(),
            decisions: Default::default(),
            destinations: Default::default(),
            privacy: Default::default(),
            limited: Default::default(),
            redirect_duration: Histogram::new(Scale::Durations),
            append_duration: Histogram::new(Scale::Durations),
            accepted: Cell::default(),
            journal_bytes: Cell::default(),
            groups_sent: Cell::default(),
            groups_left_to_journal: Cell::default(),
            connections_accepted: Cell::default(),
            connections_refused: Cell::default(),
            accepts_failed: Cell::default(),
            connections_timed_out: Cell::default(),
            connections_open: Cell::default(),
            journal_failures: Cell::default(),
            unforced: Cell::default(),
            auth: AuthShard::default(),
            times: RequestTimes::default(),
            minutes: MinuteRing::default(),
            loop_lag_us: Cell::default(),
            accept_backlog: Cell::default(),
            shed_connections: Cell::default(),
            lever,
        }
    }

    /// Counts one answer.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].add(1);
    }

    /// Counts a visit of a campaign.
    pub fn decide(&self, decided: Decided) {
        self.decisions[decided as usize].add(1);
    }

    /// Counts a visit by where it goes.
    pub fn destine(&self, destined: Destined) {
        self.destinations[destined as usize].add(1);
    }

    /// Counts a request, or a connection, that a limit refused.
    pub fn limit(&self, limit: Limit) {
        self.limited[limit as usize].add(1);
    }

    /// Counts a visit by what its click may keep.
    pub fn keep(&self, level: Level) {
        self.privacy[level as usize].add(1);
    }
}

/// Written by one breaker, under its lock.
#[derive(Debug, Default)]
pub struct BreakerShard {
    /// 0 closed, 1 open, 2 half-open.
    pub state: Cell,
    /// Times that it has opened, a probe that failed included.
    pub opened: Cell,
}

/// A shelf of the dead-letter queue. Written by the shelf "refused" under its lock; read as a sum for the backlog.
#[derive(Debug, Default)]
pub struct DeadLetterShard {
    /// Rows that wait.
    pub rows: Cell,
    /// Bytes of its files.
    pub bytes: Cell,
    /// Time of the oldest click that waits, Unix milliseconds; 0 when none does.
    pub oldest_ms: Cell,
}

/// The shards of one process and the registry that renders them.
#[derive(Debug)]
pub struct Metrics {
    pub(super) shards: Arc<Shards>,
    registry: Registry,
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
        let lever = Arc::new(Lever::default());
        let shards = Arc::new(Shards {
            edges: (0..threads).map(|_| Arc::new(EdgeShard::new(Arc::clone(&lever)))).collect(),
            workers: (0..=threads).map(|_| Arc::new(WorkerShard::new(Arc::clone(&lever)))).collect(),
            lever,
            breakers: Default::default(),
            pools: Default::default(),
            keeper: Arc::new(KeeperShard::new()),
            dependencies: dependencies.iter().map(|name| (*name, AtomicBool::new(false))).collect(),
            queue_capacity: queue_capacity * threads,
            links: Box::new(links),
            refused: Arc::default(),
            ledger: Arc::default(),
            catalog: OnceLock::new(),
            auth: Arc::default(),
            recall: Arc::default(),
            api: Arc::default(),
            watched: Default::default(),
            probe: Arc::default(),
            slo: Arc::default(),
            served: OnceLock::new(),
            now_ms: AtomicU64::new(0),
        });
        let registry = Registry::new();
        registry
            .register(Box::new(ShardCollector { shards: Arc::clone(&shards), descriptions: describe(&shards)? }))?;
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

    /// The shard of the breaker in front of a dependency.
    #[must_use]
    pub fn breaker(&self, of: Guarded) -> Arc<BreakerShard> {
        Arc::clone(&self.shards.breakers[of as usize])
    }

    /// What the shelf "refused" writes.
    #[must_use]
    pub fn refused(&self) -> Arc<DeadLetterShard> {
        Arc::clone(&self.shards.refused)
    }

    /// The shelf "backlog", of all workers.
    #[must_use]
    pub fn backlog(&self) -> DeadLetterShard {
        self.shards.backlog()
    }

    /// What all pools of a kind write.
    #[must_use]
    pub fn pool(&self, of: Pooled) -> Arc<PoolShard> {
        Arc::clone(&self.shards.pools[of as usize])
    }

    /// The shard of the keeper.
    #[must_use]
    pub fn keeper(&self) -> Arc<KeeperShard> {
        Arc::clone(&self.shards.keeper)
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

    /// What is left undone, for all threads.
    #[must_use]
    pub fn lever(&self) -> &Lever {
        &self.shards.lever
    }

    /// How the node feels now.
    #[must_use]
    pub fn signals(&self) -> Signals {
        self.shards.signals()
    }

    /// All metrics at this time, Unix milliseconds: ages are counted up to it. Histograms of durations have all their
    /// buckets: see [`Scale`].
    #[must_use]
    pub fn gather(&self, now_ms: u64) -> Vec<MetricFamily> {
        self.shards.now_ms.store(now_ms, Ordering::Relaxed);
        self.registry.gather()
    }

    /// The text of `/metrics`: the same, with the buckets that end at a threshold.
    #[must_use]
    pub fn render(&self, now_ms: u64) -> String {
        let mut families = self.gather(now_ms);
        families.iter_mut().for_each(thin);
        let mut text = Vec::new();
        // Writing to memory cannot fail, and a family without metrics is never made.
        let _ = TextEncoder::new().encode(&families, &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::click::Reasons;
    use crate::telemetry::backlog::Waiting;

    #[test]
    fn a_scrape_adds_the_shards_up() {
        let metrics = Metrics::new(2, 10, &["store"], || 7).unwrap();
        metrics.edge(0).count(Outcome::Redirected);
        metrics.edge(1).count(Outcome::Redirected);
        metrics.edge(0).accepted.add(5);
        metrics.worker(1).claimed.add(2);
        let (head, both) = (Reasons::METHOD_HEAD, Reasons::METHOD_HEAD.and(Reasons::PREVIEW_PATTERN));
        for (reasons, score) in [(Reasons::default(), 0), (head, 15), (both, 100)] {
            metrics.worker(0).note_class(reasons, score);
        }
        metrics.edge(1).redirect_duration.observe_duration(Duration::from_micros(60));
        metrics.set_dependency("store", true);
        metrics.breaker(Guarded::Store).state.set(2);
        let waits =
            |worker, rows, oldest_ms| metrics.worker(worker).backlog.count(Waiting { rows, bytes: 5, oldest_ms });
        let _stretches = [waits(0, 1, 7_000), waits(0, 2, 0), waits(1, 1, 3_000)];
        metrics.refused().bytes.set(9);
        let text = metrics.render(10_500);
        for line in [
            "trellis_redirects_total{outcome=\"redirected\"} 2",
            "trellis_clicks_pending 3",
            "trellis_redirect_duration_seconds_bucket{le=\"0.00005\"} 0",
            "trellis_redirect_duration_seconds_bucket{le=\"0.0001\"} 1",
            "trellis_redirect_duration_seconds_count 1",
            "trellis_fraud_score_bucket{le=\"0\"} 1",
            "trellis_fraud_score_bucket{le=\"20\"} 2",
            "trellis_fraud_score_bucket{le=\"100\"} 3",
            "trellis_fraud_score_sum 115",
            "trellis_class_reasons_total{reason=\"method_head\"} 2",
            "trellis_class_reasons_total{reason=\"preview_pattern\"} 1",
            "trellis_class_reasons_total{reason=\"velocity_link\"} 0",
            "trellis_dependency_up{dependency=\"store\"} 1",
            "trellis_breaker_state{dependency=\"dedup\"} 0",
            "trellis_breaker_state{dependency=\"store\"} 2",
            "trellis_links 7",
            "trellis_queue_capacity 20",
            "trellis_dead_letter_rows{shelf=\"backlog\"} 4",
            "trellis_dead_letter_bytes{shelf=\"backlog\"} 15",
            "trellis_dead_letter_bytes{shelf=\"refused\"} 9",
            "trellis_dead_letter_oldest_age_seconds{shelf=\"backlog\"} 7.5",
            "trellis_dead_letter_oldest_age_seconds{shelf=\"refused\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
