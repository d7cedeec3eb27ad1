//! `trellis probe`: the checks that a node makes of itself, made from elsewhere.
//!
//! It needs no data folder and no token. One request at a time, each on a connection of its own, no redirect is followed.
//! Bounds: [`COUNT_MAX`] rounds, [`ANSWER_MAX`] for an answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use url::Url;

use super::output::{Out, Stop, cell};
use crate::app::http::Times;
use crate::app::probe::{Asker, Check, Seen};
use crate::click::canary;
use crate::clock::{Clock, SystemClock, rfc_3339};
use crate::config::Secret;

const COUNT_MAX: u64 = 1_000_000;
/// A visitor would have gone long before.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// `trellis probe`
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each round follows the link of --url, or, when that has no path, the canary, which every node has. Its click is of the
class `monitor`, and its user agent says where it came from. Each line: time, place, check, ok or failed, status, the times
to the connection, over https from there to the end of the TLS handshake, from there to the first byte, and to the end,
click id; or what is wrong.

Examples:
  trellis probe --url https://go.example --location frankfurt --count 10 --interval 60
  trellis probe --url https://go.example/spring --location home --format json
  trellis probe --url https://go.internal --ca internal-ca.pem --location rack-1
  trellis probe --url http://10.0.0.5:8080 --control http://10.0.0.5:8081 --location rack-2

Exit code: 0 when all was as it should be, 1 when not.")]
pub(super) struct Probe {
    /// The edge, or a link on it
    #[arg(long, value_name = "URL")]
    url: Url,
    /// The place from which it is asked: letters, digits and - _ .
    #[arg(long, value_name = "NAME", value_parser = canary::check_location)]
    location: String,
    /// The operator side; then /health, /health/ready and /metrics are asked for too
    #[arg(long, value_name = "URL")]
    control: Option<Url>,
    /// With https://: trust the authorities of this file (PEM), in place of those that this machine trusts
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// So many rounds
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=COUNT_MAX))]
    count: u64,
    /// Seconds from the beginning of a round to that of the next
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    interval: u64,
    /// A line for people, or a JSON object, for each check
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Makes all rounds.
pub(super) async fn run(probe: Probe) -> Result<(), Stop> {
    let urls: Vec<_> = [&probe.url].into_iter().chain(&probe.control).cloned().collect();
    let trust = super::trust(probe.ca.as_deref(), &urls)?;
    let clock = Arc::new(SystemClock::new());
    let asker = Asker {
        clock: Arc::clone(&clock) as _,
        timeout: ANSWER_MAX,
        agent: canary::agent(&probe.location),
        secret: Secret::default(),
        trust,
    };
    let mut out = Out::new();
    let (mut checks, mut failed) = (0_u64, 0_u64);
    // The first tick is at once; a pause of nothing is one of a millisecond.
    let mut rounds = tokio::time::interval(Duration::from_secs(probe.interval).max(Duration::from_millis(1)));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..probe.count {
        rounds.tick().await;
        for check in [Check::Redirect, Check::Health, Check::Ready, Check::Metrics] {
            let at_ms = clock.wall_ms();
            let (url, seen) = match (check, &probe.control) {
                (Check::Redirect, _) => (&probe.url, asker.follow(&probe.url).await),
                (_, Some(control)) => (control, asker.look(check, control).await),
                (_, None) => continue,
            };
            checks += 1;
            failed += u64::from(seen.problem.is_some());
            match probe.format {
                Format::Text => out.line(text(at_ms, &probe.location, check, &seen))?,
                Format::Json => out.line(object(at_ms, &probe.location, check, url, &seen))?,
            }
        }
        out.flush()?;
    }
    if probe.format == Format::Text && checks > 1 {
        out.line(format_args!("{} of {checks} checks were as they should be", checks - failed))?;
        out.flush()?;
    }
    if failed > 0 { Err(Stop::Told) } else { Ok(()) }
}

fn text(at_ms: u64, location: &str, check: Check, seen: &Seen) -> String {
    let begin = format!("{}  {location}  {:<8}", rfc_3339(at_ms), check.name());
    let status = seen.status.map_or_else(|| "-".to_owned(), |status| status.as_str().to_owned());
    let times = seen.times.map_or_else(String::new, |times| {
        phases(&times)
            .map(|(phase, took)| format!("  {} {:.3} ms", phase.replace('_', " "), milliseconds(took)))
            .collect()
    });
    let end = match (&seen.problem, seen.click_id) {
        (Some(problem), _) => format!("  {}", cell(problem)),
        (None, Some(id)) => format!("  {id}"),
        (None, None) => String::new(),
    };
    let verdict = if seen.problem.is_none() { "ok    " } else { "failed" };
    format!("{begin}  {verdict}  {status}{times}{end}")
}

fn object(at_ms: u64, location: &str, check: Check, url: &Url, seen: &Seen) -> Value {
    let mut object = json!({
        "time": rfc_3339(at_ms),
        "location": location,
        "check": check.name(),
        "url": url.as_str(),
        "success": seen.problem.is_none(),
        "status": seen.status.map(|status| status.as_u16()),
        "click_id": seen.click_id.map(|id| id.to_string()),
        "problem": seen.problem,
    });
    for (phase, took) in seen.times.iter().flat_map(phases) {
        object[format!("{phase}_ms")] = milliseconds(took).into();
    }
    object
}

/// The phases of an answer as they are seen from here: to the connection; over https from there to the end of the handshake;
/// from there to the first byte; all of it.
fn phases(times: &Times) -> impl Iterator<Item = (&'static str, Duration)> {
    let tls = times.secured.map(|secured| ("tls", secured.saturating_sub(times.connected)));
    let first_byte = times.answered.saturating_sub(times.secured.unwrap_or(times.connected));
    let others = [("first_byte", first_byte), ("whole", times.whole)];
    [("connect", times.connected)].into_iter().chain(tls).chain(others)
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    use hyper::StatusCode;

    fn seen() -> Seen {
        let times = Times {
            connected: Duration::from_micros(400),
            secured: None,
            answered: Duration::from_micros(1_900),
            whole: Duration::from_millis(2),
        };
        let id = crate::click::ClickId::new(1_700_000_000_000, &[7; 10]);
        Seen {
            status: Some(StatusCode::FOUND),
            times: Some(times),
            click_id: Some(id),
            took: times.whole,
            problem: None,
        }
    }

    #[test]
    fn a_line_has_time_place_verdict_status_times_and_the_click_or_what_is_wrong() {
        let line = text(1_700_000_000_000, "fra", Check::Redirect, &seen());
        let times = "connect 0.400 ms  first byte 1.500 ms  whole 2.000 ms";
        let id = seen().click_id.unwrap();
        assert_eq!(line, format!("2023-11-14T22:13:20.000Z  fra  redirect  ok      302  {times}  {id}"));
        let bad = Seen { status: None, times: None, click_id: None, problem: Some("no\u{1b}".into()), ..seen() };
        let line = text(0, "fra", Check::Ready, &bad);
        assert_eq!(line, "1970-01-01T00:00:00.000Z  fra  ready     failed  -  no\\u{1b}");
    }

    #[test]
    fn an_object_has_the_same_with_times_in_milliseconds() {
        let url = Url::parse("http://a.example/x").unwrap();
        let object = object(1_700_000_000_000, "fra", Check::Redirect, &url, &seen());
        let times = (&object["connect_ms"], &object["first_byte_ms"], &object["whole_ms"]);
        assert_eq!(times, (&0.4.into(), &1.5.into(), &2.0.into()));
        assert_eq!(
            (&object["success"], &object["status"], &object["problem"]),
            (&true.into(), &302.into(), &Value::Null)
        );
        assert_eq!((&object["location"], &object["url"]), (&"fra".into(), &"http://a.example/x".into()));
    }
}
