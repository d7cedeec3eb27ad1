//! A bench for the parts behind the 302: the real handoff and a real worker in this process, against a store and a deduper
//! that follow a script. `benches/journal.rs` measures with the same one.

#![cfg(feature = "testing")]

use std::sync::Arc;

use tokio::sync::watch;
use trellis::catalog::Caps;
use trellis::catalog::agents::Agents;
use trellis::catalog::geo::Geo;
use trellis::click::{Click, ClickId, Fingerprint};
use trellis::clock::{Clock, SystemClock};
use trellis::config::{Config, Sources};
use trellis::handoff::{Doors, Follower, IntakeMaker, Orphan, Run};
use trellis::pipeline::breaker::Breaker;
use trellis::pipeline::dead_letter::Shelf;
use trellis::pipeline::delivery::{Delivery, Refusals};
use trellis::pipeline::enrich::Enricher;
use trellis::pipeline::ledger::Ledger;
use trellis::pipeline::pace::Pace;
use trellis::pipeline::worker::{Drain, Ended, Parts, Worker};
use trellis::pipeline::{Deduper, Label};
use trellis::segment::{Disk, RealDisk};
use trellis::telemetry::metrics::{Guarded, Metrics};
use trellis::testing::{MemoryBooks, ScriptedDeduper, ScriptedStore};

/// The handoff and a worker in this process.
pub(crate) struct Bench {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: Arc<ScriptedStore>,
    pub(crate) deduper: Arc<ScriptedDeduper>,
    pub(crate) delivery: Arc<Delivery>,
    pub(crate) books: MemoryBooks,
    pub(crate) ledger: Arc<Ledger>,
}

pub(crate) type WorkerThread = std::thread::JoinHandle<std::io::Result<Ended>>;

impl Bench {
    pub(crate) fn new(store: ScriptedStore, settings: &[(&str, &str)]) -> Self {
        Self::new_in(tempfile::tempdir().expect("a folder"), store, settings)
    }

    /// In this folder.
    pub(crate) fn new_in(folder: tempfile::TempDir, store: ScriptedStore, settings: &[(&str, &str)]) -> Self {
        let data_dir = folder.path().display().to_string();
        let fixed = [
            ("data_dir", data_dir.as_str()),
            ("edge.threads", "1"),
            ("journal.segment_bytes", "1MiB"),
            ("batch.age_max", "20ms"),
            ("retry.insert.base", "1ms"),
            ("retry.insert.max", "5ms"),
        ];
        let flags = fixed.iter().chain(settings).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = Config::load(&Sources { flags, ..Sources::default() }).expect("a good config");
        let metrics = Metrics::new(1, config.queue.groups_max, &[], || 0).expect("metrics");
        let (disk, clock): (Arc<dyn Disk>, Arc<dyn Clock>) = (Arc::new(RealDisk), Arc::new(SystemClock::new()));
        let retry = config.retry.insert;
        let shelf = folder.path().join("dead-letters");
        let shelf = Shelf::open(Arc::clone(&disk), shelf, config.dead_letter, Arc::clone(&clock), metrics.refused());
        let breaker = Breaker::new("store", retry, Arc::clone(&clock), metrics.breaker(Guarded::Store));
        let shelf = Arc::new(shelf.expect("a shelf"));
        let delivery = Delivery {
            breaker: Arc::new(breaker),
            retry,
            pace: Pace::default(),
            shelf: Arc::clone(&shelf),
            refusals: Refusals::default(),
        };
        let books = MemoryBooks::default();
        let ledger = open_ledger(&books, &shelf, &clock, &metrics);
        Self {
            disk,
            folder,
            config,
            metrics,
            clock,
            delivery: Arc::new(delivery),
            books,
            ledger,
            store: Arc::new(store),
            deduper: Arc::new(ScriptedDeduper::new([], Label::Unique)),
        }
    }

    pub(crate) fn begin(&self) -> (Run, IntakeMaker, Follower) {
        let (run, mut doors): (Run, Doors) =
            Run::begin(&self.disk, &self.config, &self.metrics, &self.clock).expect("a run");
        let (intake, follower) = doors.pop().expect("one core");
        self.ledger.begin_run(follower.folder(), [self.metrics.edge(0)]).expect("books");
        (run, intake, follower)
    }

    /// As the next process does.
    pub(crate) fn restart_ledger(&mut self) {
        self.ledger = open_ledger(&self.books, &self.delivery.shelf, &self.clock, &self.metrics);
    }

    pub(crate) fn start(&self, follower: Follower, shard: usize) -> (WorkerThread, watch::Sender<Drain>) {
        self.start_with(follower, shard, self.deduper.clone())
    }

    pub(crate) fn start_with(
        &self,
        follower: Follower,
        shard: usize,
        deduper: Arc<dyn Deduper>,
    ) -> (WorkerThread, watch::Sender<Drain>) {
        let (agents, geo) = (Agents::new().expect("agents"), Geo::new().expect("countries"));
        let parts = Parts {
            enricher: Enricher::new(Arc::new(agents), Arc::new(geo)),
            deduper,
            store: self.store.clone(),
            delivery: Arc::clone(&self.delivery),
            ledger: Arc::clone(&self.ledger),
            caps: Arc::new(Caps::new(0, 100, false, Arc::clone(&self.clock))),
            batch: self.config.batch,
            lag_max: self.config.dedup.lag_max,
            checks_in_flight_max: self.config.dedup.checks_in_flight_max,
            node: "n".into(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.worker(shard),
        };
        let worker = Worker { follower, parts };
        let (drain, word) = watch::channel(Drain::No);
        (std::thread::spawn(move || worker.run(word, &Arc::default())), drain)
    }

    /// The run that was left behind. A test beside this one that starts a process shares the lock with it for a moment.
    pub(crate) fn orphan(&self) -> Orphan {
        for _ in 0..10_000 {
            let found = Orphan::find(&self.disk, self.folder.path()).expect("the journal folder");
            if let Some(orphan) = found.into_iter().next_back() {
                return orphan;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        panic!("no run was left behind");
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.wall_ms()
    }
}

fn open_ledger(books: &MemoryBooks, shelf: &Arc<Shelf>, clock: &Arc<dyn Clock>, metrics: &Metrics) -> Arc<Ledger> {
    let (books, shelf) = (Box::new(books.clone()), Arc::clone(shelf));
    Arc::new(Ledger::open(books, "n", shelf, Arc::clone(clock), metrics.ledger()).expect("books"))
}

pub(crate) fn click(id: ClickId) -> Click<'static> {
    Click { fingerprint: Some(Fingerprint(*id.as_bytes())), ua: b"Mozilla/5.0", ..trellis::testing::click(id) }
}

pub(crate) fn id(ms: u64, n: u64) -> ClickId {
    let mut random = [0; 10];
    // Version and variant take bits of the first three bytes.
    random[3..].copy_from_slice(&n.to_be_bytes()[1..]);
    ClickId::new(ms, &random)
}

/// Pushes clicks in groups of ten and says which ids they got.
pub(crate) fn push(intake: &mut trellis::handoff::Intake, ms: u64, numbers: std::ops::Range<u64>) -> Vec<ClickId> {
    let ids: Vec<_> = numbers.map(|n| id(ms, n)).collect();
    for group in ids.chunks(10) {
        for id in group {
            let _ticket = intake.push(&click(*id));
        }
        intake.flush();
    }
    ids
}

pub(crate) fn sorted(mut ids: Vec<ClickId>) -> Vec<ClickId> {
    ids.sort();
    ids
}
