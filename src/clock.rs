//! Time, behind a trait so that tests own it. The only place that reads the system's clocks.

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time. One is made at start and handed to everything that needs it.
pub trait Clock: Debug + Send + Sync {
    /// Monotonic time since an arbitrary origin; for durations and deadlines.
    fn now(&self) -> Duration;
    /// Wall time in milliseconds since 1970-01-01T00:00:00Z; for what is stored. May step.
    fn wall_ms(&self) -> u64;
}

/// The clocks of the operating system. One reading costs 20 to 30 ns.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic origin is this moment.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall_ms(&self) -> u64 {
        // A clock before 1970 would be a broken machine; 0 is then as good as anything.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A wall time as people read it: UTC, with milliseconds; empty beyond the year 9999, where our clock never was.
#[must_use]
pub fn rfc_3339(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(String::new, |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc_with_milliseconds() {
        assert_eq!(rfc_3339(1_700_000_000_120), "2023-11-14T22:13:20.120Z");
        assert_eq!(rfc_3339(u64::MAX), "");
    }
}
