//! `/api/v1/clicks`: read and count what the store holds.
//!
//! Never changes a click, and knows no store by name. Behind the token. Bounds: [`LIMIT_MAX`] clicks a page.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::extract::{Query, limit};
use super::problem::{Code, Problem};
use crate::click::ClickId;
use crate::pipeline::store::ClickCursor;
use crate::pipeline::{ClickFilter, Counts, StoredClick};

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 1000;
/// The form of a cursor, so that a later form can be told from this one.
const CURSOR: &str = "c1.";
/// The last moment that can be written with any offset within the year 9999 (jiff's last), in Unix milliseconds.
const TIME_MS_MAX: u64 = 253_402_207_200_999;

/// What `GET /clicks` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    link: Option<String>,
    campaign: Option<String>,
    from: Option<String>,
    to: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// What `GET /clicks/count` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    link: Option<String>,
    campaign: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

pub(super) async fn list(State(parts): State<Parts>, Query(page): Query<Page>) -> Result<Json<Value>, Problem> {
    let limit = limit(page.limit.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?;
    let behind = page.cursor.as_deref().map(read_cursor).transpose()?;
    let filter = filter(Question { link: page.link, campaign: page.campaign, from: page.from, to: page.to })?;
    // One more than asked for: it tells whether there is another page.
    let mut clicks = parts.store.recent(&filter, behind, limit + 1).await?;
    let more = clicks.len() > limit;
    clicks.truncate(limit);
    let next = clicks.last().filter(|_| more).map(cursor).transpose()?;
    Ok(Json(json!({ "clicks": clicks, "next_cursor": next })))
}

pub(super) async fn count(
    State(parts): State<Parts>,
    Query(question): Query<Question>,
) -> Result<Json<Counts>, Problem> {
    Ok(Json(parts.store.count(&filter(question)?).await?))
}

fn filter(question: Question) -> Result<ClickFilter, Problem> {
    let from_ms = question.from.as_deref().map(|text| time("from", text)).transpose()?;
    let to_ms = question.to.as_deref().map(|text| time("to", text)).transpose()?;
    if let (Some(from), Some(to)) = (from_ms, to_ms)
        && from >= to
    {
        return Err(Problem::parameter("from", "must lie before `to`"));
    }
    Ok(ClickFilter { link: question.link, campaign: question.campaign, from_ms, to_ms })
}

/// A time as Unix milliseconds.
fn time(name: &str, text: &str) -> Result<u64, Problem> {
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unix_ms = if number {
        text.parse().ok()
    } else {
        text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok())
    };
    unix_ms.filter(|ms| *ms <= TIME_MS_MAX).ok_or_else(|| {
        let hint = "must be a time from 1970 on, as RFC 3339 (2026-11-21T08:00:00Z; write the + of an offset as %2B) or in \
                    Unix milliseconds";
        Problem::parameter(name, hint)
    })
}

fn cursor(last: &StoredClick) -> Result<String, Problem> {
    match last.click_id.parse::<ClickId>() {
        Ok(id) => Ok(format!("{CURSOR}{}.{id}", id.unix_ms())),
        Err(_) => Err(Problem::new(Code::StoreUnavailable, "the store holds a click whose id is none")),
    }
}

/// The time stands in the cursor twice, in plain and in the id: what was changed or cut does not fit.
fn read_cursor(text: &str) -> Result<ClickCursor, Problem> {
    let parse = || {
        let (unix_ms, id) = text.strip_prefix(CURSOR)?.split_once('.')?;
        let (cursor, spelled) = (ClickCursor { unix_ms: unix_ms.parse().ok()?, id: id.parse().ok()? }, id);
        (cursor.id.unix_ms() == cursor.unix_ms && cursor.id.to_string() == spelled).then_some(cursor)
    };
    parse()
        .ok_or_else(|| Problem::new(Code::InvalidCursor, "the cursor is none of ours; send `next_cursor` as it came"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_or_milliseconds() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500),
            ("9999-12-30T22:00:00.999Z", TIME_MS_MAX),
        ] {
            assert_eq!(time("from", text).unwrap(), ms, "{text}");
        }
        for bad in
            ["", "-1", "1e3", "now", "2023-11-14", "1969-12-31T23:59:59Z", "99999999999999999999", "253402207201000"]
        {
            assert!(time("from", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cursor_is_taken_only_as_it_was_given() {
        let id = ClickId::new(1_700_000_000_000, &[7; 10]);
        let good = format!("c1.1700000000000.{id}");
        assert_eq!(read_cursor(&good).unwrap(), ClickCursor { unix_ms: 1_700_000_000_000, id });
        for bad in [
            String::new(),
            id.to_string(),
            format!("c1.1700000000001.{id}"),
            format!("c2.1700000000000.{id}"),
            format!("c1.1700000000000.{}", id.to_string().to_uppercase()),
            format!("c1.1700000000000.{{{id}}}"),
            format!("{good} "),
            good[..good.len() - 1].to_owned(),
        ] {
            assert!(read_cursor(&bad).is_err(), "{bad}");
        }
    }
}
