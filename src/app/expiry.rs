//! Removes what has expired, every hour, from a store that does not do it by itself.
//!
//! Steps are small, with a pause between them, so that batches get their turn. Nothing waits for it, and what fails is
//! tried again in an hour. `serve` starts it. Bound: one step at a time.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::pipeline::Store;

const INTERVAL: Duration = Duration::from_secs(3600);
/// Between two steps: a step takes about as long, so batches have half of the time at least.
const PAUSE: Duration = Duration::from_millis(100);

/// For ever.
pub(super) async fn run(store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        sweep(&*store, &*clock).await;
    }
}

/// Step by step, until there is no more.
async fn sweep(store: &dyn Store, clock: &dyn Clock) {
    let mut clicks = 0;
    loop {
        match store.expire(clock.wall_ms()).await {
            Ok(step) => {
                clicks += step.clicks;
                if !step.more {
                    break;
                }
            }
            Err(error) => {
                tracing::warn!(store = store.name(), %error, "what has expired cannot be removed now");
                break;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    if clicks > 0 {
        tracing::info!(store = store.name(), clicks, "removed what has expired");
    }
}
