//! One edge thread: its event loop and what it owns.

use std::cell::{Cell, RefCell};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;

use super::connection::Connections;
use super::route::SharedTurns;
use super::{Lane, Parts, Phase, accept};
use crate::catalog::AgentMemo;
use crate::click::privacy::Decisions;
use crate::click::{DayKey, IdSource};
use crate::handoff::Intake;
use crate::telemetry::caches::CacheShard;
use crate::telemetry::metrics::EdgeShard;
use crate::telemetry::phases::{Lap, Laps, Stopwatch};
use crate::telemetry::runtimes::{FEEL, RuntimeShard};

/// From the last accept to the word that connections are to close: requests that came with a connection are in its
/// socket, and the event loop has to look there once.
const SETTLE: Duration = Duration::from_millis(20);

/// What all connections of one thread share. Nothing in it is ever touched by another thread.
pub(super) struct Core {
    /// Among the edge threads.
    pub(super) number: usize,
    pub(super) parts: Parts,
    pub(super) intake: Rc<RefCell<Intake>>,
    pub(super) metrics: Arc<EdgeShard>,
    pub(super) caches: Arc<CacheShard>,
    runtime: Arc<RuntimeShard>,
    pub(super) connections: Connections,
    pub(super) connections_max: usize,
    /// Wall time of this turn of the event loop; read once a turn.
    pub(super) turn_ms: Cell<u64>,
    pub(super) ids: RefCell<IdSource>,
    pub(super) day_key: RefCell<DayKey>,
    /// User agents, for campaigns and destinations that ask.
    pub(super) agents: RefCell<AgentMemo>,
    /// Of the policy about what clicks keep.
    pub(super) decisions: RefCell<Decisions>,
    pub(super) turns: SharedTurns,
    /// The request of now asked for a slug that is not there.
    pub(super) missed: Cell<bool>,
    /// Where destinations are spliced.
    pub(super) scratch: RefCell<Vec<u8>>,
    /// Of some requests.
    pub(super) stopwatch: Stopwatch,
}

impl Core {
    /// Of the edge thread of this number, with room for so many connections; and where they come in.
    pub(super) fn new(number: usize, parts: Parts, lane: Lane, connections_max: usize) -> (Self, TcpListener) {
        let now_ms = parts.clock.wall_ms();
        let core = Self {
            number,
            intake: Rc::new(RefCell::new((lane.intake)())),
            metrics: lane.metrics,
            runtime: lane.runtime,
            connections: Connections::new(parts.config.head_timeout, parts.config.idle_timeout),
            connections_max,
            turn_ms: Cell::new(now_ms),
            ids: RefCell::new(IdSource::new(fastrand::u64(..))),
            day_key: RefCell::new(DayKey::new(&parts.secret, now_ms)),
            agents: RefCell::new(AgentMemo::new(Arc::clone(&parts.agents)).counting(Arc::clone(&lane.caches))),
            decisions: RefCell::default(),
            caches: lane.caches,
            turns: SharedTurns::default(),
            missed: Cell::new(false),
            scratch: RefCell::new(Vec::with_capacity(4096)),
            stopwatch: Stopwatch::new(parts.config.sample_every),
            parts,
        };
        (core, lane.listener)
    }

    /// Ends a lap of the request that is resolved now, if it is measured.
    pub(super) fn end(&self, lap: Lap) {
        self.stopwatch.end(lap, || self.parts.clock.now());
    }

    /// The same of a request that waits and runs again.
    pub(super) fn end_of(&self, laps: &mut Option<Laps>, lap: Lap) {
        if let Some(laps) = laps {
            laps.end(lap, self.parts.clock.now());
        }
    }
}

/// Runs an edge thread until its phase is `Stopped`, or `Closing` and the last connection is gone.
pub(super) fn run(number: usize, parts: Parts, lane: Lane, connections_max: usize, phase: watch::Receiver<Phase>) {
    let runtime = match Builder::new_current_thread().enable_io().enable_time().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "an edge thread could not start its event loop");
            return;
        }
    };
    let (core, listener) = Core::new(number, parts, lane, connections_max);
    let core = Rc::new(core);
    runtime.block_on(serve(Rc::clone(&core), listener, phase));
    core.intake.borrow_mut().close();
}

async fn serve(core: Rc<Core>, listener: TcpListener, mut phase: watch::Receiver<Phase>) {
    tokio::task::spawn_local(Intake::flush_every_turn(Rc::clone(&core.intake)));
    tokio::task::spawn_local(Intake::attend_when_asked(Rc::clone(&core.intake)));
    let sweeper = tokio::task::spawn_local(sweep(Rc::clone(&core)));
    let feeler = tokio::task::spawn_local(feel(Rc::clone(&core)));
    accept::accept_until_closing(&core, listener, &mut phase).await;
    // What was accepted last is to be read once before it is told to close.
    tokio::time::sleep(SETTLE).await;
    core.connections.close_gracefully();
    loop {
        let stopped = *phase.borrow_and_update() == Phase::Stopped;
        if stopped || core.connections.is_empty() {
            break;
        }
        tokio::select! {
            _ = phase.changed() => {}
            () = core.connections.emptied() => {}
        }
    }
    sweeper.abort();
    feeler.abort();
}

/// Closes connections whose time is over; one look a quarter of the shorter time-out, at most once in 50 ms.
async fn sweep(core: Rc<Core>) {
    let shorter = core.parts.config.head_timeout.min(core.parts.config.idle_timeout);
    let mut tick = tokio::time::interval((shorter / 4).clamp(Duration::from_millis(50), Duration::from_secs(1)));
    loop {
        tick.tick().await;
        let closed = core.connections.sweep(core.parts.clock.now());
        core.metrics.connections_timed_out.add(closed);
        core.parts.limits.retire(core.connections.now());
    }
}

/// Notes how late this event loop runs what it was asked to run; a timer is up to 1 ms late by itself.
async fn feel(core: Rc<Core>) {
    let runtime = tokio::runtime::Handle::current().metrics();
    loop {
        let before = core.parts.clock.now();
        tokio::time::sleep(FEEL).await;
        let now = core.parts.clock.now();
        let lag = now.saturating_sub(before + FEEL);
        core.runtime.note(now, lag, runtime.num_alive_tasks());
        core.metrics.loop_lag_us.set(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX));
    }
}
