//! What the log says of Redis: that it is away, at most every five seconds, and that it is back. One for each deduper.

use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;

/// An outage is one log line this often.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Tells of outages.
#[derive(Debug)]
pub(super) struct Teller {
    clock: Arc<dyn Clock>,
    told: Mutex<Told>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// That it is away.
    away: bool,
    /// Not again before the clock's `now` is here.
    next: Duration,
    /// Claims without a label since it last said that all is well.
    unknown: u64,
}

impl Teller {
    /// Nothing was told yet.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, told: Mutex::default() }
    }

    /// So many claims got no label.
    pub(super) fn left_unknown(&self, claims: usize) {
        self.told().unknown += claims as u64;
    }

    /// Redis has answered.
    pub(super) fn answered(&self) {
        let mut told = self.told();
        if told.away {
            tracing::info!(unknown = told.unknown, "Redis answers again; clicks are labelled");
            told.away = false;
            told.unknown = 0;
        }
    }

    /// It gave no labels, for this reason.
    pub(super) fn failed(&self, why: &dyn Display) {
        let now = self.clock.now();
        let mut told = self.told();
        if now >= told.next {
            told.next = now + LOG_EVERY;
            told.away = true;
            tracing::warn!(error = %why, unknown = told.unknown, "Redis gives no labels; clicks are stored as unknown");
        }
    }

    /// Whether it is told to be away, when that may be told next, and claims without a label since then.
    #[cfg(test)]
    pub(super) fn state(&self) -> (bool, Duration, u64) {
        let Told { away, next, unknown } = *self.told();
        (away, next, unknown)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Numbers only: nothing in it can be half done.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
