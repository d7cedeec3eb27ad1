//! How event loops feel: how many tasks they have, and how late they run what they were asked to run.
//!
//! Each looks after itself ([`feel`], and the edge with its own look). Bound: an entry for each name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::families::{float_gauge, gauge};
use super::metrics::Metrics;
use super::shard::Cell;
use crate::clock::Clock;

/// From one look to the next.
pub const FEEL: Duration = Duration::from_millis(100);
/// The worst look is shown for so long, and for as long again at most.
const WINDOW: Duration = Duration::from_secs(10);

/// Written by one event loop.
#[derive(Debug, Default)]
pub struct RuntimeShard {
    tasks: Cell,
    /// The worst lag of this window and of the one before, microseconds.
    lags_us: [Cell; 2],
    /// When this window ends, milliseconds of the monotonic clock.
    until_ms: Cell,
}

impl RuntimeShard {
    /// Notes a look, at this monotonic time: so late it was, and so many tasks there are.
    pub fn note(&self, now: Duration, lag: Duration, tasks: usize) {
        let [this, before] = &self.lags_us;
        let now_ms = milliseconds(now);
        if now_ms >= self.until_ms.get() {
            before.set(this.get());
            this.set(0);
            self.until_ms.set(now_ms + milliseconds(WINDOW));
        }
        this.set(this.get().max(u64::try_from(lag.as_micros()).unwrap_or(u64::MAX)));
        self.tasks.set(tasks as u64);
    }

    /// The worst lag of the last 10 to 20 seconds.
    #[must_use]
    pub fn lag(&self) -> Duration {
        Duration::from_micros(self.lags_us[0].get().max(self.lags_us[1].get()))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Looks after the event loop that runs it, for ever. A timer is up to 1 ms late by itself.
pub async fn feel(shard: Arc<RuntimeShard>, clock: Arc<dyn Clock>) {
    let runtime = tokio::runtime::Handle::current().metrics();
    loop {
        let before = clock.now();
        tokio::time::sleep(FEEL).await;
        let now = clock.now();
        shard.note(now, now.saturating_sub(before + FEEL), runtime.num_alive_tasks());
    }
}

/// The event loops of a process by their names.
#[derive(Debug, Default)]
pub(super) struct Runtimes(Mutex<BTreeMap<String, Arc<RuntimeShard>>>);

impl Runtimes {
    pub(super) fn families(&self) -> [MetricFamily; 2] {
        let shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let named = || shards.iter().map(|(name, shard)| (name.as_str(), shard));
        let tasks: Vec<_> = named().map(|(name, shard)| (name, shard.tasks.get())).collect();
        let lags: Vec<_> = named().map(|(name, shard)| (name, shard.lag().as_secs_f64())).collect();
        let help = "How late an event loop ran what it was asked to, at worst in the last 10 to 20 seconds";
        [
            gauge("trellis_runtime_tasks", "Tasks of an event loop", "runtime", &tasks),
            float_gauge("trellis_runtime_lag_seconds", help, "runtime", &lags),
        ]
    }
}

impl Metrics {
    /// The shard of the event loop of this name, one of `control`, `edge-N`, `worker-N` and `adopt`.
    #[must_use]
    pub fn runtime(&self, name: &str) -> Arc<RuntimeShard> {
        let mut shards = self.shards.watched.runtimes.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shards.entry(name.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    #[test]
    fn the_worst_lag_is_shown_for_a_while_and_no_longer() {
        let shard = RuntimeShard::default();
        let lags_ms = [(0, 3), (1, 40), (9, 2), (11, 5), (19, 1), (21, 4), (35, 1), (50, 0)];
        let shown: Vec<_> = lags_ms
            .into_iter()
            .map(|(at_s, lag_ms)| {
                shard.note(Duration::from_secs(at_s), Duration::from_millis(lag_ms), 1);
                shard.lag().as_millis()
            })
            .collect();
        assert_eq!(shown, [3, 40, 40, 40, 40, 5, 4, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_loop_that_was_held_up_says_so_and_counts_its_tasks() {
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        let clock = Arc::new(ManualClock::new(0));
        let (shard, of_feel) = (metrics.runtime("control"), Arc::<ManualClock>::clone(&clock));
        tokio::spawn(feel(Arc::clone(&shard), of_feel));
        tokio::spawn(std::future::pending::<()>());
        tokio::task::yield_now().await;
        clock.advance(FEEL + Duration::from_millis(30));
        tokio::time::sleep(FEEL + Duration::from_millis(1)).await;
        let text = metrics.render(0);
        for line in
            ["trellis_runtime_lag_seconds{runtime=\"control\"} 0.03", "trellis_runtime_tasks{runtime=\"control\"} 2"]
        {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
