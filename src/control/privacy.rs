//! `/api/v1/privacy`: what is kept of one person, shown and erased.
//!
//! Judges whose clicks are meant; [`crate::pipeline::persons`] does the rest, and writes an audit line without saying who it
//! was. Both need the control token; once there are keys, a key of the scope admin, and no lesser one. An erase that was
//! begun is brought to its end when the client goes away. Bounds: those of `pipeline::persons`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::dead_letters;
use super::extract::{Fields, NoParameters, Query};
use super::problem::{Code, Problem, Wrong};
use crate::click::kept::Keeping;
use crate::clock::rfc_3339;
use crate::pipeline::persons::{PersonsError, Selector};
use crate::pipeline::store::ClickCursor;

/// Bytes of a selector.
const TEXT_BYTES_MAX: usize = 4096;
/// The form of a cursor, so that a later form can be told from this one.
const CURSOR: &str = "p1.";

/// What `POST /privacy/export` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    click_id: Option<String>,
    external_click_id: Option<String>,
    address: Option<String>,
    ip: Option<String>,
    cursor: Option<String>,
}

/// What `POST /privacy/erase` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Erase {
    click_id: Option<String>,
    external_click_id: Option<String>,
    address: Option<String>,
    ip: Option<String>,
    node: Option<String>,
    confirm: Option<bool>,
}

/// NDJSON: a line for each click, and a last one that says whether there are more.
pub(super) async fn export(
    State(parts): State<Parts>,
    Query(NoParameters {}): Query<NoParameters>,
    Fields { value: body, .. }: Fields<Export>,
) -> Result<Response, Problem> {
    let fields = [body.click_id, body.external_click_id, body.address, body.ip];
    let who = selector(&parts.persons.addresses, fields).map_err(|wrong| Problem::fields([wrong]))?;
    let behind = body.cursor.as_deref().map(read_cursor).transpose()?;
    let page = parts.persons.export(&who, behind).await?;
    let mut lines = String::new();
    let mut line = |value: Value| {
        lines.push_str(&value.to_string());
        lines.push('\n');
    };
    for refusal in &page.refused {
        for row in &refusal.rows {
            line(
                json!({ "place": "dead_letters", "batch": refusal.batch.to_string(), "click": dead_letters::row(row) }),
            );
        }
    }
    for click in &page.stored.clicks {
        line(json!({ "place": "store", "click": click }));
    }
    line(json!({ "next_cursor": page.stored.next.map(cursor) }));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

pub(super) async fn erase(
    State(parts): State<Parts>,
    Query(NoParameters {}): Query<NoParameters>,
    Fields { value: body, .. }: Fields<Erase>,
) -> Result<Json<Value>, Problem> {
    let fields = [body.click_id, body.external_click_id, body.address, body.ip];
    let who = selector(&parts.persons.addresses, fields);
    let confirmed = body.confirm == Some(true);
    let missing = (!confirmed).then(|| Wrong::new("confirm", "must be true: what is erased cannot be got back"));
    let who = match (who, missing) {
        (Ok(who), None) => who,
        (who, missing) => return Err(Problem::fields(who.err().into_iter().chain(missing))),
    };
    let (desk, node) = (Arc::clone(&parts.persons), body.node);
    let erased = tokio::spawn(async move { desk.erase(&who, node.as_deref()).await }).await;
    let erased = erased.map_err(|_| Problem::new(Code::StoreUnavailable, "the erase broke off; ask again"))??;
    let mut answer = json!(erased);
    answer["before"] = json!(rfc_3339(erased.before_ms));
    if let Some(object) = answer.as_object_mut() {
        object.remove("before_ms");
    }
    Ok(Json(answer))
}

/// Whose clicks: exactly one of the four.
fn selector(addresses: &Keeping, fields: [Option<String>; 4]) -> Result<Selector, Wrong> {
    const NAMES: [&str; 4] = ["click_id", "external_click_id", "address", "ip"];
    let mut given = NAMES.into_iter().zip(fields).filter_map(|(name, value)| Some((name, value?)));
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        return Err(Wrong::new("", "must have exactly one of `click_id`, `external_click_id`, `address` and `ip`"));
    };
    if value.is_empty() || value.len() > TEXT_BYTES_MAX {
        return Err(Wrong::new(name, format!("must have 1 to {TEXT_BYTES_MAX} bytes")));
    }
    match name {
        "click_id" => match value.parse() {
            Ok(id) => Ok(Selector::ClickId(id)),
            Err(_) => Err(Wrong::new(name, "is no id such as the one in X-Click-Id")),
        },
        "external_click_id" => Ok(Selector::ExternalClickId(value)),
        "address" => {
            let address: IpAddr =
                value.parse().map_err(|_| Wrong::new(name, "is no address such as 203.0.113.9 or 2001:db8::1"))?;
            let kept = addresses.keep(address).ok_or_else(|| {
                Wrong::new(name, "is kept by no click: privacy.ip is \"none\"; clicks of before have it as `ip`")
            })?;
            Ok(Selector::Ip(kept.to_string()))
        }
        _ => Ok(Selector::Ip(value)),
    }
}

fn cursor(at: ClickCursor) -> String {
    format!("{CURSOR}{}", at.id)
}

fn read_cursor(text: &str) -> Result<ClickCursor, Problem> {
    let id = text.strip_prefix(CURSOR).and_then(|id| id.parse::<crate::click::ClickId>().ok());
    let at = id.map(|id| ClickCursor { unix_ms: id.unix_ms(), id }).filter(|at| cursor(*at) == text);
    at.ok_or_else(|| Problem::new(Code::InvalidCursor, "the cursor is none of ours; send `next_cursor` as it came"))
}

impl From<PersonsError> for Problem {
    fn from(error: PersonsError) -> Self {
        let text = error.to_string();
        match error {
            PersonsError::NotSettled => Self::new(Code::NotSettled, text),
            PersonsError::Busy => Self::new(Code::EraseBusy, text),
            PersonsError::Unsupported(_) => Self::new(Code::NotOfThisStore, text),
            PersonsError::Store(error) => error.into(),
            PersonsError::Shelf(error) => error.into(),
            PersonsError::Books(_) => Self::new(Code::LedgerUnavailable, text),
            PersonsError::Journal(_) => Self::new(Code::JournalUnavailable, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(addresses: &Keeping, name: &str, value: &str) -> Result<Selector, String> {
        let names = ["click_id", "external_click_id", "address", "ip"];
        let fields = names.map(|known| (known == name).then(|| value.to_owned()));
        selector(addresses, fields).map_err(|wrong| wrong.detail)
    }

    #[test]
    fn a_person_is_meant_by_exactly_one_thing() {
        let truncate = &Keeping::Truncate;
        let id = "018bcfe5-687b-7909-8909-090909090909";
        assert_eq!(read(truncate, "click_id", id), Ok(Selector::ClickId(id.parse().unwrap())));
        assert_eq!(read(truncate, "external_click_id", " x "), Ok(Selector::ExternalClickId(" x ".into())));
        assert_eq!(read(truncate, "address", "203.0.113.9"), Ok(Selector::Ip("203.0.113.0".into())));
        assert_eq!(read(truncate, "ip", "h:00"), Ok(Selector::Ip("h:00".into())));
        for (name, value) in [("click_id", "x"), ("address", "203.0.113.0/24"), ("ip", ""), ("none", "x")] {
            assert!(read(truncate, name, value).is_err(), "{name}");
        }
        assert!(read(&Keeping::Nothing, "address", "203.0.113.9").unwrap_err().contains("privacy.ip"));
        assert!(selector(truncate, [None, Some("a".into()), None, Some("b".into())]).is_err());
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_no_other() {
        let id = crate::click::ClickId::new(5, &[1; 10]);
        let at = ClickCursor { unix_ms: 5, id };
        assert_eq!(read_cursor(&cursor(at)).unwrap(), at);
        for bad in ["", "p1.", "d1.00000000-0005-7101-8101-010101010101", "p1.00000000-0005-7101-8101-01010101010A"] {
            assert!(read_cursor(bad).is_err(), "{bad}");
        }
    }
}
