//! `/api/v1/releases`: what was written to the catalog, compared and gone back to. `/api/v1/propagation`: who serves it.
//!
//! Judges nothing itself: `catalog::releases` keeps, `catalog::rollback` goes back. Behind the token: a release is of all organisations. Bounds: [`LIMIT_MAX`]
//! releases a page, and [`CHANGES_MAX`] changes, which are long.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::access::Caller;
use super::extract::{NoParameters, Query, limit};
use super::links::to_the_end;
use super::problem::{Code, Problem, Wrong};
use crate::catalog::releases::{NetChange, Release};
use crate::catalog::{Catalog, ReleaseError, RollbackError, rollback};
use crate::clock::rfc_3339;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
const CHANGES_DEFAULT: usize = 100;
const CHANGES_MAX: usize = 100;
/// The forms of cursors, so that later forms can be told from these.
const RELEASES_CURSOR: &str = "r1.";
const CHANGES_CURSOR: &str = "c1.";

/// Names the release of a write.
pub(super) fn released(version: u64) -> [(HeaderName, HeaderValue); 1] {
    [(HeaderName::from_static("x-catalog-version"), HeaderValue::from(version))]
}

/// What `GET /releases` and `GET /releases/{version}` take.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn list(State(parts): State<Parts>, Query(page): Query<Page>) -> Result<Json<Value>, Problem> {
    let limit = limit(page.limit.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?;
    let below = match page.cursor.as_deref() {
        None => u64::MAX,
        Some(cursor) => cursor.strip_prefix(RELEASES_CURSOR).and_then(number).ok_or_else(not_ours)?,
    };
    let kept = parts.releases.kept().await?;
    // One more than asked for: it tells whether there is another page.
    let mut releases = parts.releases.list(below, limit + 1).await?;
    let more = releases.len() > limit;
    releases.truncate(limit);
    let next = releases.last().filter(|_| more).map(|release| format!("{RELEASES_CURSOR}{}", release.version));
    let releases: Vec<_> = releases.iter().map(shown).collect();
    let (served, oldest) = (parts.releases.served(), kept.oldest);
    Ok(Json(json!({ "releases": releases, "served": served, "oldest": oldest, "next_cursor": next })))
}

fn shown(release: &Release) -> Value {
    json!({
        "version": release.version,
        "at": rfc_3339(release.at_ms),
        "kind": release.kind,
        "actor": release.actor,
        "note": release.note,
        "changes": release.changes,
    })
}

type Version = Result<Path<String>, PathRejection>;

/// A path that holds no number names no release.
fn version_of(version: Version) -> Result<u64, Problem> {
    let number = version.ok().and_then(|Path(text)| number(&text));
    number.ok_or_else(|| Problem::new(Code::UnknownRelease, "the path names no release; a release has a number"))
}

/// Digits alone.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn not_ours() -> Problem {
    Problem::new(Code::InvalidCursor, "the cursor is none of ours; send `next_cursor` as it came")
}

pub(super) async fn read(
    State(parts): State<Parts>,
    version: Version,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let version = version_of(version)?;
    let release = parts.releases.get(version).await?;
    let mut answer = shown(&release);
    let (changes, next) =
        changes(&parts, [version - 1, version], page.limit.as_deref(), page.cursor.as_deref()).await?;
    answer["entries"] = changes;
    answer["next_cursor"] = next;
    Ok(Json(answer))
}

/// What `GET /releases/diff` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Between {
    from: Option<String>,
    to: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn diff(State(parts): State<Parts>, Query(between): Query<Between>) -> Result<Json<Value>, Problem> {
    let from = required("from", between.from.as_deref())?;
    let to = match between.to.as_deref() {
        None => parts.releases.served(),
        to => required("to", to)?,
    };
    let (changes, next) = changes(&parts, [from, to], between.limit.as_deref(), between.cursor.as_deref()).await?;
    Ok(Json(json!({ "from": from, "to": to, "entries": changes, "next_cursor": next })))
}

fn required(name: &str, text: Option<&str>) -> Result<u64, Problem> {
    let text = text.ok_or_else(|| Problem::parameter(name, "is missing; give the number of a release"))?;
    number(text).ok_or_else(|| Problem::parameter(name, "must be the number of a release"))
}

/// A page of what is different, and the cursor of the next.
async fn changes(
    parts: &Parts,
    between: [u64; 2],
    asked: Option<&str>,
    cursor: Option<&str>,
) -> Result<(Value, Value), Problem> {
    let limit = limit(asked, CHANGES_DEFAULT, CHANGES_MAX)?;
    let after = match cursor {
        None => None,
        Some(cursor) => {
            Some(cursor.strip_prefix(CHANGES_CURSOR).and_then(|rest| rest.split_once('.')).ok_or_else(not_ours)?)
        }
    };
    let (found, next) = parts.releases.differences(between, after, limit).await?;
    let found: Vec<_> = found.iter().map(different).collect();
    let next = next.map(|(kind, name)| format!("{CHANGES_CURSOR}{kind}.{name}"));
    Ok((json!(found), json!(next)))
}

fn different(difference: &NetChange) -> Value {
    let change = match (&difference.before, &difference.after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    let document = |text: &Option<String>| text.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let (before, after) = (document(&difference.before), document(&difference.after));
    json!({ "kind": difference.kind, "name": difference.name, "change": change, "before": before, "after": after })
}

pub(super) async fn roll_back(
    State(parts): State<Parts>,
    caller: Caller,
    version: Version,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let target = version_of(version)?;
    let by = caller.writer(&parts);
    let who = by.actor.clone();
    let Parts { releases, domains, links, campaigns, caps, .. } = parts;
    let catalog = Catalog { releases, domains, links, campaigns, caps };
    let done = to_the_end(async move { rollback(&catalog, &by.actor, target).await }).await?;
    let entries = done.added + done.changed + done.removed;
    tracing::info!(audit = true, who, action = "rollback", target, release = done.version, entries, "catalog");
    let answer = json!({
        "version": done.version,
        "target": target,
        "nothing_to_do": entries == 0,
        "added": done.added,
        "changed": done.changed,
        "removed": done.removed,
    });
    Ok((released(done.version), Json(answer)).into_response())
}

/// What `GET /propagation` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    version: Option<String>,
}

pub(super) async fn propagation(
    State(parts): State<Parts>,
    Query(Asked { version }): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let version = required("version", version.as_deref())?;
    // The only node is the one that writes, so nobody knows of a later release.
    let serving = parts.releases.served();
    if version > serving {
        return Err(ReleaseError::Unknown { version, newest: serving }.into());
    }
    let node = json!({ "node": parts.node, "serving": serving, "serves": true });
    Ok(Json(json!({ "version": version, "nodes": [node], "everywhere": true })))
}

impl From<ReleaseError> for Problem {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Unknown { .. } => Self::new(Code::UnknownRelease, error.to_string()),
            ReleaseError::Gone { .. } => Self::new(Code::ReleaseGone, error.to_string()),
            ReleaseError::Catalog(error) => error.into(),
        }
    }
}

impl From<RollbackError> for Problem {
    fn from(error: RollbackError) -> Self {
        let told = error.to_string();
        match error {
            RollbackError::Release(error) => error.into(),
            RollbackError::Full { .. } | RollbackError::Caps(_) => Self::new(Code::CatalogFull, told),
            RollbackError::Refused(faults) => {
                let wrong = faults.into_iter().map(|fault| {
                    let place = fault.place.trim_start_matches('/');
                    let place = if place.is_empty() { String::new() } else { format!(" {place}") };
                    Wrong {
                        field: Some(format!("{} {}{place}", fault.kind, fault.name)),
                        pointer: None,
                        detail: fault.detail,
                    }
                });
                Self::new(Code::RollbackRefused, told).with(wrong)
            }
        }
    }
}
