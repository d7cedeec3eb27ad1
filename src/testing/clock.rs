//! A clock that stands still until it is told otherwise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Clock;

/// A clock that tests own. Shared by `Arc`; every thread sees the same time.
#[derive(Debug)]
pub struct ManualClock {
    now_ns: AtomicU64,
    wall_ms: AtomicU64,
}

impl ManualClock {
    /// A clock at this wall time, in Unix milliseconds; its monotonic time begins at zero.
    #[must_use]
    pub const fn new(wall_ms: u64) -> Self {
        Self { now_ns: AtomicU64::new(0), wall_ms: AtomicU64::new(wall_ms) }
    }

    /// Lets this much time pass, monotonic and on the wall. Parts of a millisecond are lost on the wall.
    pub fn advance(&self, by: Duration) {
        self.now_ns.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
        self.wall_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Lets the wall clock step, forward or back; monotonic time goes on as before.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_only_when_told() {
        let clock = ManualClock::new(1_000);
        clock.advance(Duration::from_millis(5));
        assert_eq!((clock.now(), clock.wall_ms()), (Duration::from_millis(5), 1_005));
        clock.set_wall_ms(3);
        assert_eq!((clock.now(), clock.wall_ms()), (Duration::from_millis(5), 3));
    }
}
