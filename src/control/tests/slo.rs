//! `/slo`: open, JSON, and what it takes.

use super::*;
use crate::config::slo::shipped;
use crate::telemetry::metrics::{Metrics, Outcome};
use crate::telemetry::slo::{Engine, Report, Verdict};

const NOON_MS: u64 = 20_000 * 86_400_000;

/// Of a node with one visit in a hundred not recorded.
pub(super) fn report(since: Option<(&str, Duration)>) -> Report {
    let metrics = Metrics::new(1, 1, &["store"], || 0).unwrap();
    let mut engine = Engine::new(shipped());
    engine.begin(&metrics.gather(NOON_MS), NOON_MS);
    (0..99).for_each(|_| metrics.edge(0).count(Outcome::Redirected));
    metrics.edge(0).count(Outcome::Untracked);
    metrics.edge(0).redirect_duration.observe_duration(Duration::from_micros(100));
    engine.look(&metrics.gather(NOON_MS + 10_000), NOON_MS + 10_000);
    engine.report(NOON_MS + 10_000, since)
}

#[tokio::test]
async fn the_objectives_are_open_and_json() {
    let bench = Bench::new().await;
    let answer = bench.send("GET", "/slo", &[], "").await;
    assert_eq!((answer.status, &answer.headers[CONTENT_TYPE]), (StatusCode::OK, &JSON.parse().unwrap()));
    let told: Report = serde_json::from_value(answer.json()).unwrap();
    let (known, lines) = (report(None), |report: &Report| {
        let lines = report.objectives.iter().map(|one| format!("{} {:.9?} {:?}", one.id, one.value, one.verdict));
        lines.collect::<Vec<_>>()
    });
    // JSON keeps a number but for its last digit.
    assert_eq!((lines(&told), &told.at), (lines(&known), &known.at));
    assert_eq!((told.overall, &answer.json()["overall"]), (Verdict::Breach, &json!("BREACH")));
    let week = bench.send("GET", "/slo?since=7d", &[], "").await.json();
    assert_eq!((&week["since"], &week["objectives"][0]["window"]), (&json!("7d"), &json!("7d")));
}

#[tokio::test]
async fn a_time_that_cannot_be_judged_is_refused() {
    let bench = Bench::new().await;
    for query in ["since=31d", "since=59s", "since=soon", "since=", "till=7d"] {
        let answer = bench.send("GET", &format!("/slo?{query}"), &[], "").await;
        answer.assert_problem(400, "invalid_parameter");
    }
    bench.send("POST", "/slo", &[], "").await.assert_problem(405, "method_not_allowed");
}
