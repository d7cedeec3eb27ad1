//! `GET /api/v1/ledger`: what became of every visit, by the minute, the hour or the day.
//!
//! Judges the question and adds lines up; [`crate::pipeline::ledger`] knows them. Behind the token. Bounds: [`LIMIT_MAX`]
//! rows and [`MINUTES_MAX`] minutes a page; [`BACK_MAX`] minutes back.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::extract::{Query, limit, time};
use super::problem::{Code, Problem};
use super::verify::rfc_3339;
use crate::pipeline::ledger::Line;
use crate::pipeline::store::Level;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1500;
const MINUTE_MS: u64 = 60_000;
/// What is asked for when nobody says.
const HOUR_MS: u64 = 60 * MINUTE_MS;
/// A week a page.
const MINUTES_MAX: u64 = 7 * 1440;
/// Older minutes are not looked for: above the longest `ledger.keep`.
const BACK_MAX: u64 = 400 * 1440;
/// The form of a cursor, so that a later form can be told from this one.
const CURSOR: &str = "l1.";

/// What `GET /ledger` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    from: Option<String>,
    to: Option<String>,
    by: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn list(State(parts): State<Parts>, Query(page): Query<Page>) -> Result<Json<Value>, Problem> {
    let limit = limit(page.limit.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?;
    let by = level(page.by.as_deref())?.minutes();
    let now_ms = parts.ledger.now_ms();
    let to_ms = moment("to", page.to.as_deref())?.unwrap_or(now_ms);
    let from_ms = moment("from", page.from.as_deref())?.unwrap_or(to_ms.saturating_sub(HOUR_MS));
    if from_ms >= to_ms {
        return Err(Problem::parameter("from", "must lie before `to`"));
    }
    let (from, to) = (from_ms / MINUTE_MS, to_ms.div_ceil(MINUTE_MS));
    let start = page.cursor.as_deref().map(read_cursor).transpose()?.unwrap_or(from);
    let start = start.max((now_ms / MINUTE_MS).saturating_sub(BACK_MAX)).clamp(from, to);
    // Whole units, so that none is on two pages.
    let stop = to.min((start + MINUTES_MAX) / by * by);
    let ledger = Arc::clone(&parts.ledger);
    let lines = tokio::task::spawn_blocking(move || ledger.lines(start..stop)).await;
    let lines = match lines {
        Ok(Ok(lines)) => lines,
        Ok(Err(error)) => return Err(Problem::new(Code::LedgerUnavailable, error.to_string())),
        Err(_) => return Err(Problem::new(Code::LedgerUnavailable, "the question broke off")),
    };
    let mut rows = Vec::<Line>::new();
    for line in lines {
        let minute = (line.minute - line.minute % by).max(from);
        match rows.last_mut() {
            Some(row) if row.minute == minute => row.add(&line),
            _ => rows.push(Line { minute, ..line }),
        }
    }
    let beyond = rows.get(limit).map(|row| row.minute);
    rows.truncate(limit);
    let mut total = Line::default();
    rows.iter().for_each(|row| total.add(row));
    Ok(Json(json!({
        "node": parts.ledger.node(),
        "from": rfc_3339(from),
        "to": rfc_3339(to),
        "rows": rows.iter().map(|row| with_time(figures(row), row.minute)).collect::<Vec<_>>(),
        "total": figures(&total),
        "next_cursor": beyond.or((stop < to).then_some(stop)).map(cursor),
    })))
}

fn with_time(mut row: Value, minute: u64) -> Value {
    row["minute"] = json!(rfc_3339(minute));
    row
}

fn figures(line: &Line) -> Value {
    json!({
        "visits": line.visits(),
        "accepted": line.accepted,
        "untracked": line.untracked,
        "stored": line.stored,
        "in_flight": line.in_flight,
        "refused": line.refused,
        "dropped": line.dropped,
        "erased": line.erased,
        "damaged": line.damaged,
        "residual": line.residual(),
    })
}

fn level(text: Option<&str>) -> Result<Level, Problem> {
    match text {
        None | Some("minute") => Ok(Level::Minute),
        Some("hour") => Ok(Level::Hour),
        Some("day") => Ok(Level::Day),
        Some(_) => Err(Problem::parameter("by", "must be `minute`, `hour` or `day`")),
    }
}

fn moment(name: &str, text: Option<&str>) -> Result<Option<u64>, Problem> {
    text.map(|text| time(text).map_err(|detail| Problem::parameter(name, detail))).transpose()
}

fn cursor(minute: u64) -> String {
    format!("{CURSOR}{minute}")
}

fn read_cursor(text: &str) -> Result<u64, Problem> {
    let minute = text.strip_prefix(CURSOR).and_then(|minute| minute.parse().ok());
    let minute = minute.filter(|minute| *minute < u64::from(u32::MAX) && cursor(*minute) == text);
    minute.ok_or_else(|| Problem::new(Code::InvalidCursor, "the cursor is none of ours; send `next_cursor` as it came"))
}
