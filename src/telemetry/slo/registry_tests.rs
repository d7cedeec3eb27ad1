//! What the engine shares with a registry: the list of metrics that objectives may name, and its own figures.

use std::collections::BTreeSet;

use prometheus::proto::MetricType;

use super::*;
use crate::config::slo::{METRICS, MetricKind, shipped};
use crate::telemetry::calls::{Call, Calls};
use crate::telemetry::figures;
use crate::telemetry::metrics::{Metrics, Outcome};
use crate::testing::ManualClock;

fn metrics() -> Metrics {
    let metrics = Metrics::new(1, 1, &["store"], || 0).unwrap();
    metrics.api().name(["GET /links".to_owned()]);
    let calls = Calls::new(Arc::new(ManualClock::new(0)));
    metrics.show_calls(Arc::clone(&calls));
    // A call is shown once it was made.
    drop(calls.begin(Call::ALL[0]));
    let _ = metrics.runtime("control");
    metrics
}

#[test]
fn the_report_is_shown_as_metrics_with_bounded_labels() {
    let (metrics, mut engine, now_ms) = (metrics(), Engine::new(shipped()), 20_000 * 86_400_000);
    engine.begin(&metrics.gather(now_ms), now_ms);
    (0..998).for_each(|_| metrics.edge(0).count(Outcome::Redirected));
    (0..2).for_each(|_| metrics.edge(0).count(Outcome::Untracked));
    (0..1_000).for_each(|_| metrics.edge(0).redirect_duration.observe_duration(Duration::from_millis(2)));
    engine.look(&metrics.gather(now_ms), now_ms);
    let report = engine.report(now_ms, None);
    metrics.slo().show(Arc::new(report.clone()));
    let text = metrics.render(now_ms);
    for line in [
        "trellis_slo_target{slo=\"redirect-p99\",window=\"5m\"} 0.05",
        "trellis_slo_compliant{slo=\"redirect-p99\",window=\"5m\"} 1",
        "trellis_slo_value{slo=\"edge-errors\",window=\"1h\"} 0.002",
        "trellis_slo_burn_rate{slo=\"edge-errors\",window=\"1h\"} 2",
        "trellis_slo_compliant{slo=\"redirect-availability\",window=\"30d\"} 0",
        "trellis_slo_burn_rate{slo=\"auth-failures\",window=\"3d\"} 0",
        "trellis_slo_error_budget_remaining_ratio{slo=\"auth-failures\",window=\"30d\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let series = text.lines().filter(|line| line.starts_with("trellis_slo_")).count();
    assert!(series <= 16 * report.objectives.len(), "{series}");
    assert!(!text.contains("trellis_slo_value{slo=\"warden-up\""), "not measured, not shown");
}

#[test]
fn the_list_of_metrics_is_what_a_registry_gathers() {
    let gathered = metrics().gather(0);
    let (mut told, mut listed) = (BTreeSet::new(), BTreeSet::new());
    for family in gathered.iter().filter(|family| !family.name().starts_with("trellis_slo_")) {
        let labels: Vec<_> = family.get_metric()[0].get_label().iter().map(|pair| pair.name().to_owned()).collect();
        told.insert((family.name().to_owned(), format!("{:?}", family.get_field_type()), labels));
    }
    for metric in METRICS {
        let kind = match metric.kind {
            MetricKind::Counter => MetricType::COUNTER,
            MetricKind::Gauge => MetricType::GAUGE,
            MetricKind::Histogram(_) => MetricType::HISTOGRAM,
        };
        let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
        listed.insert((metric.name.to_owned(), format!("{kind:?}"), labels));
    }
    // What others say is gathered once it was read.
    listed.retain(|(name, ..)| !figures::names().contains(name.as_str()));
    let missing: Vec<_> =
        figures::names().into_iter().filter(|name| !METRICS.iter().any(|one| one.name == *name)).collect();
    assert!(missing.is_empty(), "not in src/config/slo/metrics.rs: {missing:?}");
    let difference: Vec<_> = told.symmetric_difference(&listed).collect();
    assert!(difference.is_empty(), "only in one of the registry and src/config/slo/metrics.rs: {difference:#?}");
    for metric in METRICS {
        let MetricKind::Histogram(bounds) = metric.kind else { continue };
        let family = gathered.iter().find(|family| family.name() == metric.name).unwrap();
        let buckets = family.get_metric()[0].get_histogram().get_bucket().to_vec();
        let has = |bound: f64| buckets.iter().any(|bucket| (bucket.upper_bound() - bound).abs() <= 1e-9 * bound);
        let missing: Vec<_> = bounds.iter().filter(|bound| !has(**bound)).collect();
        assert!(missing.is_empty(), "no buckets of {} end at {missing:?}", metric.name);
    }
}

#[test]
fn what_is_kept_in_memory_is_bounded() {
    let engine = Engine::new(shipped());
    let of = |is: fn(&What) -> bool| engine.tracks.iter().filter(|track| is(&track.what)).count() as u64;
    let histograms = of(|what| matches!(what, What::Observed { .. }));
    // Every slot with all 300 buckets hit, 16 bytes each; the bound that the module's page states.
    assert!(histograms * ring::SLOTS * 300 * 16 < 60 << 20, "{histograms} histograms");
    assert!(engine.tracks.len() < 80, "objectives of one thing share what is kept of it");
}
