//! `GET /`: the status page, for a person with a browser. One HTML document that the server renders: no script, nothing from
//! elsewhere. Open to everyone who reaches the listener, as `/metrics` is.
//!
//! It asks whatever is measured, and of what is not there it says so. Nothing waits for it, and many who look cost little:
//! what was rendered is given out again for [`PAGE_KEPT`], the links for [`LINKS_KEPT`], and one renders at a time. Bounds:
//! [`BYTES_MAX`](render::BYTES_MAX) of a page; [`LINKS_TIMEOUT`] for the store.

mod html;
mod promised;
mod render;
#[cfg(test)]
mod tests;
mod view;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use self::render::{ROWS_MAX, STYLE, grouped, took};
use self::view::{Dependency, Figure, Hour, Mark, Measured, NotMeasured, Probe, Slow, View};
use super::Parts;
use super::status::needed_for;
use crate::clock::rfc_3339;
use crate::pipeline::ledger::Line;
use crate::pipeline::store::LinkCount;
use crate::telemetry::calls::{Severity, SlowCall};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::probe::Check;

const PAGE_KEPT: Duration = Duration::from_secs(1);
const LINKS_KEPT: Duration = Duration::from_secs(15);
const LINKS_TIMEOUT: Duration = Duration::from_secs(2);
const HOUR_MINUTES: u64 = 60;
const MINUTE_MS: u64 = 60_000;

/// No script, no frame, no form, nothing loaded; the style is the one that is in the page, by its digest.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let digest = base64(&Sha256::digest(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("plain ASCII")
});

/// What only a running node has.
#[derive(Clone, Debug)]
pub struct Running {
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// When it began, by the monotonic clock.
    pub began: Duration,
}

/// The page as it was given out last.
pub(super) struct StatusPage {
    kept: Mutex<Kept>,
    /// Its place among the names of endpoints.
    place: usize,
}

#[derive(Default)]
struct Kept {
    page: Option<(Duration, Bytes)>,
    links: Option<(Duration, Measured<Vec<LinkCount>>)>,
}

impl StatusPage {
    /// Whose answers are counted at this place.
    pub(super) fn counted_at(place: usize) -> Self {
        Self { kept: Mutex::default(), place }
    }

    pub(super) async fn show(&self, parts: &Parts) -> Response {
        let began = parts.clock.now();
        let mut kept = self.kept.lock().await;
        let is_young = |at: Duration, age: Duration| parts.clock.now().saturating_sub(at) < age;
        let page = match &kept.page {
            Some((at, page)) if is_young(*at, PAGE_KEPT) => page.clone(),
            _ => {
                let view = kept.fill(parts).await;
                let page = Bytes::from(render::page(&view));
                kept.page = Some((parts.clock.now(), page.clone()));
                page
            }
        };
        drop(kept);
        parts.api.observe(self.place, 200, parts.clock.now().saturating_sub(began));
        let mut answer = ([(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response();
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, POLICY.clone());
        answer.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    }
}

impl Kept {
    /// Asks everybody.
    async fn fill(&mut self, parts: &Parts) -> View {
        let running = parts.running.as_ref();
        let (ledger, links) = tokio::join!(hour(parts), self.links(parts));
        let not_running = || NotMeasured::new("no node runs here");
        let report = running.and_then(|running| running.metrics.slo().report());
        View {
            node: parts.node.to_string(),
            state: parts.status.state().name(),
            at: moment(parts.clock.wall_ms()),
            uptime: running.map(|running| parts.clock.now().saturating_sub(running.began)),
            figures: figures(running, ledger.as_ref().ok()),
            objectives: report.as_deref().map_or_else(no_report, |report| Ok(promised::objectives(report))),
            phases: report.as_deref().map_or_else(no_report, |report| Ok(promised::phases(report))),
            ledger,
            dependencies: dependencies(parts),
            probes: running.map_or_else(not_running, |running| Ok(probes(&running.metrics))),
            links,
            slow: match running.and_then(|running| running.metrics.calls()) {
                Some(calls) => Ok(calls.slow().into_iter().take(ROWS_MAX).map(slow).collect()),
                None => NotMeasured::new("no node runs here"),
            },
        }
    }

    /// The links of the last hour, asked of the store now and then.
    async fn links(&mut self, parts: &Parts) -> Measured<Vec<LinkCount>> {
        let now = parts.clock.now();
        if let Some((at, links)) = &self.links
            && now.saturating_sub(*at) < LINKS_KEPT
        {
            return links.clone();
        }
        let links = top_links(parts).await;
        self.links = Some((now, links.clone()));
        links
    }
}

fn no_report<T>() -> Measured<T> {
    NotMeasured::new("a node looks at them every 10 s, and has not yet")
}

async fn top_links(parts: &Parts) -> Measured<Vec<LinkCount>> {
    let now = parts.clock.wall_ms() / MINUTE_MS;
    let question = parts.store.top_links(now.saturating_sub(HOUR_MINUTES - 1)..now + 1, ROWS_MAX);
    match tokio::time::timeout(LINKS_TIMEOUT, question).await {
        Ok(Ok(links)) => Ok(links),
        Ok(Err(error)) => NotMeasured::new(format!("the store says: {error}")),
        Err(_) => NotMeasured::new(format!("the store does not answer within {LINKS_TIMEOUT:?}")),
    }
}

/// The books of the last hour.
async fn hour(parts: &Parts) -> Measured<Hour> {
    let now = parts.clock.wall_ms() / MINUTE_MS;
    let first = now.saturating_sub(HOUR_MINUTES - 1);
    let ledger = Arc::clone(&parts.ledger);
    let lines = match tokio::task::spawn_blocking(move || ledger.lines(first..now + 1)).await {
        Ok(Ok(lines)) => lines,
        Ok(Err(error)) => return NotMeasured::new(error.to_string()),
        Err(_) => return NotMeasured::new("the question broke off"),
    };
    let (mut total, mut visits) = (Line::default(), vec![0; HOUR_MINUTES as usize]);
    for line in &lines {
        total.add(line);
        if let Some(minute) = visits.get_mut((line.minute - first) as usize) {
            *minute = line.visits();
        }
    }
    let sums = vec![
        ("visits", total.visits()),
        ("accepted", total.accepted),
        ("untracked", total.untracked),
        ("stored", total.stored),
        ("in flight", total.in_flight),
        ("refused", total.refused),
        ("dropped", total.dropped),
        ("erased", total.erased),
        ("damaged", total.damaged),
    ];
    Ok(Hour { visits, sums, residual: total.residual() })
}

/// What is looked at first.
fn figures(running: Option<&Running>, hour: Option<&Hour>) -> Vec<Figure> {
    let metrics = running.map(|running| &running.metrics);
    let waiting = metrics.map(|metrics| metrics.pending());
    let freshness = metrics.and_then(|metrics| metrics.probe().freshness());
    let visits = hour.map(|hour| hour.visits.iter().sum());
    let residual = hour.map(|hour| hour.residual);
    vec![
        Figure { name: "Visits", value: visits.map(grouped), note: "the last hour".to_owned(), mark: Mark::Good },
        Figure {
            name: "Click to queryable",
            value: freshness.map(took),
            note: "of the last canary click".to_owned(),
            mark: Mark::Good,
        },
        Figure {
            name: "Clicks waiting",
            value: waiting.map(grouped),
            note: "accepted, not yet at a worker".to_owned(),
            mark: Mark::Good,
        },
        Figure {
            name: "Ledger residual",
            value: residual.map(|residual| residual.to_string()),
            note: "clicks that nobody can find".to_owned(),
            mark: if residual == Some(0) { Mark::Good } else { Mark::Bad },
        },
    ]
}

fn dependencies(parts: &Parts) -> Vec<Dependency> {
    let tell = |name, backend, up, detail: &str| {
        let detail = if up { String::new() } else { format!("{detail}; waits for it: {}", needed_for(name)) };
        Dependency { name, backend, up, detail }
    };
    parts.status.each_dependency(tell)
}

fn probes(metrics: &Metrics) -> Vec<Probe> {
    let shard = metrics.probe();
    let one = |check: Check| {
        let last = shard.last(check);
        let mark = last.map_or(Mark::Unknown, |last| if last.success { Mark::Good } else { Mark::Bad });
        Probe { name: check.name(), took: last.map(|last| last.took), mark }
    };
    Check::ALL.map(one).into()
}

fn slow(call: SlowCall) -> Slow {
    let (dependency, op) = call.call.names();
    let mark = if call.severity == Severity::Warning { Mark::Warning } else { Mark::Bad };
    let (dependency, level) = (dependency.name(), call.severity.name());
    Slow { at: moment(call.at_ms), dependency, op, took: call.took, level, mark }
}

/// `2026-11-21 21:00:00`
fn moment(unix_ms: u64) -> String {
    rfc_3339(unix_ms).chars().take(19).map(|character| if character == 'T' { ' ' } else { character }).collect()
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let number = three.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(number >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
