//! Requests of the operator side, by endpoint, and the audit log.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::proto::{MetricFamily, MetricType};

use super::exposition::Shards;
use super::families::{counter, family, histogram, pair, single};
use super::metrics::Metrics;
use super::shard::{Cell, Histogram, Scale, Snapshot};

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Debug)]
struct Op {
    name: String,
    classes: [Cell; CLASSES.len()],
    duration: Histogram,
}

/// Written by all requests of the operator side.
#[derive(Debug)]
pub struct ApiShard {
    ops: OnceLock<Vec<Op>>,
    /// From an entry of the audit log to its being on the disk.
    audit_duration: Histogram,
    audited: Cell,
    audit_failures: Cell,
}

impl Default for ApiShard {
    fn default() -> Self {
        Self {
            ops: OnceLock::new(),
            audit_duration: Histogram::new(Scale::Durations),
            audited: Cell::default(),
            audit_failures: Cell::default(),
        }
    }
}

impl ApiShard {
    /// Names the endpoints: the values of the label `op`, which are fixed from then on. The first call counts.
    pub fn name(&self, ops: impl IntoIterator<Item = String>) {
        let op = |name| Op { name, classes: Default::default(), duration: Histogram::new(Scale::Durations) };
        let _ = self.ops.set(ops.into_iter().map(op).collect());
    }

    /// Counts an answer of the endpoint at this place among the names.
    pub fn observe(&self, place: usize, status: u16, took: Duration) {
        let Some(op) = self.ops.get().and_then(|ops| ops.get(place)) else { return };
        op.duration.observe_duration_shared(took);
        op.classes[usize::from((status / 100).clamp(1, 5)) - 1].add_shared(1);
    }

    /// Answers of this class so far: 2 for 2xx.
    pub(super) fn answered(&self, class: usize) -> u64 {
        self.ops.get().into_iter().flatten().map(|op| op.classes[class - 1].get()).sum()
    }

    /// Batches of the audit log that could not be written so far.
    pub(super) fn audits_failed(&self) -> u64 {
        self.audit_failures.get()
    }

    /// Counts an entry of the audit log that is on the disk.
    pub fn audit(&self, took: Duration) {
        self.audited.add_shared(1);
        self.audit_duration.observe_duration_shared(took);
    }

    /// Counts a batch of entries that could not be written.
    pub fn audit_failed(&self) {
        self.audit_failures.add_shared(1);
    }
}

impl Metrics {
    /// Requests of the operator side, and its audit log.
    #[must_use]
    pub fn api(&self) -> Arc<ApiShard> {
        Arc::clone(&self.shards.api)
    }
}

impl Shards {
    pub(super) fn api_families(&self) -> [MetricFamily; 5] {
        let ops = self.api.ops.get().map(Vec::as_slice).unwrap_or_default();
        let help = "Answers of the control API";
        let mut requests = family("trellis_api_requests_total", help, MetricType::COUNTER, Vec::new());
        let help = "One request of the control API";
        let mut durations = family("trellis_api_duration_seconds", help, MetricType::HISTOGRAM, Vec::new());
        for op in ops {
            let classes = CLASSES.into_iter().zip(&op.classes).map(|(class, cell)| (class, cell.get()));
            let mut of_op = counter("", "", "status_class", &classes.collect::<Vec<_>>()).take_metric();
            of_op.iter_mut().for_each(|metric| {
                let mut labels = metric.take_label();
                labels.insert(0, pair("op", &op.name));
                metric.set_label(labels);
            });
            requests.mut_metric().extend(of_op);
            let mut total = Snapshot::default();
            op.duration.merge_into(&mut total);
            let mut of_op = histogram("", "", &total).take_metric();
            of_op.iter_mut().for_each(|metric| metric.set_label(vec![pair("op", &op.name)]));
            durations.mut_metric().extend(of_op);
        }
        let mut audit = Snapshot::default();
        self.api.audit_duration.merge_into(&mut audit);
        let help = "From an entry of the audit log to its being on the disk";
        [
            requests,
            durations,
            histogram("trellis_audit_write_duration_seconds", help, &audit),
            single("trellis_audit_entries_total", "Entries of the audit log", self.api.audited.get()),
            single("trellis_audit_failures_total", "Batches not written", self.api.audit_failures.get()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_endpoint_and_kind_of_answer() {
        let metrics = Metrics::new(1, 1, &[], || 0).unwrap();
        let api = metrics.api();
        api.name(["GET /links".to_owned(), "POST /links".to_owned()]);
        api.observe(1, 201, Duration::from_millis(1));
        api.observe(1, 409, Duration::from_millis(3));
        api.observe(7, 200, Duration::ZERO);
        api.audit(Duration::from_millis(50));
        api.audit_failed();
        let text = metrics.render(0);
        for line in [
            "trellis_api_requests_total{op=\"POST /links\",status_class=\"2xx\"} 1",
            "trellis_api_requests_total{op=\"POST /links\",status_class=\"4xx\"} 1",
            "trellis_api_requests_total{op=\"GET /links\",status_class=\"2xx\"} 0",
            "trellis_api_duration_seconds_bucket{op=\"POST /links\",le=\"0.001\"} 1",
            "trellis_api_duration_seconds_count{op=\"POST /links\"} 2",
            "trellis_audit_write_duration_seconds_bucket{le=\"0.05\"} 1",
            "trellis_audit_entries_total 1",
            "trellis_audit_failures_total 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
