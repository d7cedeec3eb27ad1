//! The clock of a simulated life: tokio's time, which stands still while anybody has work, and a wall that jumps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use trellis::clock::Clock;

/// See the module. To be made inside the runtime whose time it shows.
#[derive(Debug)]
pub(crate) struct SimClock {
    origin: tokio::time::Instant,
    /// Wall time at the origin, Unix milliseconds.
    wall_ms: AtomicU64,
}

impl SimClock {
    #[allow(clippy::disallowed_methods, reason = "tokio's paused time is the clock here")]
    pub(crate) fn new(wall_ms: u64) -> Self {
        Self { origin: tokio::time::Instant::now(), wall_ms: AtomicU64::new(wall_ms) }
    }

    /// The wall clock steps; monotonic time goes on.
    pub(crate) fn jump(&self, by_ms: i64) {
        let stepped = self.wall_ms.load(Ordering::Relaxed).saturating_add_signed(by_ms);
        self.wall_ms.store(stepped, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed) + u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX)
    }
}
