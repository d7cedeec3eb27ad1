//! Clicks between the door and the open batch: enriched, and asked about at the deduper, several chunks at one time.
//!
//! Chunks come out in the order in which they went in, whichever is answered first. Bounds: [`CHUNK_CLICKS`] a chunk,
//! `dedup.checks_in_flight_max` chunks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use super::enrich::Enricher;
use super::{Claim, Deduper, Label, Row};
use crate::click::{Click, frame};
use crate::clock::Clock;
use crate::handoff::Item;
use crate::segment::Position;
use crate::telemetry::metrics::WorkerShard;
use crate::telemetry::phases::Behind;

/// Clicks of a chunk: one Redis pipeline.
pub(super) const CHUNK_CLICKS: usize = 512;

/// One click with its label.
pub(super) struct Labelled {
    /// `None` where the frame was not understood. Its range goes on over it.
    pub(super) row: Option<Row>,
    /// Its time, Unix milliseconds.
    pub(super) unix_ms: u64,
    /// Where its record ends.
    pub(super) end: Position,
}

/// Chunks under way.
pub(super) struct Checks {
    deduper: Arc<dyn Deduper>,
    clock: Arc<dyn Clock>,
    metrics: Arc<WorkerShard>,
    lag_max: Duration,
    chunks: VecDeque<Chunk>,
    answers: JoinSet<(Vec<Label>, Duration)>,
    clicks: usize,
}

struct Chunk {
    rows: Vec<Labelled>,
    /// Which rows asked.
    claimants: Vec<usize>,
    /// The question; `None` when it was answered, or none was asked.
    asking: Option<Id>,
    /// When its clicks were enriched, by the monotonic clock.
    enriched: Duration,
}

/// What a question came to.
pub(super) type Answer = Result<(Id, (Vec<Label>, Duration)), JoinError>;

impl Checks {
    pub(super) fn new(
        deduper: Arc<dyn Deduper>,
        clock: Arc<dyn Clock>,
        metrics: Arc<WorkerShard>,
        lag_max: Duration,
    ) -> Self {
        Self { deduper, clock, metrics, lag_max, chunks: VecDeque::new(), answers: JoinSet::new(), clicks: 0 }
    }

    /// Chunks under way.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Clicks in them.
    pub(super) fn clicks(&self) -> usize {
        self.clicks
    }

    /// Enriches a chunk and asks for its labels.
    pub(super) fn begin(&mut self, items: impl Iterator<Item = Item>, enricher: &mut Enricher) {
        let (mut rows, mut claims, mut claimants) = (Vec::with_capacity(CHUNK_CLICKS), Vec::new(), Vec::new());
        let level = self.metrics.lever.level();
        let (began, now_ms) = (self.clock.now(), self.clock.wall_ms());
        let oldest_ms = now_ms.saturating_sub(self.lag_max.as_millis() as u64);
        for Item { frame, end } in items {
            let unix_ms = frame::unix_ms(&frame).unwrap_or(0);
            let click = match Click::decode(&frame) {
                Ok(click) => click,
                Err(error) => {
                    // The record's checksum held: this program or another version of it wrote what it cannot read.
                    self.metrics.unreadable.add(1);
                    tracing::error!(%error, "a click in the journal is not understood and is left out");
                    rows.push(Labelled { row: None, unix_ms, end });
                    continue;
                }
            };
            if let Some(fingerprint) = click.fingerprint.filter(|_| click.id.unix_ms() >= oldest_ms) {
                claims.push(Claim { fingerprint, id: click.id, window: click.window });
                claimants.push(rows.len());
            }
            let observed = enricher.observe_under(level, &click);
            let row = enricher.enrich(&click, observed).row(frame, Label::Unknown);
            rows.push(Labelled { row: Some(row), unix_ms, end });
        }
        let (enriched, times) = (self.clock.now(), &self.metrics.times);
        if let Some(first) = rows.first() {
            times.observe(Behind::Queue, Duration::from_millis(now_ms.saturating_sub(first.unix_ms)));
        }
        times.observe(Behind::Enrich, enriched.saturating_sub(began));
        self.clicks += rows.len();
        self.metrics.checking.add(rows.len() as u64);
        let asking = (!claims.is_empty()).then(|| {
            let (deduper, clock) = (Arc::clone(&self.deduper), Arc::clone(&self.clock));
            let ask = async move {
                let before = clock.now();
                let labels = deduper.check(&claims).await;
                (labels, clock.now().saturating_sub(before))
            };
            self.answers.spawn_local(ask).id()
        });
        self.chunks.push_back(Chunk { rows, claimants, asking, enriched });
    }

    /// The next answer; pending for ever when nothing was asked.
    pub(super) async fn answered(&mut self) -> Answer {
        match self.answers.join_next_with_id().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// An answer that is there already.
    pub(super) fn try_answered(&mut self) -> Option<Answer> {
        self.answers.try_join_next_with_id()
    }

    /// Puts an answer to its chunk.
    pub(super) fn note(&mut self, answer: Answer) {
        let (id, labels) = match answer {
            Ok((id, (labels, took))) => {
                self.metrics.dedup_duration.observe_duration(took);
                self.metrics.dedup_failures.add(u64::from(labels.contains(&Label::Unknown)));
                (id, labels)
            }
            Err(error) => {
                // A panic in the deduper; its clicks keep the label unknown.
                self.metrics.dedup_failures.add(1);
                tracing::error!(%error, "a check for duplicates broke off");
                (error.id(), Vec::new())
            }
        };
        let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.asking == Some(id)) else { return };
        chunk.asking = None;
        for (label, claimant) in labels.into_iter().zip(&chunk.claimants) {
            if let Some(row) = &mut chunk.rows[*claimant].row {
                row.dedup = label;
            }
        }
    }

    /// The oldest chunk, when it is answered.
    pub(super) fn pop(&mut self) -> Option<Vec<Labelled>> {
        let chunk = self.chunks.pop_front_if(|chunk| chunk.asking.is_none())?;
        self.metrics.times.observe(Behind::Dedup, self.clock.now().saturating_sub(chunk.enriched));
        self.clicks -= chunk.rows.len();
        self.metrics.checking.sub(chunk.rows.len() as u64);
        for labelled in &chunk.rows {
            if let Some(row) = &labelled.row {
                self.metrics.labels[row.dedup.index()].add(1);
            }
        }
        Some(chunk.rows)
    }
}
