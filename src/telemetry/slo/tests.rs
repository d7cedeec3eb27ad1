//! Faults that are planted, with a clock of the test: each turns exactly the objectives to BREACH that it should, and back.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;
use crate::config::slo::{Window, from_text, shipped};
use crate::telemetry::auth::AuthOutcome;
use crate::telemetry::families::{counter, gauge};
use crate::telemetry::metrics::{Metrics, Outcome};
use crate::telemetry::phases::{Lap, Laps};
use crate::telemetry::pools::Pooled;

const OPS: [&str; 3] = ["GET /links", "POST /links", "GET /clicks/count"];
/// A noon, at which slots of all lengths begin.
const BEGIN_MS: u64 = 20_000 * 86_400_000 + 43_200_000;

/// Shards, an engine over them, and a clock that the test moves.
struct Node {
    metrics: Metrics,
    engine: Engine,
    now_ms: u64,
}

impl Node {
    fn new() -> Self {
        let metrics = Metrics::new(2, 10, &["catalog", "dedup", "store"], || 7).unwrap();
        metrics.api().name(OPS.map(str::to_owned));
        ["catalog", "dedup", "store"].iter().for_each(|name| metrics.set_dependency(name, true));
        let mut node = Self { metrics, engine: Engine::new(shipped()), now_ms: BEGIN_MS };
        node.look();
        node
    }

    fn look(&mut self) {
        self.engine.look(&self.metrics.gather(self.now_ms), self.now_ms);
    }

    /// So many looks, each so long after the last, with what happens in between.
    fn pass(&mut self, looks: u64, step: Duration, happens: impl Fn(&Metrics)) {
        for _ in 0..looks {
            happens(&self.metrics);
            self.now_ms += step.as_millis() as u64;
            self.look();
        }
    }

    fn report(&self) -> Report {
        self.engine.report(self.now_ms, None)
    }

    fn of(&self, id: &str) -> ObjectiveReport {
        let report = self.report();
        report.objectives.into_iter().find(|one| one.id == id).unwrap_or_else(|| panic!("no {id}"))
    }

    fn with(&self, verdict: Verdict) -> BTreeSet<String> {
        let report = self.report();
        report.objectives.into_iter().filter(|one| one.verdict == verdict).map(|one| one.id).collect()
    }

    /// The ids of all objectives in BREACH, with a blank between.
    fn breached(&self) -> String {
        self.with(Verdict::Breach).into_iter().collect::<Vec<_>>().join(" ")
    }
}

/// 1,000 visits in the second edge thread's hands, and what comes of them.
fn healthy(metrics: &Metrics) {
    visits(metrics, 1_000, 0, 2_000);
}

fn visits(metrics: &Metrics, recorded: u64, untracked: u64, took_us: u64) {
    let edge = metrics.edge(1);
    (0..recorded).for_each(|_| edge.count(Outcome::Redirected));
    (0..untracked).for_each(|_| edge.count(Outcome::Untracked));
    (0..recorded + untracked).for_each(|_| edge.redirect_duration.observe_duration(Duration::from_micros(took_us)));
    // Half of the time goes to the journal, and a decision takes 50 µs.
    let mut laps = Laps::default();
    laps.end(Lap::Choose, Duration::from_micros(50));
    laps.end(Lap::Journal, Duration::from_micros(50 + took_us / 2));
    edge.times.count(&laps);
    edge.accepted.add(recorded);
    let worker = metrics.worker(1);
    worker.claimed.add(recorded);
    worker.stored.add(recorded);
    worker.dedup_duration.observe_duration(Duration::from_micros(700));
    worker.batch_duration.observe_duration(Duration::from_millis(40));
    worker.ingest_lag.observe_duration(Duration::from_millis(1_500));
    metrics.auth().observe_shared(AuthOutcome::Granted, Duration::from_micros(1));
    metrics.api().observe(0, 200, Duration::from_millis(5));
    metrics.api().observe(2, 200, Duration::from_millis(20));
}

const STEP: Duration = LOOK;
const MINUTE: u64 = 6;

#[test]
fn a_planted_delay_of_20_ms_breaches_the_median_alone_and_passes() {
    let mut node = Node::new();
    node.pass(10 * MINUTE, STEP, healthy);
    assert_eq!((node.breached(), node.with(Verdict::Warning)), (String::new(), BTreeSet::new()));
    assert_eq!(node.report().overall, Verdict::Ok);
    let delayed = |metrics: &Metrics| visits(metrics, 1_000, 0, 22_000);
    // After half of the window half of the redirects are late.
    node.pass(15, STEP, delayed);
    assert_eq!(node.breached(), "");
    node.pass(1, STEP, delayed);
    assert_eq!(node.breached(), "redirect-p50");
    node.pass(5 * MINUTE, STEP, delayed);
    assert_eq!((node.breached(), node.with(Verdict::Warning)), ("redirect-p50".into(), BTreeSet::new()));
    assert_eq!(node.report().overall, Verdict::Breach);
    let p50 = node.of("redirect-p50");
    assert!(p50.value.unwrap() > 0.02 && p50.value.unwrap() <= 0.025, "{p50:?}");
    // Of the phases that are measured, the journal is within its own 20 ms.
    let journal = node.of("redirect-p99").phases.into_iter().find(|phase| phase.name == "journal").unwrap();
    assert_eq!(journal.verdict, Verdict::Ok);
    node.pass(5 * MINUTE, STEP, healthy);
    assert_eq!((node.breached(), node.with(Verdict::Warning)), (String::new(), BTreeSet::new()));
}

#[test]
fn a_slow_journal_is_over_its_phase_and_alerts_wait_for_their_time() {
    let mut node = Node::new();
    node.pass(5 * MINUTE, STEP, healthy);
    let slow = |metrics: &Metrics| visits(metrics, 1_000, 0, 90_000);
    node.pass(5 * MINUTE, STEP, slow);
    assert_eq!(node.breached(), "redirect-p50 redirect-p99");
    assert_eq!(node.with(Verdict::Warning), BTreeSet::from(["redirect-p95".to_owned()]));
    let phases = node.of("redirect-p99").phases;
    let verdicts: Vec<_> = phases.iter().map(|phase| (&*phase.name, phase.verdict)).collect();
    assert!(verdicts.contains(&("journal", Verdict::Breach)) && verdicts.contains(&("network", Verdict::NoData)));
    assert!((phases.iter().map(|phase| phase.budget).sum::<f64>() - 0.05).abs() < 1e-9);
    let state = |node: &Node, name: &str| {
        node.of("redirect-p95").alerts.into_iter().find(|alert| alert.name == name).unwrap().state
    };
    assert_eq!(state(&node, "RedirectLatencyCritical"), AlertState::Inactive, "90 ms are not 100");
    assert_eq!(state(&node, "RedirectLatencyWarning"), AlertState::Pending);
    // p95 passed 75 ms with the second slow look: two looks of thirty are more than one in twenty.
    node.pass(5 * MINUTE + 1, STEP, slow);
    assert_eq!(state(&node, "RedirectLatencyWarning"), AlertState::Pending);
    node.pass(1, STEP, slow);
    assert_eq!(state(&node, "RedirectLatencyWarning"), AlertState::Firing);
    node.pass(5 * MINUTE, STEP, healthy);
    assert_eq!((state(&node, "RedirectLatencyWarning"), node.breached()), (AlertState::Inactive, String::new()));
}

#[test]
fn a_planted_error_rate_of_2_percent_breaches_errors_and_availability_and_burns_the_budget() {
    let mut node = Node::new();
    node.pass(60 * MINUTE, STEP, healthy);
    assert_eq!(node.breached(), "");
    let budget = node.of("redirect-availability").error_budget.unwrap();
    assert!((budget.minutes - 4.32).abs() < 1e-9 && (budget.left_minutes - 4.32).abs() < 1e-9);
    let failing = |metrics: &Metrics| visits(metrics, 980, 20, 2_000);
    node.pass(5 * MINUTE, STEP, failing);
    assert_eq!(node.breached(), "edge-errors redirect-availability");
    assert_eq!(node.with(Verdict::Warning), BTreeSet::new());
    let errors = node.of("edge-errors");
    assert!((errors.value.unwrap() - 0.02).abs() < 1e-9);
    let burn: Vec<_> = errors.windows.iter().map(|window| window.burn_rate.unwrap()).collect();
    assert!((burn[0] - 20.0).abs() < 1e-6 && (burn[1] - 20.0).abs() < 1e-6, "{burn:?}");
    // 30 looks of 20, in those of 59 minutes and the first of the next one; of 30 days all 390 looks are known.
    assert!((burn[2] - 600.0 / 355.0).abs() < 1e-6 && (burn[5] - 600.0 / 390.0).abs() < 1e-6, "{burn:?}");
    let states: Vec<_> = errors.alerts.iter().map(|alert| (&*alert.name, alert.state)).collect();
    assert_eq!(states, [("IngressErrorRate", AlertState::Pending), ("ErrorBudgetFastBurn001", AlertState::Firing)]);
    let budget = node.of("redirect-availability").error_budget.unwrap();
    let burnt = 600.0 / 390_000.0 / 0.000_1;
    assert!((budget.left_minutes - 4.32 * (1.0 - burnt)).abs() < 1e-6 && budget.left_minutes < 0.0, "{budget:?}");
    node.pass(5 * MINUTE, STEP, healthy);
    assert_eq!(node.breached(), "redirect-availability", "the budget of the month is gone");
    // A month later.
    node.pass(31 * 4, Duration::from_secs(6 * 3_600), healthy);
    assert_eq!(node.breached(), "");
    let budget = node.of("redirect-availability").error_budget.unwrap();
    assert!((budget.left_ratio - 1.0).abs() < 1e-9);
}

#[test]
fn a_dependency_that_is_down_breaches_its_own_objective_and_passes_after_the_window() {
    for name in ["catalog", "dedup", "store"] {
        let mut node = Node::new();
        node.pass(2 * MINUTE, STEP, healthy);
        assert_eq!(node.breached(), "");
        node.pass(1, STEP, |metrics| metrics.set_dependency(name, false));
        assert_eq!(node.breached(), format!("{name}-up"));
        node.pass(3, STEP, healthy);
        assert_eq!(node.breached(), format!("{name}-up"));
        node.metrics.set_dependency(name, true);
        node.pass(MINUTE - 1, STEP, healthy);
        assert_eq!(node.breached(), format!("{name}-up"), "the worst of the window");
        node.pass(1, STEP, healthy);
        assert_eq!((node.breached(), node.report().overall), (String::new(), Verdict::Ok));
    }
}

#[test]
fn clicks_that_wait_and_pools_that_are_used_up_are_told_by_their_own_objectives() {
    let mut node = Node::new();
    node.pass(1, STEP, |metrics| metrics.edge(0).accepted.add(6_000));
    assert_eq!(node.breached(), "queue-depth");
    node.metrics.worker(0).claimed.add(4_000);
    node.pass(MINUTE, STEP, healthy);
    assert_eq!((node.breached(), node.with(Verdict::Warning)), (String::new(), BTreeSet::from(["queue-depth".into()])));
    node.metrics.worker(0).claimed.add(2_000);
    node.pass(MINUTE, STEP, healthy);
    // A pool of no connections is none; of one with ten six are used, then eight.
    assert_eq!((node.of("pool-free").value, node.of("pool-utilisation").value), (None, None));
    let pool = node.metrics.pool(Pooled::Redis);
    let _pool = pool.count_pool(10);
    let mut busy: Vec<_> = (0..6).map(|_| pool.count_busy()).collect();
    node.pass(MINUTE, STEP, healthy);
    assert_eq!(node.of("pool-free").value, Some(4.0));
    assert_eq!(node.breached(), "pool-free");
    assert!((node.of("pool-utilisation").value.unwrap() - 0.6).abs() < 1e-9);
    assert_eq!(node.of("pool-free").alerts[0].state, AlertState::Firing, "at once");
    busy.extend((0..3).map(|_| pool.count_busy()));
    node.pass(1, STEP, healthy);
    assert_eq!(node.breached(), "pool-free pool-utilisation");
    busy.truncate(2);
    node.pass(MINUTE, STEP, healthy);
    assert_eq!(node.breached(), "");
}

#[test]
fn what_could_not_be_measured_says_why() {
    let mut node = Node::new();
    node.pass(1, STEP, |_| {});
    let reason = |id: &str| node.of(id).not_measured.unwrap();
    assert_eq!(reason("redirect-p99"), "nothing of it happened in 5m");
    assert_eq!(reason("redirect-availability"), "nothing of it happened in 30d");
    assert_eq!(reason("warden-up"), "there is no such series: the part is not configured, or cannot be read");
    assert_eq!(reason("release-p95"), "there is no such series: the part is not configured, or cannot be read");
    assert_eq!(reason("redis-memory"), "there is no such series: the part is not configured, or cannot be read");
    node.engine.explain([("trellis_redis_used_memory_bytes", "no answer within 50ms".to_owned())]);
    let why = "trellis_redis_used_memory_bytes cannot be read: no answer within 50ms";
    assert_eq!(node.of("redis-memory").not_measured.as_deref(), Some(why));
    node.engine.explain([]);
    assert_ne!(node.of("redis-memory").not_measured.as_deref(), Some(why), "it is read again");
    assert_eq!(node.of("queue-depth").not_measured, None);
    let phases = node.of("freshness").phases;
    assert_eq!(phases[2].not_measured.as_deref(), Some("nothing of it happened in 5m"));
    let fresh = Engine::new(shipped()).report(BEGIN_MS, None);
    assert_eq!((fresh.overall, &*fresh.measured_since), (Verdict::NoData, ""));
    assert_eq!(fresh.objectives[0].not_measured.as_deref(), Some("nothing was looked at yet"));
    assert_eq!(node.report().measured_since, crate::clock::rfc_3339(BEGIN_MS));
}

#[test]
fn a_report_over_seven_days_judges_those() {
    let mut node = Node::new();
    node.pass(6, STEP, |metrics| visits(metrics, 900, 100, 2_000));
    node.pass(24, Duration::from_secs(6 * 3_600), healthy);
    assert_eq!(node.with(Verdict::Breach), BTreeSet::from(["redirect-availability".into()]));
    let week = node.engine.report(node.now_ms, Some(("7d", Duration::from_secs(7 * 86_400))));
    let of = |id: &str| week.objectives.iter().find(|one| one.id == id).unwrap();
    assert_eq!((of("edge-errors").verdict, &*of("edge-errors").window), (Verdict::Breach, "7d"));
    assert_eq!(week.since.as_deref(), Some("7d"));
    let five = node.engine.report(node.now_ms, Some(("5d", Duration::from_secs(5 * 86_400))));
    let errors = five.objectives.iter().find(|one| one.id == "edge-errors").unwrap();
    assert_eq!((errors.value, errors.verdict), (Some(0.0), Verdict::Ok));
}

#[test]
fn windows_and_budgets_survive_a_restart_and_counters_that_begin_anew() {
    let mut node = Node::new();
    node.pass(20 * MINUTE, STEP, |metrics| visits(metrics, 999, 1, 2_000));
    let (before, bytes) = (node.report(), node.engine.history());
    assert!(bytes.len() < 100_000, "{}", bytes.len());
    // The same moment, from the bytes alone.
    let mut engine = Engine::new(shipped());
    engine.restore(&bytes).unwrap();
    assert_eq!(engine.last_ms(), Some(node.now_ms));
    let after = engine.report(node.now_ms, None);
    assert_eq!(after.measured_since, before.measured_since);
    for (after, before) in after.objectives.iter().zip(&before.objectives) {
        assert_eq!((&after.windows, &after.error_budget), (&before.windows, &before.error_budget), "{}", after.id);
        assert_eq!(after.verdict, before.verdict, "{}", after.id);
    }
    // A process that begins at nothing adds nothing, and goes on.
    let mut next = Node::new();
    (next.engine, next.now_ms) = (engine, node.now_ms + 1);
    next.look();
    assert_eq!(
        next.of("edge-errors").windows,
        before.objectives.iter().find(|o| o.id == "edge-errors").unwrap().windows
    );
    next.pass(20 * MINUTE, STEP, healthy);
    let errors = next.of("edge-errors");
    assert!((errors.windows[2].value.unwrap() - 120.0 / 240_000.0).abs() < 1e-9, "{errors:?}");
}

#[test]
fn a_history_that_is_damaged_is_refused_as_a_whole() {
    let mut node = Node::new();
    node.pass(MINUTE, STEP, healthy);
    let bytes = node.engine.history();
    let read = |bytes: &[u8]| {
        let mut engine = Engine::new(shipped());
        let read = engine.restore(bytes);
        assert!(read.is_ok() || engine.last_ms().is_none());
        read
    };
    assert_eq!(read(&bytes), Ok(()));
    for at in (0..64).chain((64..bytes.len()).step_by(61)) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(read(&damaged).is_err(), "byte {at}");
        assert!(read(&bytes[..at]).is_err(), "cut at {at}");
    }
    let mut later = bytes.clone();
    later[8] = 2;
    assert_eq!(read(&later), Err(history::Unreadable::Version(2)));
    // Good sums around nonsense: nothing is allocated for it.
    let mut nonsense = bytes[..8].to_vec();
    nonsense.extend_from_slice(&1_u32.to_le_bytes());
    let body = [[0_u8; 16].as_slice(), &u32::MAX.to_le_bytes()].concat();
    nonsense.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    nonsense.extend_from_slice(&body);
    assert_eq!(read(&nonsense), Err(history::Unreadable::Damaged));
}

fn engine_of(measure: &str) -> Engine {
    let text =
        format!("[[objective]]\nid = \"a\"\nrequirement = \"R1\"\ndescription = \"d\"\nwindow = \"1m\"\n{measure}");
    Engine::new(Arc::new(from_text(Path::new("t.toml"), &text).unwrap()))
}

fn value(engine: &Engine, now_ms: u64) -> Option<f64> {
    engine.report(now_ms, None).objectives[0].value
}

#[test]
fn a_counter_that_falls_was_begun_anew() {
    let ratio =
        "kind = \"ratio\"\nbad = 'trellis_pool_failures_total'\nall = 'trellis_pool_requests_total'\ntarget = \"1%\"\n";
    let mut engine = engine_of(ratio);
    let families = |bad: u64, all: u64, other: u64| {
        [
            counter("trellis_pool_failures_total", "", "pool", &[("redis", bad)]),
            counter("trellis_pool_requests_total", "", "pool", &[("redis", all), ("clickhouse", other)]),
        ]
    };
    engine.look(&families(500, 1_000, 0), BEGIN_MS);
    assert_eq!(value(&engine, BEGIN_MS), None, "what was before the first look is not of this time");
    engine.look(&families(510, 1_100, 0), BEGIN_MS + 10_000);
    assert_eq!(value(&engine, BEGIN_MS + 10_000), Some(0.1));
    engine.look(&families(2, 20, 80), BEGIN_MS + 20_000);
    assert_eq!(value(&engine, BEGIN_MS + 20_000), Some(0.06), "12 of 100 + 20 + 80");
}

#[test]
fn the_growth_of_a_counter_is_judged_by_the_second_and_by_what_it_is_a_share_of() {
    let cpu = "kind = \"gauge\"\nmetric = 'process_cpu_seconds_total'\nper = \"second\"\nof = 'process_threads'\ncombine = \"sum\"\n\
               goal = \"at_most\"\ntarget = \"75%\"\n";
    let mut engine = engine_of(cpu);
    let families = |seconds: u64| {
        [counter("process_cpu_seconds_total", "", "", &[("", seconds)]), gauge("process_threads", "", "", &[("", 4)])]
    };
    let at = |look: u64| BEGIN_MS + look * 10_000;
    // Absent at first: what it says then did not happen now.
    engine.look(&[], at(0));
    for (look, seconds) in [(1, 1_000), (2, 1_036), (3, 1_072)] {
        engine.look(&families(seconds), at(look));
        assert_eq!(value(&engine, at(look)), None, "20 s say nothing yet");
    }
    engine.look(&families(1_108), at(4));
    assert_eq!((value(&engine, at(4)), engine.report(at(4), None).overall), (Some(0.9), Verdict::Breach));
    // It was begun anew, and then away for a look: the worst of the minute stays.
    engine.look(&families(12), at(5));
    engine.look(&[], at(6));
    for (look, seconds) in [(7, 5_000), (8, 5_001), (9, 5_002), (10, 5_003), (11, 5_004)] {
        engine.look(&families(seconds), at(look));
    }
    let value = value(&engine, at(11)).unwrap();
    assert!((value - 0.025).abs() < 1e-9, "{value}: 1 s in 10 s on 4");
    // What falls was begun anew, and all of it is new: 4 + 2 + 6 s in 30 s on 4.
    let mut engine = engine_of(cpu);
    for (look, seconds) in [(0, 100), (1, 104), (2, 2), (3, 8)] {
        engine.look(&families(seconds), at(look));
    }
    assert_eq!(engine.report(at(3), None).objectives[0].value, Some(0.1));
}

#[test]
fn buckets_that_changed_take_what_was_in_the_old_ones_and_nothing_becomes_quicker() {
    let mut old = Rings::default();
    old.add(BEGIN_MS, &Observed(vec![(0, 1), (1, 2), (2, 4), (3, 8)]));
    let new = history::other_buckets(&old, &[0.01, 0.02, 0.05], &[0.005, 0.02, 0.04, 0.08]);
    let held: Vec<_> = new.within(BEGIN_MS, Window::Minute.length()).cloned().collect();
    assert_eq!(held, [Observed(vec![(1, 3), (3, 4), (4, 8)])]);
}
