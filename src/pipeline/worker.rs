//! The worker: one thread with an event loop of its own for each journal, from the handoff to the store.
//!
//! ```text
//! follower -> enrich -> dedup -> open batch --full, aged or a new month--> intent -> at the store until stored
//!    ^                                                                                  |
//!    +------ waits while `batch.in_flight_max` batches are at the store                 v
//!                                               checkpoint: low-water mark of finished ranges, intents removed
//! ```
//! At the start, batches that an earlier run froze go first, as they were.
//!
//! Nothing is dropped: a store that fails is waited for, and meanwhile the queue fills and overflows into the journal,
//! where the clicks are already. Memory: `in_flight_max + 1` batches of `rows_max` clicks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::batch::{Open, month_around, new_id};
pub use super::drain::{Drain, Ended};
use super::enrich::Enricher;
use super::intent::Intent;
use super::sending::{Sending, Source};
use super::{Batch, Claim, Deduper, Label, Row, Store};
use crate::click::{Click, frame};
use crate::clock::Clock;
use crate::config;
use crate::handoff::{Follower, Item, Step};
use crate::segment::Position;
use crate::telemetry::metrics::WorkerShard;

/// Clicks taken up at a time from the journal; one Redis pipeline.
const CHUNK_CLICKS: usize = 512;
/// How often an idle worker looks at its queue.
const TICK: Duration = Duration::from_millis(10);

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

/// A frozen range of the journal, at the store.
struct Sent {
    intent: Arc<Intent>,
    done: bool,
}

struct Running {
    worker: Worker,
    drain: watch::Receiver<Drain>,
    open: Open,
    /// Ranges in the order of the journal, the first one not finished.
    ranges: VecDeque<Sent>,
    /// Number of ranges that left the front of `ranges`.
    finished_ranges: u64,
    inserts: JoinSet<u64>,
    /// Batches that an earlier run froze, in the order of the journal, the next one to send first.
    frozen: VecDeque<Intent>,
    /// End of the last frozen range.
    frozen_to: Position,
    /// Claimed, and not yet in a batch: at most one chunk or group.
    waiting: VecDeque<Item>,
    /// Where the follower puts what it claims.
    claimed: Vec<Item>,
    read_failing: bool,
}

impl Worker {
    /// Runs on this thread until `drain` says so or the journal is at its end for good.
    ///
    /// # Errors
    /// The system's, when the event loop cannot be made.
    pub fn run(self, drain: watch::Receiver<Drain>) -> std::io::Result<Ended> {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let follower = &self.follower;
        let frozen = Intent::load(&**follower.disk(), follower.folder(), follower.core(), follower.checkpoint())?;
        let running = Running {
            frozen: frozen.into(),
            frozen_to: follower.next_position(),
            worker: self,
            drain,
            open: Open::default(),
            ranges: VecDeque::new(),
            finished_ranges: 0,
            inserts: JoinSet::new(),
            waiting: VecDeque::with_capacity(CHUNK_CLICKS),
            claimed: Vec::with_capacity(CHUNK_CLICKS),
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
            if !self.frozen.is_empty() {
                if !self.has_slot() || !self.send_frozen() {
                    self.wait().await;
                }
                continue;
            }
            if self.waiting.is_empty() && !exhausted && (self.has_slot() || !self.is_full()) {
                exhausted = self.claim();
            }
            let nothing_waits = self.waiting.is_empty();
            let aged = self.worker.clock.now().saturating_sub(self.open.since) >= self.worker.batch.age_max;
            let last = nothing_waits && (exhausted || drain == Drain::Yes);
            if self.has_slot() && (aged || last || self.is_full() || self.next_is_of_another_month()) {
                self.send();
            }
            if exhausted && nothing_waits && self.open.rows.is_empty() && self.inserts.is_empty() {
                // A batch whose sending broke off is still in `ranges`: the journal keeps it for the next start.
                return self.ended(self.ranges.is_empty());
            }
            let fitting = self.fitting();
            if fitting > 0 {
                self.add(fitting).await;
                // Inserts run on this thread too.
                tokio::task::yield_now().await;
            } else {
                self.wait().await;
            }
        }
    }

    fn ended(&self, finished: bool) -> Ended {
        Ended { finished, damaged: self.worker.follower.is_damaged() }
    }

    fn has_slot(&self) -> bool {
        self.inserts.len() < self.worker.batch.in_flight_max
    }

    fn is_full(&self) -> bool {
        self.open.rows.len() >= self.worker.batch.rows_max
    }

    fn next_is_of_another_month(&self) -> bool {
        !self.open.rows.is_empty() && self.waiting.front().is_some_and(|item| !self.is_of_this_month(item))
    }

    /// A frame without a readable time fits everywhere: it becomes no row.
    fn is_of_this_month(&self, item: &Item) -> bool {
        frame::unix_ms(&item.frame).is_none_or(|ms| self.open.month_ms.contains(&ms))
    }

    /// How many of the waiting clicks may join the open batch; an empty one takes the month of the first.
    fn fitting(&mut self) -> usize {
        if self.open.rows.is_empty()
            && let Some(ms) = self.waiting.front().and_then(|item| frame::unix_ms(&item.frame))
        {
            self.open.month_ms = month_around(ms);
        }
        let room = self.worker.batch.rows_max.saturating_sub(self.open.rows.len()).min(CHUNK_CLICKS);
        self.waiting.iter().take(room).take_while(|item| self.is_of_this_month(item)).count()
    }

    /// Waits for a tick, a stored batch or a word from outside.
    async fn wait(&mut self) {
        tokio::select! {
            Some(done) = self.inserts.join_next() => self.note_stored(done),
            _ = self.drain.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }

    /// Takes clicks up from the door, a chunk if there are so many: whether there will never be more. Groups are small
    /// at leisure, and one question to the deduper for each would cost more than all the rest.
    fn claim(&mut self) -> bool {
        let mut exhausted = false;
        while self.claimed.len() < CHUNK_CLICKS {
            let missing = CHUNK_CLICKS - self.claimed.len();
            match self.worker.follower.poll(missing, &mut self.claimed) {
                Ok(Step::Clicks) => self.read_failing = false,
                Ok(step) => {
                    exhausted = step == Step::Finished;
                    break;
                }
                Err(error) => {
                    if !self.read_failing {
                        self.read_failing = true;
                        tracing::error!(%error, "the journal cannot be read for now; trying again");
                    }
                    break;
                }
            }
        }
        self.waiting.extend(self.claimed.drain(..));
        exhausted
    }

    /// Enriches and labels the first waiting clicks and adds them to the open batch.
    async fn add(&mut self, clicks: usize) {
        let items: Vec<Item> = self.waiting.drain(..clicks).collect();
        let mut rows: Vec<Option<Row>> = Vec::with_capacity(items.len());
        let (mut claims, mut claimants) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        let oldest_ms = self.worker.clock.wall_ms().saturating_sub(self.worker.lag_max.as_millis() as u64);
        for item in &items {
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

    /// Adds one row. The range goes on over a click that is not understood.
    fn push(&mut self, row: Option<Row>, end: Position) {
        if let Some(row) = row {
            if self.open.rows.is_empty() {
                self.open.since = self.worker.clock.now();
            }
            self.open.rows.push(row);
        }
        self.open.end = Some(end);
    }

    /// Freezes the open batch and sends it; does nothing when it has no row.
    fn send(&mut self) {
        if self.open.rows.is_empty() {
            return;
        }
        let Some(end) = self.open.end.take() else { return };
        let worker = &self.worker;
        let rows = std::mem::take(&mut self.open.rows);
        let intent = Intent {
            batch: new_id(worker.clock.wall_ms()),
            start: self.frozen_to,
            end,
            facts: worker.enricher.facts(),
            labels: rows.iter().map(|row| row.dedup).collect(),
        };
        if let Err(error) = intent.write(&**worker.follower.disk(), worker.follower.folder(), worker.follower.core()) {
            // Waiting would fill the disk further, and only stored batches free it.
            tracing::warn!(%error, "a batch is sent without being frozen; a crash now may send its clicks in another one");
        }
        self.frozen_to = end;
        let batch = Batch { id: intent.batch, part: 0, node: Arc::clone(&worker.node), rows };
        self.start(batch, intent, false);
    }

    /// Sends the next batch that an earlier run froze, as it was; false when that has to wait.
    fn send_frozen(&mut self) -> bool {
        let Some(intent) = self.frozen.front() else { return false };
        let mut source = self.source(Arc::new(intent.clone()));
        let loaded = source.load();
        let Some(intent) = self.frozen.pop_front() else { return false };
        if intent.facts != self.worker.enricher.facts() {
            tracing::info!(batch = %intent.batch, "a batch was frozen with older data; its countries and agents are read anew");
        }
        match loaded {
            Ok(batch) => {
                self.worker.follower.skip_to(intent.end, batch.rows.len());
                self.frozen_to = intent.end;
                self.start(batch, intent, true);
            }
            Err(error) => {
                // Its clicks, as far as they can be read, are taken up like those that were never frozen, and so are
                // all behind it: the store knows them by their ids.
                tracing::error!(%error, batch = %intent.batch, "a frozen batch cannot be read");
                for intent in std::iter::once(intent).chain(std::mem::take(&mut self.frozen)) {
                    self.discard(&intent);
                }
            }
        }
        true
    }

    /// Removes an intent that no longer says what will be sent.
    fn discard(&self, intent: &Intent) {
        let follower = &self.worker.follower;
        if let Err(error) = intent.remove(&**follower.disk(), follower.folder(), follower.core()) {
            tracing::warn!(%error, batch = %intent.batch, "an intent could not be removed");
        }
    }

    fn source(&self, intent: Arc<Intent>) -> Source {
        Source {
            disk: Arc::clone(self.worker.follower.disk()),
            folder: self.worker.follower.folder().to_owned(),
            core: self.worker.follower.core(),
            intent,
            enricher: self.worker.enricher.clone(),
            node: Arc::clone(&self.worker.node),
        }
    }

    fn start(&mut self, batch: Batch, intent: Intent, look_first: bool) {
        let number = self.finished_ranges + self.ranges.len() as u64;
        let intent = Arc::new(intent);
        self.ranges.push_back(Sent { intent: Arc::clone(&intent), done: false });
        let worker = &self.worker;
        let sending = Sending {
            store: Arc::clone(&worker.store),
            retry: worker.batch,
            clock: Arc::clone(&worker.clock),
            metrics: Arc::clone(&worker.metrics),
            times: batch.rows.iter().filter_map(|row| frame::unix_ms(&row.frame)).collect(),
            sealed: worker.store.seal(batch),
            look_first,
            source: self.source(intent),
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
        let mut finished = Vec::new();
        while self.ranges.front().is_some_and(|range| range.done) {
            finished.extend(self.ranges.pop_front().map(|range| range.intent));
            self.finished_ranges += 1;
        }
        if let Some(last) = finished.last()
            && let Err(error) = self.forget(last.end, &finished)
        {
            tracing::warn!(%error, "the checkpoint could not be written; it will be with the next batch");
        }
    }

    /// Moves the checkpoint, and then, not before, removes the intents below it.
    fn forget(&mut self, end: Position, finished: &[Arc<Intent>]) -> std::io::Result<()> {
        let follower = &mut self.worker.follower;
        follower.finish_up_to(end, &[])?;
        finished.iter().try_for_each(|intent| intent.remove(&**follower.disk(), follower.folder(), follower.core()))
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("follower", &self.follower).finish_non_exhaustive()
    }
}
