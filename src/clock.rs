//! Time, behind a trait so that tests own it. The only place that reads the system's clocks.

use std::fmt::Debug;
use std::sync::Arc;
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

/// The clock of a node: the system's.
#[cfg(not(feature = "failpoints"))]
#[must_use]
pub fn of_node() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

#[cfg(feature = "failpoints")]
pub use shifted::of_node;

/// Wall time that a test moves on while a node runs. No default feature turns it on.
#[cfg(feature = "failpoints")]
mod shifted {
    use std::io::Write as _;
    use std::path::PathBuf;

    use super::{Arc, Clock, Duration, SystemClock};

    /// Names a file that holds by how many milliseconds wall time is ahead; read for every look at the clock.
    const VARIABLE: &str = "TRELLIS_TEST_CLOCK";

    /// The clock of a node: the system's, and its wall time ahead of that by what the file says that `TRELLIS_TEST_CLOCK`
    /// names. Monotonic time is never shifted: what is measured took as long as it is said to have taken.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "for tests only; no setting may shift a clock")]
    pub fn of_node() -> Arc<dyn Clock> {
        match std::env::var_os(VARIABLE) {
            Some(file) => Arc::new(ShiftedClock { system: SystemClock::new(), file: file.into() }),
            None => Arc::new(SystemClock::new()),
        }
    }

    #[derive(Debug)]
    struct ShiftedClock {
        system: SystemClock,
        file: PathBuf,
    }

    impl ShiftedClock {
        fn ahead_ms(&self) -> Option<u64> {
            std::fs::read_to_string(&self.file).ok()?.parse().ok()
        }
    }

    impl Clock for ShiftedClock {
        fn now(&self) -> Duration {
            self.system.now()
        }

        fn wall_ms(&self) -> u64 {
            let Some(ahead_ms) = self.ahead_ms() else {
                // A test would else wait for a time that never comes.
                let _ = writeln!(std::io::stderr(), "{VARIABLE}={}: no number of milliseconds", self.file.display());
                std::process::exit(64);
            };
            self.system.wall_ms().saturating_add(ahead_ms)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn wall_time_is_ahead_by_what_the_file_says_and_monotonic_time_is_not() {
            let folder = tempfile::tempdir().unwrap();
            let clock = ShiftedClock { system: SystemClock::new(), file: folder.path().join("clock") };
            assert_eq!(clock.ahead_ms(), None);
            let day_ms = 86_400_000;
            for ahead_ms in [0, day_ms, 31 * day_ms] {
                std::fs::write(&clock.file, ahead_ms.to_string()).unwrap();
                let (before_ms, wall_ms) = (clock.system.wall_ms(), clock.wall_ms());
                assert!((before_ms + ahead_ms..before_ms + ahead_ms + day_ms / 2).contains(&wall_ms), "{wall_ms}");
                assert!(clock.now() < Duration::from_millis(day_ms / 2));
            }
        }
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
