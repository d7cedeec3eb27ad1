//! The worker: one thread with an event loop of its own for each journal, from the handoff to the store.
//!
//! ```text
//! follower -> enrich -> dedup -> open batch --full, aged or a new month--> intent -> at the store until finished
//!    ^          several chunks      |                                                      |
//!    +--- waits while `batch.in_flight_max` batches are at the store                       v
//!                                                checkpoint: low-water mark of finished ranges, intents removed, ledger
//! ```
//! At the start, batches that an earlier life froze go first, as they were.
//!
//! Nothing is dropped: a store that fails is waited for, and meanwhile the queue fills and overflows into the journal,
//! where the clicks are already. When the store takes batches again and the cursor lies whole segments behind, the journal
//! is cut: the worker goes on with the clicks of now, and the past is brought behind it, oldest first, at the
//! [`pace`](super::pace) that live clicks leave. A cut drops what is in memory: the past begins at its checkpoint, with its
//! intents, like after a restart.
//!
//! Memory: for the live stretch and the one of the past that is being brought each `in_flight_max + 2` batches of
//! `rows_max` clicks, and `dedup.checks_in_flight_max` chunks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, watch};

use super::delivery::Delivery;
pub use super::drain::{Drain, Ended};
use super::enrich::Enricher;
use super::ledger::Ledger;
use super::running::{Left, Running};
use super::{Deduper, Store};
use crate::catalog::Caps;
use crate::clock::Clock;
use crate::config;
use crate::handoff::Follower;
use crate::telemetry::metrics::WorkerShard;
use crate::telemetry::runtimes::{self, RuntimeShard};

/// What a worker works with.
#[derive(Clone)]
pub struct Parts {
    /// Facts about clicks.
    pub enricher: Enricher,
    /// Labels.
    pub deduper: Arc<dyn Deduper>,
    /// Where clicks go.
    pub store: Arc<dyn Store>,
    /// How they get there; shared by all workers of the process.
    pub delivery: Arc<Delivery>,
    /// Where it is written down what became of them; likewise.
    pub ledger: Arc<Ledger>,
    /// What is counted against limits; likewise.
    pub caps: Arc<Caps>,
    /// Sizes and ages.
    pub batch: config::Batch,
    /// A click older than this gets the label unknown.
    pub lag_max: Duration,
    /// Checks for duplicates at one time.
    pub checks_in_flight_max: usize,
    /// Name of this node.
    pub node: Arc<str>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Its counters.
    pub metrics: Arc<WorkerShard>,
}

/// Brings one core's journal to the store.
pub struct Worker {
    /// Where clicks come from.
    pub follower: Follower,
    /// What it works with.
    pub parts: Parts,
}

impl Worker {
    /// Runs on this thread until `drain` says so or the journal is at its end for good. `feels`: how its event loop does.
    ///
    /// # Errors
    /// The system's, when the event loop cannot be made or the intents cannot be read.
    pub fn run(self, drain: watch::Receiver<Drain>, feels: &Arc<RuntimeShard>) -> std::io::Result<Ended> {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.spawn_local(runtimes::feel(Arc::clone(feels), Arc::clone(&self.parts.clock)));
        let ended = runtime.block_on(self.drive(drain));
        // Does not wait for a name that is being looked up: a silent resolver takes its time.
        runtime.shutdown_background();
        ended
    }

    /// The same on an event loop of the caller's, which must be able to run local tasks.
    ///
    /// # Errors
    /// As [`Worker::run`].
    pub async fn drive(self, drain: watch::Receiver<Drain>) -> std::io::Result<Ended> {
        let past = Rc::new(Past::default());
        let replay = tokio::task::spawn_local(replay(Rc::clone(&past), self.parts.clone(), drain.clone()));
        let is_live = self.follower.is_live();
        let mut running = Running::begin(self.follower, self.parts.clone(), drain.clone())?;
        let ended = loop {
            match running.run().await {
                Left::Ended(ended) => break ended,
                Left::Cut(behind) => {
                    tracing::info!(
                        core = behind.core(),
                        "clicks of an outage are put behind those of now; they are stored as the store has room"
                    );
                    past.push(*behind);
                    running = Running::begin(running.into_follower(), self.parts.clone(), drain.clone())?;
                }
            }
        };
        let follower = running.into_follower();
        if ended.finished
            && !is_live
            && let Err(error) = follower.remove()
        {
            tracing::warn!(%error, "a finished part of the journal could not be removed");
        }
        past.close();
        // A panic there: what it had stays in the journal.
        let behind = replay.await.unwrap_or(Ended { finished: false, damaged: false });
        Ok(Ended { finished: ended.finished && behind.finished, damaged: ended.damaged || behind.damaged })
    }
}

/// Stretches that wait behind the live one, oldest first. At most one for each segment.
#[derive(Default)]
struct Past {
    stretches: RefCell<VecDeque<Follower>>,
    closed: Cell<bool>,
    changed: Notify,
}

impl Past {
    fn push(&self, stretch: Follower) {
        self.stretches.borrow_mut().push_back(stretch);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.closed.set(true);
        self.changed.notify_one();
    }

    /// The oldest one; waits for it, and gives `None` when no further one will come.
    async fn next(&self) -> Option<Follower> {
        loop {
            let next = self.stretches.borrow_mut().pop_front();
            if next.is_some() || self.closed.get() {
                return next;
            }
            self.changed.notified().await;
        }
    }
}

/// Brings stretches of the past, one after the other.
async fn replay(past: Rc<Past>, parts: Parts, drain: watch::Receiver<Drain>) -> Ended {
    let mut all = Ended { finished: true, damaged: false };
    while let Some(stretch) = past.next().await {
        let ended = match bring(stretch, &parts, &drain).await {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a part of the journal stays where it is; the next start takes it up");
                Ended { finished: false, damaged: false }
            }
        };
        all = Ended { finished: all.finished && ended.finished, damaged: all.damaged || ended.damaged };
    }
    all
}

async fn bring(stretch: Follower, parts: &Parts, drain: &watch::Receiver<Drain>) -> std::io::Result<Ended> {
    let mut running = Running::begin(stretch, parts.clone(), drain.clone())?;
    let Left::Ended(ended) = running.run().await else { return Err(std::io::ErrorKind::InvalidData.into()) };
    if ended.finished {
        running.into_follower().remove()?;
    }
    Ok(ended)
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("follower", &self.follower).finish_non_exhaustive()
    }
}
