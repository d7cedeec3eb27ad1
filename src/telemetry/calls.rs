//! How long calls to Redis, the store, the Warden and the catalog take, and which of them were slow.
//!
//! Written where all calls of a kind pass, once a call (a chunk of claims, a batch, a question, an edit), never on a request
//! thread. A call lasts as long as its caller waits: for a connection or the database's thread, for the answer or the
//! time-out, or until it gives up.
//!
//! ```text
//! from 100 ms   warning    WARN
//! from 500 ms   error      ERROR
//! from 1 s      critical   ERROR
//! ```
//! Every slow call is counted and goes into a ring. Lines are fewer: of each level a dependency writes [`LINES_AT_ONCE`] at
//! once and one more every [`LINE_EVERY`]; a line tells how many were left out before it. Bounds: a histogram for each
//! [`Call`], [`RING_MAX`] slow calls.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::proto::{MetricFamily, MetricType};

pub use super::called::{Call, Dependency};
use super::families::{counter, family, histogram, pair};
use super::metrics::Metrics;
use super::shard::{Cell, Histogram, Scale, Snapshot};
use crate::clock::Clock;

/// Slow calls that are remembered, the newest.
pub const RING_MAX: usize = 128;
/// Lines that a dependency may write at once, of each level.
pub const LINES_AT_ONCE: u32 = 10;
/// Then one more in this time.
pub const LINE_EVERY: Duration = Duration::from_secs(30);

/// How slow a call was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// From 100 ms on.
    Warning,
    /// From 500 ms on.
    Error,
    /// From 1 s on.
    Critical,
}

impl Severity {
    /// The values of the label `level`.
    pub const NAMES: [&str; 3] = ["warning", "error", "critical"];

    /// Its word in metrics, log lines and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Of a call that took so long; `None` when that is not slow.
    #[must_use]
    pub const fn of(took: Duration) -> Option<Self> {
        match took.as_millis() {
            0..100 => None,
            100..500 => Some(Self::Warning),
            500..1000 => Some(Self::Error),
            _ => Some(Self::Critical),
        }
    }
}

/// A call that was slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowCall {
    /// When it ended, Unix milliseconds.
    pub at_ms: u64,
    /// What was asked of whom.
    pub call: Call,
    /// How long its caller waited.
    pub took: Duration,
    /// How slow that is.
    pub severity: Severity,
}

/// Lines of one level about one dependency.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    /// By the monotonic clock: up to here lines are written already.
    paid: Duration,
    left_out: u64,
}

impl Lines {
    /// Whether one more may be written now, and then how many were left out since the last.
    fn admit(&mut self, now: Duration) -> Option<u64> {
        let paid = self.paid.max(now);
        if paid - now > LINE_EVERY * (LINES_AT_ONCE - 1) {
            self.left_out += 1;
            return None;
        }
        self.paid = paid + LINE_EVERY;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[derive(Debug, Default)]
struct Slow {
    /// Oldest first.
    ring: VecDeque<SlowCall>,
    lines: [[Lines; Severity::NAMES.len()]; Dependency::NAMES.len()],
}

/// Calls of one process; shared by all who make them.
#[derive(Debug)]
pub struct Calls {
    clock: Arc<dyn Clock>,
    durations: Box<[Histogram]>,
    counts: [[Cell; Severity::NAMES.len()]; Dependency::NAMES.len()],
    slow: Mutex<Slow>,
}

/// A call under way; it ends when this is dropped.
#[derive(Debug)]
#[must_use = "the call ends when this is dropped"]
pub struct UnderWay<'c> {
    calls: &'c Calls,
    call: Call,
    began: Duration,
}

impl Calls {
    /// None yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let durations = Call::ALL.iter().map(|_| Histogram::new(Scale::Durations)).collect();
        Arc::new(Self { clock, durations, counts: Default::default(), slow: Mutex::default() })
    }

    /// A call that begins now.
    pub fn begin(&self, call: Call) -> UnderWay<'_> {
        UnderWay { calls: self, call, began: self.clock.now() }
    }

    /// Waits for the answer; one that is given up before counts too.
    pub async fn time<T>(&self, call: Call, answer: impl Future<Output = T>) -> T {
        let _under_way = self.begin(call);
        answer.await
    }

    /// The newest slow calls, at most [`RING_MAX`], the newest first.
    #[must_use]
    pub fn slow(&self) -> Vec<SlowCall> {
        self.locked().ring.iter().rev().copied().collect()
    }

    fn note(&self, call: Call, took: Duration) {
        self.durations[call as usize].observe_duration_shared(took);
        if let Some(severity) = Severity::of(took) {
            self.note_slow(SlowCall { at_ms: self.clock.wall_ms(), call, took, severity });
        }
    }

    fn note_slow(&self, slow: SlowCall) {
        let SlowCall { call, severity, .. } = slow;
        let (dependency, op) = call.names();
        self.counts[dependency as usize][severity as usize].add_shared(1);
        let now = self.clock.now();
        let admitted = {
            let mut known = self.locked();
            if known.ring.len() == RING_MAX {
                known.ring.pop_front();
            }
            known.ring.push_back(slow);
            known.lines[dependency as usize][severity as usize].admit(now)
        };
        let Some(left_out) = admitted else { return };
        let duration_ms = u64::try_from(slow.took.as_millis()).unwrap_or(u64::MAX);
        let (dependency, severity_name) = (dependency.name(), severity.name());
        // `level` is the name of another field of a JSON line.
        if severity == Severity::Warning {
            tracing::warn!(dependency, op, duration_ms, severity = severity_name, left_out, "slow operation");
        } else {
            tracing::error!(dependency, op, duration_ms, severity = severity_name, left_out, "slow operation");
        }
    }

    fn locked(&self) -> MutexGuard<'_, Slow> {
        // Every step leaves it whole.
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call is shown once it was made.
    pub(super) fn families(&self) -> [MetricFamily; 2] {
        let help = "One call to a dependency, as its caller waits for it";
        let mut durations = family("trellis_store_op_duration_seconds", help, MetricType::HISTOGRAM, Vec::new());
        for (call, duration) in Call::ALL.into_iter().zip(&self.durations) {
            let mut total = Snapshot::default();
            duration.merge_into(&mut total);
            if total.counts.iter().all(|count| *count == 0) {
                continue;
            }
            let (dependency, op) = call.names();
            let mut of_call = histogram("", "", &total).take_metric();
            let labels = || vec![pair("dependency", dependency.name()), pair("op", op)];
            of_call.iter_mut().for_each(|metric| metric.set_label(labels()));
            durations.mut_metric().extend(of_call);
        }
        let help = "Calls to a dependency that took 100 ms (warning), 500 ms (error), 1 s (critical) or more";
        let mut slow = family("trellis_slow_operations_total", help, MetricType::COUNTER, Vec::new());
        for (dependency, counts) in Dependency::NAMES.into_iter().zip(&self.counts) {
            let levels = Severity::NAMES.into_iter().zip(counts).map(|(name, count)| (name, count.get()));
            let mut of_dependency = counter("", "", "level", &levels.collect::<Vec<_>>()).take_metric();
            for metric in &mut of_dependency {
                let mut labels = metric.take_label();
                labels.insert(0, pair("dependency", dependency));
                metric.set_label(labels);
            }
            slow.mut_metric().extend(of_dependency);
        }
        [durations, slow]
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.calls.note(self.call, self.calls.clock.now().saturating_sub(self.began));
    }
}

impl Metrics {
    /// Shows these calls; the first ones that are given.
    pub fn show_calls(&self, calls: Arc<Calls>) {
        let _ = self.shards.watched.calls.set(calls);
    }

    /// Calls to dependencies, for those who tell people of the slow ones.
    #[must_use]
    pub fn calls(&self) -> Option<Arc<Calls>> {
        self.shards.watched.calls.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    fn calls() -> (Arc<Calls>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(1_000_000));
        (Calls::new(Arc::<ManualClock>::clone(&clock)), clock)
    }

    fn take(calls: &Calls, clock: &ManualClock, call: Call, took_ms: u64) {
        let _under_way = calls.begin(call);
        clock.advance(Duration::from_millis(took_ms));
    }

    #[test]
    fn a_call_is_as_slow_as_its_thresholds_say_and_the_newest_are_remembered() {
        let (calls, clock) = calls();
        for (took_ms, severity) in [
            (99, None),
            (100, Some(Severity::Warning)),
            (499, Some(Severity::Warning)),
            (500, Some(Severity::Error)),
            (999, Some(Severity::Error)),
            (1_000, Some(Severity::Critical)),
        ] {
            let before = calls.slow().len();
            take(&calls, &clock, Call::StoreInsert, took_ms);
            let newest = calls.slow().first().copied().filter(|_| calls.slow().len() > before);
            assert_eq!(newest.map(|slow| slow.severity), severity, "{took_ms} ms");
            assert_eq!(
                newest.map(|slow| (slow.took.as_millis(), slow.at_ms)),
                severity.map(|_| (took_ms.into(), clock.wall_ms()))
            );
        }
        for ms in 0..RING_MAX as u64 {
            take(&calls, &clock, Call::RedisClaim, 200 + ms);
        }
        let slow = calls.slow();
        assert_eq!(slow.len(), RING_MAX, "the ones before have gone");
        assert_eq!((slow[0].took.as_millis(), slow[RING_MAX - 1].took.as_millis()), (327, 200), "newest first");
        assert!(slow.iter().all(|slow| slow.call == Call::RedisClaim));
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_counts_with_what_it_was_waited_for() {
        let (calls, clock) = calls();
        let waiting = calls.time(Call::RedisCaps, async {
            clock.advance(Duration::from_millis(700));
            std::future::pending::<()>().await;
        });
        tokio::select! {
            biased;
            () = waiting => unreachable!("it never ends"),
            () = std::future::ready(()) => {}
        }
        let slow = calls.slow();
        assert_eq!((slow.len(), slow[0].severity, slow[0].call), (1, Severity::Error, Call::RedisCaps));
    }

    #[test]
    fn an_outage_writes_few_lines_and_they_tell_how_many_were_left_out() {
        let mut lines = Lines::default();
        let now = Duration::from_secs(100);
        let written = (0..1000).filter_map(|_| lines.admit(now)).collect::<Vec<_>>();
        assert_eq!(written, vec![0; LINES_AT_ONCE as usize]);
        assert_eq!(lines.admit(now + LINE_EVERY - Duration::from_millis(1)), None);
        assert_eq!(lines.admit(now + LINE_EVERY), Some(1000 - u64::from(LINES_AT_ONCE) + 1));
        assert_eq!(lines.admit(now + LINE_EVERY), None);
        let rested = now + LINE_EVERY * 1000;
        assert_eq!((0..1000).filter_map(|_| lines.admit(rested)).count(), LINES_AT_ONCE as usize);
    }

    #[test]
    fn calls_are_shown_once_made_and_slow_ones_by_dependency_and_level() {
        let (calls, clock) = calls();
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        metrics.show_calls(Arc::clone(&calls));
        take(&calls, &clock, Call::StoreLook, 3);
        take(&calls, &clock, Call::StoreLook, 600);
        take(&calls, &clock, Call::WardenValidate, 1_000);
        let text = metrics.render(0);
        for line in [
            "trellis_store_op_duration_seconds_count{dependency=\"store\",op=\"look\"} 2",
            "trellis_store_op_duration_seconds_bucket{dependency=\"store\",op=\"look\",le=\"0.5\"} 1",
            "trellis_slow_operations_total{dependency=\"store\",level=\"error\"} 1",
            "trellis_slow_operations_total{dependency=\"store\",level=\"critical\"} 0",
            "trellis_slow_operations_total{dependency=\"warden\",level=\"critical\"} 1",
            "trellis_slow_operations_total{dependency=\"redis\",level=\"warning\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("op=\"claim\""), "nobody claimed anything");
    }
}
