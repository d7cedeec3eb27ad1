//! What it costs to measure: one duration counted, one request timed from phase to phase or not, and the text of `/metrics`
//! with all that stands behind it. `cargo bench --bench instruments`.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use trellis::clock::{Clock, SystemClock};
use trellis::telemetry::metrics::{Decided, Metrics};
use trellis::telemetry::phases::{Lap, Stopwatch};
use trellis::telemetry::shard::{Histogram, Scale};

/// Endpoints of the control API, about as many as there are.
const OPS: usize = 50;
/// The laps of a redirect by a campaign while it is resolved.
const LAPS: [Lap; 8] =
    [Lap::Limit, Lap::LookUp, Lap::Limit, Lap::LookUp, Lap::Comply, Lap::Choose, Lap::Comply, Lap::Spell];

fn metrics() -> Metrics {
    let metrics = Metrics::new(2, 1000, &["catalog", "dedup", "store"], || 1000).expect("metrics");
    metrics.api().name((0..OPS).map(|n| format!("GET /endpoint-{n}")));
    for n in 0..10_000 {
        let took = Duration::from_nanos(fastrand::u64(100..5_000_000));
        metrics.edge(n % 2).redirect_duration.observe_duration(took);
        metrics.api().observe(n % OPS, 200, took);
    }
    metrics
}

fn histograms(c: &mut Criterion) {
    let took: Vec<_> = (0..4096).map(|_| fastrand::u64(..) >> fastrand::u32(28..58)).collect();
    let mut at = 0;
    let mut next = move || {
        at = (at + 1) % took.len();
        took[at]
    };
    let histogram = Histogram::new(Scale::Durations);
    c.bench_function("a duration is counted", |b| b.iter(|| histogram.observe(black_box(next()))));
    c.bench_function("a duration is counted by one of many threads", |b| {
        b.iter(|| histogram.observe_shared(black_box(next())))
    });
}

/// What stands in the way of a request for its phases, and nothing else of it.
fn phases(c: &mut Criterion) {
    let clock: &dyn Clock = &SystemClock::new();
    c.bench_function("the clock is read", |b| b.iter(|| black_box(clock).now()));
    let (metrics, answered) = (metrics(), clock.now());
    let times = &metrics.edge(0).times;
    for every in [0, 61, 1] {
        let stopwatch = black_box(Stopwatch::new(every));
        c.bench_function(&format!("a request, one in {every} measured"), |b| {
            b.iter(|| {
                let head_began = stopwatch.is_due().then(|| clock.now());
                let laps = &mut stopwatch.begin(head_began, answered);
                stopwatch.run(laps, || {
                    for lap in black_box(LAPS) {
                        stopwatch.end(lap, || clock.now());
                    }
                    stopwatch.decide(Decided::Weighted);
                });
                for lap in [Lap::Journal, Lap::Respond] {
                    if let Some(laps) = black_box(&mut *laps) {
                        laps.end(lap, clock.now());
                    }
                }
                if let Some(laps) = laps {
                    times.count(laps);
                }
            });
        });
    }
}

fn scrapes(c: &mut Criterion) {
    let metrics = metrics();
    let families = metrics.gather(0);
    let series: usize = families.iter().map(|family| family.get_metric().len()).sum();
    let text = metrics.render(0);
    let (lines, bytes) = (text.lines().filter(|line| !line.starts_with('#')).count(), text.len());
    c.bench_function(&format!("gather, {series} counters, gauges and histograms"), |b| {
        b.iter(|| metrics.gather(0).len())
    });
    c.bench_function(&format!("render, {lines} series, {bytes} bytes"), |b| b.iter(|| metrics.render(0).len()));
}

criterion_group!(instruments, histograms, phases, scrapes);
criterion_main!(instruments);
