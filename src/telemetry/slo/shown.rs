//! The last report as metrics: `trellis_slo_*`.
//!
//! Bounds: for each objective nine series, of a ratio sixteen; no more objectives than the configuration takes.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::proto::{Gauge, Metric, MetricFamily, MetricType};

use super::report::{ObjectiveReport, Report, Verdict};
use crate::config::slo::Window;
use crate::telemetry::exposition::Shards;
use crate::telemetry::families::{family, pair};
use crate::telemetry::metrics::Metrics;

/// Written by whoever looks; read by a scrape.
#[derive(Debug, Default)]
pub struct SloShard(Mutex<Option<Arc<Report>>>);

impl SloShard {
    /// Shows this report from now on.
    pub fn show(&self, report: Arc<Report>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }

    /// The one that is shown.
    #[must_use]
    pub fn report(&self) -> Option<Arc<Report>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Metrics {
    /// What is said of the objectives.
    #[must_use]
    pub fn slo(&self) -> Arc<SloShard> {
        Arc::clone(&self.shards.slo)
    }
}

fn metric(objective: &ObjectiveReport, window: &str, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::default();
    metric.set_label(vec![pair("slo", &objective.id), pair("window", window)]);
    metric.set_gauge(gauge);
    metric
}

impl Shards {
    pub(in crate::telemetry) fn slo_families(&self) -> [MetricFamily; 5] {
        let report = self.slo.report();
        let objectives = report.as_ref().map_or(&[][..], |report| &report.objectives);
        let windows = |of: fn(&super::WindowReport) -> Option<f64>| {
            let each = objectives.iter().flat_map(|objective| {
                objective.windows.iter().filter_map(move |one| Some(metric(objective, &one.window, of(one)?)))
            });
            each.collect::<Vec<_>>()
        };
        let judged = |of: fn(&ObjectiveReport) -> Option<f64>| {
            let each = objectives.iter().filter_map(|one| Some(metric(one, &one.window, of(one)?)));
            each.collect::<Vec<_>>()
        };
        let left = objectives
            .iter()
            .filter_map(|one| Some(metric(one, Window::ThirtyDays.name(), one.error_budget.as_ref()?.left_ratio)));
        let compliant = |one: &ObjectiveReport| match one.verdict {
            Verdict::NoData => None,
            Verdict::Ok | Verdict::Warning => Some(1.0),
            Verdict::Breach => Some(0.0),
        };
        let gauge = |name, help, metrics| family(name, help, MetricType::GAUGE, metrics);
        [
            gauge("trellis_slo_value", "What is measured of an objective", windows(|one| one.value)),
            gauge("trellis_slo_target", "What it is to be", judged(|one| Some(one.target))),
            gauge("trellis_slo_compliant", "0 when it is beyond its critical level", judged(compliant)),
            gauge("trellis_slo_error_budget_remaining_ratio", "What is left; below 0: overdrawn", left.collect()),
            gauge("trellis_slo_burn_rate", "1 uses the budget up in 30 days", windows(|one| one.burn_rate)),
        ]
    }
}
