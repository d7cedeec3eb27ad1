//! Looks after the dependencies: asks each every `watch.ping_every` whether it answers, and tells health, metrics and the log.
//! Nothing waits for it, and a dependency that is down changes nothing but what is said of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::warden;
use crate::backend::warden::client::WardenClient;
use crate::catalog::Links;
use crate::config::{self, Config, WardenMode};
use crate::control::Status;
use crate::pipeline::{Deduper, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::overload::{self, Reflex};

/// The dependencies, in the order of health and metrics.
const NAMES: [&str; 4] = ["catalog", "dedup", "store", "warden"];

/// Those that this configuration has.
pub(super) fn names(config: &Config) -> &'static [&'static str] {
    match config.warden.mode {
        WardenMode::Embedded => &NAMES[..3],
        WardenMode::Grpc => &NAMES,
    }
}

pub(super) struct Monitor {
    pub(super) links: Arc<Links>,
    pub(super) deduper: Arc<dyn Deduper>,
    pub(super) store: Arc<dyn Store>,
    pub(super) warden: Option<Arc<WardenClient>>,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) watch: config::Watch,
    /// What was said last; nothing before the first look.
    pub(super) up: [Option<bool>; 4],
}

impl Monitor {
    /// Asks for ever.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(self.watch.ping_every);
        // A dependency that hangs holds a look up for `ping_timeout`: what was missed meanwhile is not made up for.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.look().await;
        }
    }

    /// Asks each once.
    pub(super) async fn look(&mut self) {
        let limit = self.watch.ping_timeout;
        let (catalog, dedup, store, warden) = tokio::join!(
            within(limit, async { self.links.ping().await.map_err(|e| e.to_string()) }),
            within(limit, self.deduper.ping()),
            within(limit, async { self.store.ping().await.map_err(|e| e.to_string()) }),
            within(limit, warden::ping(self.warden.as_deref())),
        );
        self.note(0, "sqlite", catalog);
        self.note(1, self.deduper.name(), dedup);
        self.note(2, self.store.name(), store);
        if self.warden.is_some() {
            self.note(3, "grpc", warden);
        }
    }

    fn note(&mut self, index: usize, backend: &'static str, answer: Result<(), String>) {
        let (name, up) = (NAMES[index], answer.is_ok());
        let detail = answer.err().unwrap_or_default();
        match (self.up[index], up) {
            (Some(true) | None, false) => {
                tracing::warn!(dependency = name, backend, detail, "a dependency does not answer; redirects go on");
            }
            (Some(false), true) => tracing::info!(dependency = name, backend, "a dependency answers again"),
            _ => {}
        }
        self.up[index] = Some(up);
        self.metrics.set_dependency(name, up);
        self.status.set_dependency(name, backend, up, &detail);
    }
}

async fn within(limit: Duration, answer: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

/// Looks how the node feels, for ever, and moves the lever that says what is left undone.
pub(super) async fn reflexes(metrics: Arc<Metrics>, thresholds: config::Overload) {
    let mut reflex = Reflex::new(thresholds);
    let mut tick = tokio::time::interval(overload::LOOK);
    // After a stall it goes on at its pace: looks made up for all at once would count as a second of overload.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (signals, before) = (metrics.signals(), metrics.lever().level());
        let level = reflex.look(&signals);
        if level > before {
            tracing::warn!(?level, ?signals, "overload: work is left undone up to this level");
        } else if level < before {
            tracing::info!(?level, "overload passes");
        }
        metrics.lever().set(level);
    }
}
