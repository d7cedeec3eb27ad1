//! Figures of the prober: what each of its checks found last. Not measured yet is NaN, as in any gauge of Prometheus.

use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::MetricFamily;

use super::exposition::Shards;
use super::families::float_gauge;
use super::metrics::Metrics;
use super::shard::Cell;

/// What the prober looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// `/health`.
    Health,
    /// `/health/ready`.
    Ready,
    /// `/metrics`.
    Metrics,
    /// The canary link.
    Redirect,
    /// The click of the canary in the store.
    Store,
}

impl Check {
    /// All of them, in the order of their words.
    pub const ALL: [Self; 5] = [Self::Health, Self::Ready, Self::Metrics, Self::Redirect, Self::Store];
    const NAMES: [&str; 5] = ["health", "ready", "metrics", "redirect", "store"];

    /// Its word in metrics, in log lines and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// It was as it should be.
    pub success: bool,
    /// How long it took.
    pub took: Duration,
}

/// Written by the prober's two tasks, each its own checks.
#[derive(Debug, Default)]
pub struct ProbeShard {
    checks: [Last; Check::ALL.len()],
    /// Microseconds; 0: not measured.
    freshness_us: Cell,
}

#[derive(Debug, Default)]
struct Last {
    /// 0: not checked yet, 1: failed, 2: succeeded.
    state: Cell,
    took_us: Cell,
}

impl ProbeShard {
    /// Notes what a check found.
    pub fn note(&self, check: Check, found: Finding) {
        let last = &self.checks[check as usize];
        last.took_us.set(microseconds(found.took));
        last.state.set(if found.success { 2 } else { 1 });
    }

    /// Notes how long it took until a click could be asked for.
    pub fn note_freshness(&self, freshness: Duration) {
        self.freshness_us.set(microseconds(freshness).max(1));
    }

    /// What a check found last; `None` before the first time.
    #[must_use]
    pub fn last(&self, check: Check) -> Option<Finding> {
        let last = &self.checks[check as usize];
        let state = last.state.get();
        let took = Duration::from_micros(last.took_us.get());
        (state > 0).then_some(Finding { success: state == 2, took })
    }

    /// From the last click of the canary to its being found in the store; `None` before the first one was.
    #[must_use]
    pub fn freshness(&self) -> Option<Duration> {
        Some(self.freshness_us.get()).filter(|us| *us > 0).map(Duration::from_micros)
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Metrics {
    /// What the prober writes.
    #[must_use]
    pub fn probe(&self) -> Arc<ProbeShard> {
        Arc::clone(&self.shards.probe)
    }
}

impl Shards {
    pub(super) fn probe_families(&self) -> [MetricFamily; 3] {
        let probe = &self.probe;
        let each =
            |of: fn(Finding) -> f64| Check::ALL.map(|check| (check.name(), probe.last(check).map_or(f64::NAN, of)));
        let success = each(|found| if found.success { 1.0 } else { 0.0 });
        let took = each(|found| found.took.as_secs_f64());
        let freshness = probe.freshness().map_or(f64::NAN, |freshness| freshness.as_secs_f64());
        [
            float_gauge("trellis_probe_success", "1 when the check succeeded last", "check", &success),
            float_gauge("trellis_probe_duration_seconds", "How long the check took last", "check", &took),
            float_gauge("trellis_probe_freshness_seconds", "Last canary click to queryable", "", &[("", freshness)]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_checked_is_no_number_and_what_was_is_the_last_finding() {
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        let has = |line: &str| metrics.render(0).lines().any(|known| known == line);
        for name in Check::NAMES {
            assert!(has(&format!("trellis_probe_success{{check=\"{name}\"}} NaN")), "{name}");
            assert!(has(&format!("trellis_probe_duration_seconds{{check=\"{name}\"}} NaN")), "{name}");
        }
        assert!(has("trellis_probe_freshness_seconds NaN"));
        let probe = metrics.probe();
        for (success, took) in [(true, 500), (false, 20)] {
            probe.note(Check::Ready, Finding { success, took: Duration::from_millis(took) });
        }
        probe.note(Check::Store, Finding { success: true, took: Duration::from_secs(1) });
        probe.note_freshness(Duration::from_micros(1_200_000));
        for line in [
            "trellis_probe_success{check=\"ready\"} 0",
            "trellis_probe_duration_seconds{check=\"ready\"} 0.02",
            "trellis_probe_success{check=\"store\"} 1",
            "trellis_probe_success{check=\"health\"} NaN",
            "trellis_probe_freshness_seconds 1.2",
        ] {
            assert!(has(line), "{line} in\n{}", metrics.render(0));
        }
    }
}
