//! `POST /api/v1/verify`: compare the rollups with the clicks, and mend them.
//!
//! Judges the times; [`crate::pipeline::verify`] does the rest. Behind the token. Bound: one day (UTC) a request; the
//! answer says where to go on.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Deserialize;
use serde_json::json;

use super::Parts;
use super::extract::{Fields, NoParameters, Query, time};
use super::problem::{Problem, Wrong};
use super::write::OnlyRead;
use crate::pipeline::verify::verify;

const MINUTE_MS: u64 = 60_000;
const DAY_MINUTES: u64 = 1440;

/// What `POST /verify` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    from: Option<String>,
    to: Option<String>,
    dry_run: Option<bool>,
}

pub(super) async fn run(
    State(parts): State<Parts>,
    Query(NoParameters {}): Query<NoParameters>,
    Fields { value, .. }: Fields<Body>,
) -> Result<Response, Problem> {
    let Body { from, to, dry_run } = value;
    let (from, to) = (moment("from", from)?, moment("to", to)?);
    if from >= to {
        return Err(Problem::fields([Wrong::new("from", "must lie before `to`")]));
    }
    let (first, end) = (from / MINUTE_MS, to.div_ceil(MINUTE_MS));
    let stop = end.min((first / DAY_MINUTES + 1) * DAY_MINUTES);
    let verdict = verify(&*parts.store, first..stop, !dry_run.unwrap_or(false)).await?;
    let differences = verdict.found.iter().map(|found| {
        json!({
            "level": found.level,
            "from": rfc_3339(found.minute),
            "groups": found.groups,
            "clicks": found.clicks,
            "counted": found.counted,
        })
    });
    let answer = Json(json!({
        "from": rfc_3339(first),
        "to": rfc_3339(stop),
        "differences": differences.collect::<Vec<_>>(),
        "left": verdict.left,
        "next": (stop < end).then(|| rfc_3339(stop)),
    }));
    Ok(if dry_run == Some(true) { (Extension(OnlyRead), answer).into_response() } else { answer.into_response() })
}

fn moment(name: &str, text: Option<String>) -> Result<u64, Problem> {
    let judged = text.ok_or("is missing").and_then(|text| time(&text));
    judged.map_err(|detail| Problem::fields([Wrong::new(name, detail)]))
}

/// A minute as people read it.
pub(super) fn rfc_3339(minute: u64) -> String {
    let seconds = i64::try_from(minute.saturating_mul(60)).unwrap_or(i64::MAX);
    // Times of requests lie within the calendar.
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
