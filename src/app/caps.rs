//! The caps of a data folder, and the task that keeps them: every second, or earlier when somebody waits for it, what was
//! counted is saved, and shared with other nodes where there are any. No visitor waits for any of it. Bounds: those of
//! [`crate::catalog::caps`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::parts::Backends;
use crate::catalog::Caps;
use crate::catalog::caps::CapStore;
use crate::clock::Clock;
use crate::config::{Config, DedupBackend};
use crate::handoff::Orphan;
use crate::pipeline::caps::CapKeeper;
use crate::telemetry::metrics::Metrics;

const EVERY: Duration = Duration::from_secs(1);

/// Opens the caps for so many edge threads, with what earlier runs left.
pub(super) async fn open(
    config: &Config,
    store: &dyn CapStore,
    orphans: &[Orphan],
    cores: usize,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<Caps>> {
    let is_shared = cores > 0 && config.dedup.backend == DedupBackend::Redis;
    let caps = Caps::new(cores, config.caps.counters_max, is_shared, Arc::clone(clock));
    let name = |orphan: &Orphan| orphan.folder().file_name().map(|name| name.to_string_lossy().as_ref().into());
    let runs: BTreeSet<Arc<str>> = orphans.iter().filter_map(name).collect();
    caps.load(store.load_caps().await?, &runs);
    Ok(Arc::new(caps))
}

/// Starts the task, on this runtime.
pub(super) fn keep(
    backends: &Backends,
    caps: &Arc<Caps>,
    store: Arc<dyn CapStore>,
    metrics: &Metrics,
) -> anyhow::Result<()> {
    let (caps, exchange) = (Arc::clone(caps), backends.cap_exchange(metrics)?);
    let mut keeper = CapKeeper::new(Arc::clone(&caps), store, exchange);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = caps.hurried() => {}
            }
            keeper.turn().await;
        }
    });
    Ok(())
}
