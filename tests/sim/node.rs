//! One life of a node: put together as `app` does it, from the same parts, on one thread.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use trellis::catalog::Caps;
use trellis::clock::Clock;
use trellis::config::{Config, JournalSync};
use trellis::handoff::{Follower, Intake, Orphan, Run, Ticket, Upkeep};
use trellis::pipeline::breaker::Breaker;
use trellis::pipeline::dead_letter::Shelf;
use trellis::pipeline::delivery::{Delivery, Refusals};
use trellis::pipeline::enrich::Enricher;
use trellis::pipeline::ledger::Ledger;
use trellis::pipeline::pace::Pace;
use trellis::pipeline::worker::{Drain, Ended, Parts, Worker};
use trellis::segment::Disk;
use trellis::telemetry::metrics::{Guarded, Metrics};
use trellis::testing::MemoryBooks;

use crate::deduper::SimDeduper;
use crate::ledger;
use crate::plan::{Bug, DATA, Plan, enricher, memory};
use crate::store::SimStore;

/// What lives on when a node ends.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) store: Arc<SimStore>,
    pub(crate) deduper: Arc<SimDeduper>,
    pub(crate) ledger: MemoryBooks,
}

/// One edge thread's side.
pub(crate) struct Core {
    pub(crate) intake: Intake,
    /// Clicks that wait for their answer, by their number in the books.
    pub(crate) waiting: Vec<(usize, Ticket)>,
}

pub(crate) type WorkerTask = JoinHandle<io::Result<Ended>>;

/// A running node.
pub(crate) struct Node {
    pub(crate) cores: Vec<Core>,
    pub(crate) upkeep: Upkeep,
    pub(crate) run: Run,
    pub(crate) run_folder: PathBuf,
    pub(crate) workers: Vec<WorkerTask>,
    pub(crate) adoption: JoinHandle<Vec<String>>,
    /// One for each task: tokio wakes those that share one in any order.
    drains: Vec<watch::Sender<Drain>>,
    pub(crate) metrics: Rc<Metrics>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) ledger: Arc<Ledger>,
}

/// Makes workers.
struct Maker {
    config: Config,
    outside: Outside,
    enricher: Enricher,
    delivery: Arc<Delivery>,
    ledger: Arc<Ledger>,
    clock: Arc<dyn Clock>,
    metrics: Rc<Metrics>,
}

impl Maker {
    fn worker(&self, follower: Follower, index: usize) -> Worker {
        let config = &self.config;
        let parts = Parts {
            enricher: self.enricher.clone(),
            deduper: self.outside.deduper.clone(),
            store: self.outside.store.clone(),
            delivery: Arc::clone(&self.delivery),
            ledger: Arc::clone(&self.ledger),
            caps: Arc::new(Caps::new(0, 100, false, Arc::clone(&self.clock))),
            batch: config.batch,
            lag_max: config.dedup.lag_max,
            checks_in_flight_max: config.dedup.checks_in_flight_max,
            node: config.node.as_str().into(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.worker(index),
        };
        Worker { follower, parts }
    }

    /// What earlier runs left, one journal after the other; the reasons of those that stay where they are.
    async fn adopt(self, orphans: Vec<Orphan>, drain: watch::Receiver<Drain>) -> Vec<String> {
        let mut failed = Vec::new();
        for orphan in orphans {
            if let Err(error) = self.adopt_one(orphan, &drain).await {
                failed.push(error.to_string());
            }
        }
        failed
    }

    async fn adopt_one(&self, orphan: Orphan, drain: &watch::Receiver<Drain>) -> io::Result<()> {
        let index = self.config.edge.threads;
        let mut damaged = false;
        for stretch in orphan.stretches()? {
            if *drain.borrow() == Drain::Stop {
                return Ok(());
            }
            let follower = Follower::orphan(&orphan, stretch, self.metrics.worker(index))?;
            let ended = self.worker(follower, index).drive(drain.clone()).await?;
            if !ended.finished {
                return Ok(());
            }
            damaged |= ended.damaged;
        }
        let folder = orphan.folder().to_owned();
        orphan.finish(damaged)?;
        self.ledger.end_run(&folder).map_err(io::Error::other)
    }
}

impl Node {
    /// Boots: in the order in which `app` does it. To be called inside the runtime.
    pub(crate) fn start(
        plan: &Plan,
        outside: &Outside,
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let config = &with_bug(plan);
        let metrics = Metrics::new(config.edge.threads, config.queue.groups_max, &[], || 0).expect("metrics");
        let mut orphans = Orphan::find(disk, Path::new(DATA))?;
        match plan.bug {
            Some(Bug::AdoptsNothing) => orphans.clear(),
            Some(Bug::ForgetsIntents) => orphans.iter().for_each(forget_intents),
            _ => {}
        }
        let (run, doors, upkeep) = Run::begin_by_hand(disk, config, &metrics, clock)?;
        let shelf_folder = Path::new(DATA).join("dead-letters");
        let shelf =
            Shelf::open(Arc::clone(disk), shelf_folder, config.dead_letter, Arc::clone(clock), metrics.refused())?;
        let (shelf, retry) = (Arc::new(shelf), config.retry.insert);
        let breaker = Breaker::new("store", retry, Arc::clone(clock), metrics.breaker(Guarded::Store));
        let delivery = Arc::new(Delivery {
            breaker: Arc::new(breaker),
            retry,
            pace: Pace::default(),
            shelf: Arc::clone(&shelf),
            refusals: Refusals::default(),
        });
        let ledger = ledger::open(&outside.ledger, &shelf, clock, &metrics, &orphans)?;
        ledger::begin_run(&ledger, &run, &metrics, config.edge.threads);
        let metrics = Rc::new(metrics);
        let maker = Maker {
            config: config.clone(),
            outside: outside.clone(),
            enricher: enricher().remembering(memory()),
            delivery,
            ledger: Arc::clone(&ledger),
            clock: Arc::clone(clock),
            metrics: Rc::clone(&metrics),
        };
        let mut drains = Vec::new();
        let mut drain = || {
            let (sender, receiver) = watch::channel(Drain::No);
            drains.push(sender);
            receiver
        };
        let (mut cores, mut workers, mut run_folder) = (Vec::new(), Vec::new(), PathBuf::new());
        for (index, (intake, follower)) in doors.into_iter().enumerate() {
            cores.push(Core { intake: intake(), waiting: Vec::new() });
            follower.folder().clone_into(&mut run_folder);
            let worker = maker.worker(follower, index);
            workers.push(tokio::task::spawn_local(worker.drive(drain())));
        }
        let adoption = tokio::task::spawn_local(maker.adopt(orphans, drain()));
        Ok(Self { cores, upkeep, run, run_folder, workers, adoption, drains, metrics, shelf, ledger })
    }

    pub(crate) fn set_drain(&self, drain: Drain) {
        for sender in &self.drains {
            sender.send_replace(drain);
        }
    }

    /// Whether a worker has ended on its own: `app` stops the node then.
    pub(crate) fn has_lost_a_worker(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished) && self.adoption.is_finished()
    }

    /// What its workers are at.
    pub(crate) fn state(&self) -> String {
        let worker = |index| {
            let shard = self.metrics.worker(index);
            let ended = self.workers.get(index).map_or(self.adoption.is_finished(), JoinHandle::is_finished);
            let (claimed, adopted, stored) = (shard.claimed.get(), shard.adopted.get(), shard.stored.get());
            let (in_flight, parked) = (shard.batches_in_flight.get(), shard.batches_parked.get());
            format!(
                "{index}: ended {ended}, {claimed} claimed, {adopted} adopted, {stored} stored, {in_flight} batches in flight, {parked} parked"
            )
        };
        (0..=self.cores_max()).map(worker).collect::<Vec<_>>().join("; ")
    }

    /// Shard of the journals of earlier runs.
    pub(crate) fn cores_max(&self) -> usize {
        self.workers.len()
    }
}

/// The settings of a node, which are other ones than the world believes where that is what is planted.
fn with_bug(plan: &Plan) -> Config {
    let mut config = plan.config.clone();
    match plan.bug {
        Some(Bug::NeverForces) => config.journal.sync = JournalSync::Process,
        Some(Bug::TakesTooMuch) => config.batch.in_flight_max = 64,
        _ => {}
    }
    config
}

/// Planted: what was frozen is forgotten.
fn forget_intents(orphan: &Orphan) {
    let entries = orphan.disk().list(orphan.folder()).unwrap_or_default();
    for entry in entries.iter().filter(|entry| entry.name.to_string_lossy().ends_with(".intent")) {
        let _ = orphan.disk().unlink(&orphan.folder().join(&entry.name));
    }
}
