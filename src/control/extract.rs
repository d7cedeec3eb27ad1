//! Request bodies and query strings, with every mistake as a [`Problem`] that names the field.
//!
//! Never guesses: an unknown field or parameter is refused, a body must say that it is JSON. Used by the handlers.
//! Bounds: `control.body_bytes_max` (set on the router), and serde_json's 128 levels.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::problem::{Code, ERRORS_MAX, Problem, Wrong};
use crate::click::domain::check_name;

/// Characters of a name that a client sent, when it is sent back.
const NAME_CHARS_MAX: usize = 64;
/// The last moment that can be written with any offset within the year 9999 (jiff's last), in Unix milliseconds.
const TIME_MS_MAX: u64 = 253_402_207_200_999;

/// Entries of a page by name, when it is not said.
const LIMIT_DEFAULT: usize = 100;
/// And at most.
pub(super) const LIMIT_MAX: usize = 1000;

/// What lists in the order of names take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ByName {
    limit: Option<String>,
    after: Option<String>,
}

impl ByName {
    /// The page, under this field of the answer. `list` gives so many entries behind a name, which `of` gives with how an entry
    /// is shown.
    pub(super) fn page<T>(
        &self,
        field: &str,
        list: impl FnOnce(Option<&str>, usize) -> Vec<T>,
        of: impl Fn(&T) -> (&str, Value),
    ) -> Result<Json<Value>, Problem> {
        let limit = limit(self.limit.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?;
        // One more than asked for: it tells whether there is another page.
        let mut entries = list(self.after.as_deref(), limit + 1);
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(|entry| of(entry).0);
        let shown: Vec<_> = entries.iter().map(|entry| of(entry).1).collect();
        Ok(Json(json!({ field: shown, "next_after": next })))
    }
}

/// A JSON object whose fields are all optional.
pub(super) struct Fields<T> {
    /// What it says.
    pub(super) value: T,
    /// Names of the fields that are `null`; `value` cannot tell most of them from absent ones.
    pub(super) nulls: Vec<String>,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Fields<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "the body must be JSON; send Content-Type: application/json";
            return Err(Problem::new(Code::UnsupportedMediaType, detail));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| unread(&rejection))?;
        parse(&body)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

fn unread(rejection: &BytesRejection) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Code::BodyTooLarge, "the body is longer than control.body_bytes_max allows")
        }
        _ => Problem::new(Code::InvalidJson, "the body did not arrive whole"),
    }
}

/// Reads the object; on a mistake each field is tried on its own, so that all wrong ones are named at once.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<Fields<T>, Problem> {
    let object = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err(Problem::new(Code::InvalidJson, "the body must be a JSON object")),
        Err(error) => return Err(Problem::new(Code::InvalidJson, format!("the body is no JSON: {error}"))),
    };
    match serde_json::from_slice(body) {
        Ok(value) => {
            let nulls = object.into_iter().filter(|(_, value)| value.is_null()).map(|(name, _)| name).collect();
            Ok(Fields { value, nulls })
        }
        Err(error) => {
            let mut wrong: Vec<Wrong> = object.into_iter().filter_map(wrong_field::<T>).take(ERRORS_MAX).collect();
            if wrong.is_empty() {
                // Each is right alone: one of them stands there twice.
                wrong.push(Wrong::new("", error.to_string()));
            }
            Err(Problem::fields(wrong))
        }
    }
}

fn wrong_field<T: DeserializeOwned>((name, value): (String, Value)) -> Option<Wrong> {
    let shown = name.chars().take(NAME_CHARS_MAX).collect::<String>();
    let object = Map::from_iter([(name, value)]);
    let error = serde_json::from_value::<T>(Value::Object(object)).err()?.to_string();
    let unknown = error.starts_with("unknown field");
    // serde repeats the name, however long it is.
    Some(Wrong::new(shown, if unknown { "is not a field that is known here".to_owned() } else { error }))
}

/// The query string; a parameter that `T` does not know is refused.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, _state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::try_from_uri(&head.uri).map_err(|rejection| {
            let text = rejection.body_text();
            let reason = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Problem::new(Code::InvalidParameter, format!("the query string is wrong: {reason}"))
        })?;
        Ok(Self(query.0))
    }
}

/// For requests that take no parameter.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParameters {}

/// A page's length: absent, or 1 to `max`.
pub(super) fn limit(text: Option<&str>, default: usize, max: usize) -> Result<usize, Problem> {
    match text.map(str::parse) {
        None => Ok(default),
        Some(Ok(limit)) if (1..=max).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::parameter("limit", format!("must be a whole number from 1 to {max}"))),
    }
}

/// The parameter `domain` as domains are compared.
pub(super) fn domain(text: Option<&str>) -> Result<Option<String>, Problem> {
    text.map(check_name).transpose().map_err(|detail| Problem::parameter("domain", detail))
}

/// A time as Unix milliseconds; what is wrong with it.
pub(super) fn time(text: &str) -> Result<u64, &'static str> {
    let number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unix_ms = if number {
        text.parse().ok()
    } else {
        text.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_millisecond()).ok())
    };
    unix_ms.filter(|ms| *ms <= TIME_MS_MAX).ok_or(
        "must be a time from 1970 on, as RFC 3339 (2026-11-21T08:00:00Z; write the + of an offset as %2B in a URL) or in \
         Unix milliseconds",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::click::RawLink;

    #[test]
    fn only_json_is_taken_for_json() {
        let json = |kind: &str| is_json(&HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]));
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(json(kind), "{kind}");
        }
        for kind in
            ["", "text/json", "application/x-www-form-urlencoded", "application/jsonx", "text/plain;application/json"]
        {
            assert!(!json(kind), "{kind}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn times_are_rfc_3339_or_milliseconds() {
        for (text, ms) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123),
            ("2023-11-14T22:13:20Z", 1_700_000_000_000),
            ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500),
            ("9999-12-30T22:00:00.999Z", TIME_MS_MAX),
        ] {
            assert_eq!(time(text).unwrap(), ms, "{text}");
        }
        for bad in
            ["", "-1", "1e3", "now", "2023-11-14", "1969-12-31T23:59:59Z", "99999999999999999999", "253402207201000"]
        {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nulls_are_told_apart_from_absent_fields() {
        let fields = parse::<RawLink>(br#"{"campaign":null,"url":"x"}"#).ok().unwrap();
        assert_eq!((fields.nulls, fields.value.url.as_deref()), (vec!["campaign".to_owned()], Some("x")));
    }
}
