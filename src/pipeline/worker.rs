//! The worker: one thread with an event loop of its own for each journal, from the handoff to the store.
//!
//! ```text
//! follower -> enrich -> dedup -> open batch --full, aged or a new month--> at the store (retried until stored)
//!    ^                                                                          |
//!    +------ waits while `batch.in_flight_max` batches are at the store         v
//!                                               checkpoint: low-water mark of finished ranges
//! ```
//!
//! Nothing is dropped: a store that fails is waited for, and meanwhile the queue fills and overflows into the journal,
//! where the clicks are already. Memory: `in_flight_max + 1` batches of `rows_max` clicks.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::enrich::Enricher;
use super::{Batch, Claim, Deduper, Label, Row, Sealed, Store, StoreError};
use crate::click::Click;
use crate::clock::Clock;
use crate::config;
use crate::handoff::{Follower, Item, Step};
use crate::segment::Position;
use crate::telemetry::metrics::WorkerShard;

/// Clicks taken up at a time from the journal; one Redis pipeline.
const CHUNK_CLICKS: usize = 512;
/// How often an idle worker looks at its queue.
const TICK: Duration = Duration::from_millis(10);
/// Failures of one batch are logged at the first, then at every so many.
const LOG_EVERY: u32 = 20;

/// How far a worker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// Working.
    No,
    /// Bring what is there to the store, without waiting for batches to fill, and end.
    Yes,
    /// End now; the rest stays in the journal.
    Stop,
}

/// What a worker works with.
pub struct Worker {
    /// Where clicks come from.
    pub follower: Follower,
    /// Facts about clicks.
    pub enricher: Enricher,
    /// Labels.
    pub deduper: Arc<dyn Deduper>,
    /// Where clicks go.
    pub store: Arc<dyn Store>,
    /// Sizes, ages and pauses.
    pub batch: config::Batch,
    /// A click older than this gets the label unknown.
    pub lag_max: Duration,
    /// Name of this node.
    pub node: Arc<str>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Its counters.
    pub metrics: Arc<WorkerShard>,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Everything in the journal is in the store.
    pub finished: bool,
    /// Part of the journal could not be read.
    pub damaged: bool,
}

/// A range of the journal at the store.
struct Range {
    end: Position,
    done: bool,
}

/// The batch that is being filled.
#[derive(Default)]
struct Open {
    rows: Vec<Row>,
    end: Option<Position>,
    month: u64,
    since: Duration,
}

struct Running {
    worker: Worker,
    drain: watch::Receiver<Drain>,
    open: Open,
    /// Ranges in the order of the journal, the first one not finished.
    ranges: VecDeque<Range>,
    /// Number of ranges that left the front of `ranges`.
    finished_ranges: u64,
    inserts: JoinSet<u64>,
    items: Vec<Item>,
    read_failing: bool,
}

impl Worker {
    /// Runs on this thread until `drain` says so or the journal is at its end for good.
    ///
    /// # Errors
    /// The system's, when the event loop cannot be made.
    pub fn run(self, drain: watch::Receiver<Drain>) -> std::io::Result<Ended> {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let running = Running {
            worker: self,
            drain,
            open: Open::default(),
            ranges: VecDeque::new(),
            finished_ranges: 0,
            inserts: JoinSet::new(),
            items: Vec::with_capacity(CHUNK_CLICKS),
            read_failing: false,
        };
        Ok(runtime.block_on(running.run()))
    }
}

impl Running {
    async fn run(mut self) -> Ended {
        let mut exhausted = false;
        loop {
            let drain = *self.drain.borrow_and_update();
            if drain == Drain::Stop {
                return self.ended(false);
            }
            while let Some(done) = self.inserts.try_join_next() {
                self.note_stored(done);
            }
            let mut took = false;
            if !exhausted && self.has_room() {
                (took, exhausted) = self.take().await;
            }
            let idle = !took;
            let aged = self.worker.clock.now().saturating_sub(self.open.since) >= self.worker.batch.age_max;
            if self.has_slot() && !self.open.rows.is_empty() && (aged || exhausted || (drain == Drain::Yes && idle)) {
                self.send();
            }
            if exhausted && self.open.rows.is_empty() && self.inserts.is_empty() {
                return self.ended(true);
            }
            if idle {
                self.wait().await;
            } else {
                // Inserts run on this thread too.
                tokio::task::yield_now().await;
            }
        }
    }

    fn ended(&self, finished: bool) -> Ended {
        Ended { finished, damaged: self.worker.follower.is_damaged() }
    }

    /// Room in the open batch, or the chance to send it and open another.
    fn has_room(&self) -> bool {
        self.open.rows.len() < self.worker.batch.rows_max || self.has_slot()
    }

    fn has_slot(&self) -> bool {
        self.inserts.len() < self.worker.batch.in_flight_max
    }

    /// Waits for a tick, a stored batch or a word from outside.
    async fn wait(&mut self) {
        tokio::select! {
            Some(done) = self.inserts.join_next() => self.note_stored(done),
            _ = self.drain.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }

    /// Takes a chunk of clicks up: (whether there were any, whether there will never be more).
    async fn take(&mut self) -> (bool, bool) {
        let mut items = std::mem::take(&mut self.items);
        let exhausted = match self.worker.follower.poll(CHUNK_CLICKS, &mut items) {
            Ok(step) => {
                self.read_failing = false;
                step == Step::Finished
            }
            Err(error) => {
                if !self.read_failing {
                    self.read_failing = true;
                    tracing::error!(%error, "the journal cannot be read for now; trying again");
                }
                false
            }
        };
        let took = !items.is_empty();
        if took {
            self.add(&items).await;
            items.clear();
        }
        self.items = items;
        (took, exhausted)
    }

    /// Enriches and labels clicks and adds them to the open batch.
    async fn add(&mut self, items: &[Item]) {
        let mut rows: Vec<Option<Row>> = Vec::with_capacity(items.len());
        let (mut claims, mut claimants) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        let oldest_ms = self.worker.clock.wall_ms().saturating_sub(self.worker.lag_max.as_millis() as u64);
        for item in items {
            let click = match Click::decode(&item.frame) {
                Ok(click) => click,
                Err(error) => {
                    // The record's checksum held: this program or another version of it wrote what it cannot read.
                    self.worker.metrics.unreadable.add(1);
                    tracing::error!(%error, "a click in the journal is not understood and is left out");
                    rows.push(None);
                    continue;
                }
            };
            if let Some(fingerprint) = click.fingerprint.filter(|_| click.id.unix_ms() >= oldest_ms) {
                claims.push(Claim { fingerprint, id: click.id });
                claimants.push(rows.len());
            }
            let found = self.worker.enricher.enrich(&click);
            rows.push(Some(Row {
                frame: item.frame.clone(),
                country: found.country,
                class: found.class,
                reasons: found.reasons,
                dedup: Label::Unknown,
                agent: found.agent,
            }));
        }
        self.label(&claims, &claimants, &mut rows).await;
        for (row, item) in rows.into_iter().zip(items) {
            self.push(row, item.end);
        }
    }

    async fn label(&self, claims: &[Claim], claimants: &[usize], rows: &mut [Option<Row>]) {
        if !claims.is_empty() {
            let before = self.worker.clock.now();
            let labels = self.worker.deduper.check(claims).await;
            self.worker.metrics.dedup_duration.observe_duration(self.worker.clock.now().saturating_sub(before));
            for (label, claimant) in labels.into_iter().zip(claimants) {
                if let Some(row) = &mut rows[*claimant] {
                    row.dedup = label;
                }
            }
        }
        for row in rows.iter().flatten() {
            self.worker.metrics.labels[row.dedup.index()].add(1);
        }
    }

    /// Adds one row; a full batch or another month sends the open one first. The range goes on over a click that is not
    /// understood.
    fn push(&mut self, row: Option<Row>, end: Position) {
        if let Some(row) = row {
            let month = month_of(&row);
            if !self.open.rows.is_empty() && (self.open.rows.len() >= self.worker.batch.rows_max || month != self.open.month) {
                self.send();
            }
            if self.open.rows.is_empty() {
                self.open.since = self.worker.clock.now();
                self.open.month = month;
            }
            self.open.rows.push(row);
        }
        self.open.end = Some(end);
    }

    /// Freezes the open batch and sends it.
    fn send(&mut self) {
        let Some(end) = self.open.end.take() else { return };
        let number = self.finished_ranges + self.ranges.len() as u64;
        self.ranges.push_back(Range { end, done: false });
        let rows = std::mem::take(&mut self.open.rows);
        let worker = &self.worker;
        let times: Vec<u64> = rows.iter().map(|row| frame_ms(&row.frame)).collect();
        let batch = Batch { id: batch_id(worker.clock.wall_ms()), node: Arc::clone(&worker.node), rows };
        let sending = Sending {
            store: Arc::clone(&worker.store),
            retry: worker.batch,
            clock: Arc::clone(&worker.clock),
            metrics: Rc::new(Arc::clone(&worker.metrics)),
            sealed: worker.store.seal(batch),
            times,
        };
        self.worker.metrics.batches_in_flight.add(1);
        self.inserts.spawn_local(sending.run(number));
    }

    fn note_stored(&mut self, done: Result<u64, tokio::task::JoinError>) {
        self.worker.metrics.batches_in_flight.sub(1);
        let number = match done {
            Ok(number) => number,
            // A panic while sending: the range stays unfinished, and the next start takes it up.
            Err(error) => return tracing::error!(%error, "a batch could not be sent; it stays in the journal"),
        };
        if let Some(range) = usize::try_from(number - self.finished_ranges).ok().and_then(|i| self.ranges.get_mut(i)) {
            range.done = true;
        }
        let mut finished = None;
        while self.ranges.front().is_some_and(|range| range.done) {
            finished = self.ranges.pop_front().map(|range| range.end);
            self.finished_ranges += 1;
        }
        if let Some(Err(error)) = finished.map(|end| self.worker.follower.finish_up_to(end)) {
            tracing::warn!(%error, "the checkpoint could not be written; rows may be sent again after a restart");
        }
    }
}

/// One batch on its way: sent again, the same bytes under the same id, until it is stored.
struct Sending {
    store: Arc<dyn Store>,
    retry: config::Batch,
    clock: Arc<dyn Clock>,
    metrics: Rc<Arc<WorkerShard>>,
    sealed: Sealed,
    times: Vec<u64>,
}

impl Sending {
    async fn run(self, number: u64) -> u64 {
        let began = self.clock.now();
        let mut failures = 0_u32;
        while let Err(error) = self.store.insert(&self.sealed).await {
            self.metrics.insert_failures.add(1);
            let pause = self.pause(failures, &error);
            if failures % LOG_EVERY == 0 {
                let (store, batch, rows) = (self.store.name(), self.sealed.id, self.sealed.rows);
                tracing::warn!(%error, store, %batch, rows, failures, "the store did not take a batch; trying again");
            }
            failures += 1;
            tokio::time::sleep(pause).await;
        }
        if failures > 0 {
            tracing::info!(store = self.store.name(), batch = %self.sealed.id, failures, "the store took the batch");
        }
        self.metrics.batch_duration.observe_duration(self.clock.now().saturating_sub(began));
        self.metrics.batch_rows.observe(self.sealed.rows as u64);
        self.metrics.stored.add(self.sealed.rows as u64);
        let now_ms = self.clock.wall_ms();
        for then_ms in &self.times {
            self.metrics.ingest_lag.observe(now_ms.saturating_sub(*then_ms) * 1000);
        }
        number
    }

    /// Full jitter over base x 2^n, at most the maximum. What only a person can mend is tried at the maximum.
    fn pause(&self, failures: u32, error: &StoreError) -> Duration {
        let most = match error {
            StoreError::Operator(_) => self.retry.retry_max,
            StoreError::Transient(_) | StoreError::Ambiguous(_) => {
                self.retry.retry_base.saturating_mul(2_u32.saturating_pow(failures.min(20))).min(self.retry.retry_max)
            }
        };
        most.mul_f64(fastrand::f64()).max(Duration::from_millis(1))
    }
}

fn batch_id(unix_ms: u64) -> Uuid {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    uuid::Builder::from_unix_timestamp_millis(unix_ms, &random).into_uuid()
}

/// The time in a frame's click id; frames in a batch were decoded before.
fn frame_ms(frame: &[u8]) -> u64 {
    Click::decode(frame).map_or(0, |click| click.id.unix_ms())
}

/// Months since 1970, UTC: the store's partition.
fn month_of(row: &Row) -> u64 {
    let seconds = i64::try_from(frame_ms(&row.frame) / 1000).unwrap_or_default();
    jiff::Timestamp::from_second(seconds).map_or(0, |time| {
        let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
        date.year().unsigned_abs() as u64 * 12 + date.month().unsigned_abs() as u64
    })
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("follower", &self.follower).finish_non_exhaustive()
    }
}

