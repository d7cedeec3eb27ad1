//! The ledger of a data folder, and the tasks that keep it.
//!
//! ```text
//! every second              what the edge threads counted goes to the books
//! every `rollup.every`      rollups of minutes in which something was stored are computed anew
//! every `ledger.check_every`  do the books balance, and does the store have what they say?
//! every hour                minutes older than `ledger.keep` are forgotten
//! ```
//! No visitor and no worker waits for any of it. `serve` starts it. Bounds: those of [`crate::pipeline::ledger`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::backend::sqlite_ledger::SqliteLedger;
use crate::backend::timed::TimedBooks;
use crate::clock::Clock;
use crate::config::Config;
use crate::handoff::Orphan;
use crate::pipeline::Store;
use crate::pipeline::dead_letter::Shelf;
use crate::pipeline::ledger::{self, Ledger, UpkeepError};
use crate::telemetry::calls::Calls;
use crate::telemetry::metrics::Metrics;

const COLLECT_EVERY: Duration = Duration::from_secs(1);
const FORGET_EVERY: Duration = Duration::from_secs(3600);
const MINUTE_MS: u64 = 60_000;

/// Opens the ledger, with what earlier runs left.
pub(super) fn open(
    config: &Config,
    shelf: &Arc<Shelf>,
    orphans: &[Orphan],
    clock: &Arc<dyn Clock>,
    (metrics, calls): (&Metrics, Arc<Calls>),
) -> anyhow::Result<Arc<Ledger>> {
    let books = SqliteLedger::open_or_set_aside(&config.data_dir.join("ledger.db"), clock.wall_ms())?;
    let books = TimedBooks::new(books, calls);
    let ledger = Ledger::open(Box::new(books), &config.node, Arc::clone(shelf), Arc::clone(clock), metrics.ledger())?;
    for orphan in orphans {
        let adopted = ledger.adopt_run(orphan);
        adopted.with_context(|| format!("`{}` cannot be read", orphan.folder().display()))?;
    }
    Ok(Arc::new(ledger))
}

/// What the tasks work with.
#[derive(Clone)]
pub(super) struct Keeping {
    ledger: Arc<Ledger>,
    store: Arc<dyn Store>,
    config: Config,
    clock: Arc<dyn Clock>,
}

impl Keeping {
    pub(super) fn new(ledger: &Arc<Ledger>, store: &Arc<dyn Store>, config: &Config, clock: &Arc<dyn Clock>) -> Self {
        let (ledger, store) = (Arc::clone(ledger), Arc::clone(store));
        Self { ledger, store, config: config.clone(), clock: Arc::clone(clock) }
    }

    /// Starts the tasks; they end with the runtime.
    pub(super) fn start(self) {
        tokio::spawn(self.clone().collect());
        tokio::spawn(self.clone().roll_up());
        tokio::spawn(self.clone().check());
        tokio::spawn(self.forget());
    }

    async fn collect(self) {
        let mut tick = tokio::time::interval(COLLECT_EVERY);
        loop {
            tick.tick().await;
            let ledger = Arc::clone(&self.ledger);
            let _ = tokio::task::spawn_blocking(move || ledger.collect()).await;
        }
    }

    async fn roll_up(self) {
        let (every, most) = (self.config.rollup.every, self.config.rollup.minutes_max);
        let mut said = false;
        loop {
            tokio::time::sleep(every).await;
            let rolled = ledger::roll_up(&self.ledger, &*self.store, most).await;
            tell(rolled.err(), "rollups wait", &mut said);
        }
    }

    async fn check(self) {
        let keep_ms = u64::try_from(self.config.store.retention.shortest().as_millis()).unwrap_or(u64::MAX);
        let (mut said, ledger) = (false, Arc::clone(&self.ledger));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || ledger.look_back()).await {
            tracing::warn!(%error, "what the last process left in the ledger is not checked");
        }
        loop {
            tokio::time::sleep(self.config.ledger.check_every).await;
            let from_ms = self.clock.wall_ms().saturating_sub(keep_ms);
            let checked = ledger::check(&self.ledger, &*self.store, from_ms).await;
            tell(checked.err(), "the ledger is not compared with the store for now", &mut said);
        }
    }

    async fn forget(self) {
        let keep_ms = u64::try_from(self.config.ledger.keep.as_millis()).unwrap_or(u64::MAX);
        let mut tick = tokio::time::interval(FORGET_EVERY);
        loop {
            tick.tick().await;
            let (ledger, minute) = (Arc::clone(&self.ledger), self.clock.wall_ms().saturating_sub(keep_ms) / MINUTE_MS);
            let forgotten = tokio::task::spawn_blocking(move || ledger.forget_before(minute)).await;
            if let Ok(Err(error)) = forgotten {
                tracing::warn!(%error, "old minutes of the ledger cannot be removed now");
            }
        }
    }
}

/// Says once that something waits. That the store is away is no news: its monitor has said so.
fn tell(error: Option<UpkeepError>, what: &str, said: &mut bool) {
    match error {
        None => *said = false,
        Some(error) if !std::mem::replace(said, true) => tracing::info!(%error, "{what}"),
        Some(_) => {}
    }
}
