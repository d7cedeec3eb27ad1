//! `/api/v1/clicks`: read and count what the store holds.
//!
//! Never changes a click, and knows no store by name. Behind the token. Bounds: [`LIMIT_MAX`] clicks a page.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::access::Caller;
use super::extract::{Query, domain, limit, time};
use super::problem::{Code, Problem};
use crate::click::ClickId;
use crate::pipeline::store::ClickCursor;
use crate::pipeline::{ClickFilter, Counts, StoredClick};

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 1000;
/// The form of a cursor, so that a later form can be told from this one.
const CURSOR: &str = "c1.";
/// What `GET /clicks` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    domain: Option<String>,
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
    domain: Option<String>,
    link: Option<String>,
    campaign: Option<String>,
    from: Option<String>,
    to: Option<String>,
}

pub(super) async fn list(
    State(parts): State<Parts>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let limit = limit(page.limit.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?;
    let behind = page.cursor.as_deref().map(read_cursor).transpose()?;
    let Page { domain, link, campaign, from, to, .. } = page;
    let filter = filter(&caller, Question { domain, link, campaign, from, to })?;
    // One more than asked for: it tells whether there is another page.
    let mut clicks = parts.store.recent(&filter, behind, limit + 1).await?;
    let more = clicks.len() > limit;
    clicks.truncate(limit);
    let next = clicks.last().filter(|_| more).map(cursor).transpose()?;
    Ok(Json(json!({ "clicks": clicks, "next_cursor": next })))
}

pub(super) async fn count(
    State(parts): State<Parts>,
    caller: Caller,
    Query(question): Query<Question>,
) -> Result<Json<Counts>, Problem> {
    Ok(Json(parts.store.count(&filter(&caller, question)?).await?))
}

fn filter(caller: &Caller, question: Question) -> Result<ClickFilter, Problem> {
    let moment = |name: &'static str, text: &Option<String>| {
        text.as_deref().map(time).transpose().map_err(|detail| Problem::parameter(name, detail))
    };
    let (from_ms, to_ms) = (moment("from", &question.from)?, moment("to", &question.to)?);
    if let (Some(from), Some(to)) = (from_ms, to_ms)
        && from >= to
    {
        return Err(Problem::parameter("from", "must lie before `to`"));
    }
    let domain = domain(question.domain.as_deref())?;
    let Question { link, campaign, .. } = question;
    Ok(ClickFilter { org: caller.owned_org(), domain, link, campaign, from_ms, to_ms })
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
