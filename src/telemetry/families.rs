//! Metric families from names and numbers, as the prometheus crate wants them.

use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::scale::SHOWN;
use super::shard::{Scale, Snapshot, THRESHOLDS_NS};

/// Families of what takes less than [`SHORT_NS`]: they alone show thresholds below it.
const SHORT: [&str; 7] = [
    "trellis_auth_duration_seconds",
    "trellis_compliance_duration_seconds",
    "trellis_journal_append_duration_seconds",
    "trellis_phase_duration_seconds",
    "trellis_redirect_duration_seconds",
    "trellis_resolve_duration_seconds",
    "trellis_routing_duration_seconds",
];
const SHORT_NS: u64 = 50_000;

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

pub(super) fn histogram(name: &str, help: &str, total: &Snapshot) -> MetricFamily {
    let (bounds, unit) = (total.scale.bounds(), total.scale.unit());
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(bounds.len());
    for (bound, count) in bounds.iter().zip(&total.counts) {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64 / unit);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    let mut histogram = prometheus::proto::Histogram::default();
    histogram.set_sample_count(total.count());
    histogram.set_sample_sum(total.sum as f64 / unit);
    histogram.set_bucket(buckets);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(name, help, MetricType::HISTOGRAM, vec![metric])
}

/// One histogram for each value of a label.
pub(super) fn histograms(name: &str, help: &str, label: &str, totals: &[(&str, Snapshot)]) -> MetricFamily {
    let labelled = totals.iter().flat_map(|(value, total)| {
        let mut metrics = histogram("", "", total).take_metric();
        metrics.iter_mut().for_each(|metric| metric.set_label(vec![pair(label, value)]));
        metrics
    });
    family(name, help, MetricType::HISTOGRAM, labelled.collect())
}

/// Leaves a histogram of durations the buckets that end at a threshold. Counts are cumulative: none changes.
pub(super) fn thin(family: &mut MetricFamily) {
    let is_short = SHORT.contains(&family.name());
    let shown = || SHOWN.iter().zip(THRESHOLDS_NS).filter(|(_, ns)| is_short || *ns >= SHORT_NS);
    let fine = Scale::Durations.bounds().len();
    for metric in family.mut_metric().iter_mut().filter(|metric| metric.get_histogram().get_bucket().len() == fine) {
        let whole = metric.get_histogram();
        let mut thinned = prometheus::proto::Histogram::default();
        thinned.set_sample_count(whole.get_sample_count());
        thinned.set_sample_sum(whole.get_sample_sum());
        thinned.set_bucket(shown().map(|(place, _)| whole.get_bucket()[*place].clone()).collect());
        metric.set_histogram(thinned);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn metrics() -> Metrics {
        let metrics = Metrics::new(2, 10, &["store"], || 0).unwrap();
        metrics.api().name(["GET /links".to_owned(), "POST /links".to_owned()]);
        for us in [7, 80, 2_999, 3_000, 3_001, 90_000_000] {
            metrics.edge(0).redirect_duration.observe_duration(Duration::from_micros(us));
            metrics.api().observe(1, 200, Duration::from_micros(us));
        }
        metrics
    }

    /// Cumulative counts by bound.
    fn buckets(text: &str, series: &str) -> BTreeMap<String, u64> {
        let of = |line: &str| {
            let (bound, count) = line.strip_prefix(series)?.split_once("\"} ")?;
            Some((bound.to_owned(), count.parse().unwrap()))
        };
        text.lines().filter_map(of).collect()
    }

    #[test]
    fn the_text_has_the_buckets_of_thresholds_and_all_counts_and_what_is_gathered_has_all() {
        let metrics = metrics();
        let text = metrics.render(0);
        let redirects = buckets(&text, "trellis_redirect_duration_seconds_bucket{le=\"");
        assert_eq!(redirects.len(), THRESHOLDS_NS.len() + 1);
        for (bound, count) in [("0.000005", 0), ("0.00001", 1), ("0.003", 4), ("0.0035", 5), ("60", 5), ("+Inf", 6)] {
            assert_eq!(redirects[bound], count, "{bound}");
        }
        let api = buckets(&text, "trellis_api_duration_seconds_bucket{op=\"POST /links\",le=\"");
        assert_eq!(api.len(), THRESHOLDS_NS.iter().filter(|ns| **ns >= SHORT_NS).count() + 1);
        assert_eq!((api["0.00005"], api["0.003"], api["+Inf"]), (1, 4, 6));
        assert_eq!(buckets(&text, "trellis_batch_rows_bucket{le=\"").len(), 11, "as it was");
        let gathered = metrics.gather(0);
        let family = gathered.iter().find(|family| family.name() == "trellis_redirect_duration_seconds").unwrap();
        let fine = family.get_metric()[0].get_histogram().get_bucket();
        assert_eq!(fine.len(), Scale::Durations.bounds().len());
        let exactly = |bound: f64| fine.iter().find(|bucket| bucket.upper_bound() == bound).unwrap().cumulative_count();
        assert_eq!((exactly(0.003), exactly(60.0)), (4, 5));
    }

    #[test]
    fn families_that_show_short_durations_are_there() {
        let gathered = metrics().gather(0);
        let names: BTreeSet<_> = gathered.iter().map(MetricFamily::name).collect();
        assert!(SHORT.iter().all(|name| names.contains(name)), "{names:?}");
    }

    #[test]
    fn the_text_has_help_and_type_before_each_family_and_no_series_twice() {
        let text = metrics().render(0);
        let (mut typed, mut series) = (BTreeMap::new(), BTreeSet::new());
        let mut family = "";
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').unwrap();
                assert!(!words.is_empty() && !typed.contains_key(name), "{line}");
                family = name;
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, family, "the help comes first");
                let of_kind = match kind {
                    "counter" => name.ends_with("_total"),
                    "histogram" => !name.ends_with("_total"),
                    "gauge" => !name.ends_with("_total") && !name.ends_with("_count") && !name.ends_with("_bucket"),
                    _ => false,
                };
                assert!(of_kind || name.starts_with("process_"), "{line}");
                typed.insert(name, kind);
            } else {
                let (of, value) = line.rsplit_once(' ').unwrap();
                let name = of.split('{').next().unwrap();
                let suffixes = if typed[family] == "histogram" { &["_bucket", "_sum", "_count"][..] } else { &[""] };
                assert!(suffixes.iter().any(|suffix| name == format!("{family}{suffix}")), "{line} is of {family}");
                let not_known_yet = typed[family] == "gauge" && value == "NaN";
                assert!(not_known_yet || value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
                assert!(series.insert(of), "twice: {line}");
            }
        }
        assert!(typed.len() > 60 && series.len() > 500, "{} {}", typed.len(), series.len());
    }
}
