//! What a worker counts.

use std::sync::Arc;

use super::backlog::Backlog;
use super::outcomes::Found;
use super::overload::Lever;
use super::phases::ClickTimes;
use super::shard::{Cell, Histogram, Scale};
use crate::click::Reasons;

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
    /// Checks that broke off, or that could not label a click that asked.
    pub dedup_failures: Cell,
    /// Of each click, counted when its batch is frozen.
    pub fraud_score: Histogram,
    /// Clicks by the reasons they have, in the order of [`Reasons::ALL`]; counted likewise.
    pub class_reasons: [Cell; Reasons::ALL.len()],
    /// Clicks of a batch.
    pub batch_rows: Histogram,
    /// One batch, from the first try to stored.
    pub batch_duration: Histogram,
    /// Batches at the store now.
    pub batches_in_flight: Cell,
    /// Batches that wait for a person.
    pub batches_parked: Cell,
    /// Clicks asked about at the deduper now.
    pub checking: Cell,
    /// Clicks put on the refused shelf.
    pub refused: Cell,
    /// Clicks stored.
    pub stored: Cell,
    /// Inserts that failed and are tried again.
    pub insert_failures: Cell,
    /// Batches that were looked for before they were sent again, by what was [`Found`].
    pub looks: [Cell; Found::NAMES.len()],
    /// Where the time of clicks goes.
    pub times: ClickTimes,
    /// From the click to its batch being stored, once a click.
    pub ingest_lag: Histogram,
    /// Parts of the journal that were skipped because they could not be read, and frames that could not be decoded.
    pub unreadable: Cell,
    /// Bytes of live journals taken up.
    pub claimed_bytes: Cell,
    /// Stretches of journals that wait behind the clicks of now: the shelf "backlog".
    pub backlog: Arc<Backlog>,
    /// Clicks without the reasons that change no class, and without country and names of their agent: overload.
    pub shed: [Cell; 2],
    /// What is left undone now; not its to move.
    pub lever: Arc<Lever>,
}

impl WorkerShard {
    pub(super) fn new(lever: Arc<Lever>) -> Self {
        Self {
            claimed: Cell::default(),
            adopted: Cell::default(),
            via_queue: Cell::default(),
            via_journal: Cell::default(),
            groups_received: Cell::default(),
            labels: Default::default(),
            dedup_duration: Histogram::new(Scale::Durations),
            dedup_failures: Cell::default(),
            fraud_score: Histogram::new(Scale::Scores),
            class_reasons: Default::default(),
            batch_rows: Histogram::new(Scale::Rows),
            batch_duration: Histogram::new(Scale::Durations),
            batches_in_flight: Cell::default(),
            batches_parked: Cell::default(),
            checking: Cell::default(),
            refused: Cell::default(),
            stored: Cell::default(),
            insert_failures: Cell::default(),
            looks: Default::default(),
            times: ClickTimes::default(),
            ingest_lag: Histogram::new(Scale::Durations),
            unreadable: Cell::default(),
            claimed_bytes: Cell::default(),
            backlog: Arc::default(),
            shed: Default::default(),
            lever,
        }
    }

    /// Counts the score and the reasons of a click.
    pub fn note_class(&self, reasons: Reasons, fraud_score: u8) {
        self.shed[0].add(u64::from(reasons.has(Reasons::SHADOW_OMITTED)));
        self.shed[1].add(u64::from(reasons.has(Reasons::FACTS_OMITTED)));
        self.fraud_score.observe(fraud_score.into());
        for ((reason, _), cell) in Reasons::ALL.into_iter().zip(&self.class_reasons) {
            if reasons.has(reason) {
                cell.add(1);
            }
        }
    }
}
