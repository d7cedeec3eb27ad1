//! The threads that bring clicks to the store: one for each edge thread's journal, and one for the journals of earlier runs.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::parts::Backends;
use crate::catalog::Caps;
use crate::catalog::agents::Agents;
use crate::catalog::geo::Geo;
use crate::click::Classifier;
use crate::clock::Clock;
use crate::config::{Config, Geo as GeoFiles};
use crate::handoff::{Follower, Orphan};
use crate::pipeline::delivery::Delivery;
use crate::pipeline::enrich::Enricher;
use crate::pipeline::ledger::Ledger;
use crate::pipeline::memory::Memory;
use crate::pipeline::worker::{self, Drain, Ended, Worker};
use crate::telemetry::caches::Looker;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::pools::Pooled;

/// A worker's thread.
pub(super) type WorkerThread = JoinHandle<std::io::Result<Ended>>;

/// Data that all workers share.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) agents: Arc<Agents>,
    pub(super) geo: Arc<Geo>,
}

impl Facts {
    /// Reads what is shipped, to be judged by this classifier, and asks these files of the operator too.
    pub(super) fn load(classifier: &Arc<Classifier>, files: &GeoFiles) -> anyhow::Result<Self> {
        let agents =
            Agents::with(Arc::clone(classifier)).map_err(|e| anyhow::anyhow!("the shipped crawler list: {e}"))?;
        let geo = Geo::with(*files).map_err(|e| anyhow::anyhow!("the shipped country file: {e}"))?;
        Ok(Self { agents: Arc::new(agents), geo: Arc::new(geo) })
    }

    /// An enricher with a memo of its own.
    pub(super) fn enricher(&self) -> Enricher {
        Enricher::new(Arc::clone(&self.agents), Arc::clone(&self.geo))
    }
}

/// Makes workers.
#[derive(Clone)]
pub(super) struct WorkerMaker {
    pub(super) config: Config,
    pub(super) backends: Arc<Backends>,
    pub(super) facts: Facts,
    pub(super) memory: Arc<Memory>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) caps: Arc<Caps>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) runtimes: usize,
}

impl WorkerMaker {
    /// A worker for this follower, counted in shard `index`. To be called on the thread that will run it.
    fn make(&self, follower: Follower, index: usize) -> anyhow::Result<Worker> {
        let caches = self.metrics.caches(Looker::Worker(index));
        let parts = worker::Parts {
            enricher: self.facts.enricher().remembering(Arc::clone(&self.memory)).counting(caches),
            deduper: self.backends.deduper(self.runtimes, &self.metrics)?,
            store: self.backends.store(self.runtimes, self.metrics.pool(Pooled::ClickHouse))?,
            delivery: Arc::clone(&self.delivery),
            ledger: Arc::clone(&self.ledger),
            caps: Arc::clone(&self.caps),
            batch: self.config.batch,
            lag_max: self.config.dedup.lag_max,
            checks_in_flight_max: self.config.dedup.checks_in_flight_max,
            node: self.config.node.as_str().into(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.worker(index),
        };
        Ok(Worker { follower, parts })
    }

    /// One for each follower, in the order of the edge threads.
    pub(super) fn start_all(
        &self,
        followers: Vec<Follower>,
        drain: &watch::Sender<Drain>,
    ) -> anyhow::Result<Vec<WorkerThread>> {
        let start = |(index, follower)| {
            let (maker, drain) = (self.clone(), drain.subscribe());
            let feels = self.metrics.runtime(&format!("worker-{index}"));
            let run = move || {
                let worker = maker.make(follower, index).map_err(std::io::Error::other)?;
                worker.run(drain, &feels)
            };
            Ok(std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?)
        };
        followers.into_iter().enumerate().map(start).collect()
    }

    /// Brings what earlier runs left to the store, one journal after the other, on a thread of its own.
    pub(super) fn adopt(&self, orphans: Vec<Orphan>, drain: watch::Receiver<Drain>) -> anyhow::Result<JoinHandle<()>> {
        let maker = self.clone();
        let run = move || {
            // All of them first: they are the backlog.
            let found: Vec<_> = orphans.into_iter().map(|orphan| (maker.followers(&orphan), orphan)).collect();
            for (followers, orphan) in found {
                let folder = orphan.folder().display().to_string();
                let adopted = followers.map_err(Into::into).and_then(|found| maker.adopt_one(orphan, found, &drain));
                if let Err(error) = adopted {
                    tracing::error!(%error, folder, "the journal of an earlier run stays where it is");
                }
            }
        };
        Ok(std::thread::Builder::new().name("adopt".into()).spawn(run)?)
    }

    fn followers(&self, orphan: &Orphan) -> std::io::Result<Vec<std::io::Result<Follower>>> {
        let metrics = self.metrics.worker(self.config.edge.threads);
        let follow = |stretch| Follower::orphan(orphan, stretch, Arc::clone(&metrics));
        Ok(orphan.stretches()?.into_iter().map(follow).collect())
    }

    fn adopt_one(
        &self,
        orphan: Orphan,
        followers: Vec<std::io::Result<Follower>>,
        drain: &watch::Receiver<Drain>,
    ) -> anyhow::Result<()> {
        let index = self.config.edge.threads;
        let metrics = self.metrics.worker(index);
        let before = metrics.adopted.get();
        let mut damaged = false;
        for follower in followers {
            if *drain.borrow() == Drain::Stop {
                return Ok(());
            }
            let ended = self.make(follower?, index)?.run(drain.clone(), &self.metrics.runtime("adopt"))?;
            if !ended.finished {
                return Ok(());
            }
            damaged |= ended.damaged;
        }
        let clicks = metrics.adopted.get() - before;
        tracing::info!(folder = %orphan.folder().display(), clicks, "the journal of an earlier run is stored");
        let folder = orphan.folder().to_owned();
        orphan.finish(damaged)?;
        Ok(self.ledger.end_run(&folder)?)
    }
}
