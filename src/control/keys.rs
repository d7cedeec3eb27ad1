//! `/api/v1/keys`: make, list, read, change, rotate and revoke API keys.
//!
//! Judges nothing itself: `click::key` checks, `catalog::keys` keeps, and an edit is live when it is answered. A secret is in
//! the answer of the request that made it, and nowhere else. Needs the scope `admin`, which covers every other one, so that
//! no key makes one that may do more than itself. Bounds: [`LIMIT_MAX`](super::extract::LIMIT_MAX) keys a page.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Parts;
use super::access::Caller;
use super::extract::{ByName, Fields, NoParameters, Query};
use super::links::to_the_end;
use super::problem::{Code, Problem, Wrong};
use crate::catalog::{KeyError, NewKey};
use crate::click::key::{Key, KeyFields, RawKey, RawRotation};
use crate::clock::rfc_3339;

/// Everything that is known of it; neither secret nor digest.
fn shown(key: &Key) -> Value {
    json!({
        "id": key.id,
        "org": key.org,
        "name": key.name,
        "scopes": key.scopes,
        "rate": key.rate,
        "expires_at": key.expires_ms.map(rfc_3339),
        "revoked_at": key.revoked_ms.map(rfc_3339),
        "earlier_secret_until": key.earlier.map(|(_, until_ms)| rfc_3339(until_ms)),
        "version": key.version,
        "created_at": rfc_3339(key.created_ms),
        "updated_at": rfc_3339(key.updated_ms),
    })
}

/// The one answer that holds the secret.
fn shown_once(made: &NewKey) -> Value {
    let mut shown = shown(&made.entry.key);
    shown["secret"] = made.secret.expose().into();
    shown
}

/// In the place of all of them, where keys are kept elsewhere.
pub(super) async fn elsewhere(State(at): State<String>, _: Request, _: Next) -> Problem {
    let detail = format!("keys are kept by the Warden at {at} (warden.mode = \"grpc\"); make, see and end them there");
    Problem::new(Code::KeysElsewhere, detail)
}

type Id = Result<Path<String>, PathRejection>;

/// The id of a key that the caller may see; others are unknown.
fn known(parts: &Parts, caller: &Caller, id: Id) -> Result<String, Problem> {
    let id = id.map(|Path(id)| id).map_err(|_| KeyError::Unknown)?;
    let entry = parts.keys.get(&id).filter(|entry| caller.org().is_none_or(|org| org == entry.key.org));
    // A key never changes its organisation, and no id is given twice: what holds now holds when it is edited.
    entry.map(|_| id).ok_or_else(|| KeyError::Unknown.into())
}

pub(super) async fn create(
    State(parts): State<Parts>,
    caller: Caller,
    Query(NoParameters {}): Query<NoParameters>,
    body: Fields<RawKey>,
) -> Result<Response, Problem> {
    let mut raw = body.value;
    raw.org = caller.place(raw.org.take())?;
    let made = to_the_end(async move { parts.keys.create(raw).await }).await?;
    let place = format!("/api/v1/keys/{}", made.entry.key.id);
    Ok((StatusCode::CREATED, [(LOCATION, place)], Json(shown_once(&made))).into_response())
}

pub(super) async fn list(
    State(parts): State<Parts>,
    caller: Caller,
    Query(page): Query<ByName>,
) -> Result<Json<Value>, Problem> {
    page.page(
        "keys",
        |after, limit| parts.keys.list(caller.org(), after, limit),
        |entry| (&entry.key.id, shown(&entry.key)),
    )
}

pub(super) async fn read(
    State(parts): State<Parts>,
    caller: Caller,
    id: Id,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let id = known(&parts, &caller, id)?;
    let entry = parts.keys.get(&id).ok_or(KeyError::Unknown)?;
    Ok(Json(shown(&entry.key)))
}

pub(super) async fn change(
    State(parts): State<Parts>,
    caller: Caller,
    id: Id,
    Query(NoParameters {}): Query<NoParameters>,
    body: Fields<RawKey>,
) -> Result<Json<Value>, Problem> {
    let id = known(&parts, &caller, id)?;
    let nulls = body.nulls.into_iter().filter(|field| !KeyFields::REMOVABLE.contains(&field.as_str()));
    let wrong: Vec<_> = nulls.map(|field| Wrong::new(field, "is null; leave it out, or give the new value")).collect();
    if !wrong.is_empty() {
        return Err(Problem::fields(wrong));
    }
    let entry = to_the_end(async move { parts.keys.change(&id, body.value).await }).await?;
    Ok(Json(shown(&entry.key)))
}

pub(super) async fn rotate(
    State(parts): State<Parts>,
    caller: Caller,
    id: Id,
    Query(NoParameters {}): Query<NoParameters>,
    body: Fields<RawRotation>,
) -> Result<Json<Value>, Problem> {
    let id = known(&parts, &caller, id)?;
    let made = to_the_end(async move { parts.keys.rotate(&id, body.value).await }).await?;
    Ok(Json(shown_once(&made)))
}

pub(super) async fn revoke(
    State(parts): State<Parts>,
    caller: Caller,
    id: Id,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<StatusCode, Problem> {
    let id = known(&parts, &caller, id)?;
    to_the_end(async move { parts.keys.revoke(&id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Fields(errors) => Self::fields(errors),
            KeyError::Unknown => Self::new(Code::UnknownKey, error.to_string()),
            KeyError::Revoked => Self::new(Code::KeyRevoked, error.to_string()),
            KeyError::Full(_) => Self::new(Code::CatalogFull, error.to_string()),
            KeyError::Catalog(error) => error.into(),
        }
    }
}
