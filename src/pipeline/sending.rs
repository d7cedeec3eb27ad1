//! One batch on its way to the store: sent again, the same bytes under the same token, until the store has it.
//!
//! ```text
//!            +--- transient, operator: pause, again ---+
//!            v                                         |
//! fresh --> send --ok--> stored                        |
//!            |--ambiguous--> look --all--> stored      |
//! restarted ---------------^  |--none--> send the same bytes, same token
//!                             |--some--> send the missing rows under `<id>/<n>`, then look again
//! ```
//! Whether an answer was lost, the process restarted or a person asked for it: what may be there is looked for before
//! anything is sent again.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::enrich::Enricher;
use super::intent::Intent;
use super::{Batch, Row, Sealed, Store, StoreError};
use crate::click::{Click, ClickId, frame};
use crate::clock::Clock;
use crate::config;
use crate::handoff::{Item, read_range};
use crate::segment::Disk;
use crate::telemetry::metrics::{Found, WorkerShard};

/// Failures of one batch are logged at the first, then at every so many.
const LOG_EVERY: u32 = 20;

/// A batch at the store.
pub(super) struct Sending {
    pub(super) store: Arc<dyn Store>,
    pub(super) retry: config::Batch,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<WorkerShard>,
    pub(super) sealed: Sealed,
    /// Times of its clicks, Unix milliseconds.
    pub(super) times: Vec<u64>,
    /// It may have been sent before.
    pub(super) look_first: bool,
    /// How to get at its rows once more.
    pub(super) source: Source,
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
    /// The batch as it was frozen.
    pub(super) fn load(&mut self) -> std::io::Result<Batch> {
        let items = read_range(&*self.disk, &self.folder, self.core, self.intent.start..self.intent.end)?;
        let mut labels = self.intent.labels.iter();
        let mut rows = Vec::with_capacity(items.len());
        for Item { frame, .. } in items {
            // What was not understood then is no row now.
            let Ok(click) = Click::decode(&frame) else { continue };
            let found = self.enricher.enrich(&click);
            let Some(label) = labels.next() else { return Err(not_the_same()) };
            let (country, class, reasons, agent) = (found.country, found.class, found.reasons, found.agent);
            rows.push(Row { frame, country, class, reasons, dedup: *label, agent });
        }
        if labels.next().is_some() {
            return Err(not_the_same());
        }
        Ok(Batch { id: self.intent.batch, part: 0, node: Arc::clone(&self.node), rows })
    }
}

fn not_the_same() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "the journal has not as many clicks as were frozen")
}

impl Sending {
    /// Until it is stored; gives its number back.
    pub(super) async fn run(mut self, number: u64) -> u64 {
        let began = self.clock.now();
        let mut failures = 0_u32;
        while let Err(error) = self.step().await {
            self.metrics.insert_failures.add(1);
            if failures.is_multiple_of(LOG_EVERY) {
                let (store, batch, rows) = (self.store.name(), self.sealed.id, self.sealed.rows);
                tracing::warn!(%error, store, %batch, rows, failures, "the store did not take a batch; trying again");
            }
            let pause = self.pause(failures, &error);
            failures += 1;
            tokio::time::sleep(pause).await;
        }
        if failures > 0 {
            tracing::info!(store = self.store.name(), batch = %self.sealed.id, failures, "the store took the batch");
        }
        self.metrics.batch_duration.observe_duration(self.clock.now().saturating_sub(began));
        self.metrics.batch_rows.observe(self.times.len() as u64);
        self.metrics.stored.add(self.times.len() as u64);
        let now_ms = self.clock.wall_ms();
        for then_ms in &self.times {
            self.metrics.ingest_lag.observe(now_ms.saturating_sub(*then_ms) * 1000);
        }
        number
    }

    /// Looks where it must, and sends what is missing. Ok when all of it is stored.
    async fn step(&mut self) -> Result<(), StoreError> {
        loop {
            if self.look_first {
                if self.look().await? {
                    return Ok(());
                }
                self.look_first = false;
            }
            match self.store.insert(&self.sealed).await {
                // Missing rows were sent under a token of their own: seen whole is stored.
                Ok(()) if self.sealed.part > 0 => self.look_first = true,
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.look_first |= matches!(error, StoreError::Ambiguous(_));
                    return Err(error);
                }
            }
        }
    }

    /// Looks for its rows in the store: true when all are there. When some are, what will be sent is the rest.
    async fn look(&mut self) -> Result<bool, StoreError> {
        let span = self.times.iter().min().copied().unwrap_or(0)..=self.times.iter().max().copied().unwrap_or(0);
        let there = self.store.stored_of(self.sealed.id, span).await?;
        let found = match there.len() {
            0 => Found::None,
            n if n >= self.times.len() => Found::All,
            _ => Found::Some,
        };
        self.metrics.looks[found as usize].add(1);
        if found == Found::Some {
            self.keep_missing(there.into_iter().collect())?;
        }
        Ok(found == Found::All)
    }

    fn keep_missing(&mut self, there: HashSet<ClickId>) -> Result<(), StoreError> {
        let mut batch = self.source.load().map_err(|error| {
            let stored = there.len();
            StoreError::operator(format!("{stored} of its rows are stored, and the others cannot be read: {error}"))
        })?;
        batch.rows.retain(|row| frame::click_id(&row.frame).is_none_or(|id| !there.contains(&id)));
        batch.part = self.sealed.part + 1;
        tracing::info!(batch = %batch.id, missing = batch.rows.len(), "part of a batch was stored; sending the rest");
        self.sealed = self.store.seal(batch);
        Ok(())
    }

    /// Full jitter over base x 2^n, at most the maximum. What only a person can mend is tried at the maximum.
    fn pause(&self, failures: u32, error: &StoreError) -> Duration {
        let most = match error {
            StoreError::Operator { .. } | StoreError::Poison { .. } | StoreError::Divide(_) => self.retry.retry_max,
            StoreError::Transient(_) | StoreError::Ambiguous(_) => {
                self.retry.retry_base.saturating_mul(2_u32.saturating_pow(failures.min(20))).min(self.retry.retry_max)
            }
        };
        most.mul_f64(fastrand::f64()).max(Duration::from_millis(1))
    }
}
