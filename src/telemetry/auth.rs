//! How long checks of keys take, by what came of them.

use std::sync::Arc;
use std::time::Duration;

use prometheus::proto::{MetricFamily, MetricType};

use super::exposition::Shards;
use super::families::{family, histogram, pair};
use super::metrics::Metrics;
use super::shard::{Histogram, Scale, Snapshot};

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthOutcome {
    /// The key is good.
    Granted,
    /// 401: there was none, or it is malformed, unknown, expired, revoked, or of another organisation.
    Denied,
    /// 403: it lacks the scope.
    Forbidden,
    /// 503: the Warden cannot be reached.
    Error,
    /// 503: the Warden did not answer in time.
    Timeout,
}

impl AuthOutcome {
    /// The values of the label.
    pub const NAMES: [&str; 5] = ["granted", "denied", "forbidden", "error", "timeout"];
}

/// Written by one edge thread, or, by the methods that say so, by all requests of the operator side.
#[derive(Debug)]
pub struct AuthShard([Histogram; AuthOutcome::NAMES.len()]);

impl Default for AuthShard {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Histogram::new(Scale::Durations)))
    }
}

impl AuthShard {
    /// Counts a check.
    pub fn observe(&self, outcome: AuthOutcome, took: Duration) {
        self.0[outcome as usize].observe_duration(took);
    }

    /// The same, whoever else does so at the same time.
    pub fn observe_shared(&self, outcome: AuthOutcome, took: Duration) {
        self.0[outcome as usize].observe_duration_shared(took);
    }

    /// Checks so far that the Warden did not answer.
    pub(super) fn failed(&self) -> u64 {
        let mut total = Snapshot::default();
        for outcome in [AuthOutcome::Error, AuthOutcome::Timeout] {
            self.0[outcome as usize].merge_into(&mut total);
        }
        total.count()
    }
}

#[cfg(test)]
impl AuthShard {
    /// Checks by outcome.
    pub(crate) fn counts(&self) -> [u64; AuthOutcome::NAMES.len()] {
        std::array::from_fn(|place| {
            let mut total = Snapshot::default();
            self.0[place].merge_into(&mut total);
            total.count()
        })
    }
}

impl Metrics {
    /// Checks of keys on the operator side.
    #[must_use]
    pub fn auth(&self) -> Arc<AuthShard> {
        Arc::clone(&self.shards.auth)
    }
}

impl Shards {
    pub(super) fn auth_family(&self) -> MetricFamily {
        let help = "One check of an API key, by what came of it";
        let mut all = family("trellis_auth_duration_seconds", help, MetricType::HISTOGRAM, Vec::new());
        for (place, name) in AuthOutcome::NAMES.into_iter().enumerate() {
            let mut total = Snapshot::default();
            let shards = self.edges.iter().map(|edge| &edge.auth).chain([&*self.auth]);
            shards.for_each(|shard| shard.0[place].merge_into(&mut total));
            let mut metrics = histogram("", "", &total).take_metric();
            metrics.iter_mut().for_each(|metric| metric.set_label(vec![pair("outcome", name)]));
            all.mut_metric().extend(metrics);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn checks_of_both_sides_add_up_by_outcome() {
        let metrics = Metrics::new(2, 1, &[], || 0).unwrap();
        metrics.edge(0).auth.observe(AuthOutcome::Granted, Duration::from_nanos(200));
        metrics.edge(1).auth.observe(AuthOutcome::Granted, Duration::from_nanos(300));
        metrics.auth().observe_shared(AuthOutcome::Denied, Duration::from_millis(50));
        metrics.auth().observe_shared(AuthOutcome::Forbidden, Duration::ZERO);
        let text = metrics.render(0);
        for line in [
            "trellis_auth_duration_seconds_bucket{outcome=\"granted\",le=\"0.00000025\"} 1",
            "trellis_auth_duration_seconds_count{outcome=\"granted\"} 2",
            "trellis_auth_duration_seconds_bucket{outcome=\"denied\",le=\"0.05\"} 1",
            "trellis_auth_duration_seconds_count{outcome=\"forbidden\"} 1",
            "trellis_auth_duration_seconds_count{outcome=\"timeout\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
