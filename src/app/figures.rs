//! Asks others for their figures: Redis and ClickHouse where they are configured, and the system. Nothing waits for it; what
//! cannot be read is not shown, and why is kept.
//!
//! Bounds: one look at each at one time, [`TIMEOUT`] for it; `[watch]` says how often.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::backend::machine::{self, Machine};
use crate::clock::Clock;
use crate::config::Config;
use crate::pipeline::{Deduper, Store, StoreError};
use crate::telemetry::figures::{Board, Reading};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::runtimes;

/// For a look at the system: a disk of the network may be gone. Redis and ClickHouse have time-outs of their own.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the tasks, on this runtime; they end with it.
pub(super) fn start(
    config: &Config,
    (deduper, store): (&Arc<dyn Deduper>, &Arc<dyn Store>),
    metrics: &Metrics,
    clock: &Arc<dyn Clock>,
) {
    tokio::spawn(runtimes::feel(metrics.runtime("control"), Arc::clone(clock)));
    let (watch, board) = (config.watch, metrics.board());
    tokio::spawn(look_at_redis(Arc::clone(deduper), Arc::clone(&board), watch.redis_every));
    tokio::spawn(look_at_store(Arc::clone(store), Arc::clone(&board), watch.store_every));
    tokio::spawn(look_at_system(Machine::this(&config.data_dir), board, watch.system_every));
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

async fn look_at_redis(deduper: Arc<dyn Deduper>, board: Arc<Board>, every: Duration) {
    let mut tick = ticks(every);
    loop {
        tick.tick().await;
        let read = deduper.figures().await;
        if read.is_empty() {
            return;
        }
        board.note(read);
    }
}

async fn look_at_store(store: Arc<dyn Store>, board: Arc<Board>, every: Duration) {
    let figures = store.figures();
    let mut tick = ticks(every);
    while !figures.is_empty() {
        tick.tick().await;
        let mut away = None;
        for figure in figures {
            let read = match &away {
                // One that does not answer is not asked nine times.
                Some(why) => Err(String::clone(why)),
                None => store.figure(*figure).await.map_err(|error| {
                    let why = error.to_string();
                    if matches!(error, StoreError::Transient(_) | StoreError::Ambiguous(_)) {
                        away = Some(why.clone());
                    }
                    why
                }),
            };
            board.note([(*figure, read)]);
        }
    }
}

async fn look_at_system(machine: Machine, board: Arc<Board>, every: Duration) {
    let mut tick = ticks(every);
    loop {
        tick.tick().await;
        let looking = machine.clone();
        let mut look = tokio::task::spawn_blocking(move || looking.look());
        let read = match tokio::time::timeout(TIMEOUT, &mut look).await {
            Ok(read) => read,
            Err(_) => {
                let silent =
                    |figure| -> Reading { (figure, Err(format!("the system did not answer within {TIMEOUT:?}"))) };
                board.note(machine::FIGURES.map(silent));
                // No further thread is to wait for the same disk.
                look.await
            }
        };
        // A panic in there has been reported by the panic hook.
        let Ok(read) = read else { return };
        board.note(read);
    }
}
