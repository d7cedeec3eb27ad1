//! Metric families from names and numbers, as the prometheus crate wants them.

use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::shard::Snapshot;

pub(super) fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn labelled(label: &str, value: &str) -> Metric {
    let mut metric = Metric::default();
    if !label.is_empty() {
        metric.set_label(vec![pair(label, value)]);
    }
    metric
}

pub(super) fn pair(label: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(label.into());
    pair.set_value(value.into());
    pair
}

pub(super) fn counter(name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> MetricFamily {
    let metrics = values.iter().map(|(of, value)| {
        let mut counter = Counter::default();
        counter.set_value(*value as f64);
        let mut metric = labelled(label, of);
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, metrics.collect())
}

pub(super) fn single(name: &str, help: &str, value: u64) -> MetricFamily {
    counter(name, help, "", &[("", value)])
}

pub(super) fn gauge(name: &str, help: &str, label: &str, values: &[(&str, u64)]) -> MetricFamily {
    let values: Vec<_> = values.iter().map(|(of, value)| (*of, *value as f64)).collect();
    float_gauge(name, help, label, &values)
}

pub(super) fn float_gauge(name: &str, help: &str, label: &str, values: &[(&str, f64)]) -> MetricFamily {
    let metrics = values.iter().map(|(of, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(*value);
        let mut metric = labelled(label, of);
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, metrics.collect())
}

pub(super) fn histogram(name: &str, help: &str, total: &Snapshot, unit: f64) -> MetricFamily {
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(total.bounds.len());
    for (bound, count) in total.bounds.iter().zip(&total.counts) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / unit);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = prometheus::proto::Histogram::default();
    histogram.set_sample_count(total.counts.iter().sum());
    histogram.set_sample_sum(total.sum as f64 / unit);
    histogram.set_bucket(buckets);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}
