//! One batch on its way to the store, until each of its rows is stored or on the refused shelf.
//!
//! ```text
//! restarted -------> look --all there--> finished
//!                     | none: the same bytes, the same token      | some: the missing rows under `<id>/<n>`
//! fresh ------------> send <------------------------------------------+
//!   stored -> finished (looked for again, when it was sent in parts)
//!   transient -> pause, the same again          ambiguous -> pause, look
//!   operator -> parked: the longest pause, the same again, alarm
//!   poison, too many partitions -> halves, down to the row; a bad row goes to the shelf, its siblings are stored
//!   more than 8 bad rows, all of several, or the code of the batch before -> nothing is refused: parked, then look
//! ```
//! Whether an answer was lost, the process restarted or a person mended a table: what may be there is looked for before
//! anything is sent again. Bounds: the rows of one batch in memory once more while it is sent in parts; tries have none,
//! since nothing is given up, but while the breaker is open nobody asks.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::dead_letter::{Refusal, RefusedRow};
use super::delivery::{BAD_ROWS_MAX, Delivery};
use super::enrich::Enricher;
use super::intent::Intent;
use super::ledger::Minutes;
use super::worker::Parts;
use super::{Batch, Row, Sealed, Store, StoreError};
use crate::click::{Click, ClickId, Reasons, frame};
use crate::clock::Clock;
use crate::failpoint::{self, Point};
use crate::handoff::{Item, read_range};
use crate::segment::Disk;
use crate::telemetry::metrics::{Found, WorkerShard};
use crate::telemetry::phases::Behind;

/// Failures of one batch are logged at the first, then at every so many.
const LOG_EVERY: u32 = 20;

/// A batch at the store.
pub(super) struct Sending {
    store: Arc<dyn Store>,
    delivery: Arc<Delivery>,
    clock: Arc<dyn Clock>,
    metrics: Arc<WorkerShard>,
    /// The whole batch, as it is sent first.
    whole: Sealed,
    /// Times of its clicks, Unix milliseconds.
    times: Vec<u64>,
    /// How to get at its rows once more.
    source: Source,
    /// It is of the past, and lets live batches go first.
    paced: bool,
    /// The last part that was sent.
    part: u32,
    failures: u32,
}

/// How a batch ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    /// Times of its clicks that are stored, Unix milliseconds.
    pub(super) stored_ms: Vec<u64>,
    /// Times of its clicks that are on the refused shelf.
    pub(super) refused_ms: Vec<u64>,
}

/// Where a frozen batch's rows are.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) folder: PathBuf,
    pub(super) core: u32,
    pub(super) intent: Arc<Intent>,
    pub(super) enricher: Enricher,
    pub(super) node: Arc<str>,
}

impl Source {
    /// The batch as it was frozen, and all clicks of its range.
    pub(super) fn load(&mut self) -> std::io::Result<(Batch, Minutes)> {
        let items = read_range(&*self.disk, &self.folder, self.core, self.intent.start..self.intent.end)?;
        let mut labels = self.intent.labels.iter();
        let (mut rows, mut taken) = (Vec::with_capacity(items.len()), Minutes::default());
        for Item { frame, .. } in items {
            let figures = taken.at_ms(frame::unix_ms(&frame).unwrap_or(0));
            figures.taken += 1;
            // What was not understood then is no row now.
            let Ok(click) = Click::decode(&frame) else {
                figures.damaged += 1;
                continue;
            };
            let Some((label, observed)) = labels.next() else { return Err(not_the_same()) };
            rows.push(self.enricher.enrich(&click, *observed).row(frame, *label));
        }
        if labels.next().is_some() {
            return Err(not_the_same());
        }
        Ok((self.batch(0, rows), taken))
    }

    fn batch(&self, part: u32, rows: Vec<Row>) -> Batch {
        Batch { id: self.intent.batch, part, node: Arc::clone(&self.node), rows }
    }
}

fn not_the_same() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "the journal has not as many clicks as were frozen")
}

/// Why a round ended before its end.
enum Broken {
    /// It is not known what the store has.
    Look(StoreError),
    /// Nothing will pass until a person changes something.
    Park(StoreError),
}

/// What the store said of some rows, at last.
enum Said {
    Stored,
    /// It refuses at least one of them.
    Poison {
        code: u32,
        text: String,
    },
    /// It wants fewer at a time.
    Divide(String),
}

impl Finished {
    /// With all clicks of its range: what became of them, by the minute.
    pub(super) fn figures(&self, taken: &Minutes) -> Minutes {
        let mut figures = taken.clone();
        self.stored_ms.iter().for_each(|ms| figures.at_ms(*ms).stored += 1);
        self.refused_ms.iter().for_each(|ms| figures.at_ms(*ms).refused += 1);
        figures
    }
}

impl Sending {
    pub(super) fn new(parts: &Parts, batch: Batch, source: Source, paced: bool) -> Self {
        Self {
            store: Arc::clone(&parts.store),
            delivery: Arc::clone(&parts.delivery),
            clock: Arc::clone(&parts.clock),
            metrics: Arc::clone(&parts.metrics),
            times: batch.rows.iter().filter_map(|row| frame::unix_ms(&row.frame)).collect(),
            whole: parts.store.seal(batch),
            source,
            paced,
            part: 0,
            failures: 0,
        }
    }

    /// Until nothing of it is left to send.
    pub(super) async fn run(mut self, look_first: bool) -> Finished {
        let began = self.clock.now();
        let mut look = look_first;
        let refused = loop {
            match self.round(look).await {
                Ok(refused) => break refused,
                Err(Broken::Look(error)) => self.rest(&error).await,
                Err(Broken::Park(error)) => self.park(&error).await,
            }
            look = true;
        };
        if self.failures > 0 {
            let (store, batch, failures) = (self.store.name(), self.whole.id, self.failures);
            tracing::info!(store, %batch, failures, refused = refused.len(), "the batch is finished");
        }
        self.count(began, refused)
    }

    /// Looks where it must, and sends what is missing. Gives the rows that are on the refused shelf.
    async fn round(&mut self, look: bool) -> Result<HashSet<ClickId>, Broken> {
        let mut missing = None;
        if look {
            let (there, shelved) = self.look().await?;
            if there.union(&shelved).count() >= self.times.len() {
                return Ok(shelved);
            }
            if !there.is_empty() || !shelved.is_empty() {
                let rows = self.load()?.into_iter();
                let is_missing = |id| !there.contains(&id) && !shelved.contains(&id);
                missing = Some(rows.filter(|row| frame::click_id(&row.frame).is_some_and(is_missing)).collect());
            }
        }
        let missing = match missing {
            Some(rows) => vec![rows],
            None => match self.send(&self.whole.clone()).await? {
                Said::Stored => {
                    self.delivery.refusals.clear();
                    return Ok(HashSet::new());
                }
                Said::Poison { code, text } => {
                    self.may_be_rows(code, &text)?;
                    halves(self.load()?)
                }
                Said::Divide(_) => halves(self.load()?),
            },
        };
        let bad = self.send_parts(missing).await?;
        // Others were taken meanwhile: perhaps because the table was mended, which these do not know.
        let again = bad.into_iter().map(|(row, ..)| vec![row]).collect();
        let bad = self.send_parts(again).await?;
        self.look_again(bad).await
    }

    /// Sends rows in parts, and those that are refused in smaller ones. Gives the rows that are bad by themselves.
    async fn send_parts(&mut self, mut parts: Vec<Vec<Row>>) -> Result<Vec<(Row, u32, String)>, Broken> {
        let mut bad = Vec::new();
        while let Some(mut rows) = parts.pop() {
            self.part += 1;
            let sealed = self.store.seal(self.source.batch(self.part, rows.clone()));
            match (self.send(&sealed).await?, rows.len()) {
                (Said::Stored, _) => {}
                (Said::Poison { code, text }, 1) => {
                    bad.extend(rows.pop().map(|row| (row, code, text.clone())));
                    if bad.len() > BAD_ROWS_MAX {
                        return Err(Broken::Park(StoreError::Operator { code, text }));
                    }
                }
                (Said::Divide(text), 1) => return Err(Broken::Park(StoreError::operator(text))),
                (Said::Poison { code, text }, _) => {
                    self.may_be_rows(code, &text)?;
                    parts.extend(halves(rows));
                }
                (Said::Divide(_), _) => parts.extend(halves(rows)),
            }
        }
        Ok(bad)
    }

    /// After parts were sent: all but the bad rows must be there. Puts these on the shelf.
    async fn look_again(&mut self, bad: Vec<(Row, u32, String)>) -> Result<HashSet<ClickId>, Broken> {
        let (there, mut shelved) = self.look().await?;
        if let [(_, code, text), _, ..] = &bad[..]
            && bad.len() == self.times.len()
        {
            // All of several rows: not a matter of the rows.
            return Err(Broken::Park(StoreError::Operator { code: *code, text: text.clone() }));
        }
        let bad: Vec<_> = bad.iter().filter_map(|(row, code, text)| self.refused(row, *code, text)).collect();
        if there.union(&shelved).count() + bad.len() < self.times.len() {
            return Err(Broken::Look(StoreError::Transient("rows that were sent are not there".into())));
        }
        if !bad.is_empty() {
            let (batch, rows, code, reason) = (self.whole.id, bad.len(), bad[0].code, bad[0].reason.clone());
            shelved.extend(bad.iter().map(|row| row.click_id));
            let refusal = Refusal { batch, node: self.source.node.to_string(), rows: bad };
            self.delivery.shelf.refuse(&refusal).map_err(|error| {
                Broken::Park(StoreError::operator(format!(
                    "{rows} bad rows cannot be put on the refused shelf: {error}"
                )))
            })?;
            tracing::error!(%batch, rows, code, reason, "the store refuses rows; they wait in the dead-letter queue: trellis dead-letter ls");
        }
        Ok(shelved)
    }

    fn refused(&self, row: &Row, code: u32, reason: &str) -> Option<RefusedRow> {
        let id = frame::click_id(&row.frame)?;
        let refused = RefusedRow::new(id, row.dedup, code, reason, row.frame.clone(), self.clock.wall_ms());
        Some(RefusedRow { observed: row.reasons.within(Reasons::OF_WORKER), ..refused })
    }

    /// The same code as in the batch before: not a matter of the rows.
    fn may_be_rows(&self, code: u32, text: &str) -> Result<(), Broken> {
        if self.delivery.refusals.may_be_rows(code, self.whole.id) {
            return Ok(());
        }
        Err(Broken::Park(StoreError::Operator { code, text: text.to_owned() }))
    }

    /// Which of its rows are in the store, and which on the refused shelf.
    async fn look(&mut self) -> Result<(HashSet<ClickId>, HashSet<ClickId>), Broken> {
        let span = self.times.iter().min().copied().unwrap_or(0)..=self.times.iter().max().copied().unwrap_or(0);
        let shelved = self.delivery.shelf.of_batch(self.whole.id).map_err(|error| {
            Broken::Park(StoreError::operator(format!("the refused shelf cannot be read: {error}")))
        })?;
        loop {
            let permit = self.delivery.breaker.admit().await;
            match self.store.stored_of(self.whole.id, span.clone()).await {
                Ok(there) => {
                    permit.succeeded();
                    let (there, shelved) = (HashSet::from_iter(there), HashSet::from_iter(shelved));
                    self.note_look(&there, &shelved);
                    return Ok((there, shelved));
                }
                Err(error @ StoreError::Operator { .. }) => {
                    permit.succeeded();
                    return Err(Broken::Park(error));
                }
                Err(error) => {
                    permit.failed();
                    self.rest(&error).await;
                }
            }
        }
    }

    fn note_look(&self, there: &HashSet<ClickId>, shelved: &HashSet<ClickId>) {
        let found = match there.len() {
            0 => Found::None,
            _ if there.union(shelved).count() >= self.times.len() => Found::All,
            n => {
                let (batch, stored, of) = (self.whole.id, n, self.times.len());
                tracing::info!(%batch, stored, of, "part of a batch is stored");
                Found::Some
            }
        };
        self.metrics.looks[found as usize].add(1);
    }

    /// Sends the same bytes until the store says what it makes of them.
    async fn send(&mut self, sealed: &Sealed) -> Result<Said, Broken> {
        loop {
            let error = match self.insert(sealed).await {
                Ok(()) => return Ok(Said::Stored),
                Err(StoreError::Poison { code, text }) => return Ok(Said::Poison { code, text }),
                Err(StoreError::Divide(text)) => return Ok(Said::Divide(text)),
                Err(error) => error,
            };
            match error {
                StoreError::Ambiguous(_) => return Err(Broken::Look(error)),
                StoreError::Operator { .. } => self.park(&error).await,
                _ => self.rest(&error).await,
            }
        }
    }

    /// One try, when the breaker lets it through; what is of the past waits for its turn.
    async fn insert(&self, sealed: &Sealed) -> Result<(), StoreError> {
        let pace = &self.delivery.pace;
        let _turn = if self.paced { pace.turn().await } else { None };
        let permit = self.delivery.breaker.admit().await;
        let _live = (!self.paced).then(|| pace.live());
        let before = self.clock.now();
        let answer = self.store.insert(sealed).await;
        failpoint::hit(Point::Sent);
        match &answer {
            Err(StoreError::Transient(_) | StoreError::Ambiguous(_)) => permit.failed(),
            _ => permit.succeeded(),
        }
        if self.paced {
            pace.rest(self.clock.now().saturating_sub(before), &*self.clock).await;
        }
        answer
    }

    fn load(&mut self) -> Result<Vec<Row>, Broken> {
        let rows = self.source.load().map(|(batch, _)| batch.rows);
        rows.map_err(|error| Broken::Park(StoreError::operator(format!("its rows cannot be read: {error}"))))
    }

    /// A pause after a failure that will pass.
    async fn rest(&mut self, error: &StoreError) {
        self.note_failure(error, "the store did not take a batch; trying again");
        let pause = self.delivery.retry.pause(self.failures, fastrand::f64());
        tokio::time::sleep(pause).await;
    }

    /// The longest pause, after a failure that only a person can mend.
    async fn park(&mut self, error: &StoreError) {
        self.note_failure(error, "the store will not take a batch until a person changes something; it is kept");
        self.metrics.batches_parked.add(1);
        tokio::time::sleep(self.delivery.retry.longest(fastrand::f64()).max(Duration::from_millis(1))).await;
        self.metrics.batches_parked.sub(1);
    }

    fn note_failure(&mut self, error: &StoreError, what: &str) {
        self.metrics.insert_failures.add(1);
        if self.failures.is_multiple_of(LOG_EVERY) {
            let (store, batch, rows, failures) = (self.store.name(), self.whole.id, self.whole.rows, self.failures);
            tracing::warn!(%error, store, %batch, rows, failures, "{what}");
        }
        self.failures += 1;
    }

    fn count(self, began: Duration, refused: HashSet<ClickId>) -> Finished {
        let refused_ms: Vec<_> = refused.iter().map(|id| id.unix_ms()).collect();
        let mut stored_ms = self.times;
        for ms in &refused_ms {
            // Of several clicks at one time any will do.
            if let Some(at) = stored_ms.iter().position(|other| other == ms) {
                stored_ms.swap_remove(at);
            }
        }
        let metrics = &self.metrics;
        let took = self.clock.now().saturating_sub(began);
        metrics.batch_duration.observe_duration(took);
        metrics.times.observe(Behind::Insert, took);
        metrics.batch_rows.observe(stored_ms.len() as u64);
        metrics.stored.add(stored_ms.len() as u64);
        metrics.refused.add(refused_ms.len() as u64);
        let now_ms = self.clock.wall_ms();
        for then_ms in &stored_ms {
            metrics.ingest_lag.observe_duration(Duration::from_millis(now_ms.saturating_sub(*then_ms)));
        }
        Finished { stored_ms, refused_ms }
    }
}

/// Two halves, the first one last: to be taken first.
fn halves(mut rows: Vec<Row>) -> Vec<Vec<Row>> {
    let second = rows.split_off(rows.len() / 2);
    vec![second, rows].into_iter().filter(|rows| !rows.is_empty()).collect()
}
