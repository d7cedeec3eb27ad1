//! The audit log as requests write it: entries gather, and a request is answered when its own is on the disk.
//!
//! A batch is written when every write that is under way waits for it; `audit.flush_every` after the one before it at the latest,
//! or at `audit.flush_entries`. So who writes alone never waits for others. While the log cannot be written, nothing else is: a request is refused before it changes anything, and
//! entries of those that were under way wait in memory and are tried again with the next request. Bounds: [`WRITES_MAX`]
//! writes at one time, so that no more entries than that ever wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::problem::{Code, Problem};
use crate::catalog::CatalogError;
use crate::catalog::audit::{AuditStore, AuditWrite, Keep};
use crate::clock::Clock;
use crate::config::Audit;
use crate::telemetry::api::ApiShard;

/// Writes that may be under way.
pub(super) const WRITES_MAX: usize = 256;
/// How often it is looked whether entries are too old.
const LOOK: Duration = Duration::from_secs(3600);

/// An entry and who waits for it; none to try again what waits.
struct Waiting {
    write: Option<AuditWrite>,
    told: oneshot::Sender<bool>,
}

/// The log. While it lives, a task writes it.
#[derive(Debug)]
pub struct AuditLog {
    store: Arc<dyn AuditStore>,
    entries: mpsc::Sender<Waiting>,
    places: Arc<Semaphore>,
    /// Whether the last batch was written.
    good: Arc<AtomicBool>,
    clock: Arc<dyn Clock>,
    retention_ms: u64,
    idempotency_max: usize,
    counted: Arc<ApiShard>,
    /// This process, among those that begin requests.
    run: u64,
}

impl AuditLog {
    /// Begins to write. To be called on a tokio runtime.
    pub fn start(
        store: Arc<dyn AuditStore>,
        config: Audit,
        clock: Arc<dyn Clock>,
        counted: Arc<ApiShard>,
    ) -> Arc<Self> {
        let (entries, waiting) = mpsc::channel(WRITES_MAX);
        let good = Arc::new(AtomicBool::new(true));
        let places = Arc::new(Semaphore::new(WRITES_MAX));
        let writer = Writer {
            store: Arc::clone(&store),
            places: Arc::clone(&places),
            config,
            clock: Arc::clone(&clock),
            counted: Arc::clone(&counted),
            good: Arc::clone(&good),
            unwritten: Vec::new(),
        };
        tokio::spawn(writer.run(waiting));
        let retention_ms = milliseconds(config.retention);
        Arc::new(Self {
            store,
            entries,
            places,
            good,
            clock,
            retention_ms,
            idempotency_max: config.idempotency_max,
            counted,
            run: fastrand::u64(..),
        })
    }

    /// A place for a write, which may begin then.
    pub(super) async fn admit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| unavailable(NOTHING))?;
        if self.good.load(Ordering::Acquire) || self.send(None).await {
            return Ok(place);
        }
        Err(unavailable(NOTHING))
    }

    /// Waits until the entry is on the disk.
    pub(super) async fn write(&self, write: AuditWrite) -> Result<(), Problem> {
        let began = self.clock.now();
        if self.send(Some(write)).await {
            self.counted.audit(self.clock.now().saturating_sub(began));
            return Ok(());
        }
        Err(unavailable("it was done, and its entry waits in memory; read again before you repeat it"))
    }

    async fn send(&self, write: Option<AuditWrite>) -> bool {
        let (told, written) = oneshot::channel();
        self.entries.send(Waiting { write, told }).await.is_ok() && written.await.unwrap_or(false)
    }

    /// Where it is kept.
    pub(super) fn store(&self) -> &dyn AuditStore {
        &*self.store
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// Entries from before this time are no longer shown.
    pub(super) fn oldest_ms(&self) -> u64 {
        self.now_ms().saturating_sub(self.retention_ms)
    }

    pub(super) fn run(&self) -> u64 {
        self.run
    }

    pub(super) fn idempotency_max(&self) -> usize {
        self.idempotency_max
    }
}

impl std::fmt::Debug for dyn AuditStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditStore")
    }
}

const NOTHING: &str = "nothing was changed; see the node's log";

pub(super) fn unavailable(what: &str) -> Problem {
    Problem::new(Code::AuditUnavailable, format!("the audit log cannot be written: {what}"))
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

struct Writer {
    store: Arc<dyn AuditStore>,
    places: Arc<Semaphore>,
    config: Audit,
    clock: Arc<dyn Clock>,
    counted: Arc<ApiShard>,
    good: Arc<AtomicBool>,
    /// Entries of a batch that failed.
    unwritten: Vec<AuditWrite>,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Waiting>) {
        let mut look = tokio::time::interval(LOOK);
        let mut rest = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        loop {
            let first = tokio::select! {
                first = waiting.recv() => first,
                _ = look.tick() => {
                    self.forget().await;
                    continue;
                }
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            while batch.len() < self.config.flush_entries {
                tokio::select! {
                    // What is there already does not wait for the next batch.
                    biased;
                    Some(next) = waiting.recv() => batch.push(next),
                    () = std::future::ready(()), if batch.len() >= self.under_way() => break,
                    () = &mut rest => break,
                }
            }
            self.write(batch).await;
            rest.set(tokio::time::sleep(self.config.flush_every));
        }
    }

    /// Writes that were admitted and have no answer yet: each has one entry at most.
    fn under_way(&self) -> usize {
        WRITES_MAX - self.places.available_permits()
    }

    async fn write(&mut self, batch: Vec<Waiting>) {
        let mut writes = std::mem::take(&mut self.unwritten);
        let told_before = writes.len();
        let mut waiters = Vec::with_capacity(batch.len());
        for Waiting { write, told } in batch {
            writes.extend(write);
            waiters.push(told);
        }
        let writes = Arc::new(writes);
        let written = self.store.write(Arc::clone(&writes), self.keep()).await;
        if let Err(error) = &written {
            self.failed(&writes, told_before, error);
            self.unwritten = Arc::unwrap_or_clone(writes);
        }
        if self.good.swap(written.is_ok(), Ordering::AcqRel) != written.is_ok() && written.is_ok() {
            tracing::info!("the audit log can be written again");
        }
        // Nobody may be waiting any more.
        for told in waiters {
            let _ = told.send(written.is_ok());
        }
    }

    /// The log lines are what is left if the process ends now.
    fn failed(&self, writes: &[AuditWrite], told_before: usize, error: &CatalogError) {
        self.counted.audit_failed();
        if self.good.load(Ordering::Acquire) {
            tracing::error!(%error, "the audit log cannot be written; writes are refused until it can");
        }
        for AuditWrite { entry, .. } in &writes[told_before..] {
            let (who, action, target, request_id) = (&entry.actor, &entry.action, &entry.target, &entry.request_id);
            let status = entry.status;
            tracing::warn!(audit = true, who, action, target, status, request_id, "not in the audit log yet");
        }
    }

    fn keep(&self) -> Keep {
        Keep {
            from_ms: self.clock.wall_ms().saturating_sub(milliseconds(self.config.retention)),
            entries_max: self.config.entries_max,
            bytes_max: self.config.bytes_max,
        }
    }

    async fn forget(&self) {
        loop {
            match self.store.forget(self.keep()).await {
                Ok(true) => {}
                Ok(false) => return,
                // Tried again with the next batch, and in an hour.
                Err(error) => return tracing::warn!(%error, "old entries of the audit log cannot be removed now"),
            }
        }
    }
}
