//! L3: the visitor is waiting. Accept, read the head, resolve the link in memory, hand the click over, respond.
//!
//! ```text
//! one thread, one event loop, one listening socket (SO_REUSEPORT) each:
//!   accept -> connection (hyper, HTTP/1.1) -> admission -> resolve -> handoff -> respond
//!              `- swept: head and idle time-outs, shutdown
//! ```
//!
//! It never waits for anything but its own journal, takes no lock, opens no span and writes no log line for a request.
//! It cannot name a database, a cache server or a worker. `app` starts and stops it. Bounds: `edge.*`,
//! `ingress.campaigns_max`, `limits.*`.

mod accept;
mod access;
mod admission;
mod canary;
mod client;
mod connection;
mod core;
mod domain;
mod ingress;
pub mod limits;
mod marks;
mod privacy;
mod resolve;
mod respond;
mod route;
mod spell;
mod sticky;
mod tally;
#[cfg(test)]
mod tests;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::watch;

use crate::catalog::agents::Agents;
use crate::catalog::geo::Geo;
use crate::catalog::{Campaigns, Caps, Domains, Links, Warden};
use crate::click::kept::Keeping;
use crate::clock::Clock;
use crate::config;
use crate::handoff::Intake;
use crate::telemetry::caches::{CacheShard, Looker};
use crate::telemetry::metrics::{EdgeShard, Metrics};
use crate::telemetry::runtimes::RuntimeShard;

/// How far the edge is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Accepting and answering.
    Serving,
    /// The listening sockets are emptied and closed; requests in flight finish, connections close behind them.
    Closing,
    /// Whatever is left is cut off.
    Stopped,
}

/// What the edge threads share, read only.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Limits and time-outs.
    pub config: config::Edge,
    /// `/in`.
    pub ingress: config::Ingress,
    /// What clicks may keep of their visitors.
    pub privacy: config::Privacy,
    /// What they keep of an address.
    pub addresses: Keeping,
    /// Key of the fingerprints.
    pub secret: Arc<[u8]>,
    /// Links in memory.
    pub links: Arc<Links>,
    /// Campaigns in memory.
    pub campaigns: Arc<Campaigns>,
    /// Domains in memory.
    pub domains: Arc<Domains>,
    /// Of links and campaigns.
    pub caps: Arc<Caps>,
    /// Checks the keys of `/in`.
    pub warden: Arc<dyn Warden>,
    /// User agents, for campaigns and destinations that ask.
    pub agents: Arc<Agents>,
    /// Countries, likewise, and for when privacy leaves no address.
    pub geo: Arc<Geo>,
    /// Who may ask how often.
    pub limits: Arc<limits::Limits>,
    /// By which the node's own prober is known.
    pub probe_secret: Arc<[u8]>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What one edge thread owns.
pub struct Lane {
    /// Makes the intake, on the thread.
    pub intake: Box<dyn FnOnce() -> Intake + Send>,
    /// Its counters.
    pub metrics: Arc<EdgeShard>,
    /// What it found in memory.
    pub caches: Arc<CacheShard>,
    /// How its event loop feels.
    pub runtime: Arc<RuntimeShard>,
    /// Its listening socket.
    pub listener: TcpListener,
}

impl Lane {
    /// Of the edge thread of this number.
    #[must_use]
    pub fn new(
        core: usize,
        intake: Box<dyn FnOnce() -> Intake + Send>,
        listener: TcpListener,
        metrics: &Metrics,
    ) -> Self {
        let (caches, runtime) = (metrics.caches(Looker::Edge(core)), metrics.runtime(&format!("edge-{core}")));
        Self { intake, metrics: metrics.edge(core), caches, runtime, listener }
    }
}

/// The running edge threads.
#[derive(Debug)]
pub struct Edge {
    threads: Vec<JoinHandle<()>>,
    phase: watch::Sender<Phase>,
}

impl Edge {
    /// Starts a thread for each lane.
    ///
    /// # Errors
    /// The system's, when a thread cannot be started.
    pub fn start(parts: &Parts, lanes: Vec<Lane>) -> std::io::Result<Self> {
        let (phase, _) = watch::channel(Phase::Serving);
        let share = parts.config.connections_max.div_ceil(lanes.len().max(1));
        let threads = lanes
            .into_iter()
            .enumerate()
            .map(|(index, lane)| {
                let (parts, phase) = (parts.clone(), phase.subscribe());
                let run = move || core::run(index, parts, lane, share, phase);
                std::thread::Builder::new().name(format!("edge-{index}")).spawn(run)
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { threads, phase })
    }

    /// Tells all threads how far to go; never back.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forwards = phase > *current;
            *current = phase.max(*current);
            forwards
        });
    }

    /// Whether all threads have ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Whether a thread has ended that should run: a bug, and the end of the process.
    #[must_use]
    pub fn has_lost_a_thread(&self) -> bool {
        *self.phase.borrow() == Phase::Serving && self.threads.iter().any(JoinHandle::is_finished)
    }
}

/// Binds one listening socket for each thread to one address; with port 0 the first one chooses.
///
/// # Errors
/// The system's: the address is in use, or not ours.
pub fn bind(listen: SocketAddr, threads: usize) -> std::io::Result<(Vec<TcpListener>, SocketAddr)> {
    let first = accept::bind(listen)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..threads {
        listeners.push(accept::bind(address)?);
    }
    Ok((listeners, address))
}
