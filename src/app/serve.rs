//! A node's life, from the lock on its data folder to the exit.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::books::{self, Keeping};
use super::caps;
use super::catalog;
use super::expiry;
use super::figures;
use super::folder::{self, FolderLock};
use super::greeting::greet;
use super::letters;
use super::monitor::{self, Monitor};
use super::parts::Backends;
use super::prober;
use super::slo::Objectives;
use super::warden;
use super::workers::{Facts, WorkerMaker, WorkerThread};
use crate::catalog::{Catalog, Keys};
use crate::clock::{self, Clock};
use crate::config::{Config, Secret};
use crate::control::{self, State, Status};
use crate::edge::limits::Limits;
use crate::edge::{self, Edge, Lane, Phase};
use crate::handoff::{Orphan, Run};
use crate::pipeline::breaker::Breaker;
use crate::pipeline::dead_letter::{Actor, Shelf};
use crate::pipeline::delivery::{Delivery, Refusals};
use crate::pipeline::ledger::Ledger;
use crate::pipeline::memory::Memory;
use crate::pipeline::pace::Pace;
use crate::pipeline::worker::{Drain, Ended};
use crate::segment::{Disk, RealDisk};
use crate::telemetry::log;
use crate::telemetry::metrics::{Guarded, Metrics};
use crate::telemetry::pools::Pooled;

/// How often a drain looks whether threads have ended.
const LOOK: Duration = Duration::from_millis(10);
/// What threads get to end after the deadline or a second signal.
pub(super) const LAST_MOMENT: Duration = Duration::from_secs(1);
/// The first try to make the store's tables; after it, tries go on while the node works.
const FIRST_MIGRATION: Duration = Duration::from_secs(3);

/// Runs a node until it is told to stop. Blocks.
///
/// # Errors
/// What keeps it from starting, or a part that ended on its own.
pub fn serve(config: Config) -> anyhow::Result<()> {
    log::init(config.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let lock = folder::lock_patiently(&config.data_dir).await?;
        let signals = Signals::install()?;
        let node = Node::start(config, &lock).await?;
        node.run(signals).await
    });
    // A name that is being looked up blocks a thread for as long as a resolver is silent.
    runtime.shutdown_timeout(LAST_MOMENT);
    ended
}

/// SIGTERM and SIGINT. SIGXFSZ, a write beyond `RLIMIT_FSIZE`, is caught and not looked at: the write fails then, as on a
/// full disk, where the default would be the end of the process.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    _file_size: Signal,
}

impl Signals {
    pub(super) fn install() -> std::io::Result<Self> {
        let file_size = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            _file_size: signal(file_size)?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// A running node.
struct Node {
    config: Config,
    status: Arc<Status>,
    edge: Edge,
    run: Run,
    workers: Vec<WorkerThread>,
    adopting: JoinHandle<()>,
    drain: watch::Sender<Drain>,
    ledger: Arc<Ledger>,
    objectives: Arc<Objectives>,
    control: tokio::task::JoinHandle<()>,
    stop_control: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Node {
    async fn start(config: Config, lock: &FolderLock) -> anyhow::Result<Self> {
        let clock = clock::of_node();
        let token = folder::secret(&config.control.token, &config.data_dir.join("control.token"))?;
        let fingerprint_secret = folder::secret(&config.dedup.secret, &config.data_dir.join("dedup.secret"))?;
        // One runtime for each worker, one for the journals of earlier runs, and this one.
        let runtimes = config.edge.threads + 2;
        let backends = Arc::new(Backends::new(&config, Arc::clone(&clock)));
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let orphans = Orphan::find(&disk, &config.data_dir).context("the journal folder cannot be read")?;
        let counting = (config.edge.threads, &orphans[..]);
        let (catalog, cap_store) = catalog::open(&backends, &config, counting, &clock).await?;
        let Catalog { releases, domains, links, campaigns, caps } = catalog.clone();
        let (pepper, keys_max) = (&config.warden.pepper, config.warden.keys_max);
        let keys = Arc::new(Keys::open(backends.catalog()?, pepper, keys_max, Arc::clone(&clock)).await?);
        let facts = Facts::load(&config.classify, &config.geo)?;
        let metrics = Arc::new(catalog::metrics(
            (&catalog, backends.calls()),
            config.edge.threads,
            config.queue.groups_max,
            monitor::names(&config),
        )?);
        let objectives = Objectives::open(&config, &metrics, &clock);
        let (warden, remote) = warden::choose(&config, &keys, &clock, (&metrics, backends.calls()))?;

        let shelf = letters::shelf(&config, &clock, &metrics)?;
        let counted = (&*metrics, backends.calls());
        let ledger = books::open(&config, &shelf, &orphans, &clock, counted).context("the ledger cannot be used")?;
        let (run, doors) = Run::begin(&disk, &config, &metrics, &clock).context("the journal cannot be made")?;
        caps.begin_run(&run.folder().file_name().unwrap_or_default().to_string_lossy());
        ledger.begin_run(run.folder(), (0..config.edge.threads).map(|core| metrics.edge(core)))?;
        let (listeners, edge_address) = edge::bind(config.edge.listen, config.edge.threads)
            .with_context(|| format!("edge.listen: {} cannot be used", config.edge.listen))?;
        let control_listener = TcpListener::bind(config.control.listen)
            .with_context(|| format!("control.listen: {} cannot be used", config.control.listen))?;
        let control_address = control_listener.local_addr()?;
        domains.set_own_hosts(config.edge.own_hosts(Some(edge_address)));

        let (intakes, followers): (Vec<_>, Vec<_>) = doors.into_iter().unzip();
        let lanes = intakes
            .into_iter()
            .zip(listeners)
            .enumerate()
            .map(|(core, (intake, listener))| Lane::new(core, intake, listener, &metrics))
            .collect();
        let probe_secret = Secret::new(folder::random_text()?);
        let edge_parts = edge::Parts {
            config: config.edge.clone(),
            ingress: config.ingress.clone(),
            privacy: config.privacy.clone(),
            addresses: folder::addresses(&config.privacy, &fingerprint_secret),
            secret: fingerprint_secret.expose().as_bytes().into(),
            links: Arc::clone(&links),
            campaigns: Arc::clone(&campaigns),
            domains: Arc::clone(&domains),
            caps: Arc::clone(&caps),
            warden: Arc::clone(&warden),
            agents: Arc::clone(&facts.agents),
            geo: Arc::clone(&facts.geo),
            limits: limits(&config, fingerprint_secret.expose()),
            probe_secret: probe_secret.expose().as_bytes().into(),
            clock: Arc::clone(&clock),
        };
        let audit_store = Arc::clone(&cap_store);
        caps::keep(&backends, &caps, cap_store, &metrics)?;
        let edge = Edge::start(&edge_parts, lanes)?;
        let addresses = edge_parts.addresses.clone();
        let explainer = control::Explainer {
            agents: edge_parts.agents,
            geo: edge_parts.geo,
            addresses: edge_parts.addresses,
            secret: edge_parts.secret,
            clock: edge_parts.clock,
        };

        let status = Arc::new(Status::new());
        let (stop_control, control_stopped) = tokio::sync::oneshot::channel::<()>();
        let store = backends.store(runtimes, metrics.pool(Pooled::ClickHouse))?;
        let (rendered, scraped, behind) = (Arc::clone(&metrics), Arc::clone(&clock), Arc::clone(&metrics));
        let enriched = facts.clone();
        let enricher = Box::new(move || Ok(enriched.enricher()));
        let dead_letters = letters::letters(&shelf, &store, &clock, enricher, Actor::Token);
        let persons =
            letters::persons(&dead_letters, &store, &ledger, run.journals(), addresses, (&clock, Actor::Token));
        let router = control::router(control::Parts {
            links: Arc::clone(&links),
            campaigns,
            domains,
            caps: Arc::clone(&caps),
            releases,
            node: config.node.as_str().into(),
            keys,
            warden_at: warden::elsewhere(&config),
            warden,
            auth: metrics.auth(),
            audit: catalog::audit(audit_store, &config, &clock, &metrics),
            api: metrics.api(),
            clock: Arc::clone(&clock),
            explainer: Arc::new(move || Ok(explainer.clone())),
            store: Arc::clone(&store),
            ledger: Arc::clone(&ledger),
            dead_letters,
            persons,
            actor: Actor::Token,
            backlog: Some(Arc::new(move || behind.backlog())),
            token,
            status: Arc::clone(&status),
            slo: objectives.asked(),
            metrics: Arc::new(move || rendered.render(scraped.wall_ms())),
            running: Some(control::Running { metrics: Arc::clone(&metrics), began: clock.now() }),
            body_bytes_max: config.control.body_bytes_max,
            import: folder::import_limits(&config.control),
        });
        let control = tokio::spawn(async move {
            let stopped = async move {
                let _ = control_stopped.await;
            };
            if let Err(error) = control::serve(control_listener, router, stopped).await {
                tracing::error!(%error, "the control side has ended");
            }
        });

        let delivery = Arc::new(delivery(&config, shelf, &clock, &metrics));
        let deduper = backends.deduper(runtimes, &metrics)?;
        figures::start(&config, (&deduper, &store), &metrics, &clock);
        let mut monitor = Monitor {
            links,
            deduper,
            store: Arc::clone(&store),
            status: Arc::clone(&status),
            metrics: Arc::clone(&metrics),
            warden: remote,
            watch: config.watch,
            up: [None; 4],
        };
        // The edge answers, and the journal keeps what it accepts: what follows waits for others, and no visitor does.
        status.enter(State::Serving);
        if config.store.migrate {
            migrate(Arc::clone(&store)).await;
        }
        Keeping::new(&ledger, &store, &config, &clock).start();
        prober::start(prober::Parts {
            config: config.probe,
            edge: edge_address,
            control: control_address,
            secret: probe_secret,
            store: Arc::clone(&store),
            status: Arc::clone(&status),
            metrics: metrics.probe(),
            clock: Arc::clone(&clock),
        })?;
        tokio::spawn(expiry::run(store, Arc::clone(&clock)));
        tokio::spawn(catalog::revalidate(catalog, config.catalog.revalidate_after, Arc::clone(&clock)));
        monitor.look().await;
        tokio::spawn(monitor.run());
        objectives.look();
        tokio::spawn(Arc::clone(&objectives).run());
        tokio::spawn(monitor::reflexes(Arc::clone(&metrics), config.limits.overload));
        let (drain, _) = watch::channel(Drain::No);
        let memory = Memory::new(config.classify.rules().memory, Arc::clone(&config.data_centres));
        let maker = WorkerMaker {
            config: config.clone(),
            backends,
            facts,
            memory: Arc::new(memory),
            delivery,
            ledger: Arc::clone(&ledger),
            caps,
            clock,
            metrics,
            runtimes,
        };
        let workers = maker.start_all(followers, &drain)?;
        let adopting = maker.adopt(orphans, drain.subscribe())?;
        lock.announce(control_address, Some(edge_address))?;
        greet(&config, edge_address, control_address)?;
        let stop_control = Some(stop_control);
        Ok(Self { config, status, edge, run, workers, adopting, drain, ledger, objectives, control, stop_control })
    }

    /// Waits for a signal, then drains.
    async fn run(mut self, mut signals: Signals) -> anyhow::Result<()> {
        let lost = tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping");
                None
            }
            lost = lost_part(&self.edge, &self.workers, &self.control) => {
                tracing::error!(part = lost, "a part of the node has ended on its own; stopping");
                Some(lost)
            }
        };
        self.status.enter(State::Draining);
        let drained = tokio::select! {
            drained = self.drain_in_order() => drained,
            name = signals.next() => {
                tracing::warn!(signal = name, "stopping at once; what is not stored stays in the journal");
                false
            }
        };
        self.edge.enter(Phase::Stopped);
        self.drain.send_replace(Drain::Stop);
        let _ = tokio::time::timeout(LAST_MOMENT, ended(|| self.threads_ended())).await;
        // The last second of the edge threads.
        self.ledger.collect();
        self.objectives.close();
        self.status.enter(State::Stopped);
        if let Some(stop) = self.stop_control.take() {
            let _ = stop.send(());
        }
        let _ = tokio::time::timeout(LAST_MOMENT, &mut self.control).await;
        let finished = drained && self.threads_ended() && self.workers.drain(..).all(is_finished);
        if !finished {
            tracing::info!("clicks that are not stored yet stay in the journal; the next start takes them up");
        }
        self.run.end(finished).context("the journal folder cannot be closed")?;
        match lost {
            Some(part) => anyhow::bail!("{part} ended on its own; see the log"),
            None => Ok(()),
        }
    }

    /// Still accepting for `drain_delay`; then the edge, then the workers, in the time that is left. Whether everything
    /// ended in time.
    async fn drain_in_order(&self) -> bool {
        tokio::time::sleep(self.config.shutdown.drain_delay).await;
        let in_order = async {
            self.edge.enter(Phase::Closing);
            ended(|| self.edge.is_finished()).await;
            self.drain.send_replace(Drain::Yes);
            ended(|| self.workers.iter().all(JoinHandle::is_finished)).await;
        };
        let in_time = tokio::time::timeout(self.config.shutdown.drain_deadline, in_order).await.is_ok();
        if !in_time {
            tracing::warn!("shutdown.drain_deadline is over; what is not stored stays in the journal");
        }
        in_time
    }

    fn threads_ended(&self) -> bool {
        self.edge.is_finished() && self.workers.iter().all(JoinHandle::is_finished) && self.adopting.is_finished()
    }
}

fn is_finished(worker: WorkerThread) -> bool {
    matches!(worker.join(), Ok(Ok(Ended { finished: true, damaged: false })))
}

async fn ended(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(LOOK).await;
    }
}

/// Shared by all edge threads. Its hash is keyed by the node's secret.
fn limits(config: &Config, secret: &str) -> Arc<Limits> {
    Arc::new(Limits::new(&config.limits, secret.as_bytes(), config.edge.connections_max))
}

/// What all batches share.
fn delivery(config: &Config, shelf: Arc<Shelf>, clock: &Arc<dyn Clock>, metrics: &Metrics) -> Delivery {
    let retry = config.retry.insert;
    let breaker = Breaker::new(Guarded::Store.name(), retry, Arc::clone(clock), metrics.breaker(Guarded::Store));
    Delivery { breaker: Arc::new(breaker), retry, pace: Pace::default(), shelf, refusals: Refusals::default() }
}

/// Waits for a part to end that should not.
async fn lost_part(edge: &Edge, workers: &[WorkerThread], control: &tokio::task::JoinHandle<()>) -> &'static str {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if edge.has_lost_a_thread() {
            return "an edge thread";
        }
        if workers.iter().any(JoinHandle::is_finished) {
            return "a worker";
        }
        if control.is_finished() {
            return "the control side";
        }
    }
}

/// Makes the store's tables: waits a moment for it, then goes on trying in the background.
async fn migrate(store: Arc<dyn crate::pipeline::Store>) {
    let mut migration = tokio::spawn(async move {
        let mut failures = 0_u32;
        loop {
            match store.migrate().await {
                Ok(applied) if applied.is_empty() => return,
                Ok(applied) => return tracing::info!(store = store.name(), ?applied, "tables were made"),
                Err(error) if failures.is_multiple_of(30) => {
                    tracing::warn!(store = store.name(), %error, "the store's tables cannot be made yet; trying again");
                }
                Err(_) => {}
            }
            failures += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let _ = tokio::time::timeout(FIRST_MIGRATION, &mut migration).await;
}
