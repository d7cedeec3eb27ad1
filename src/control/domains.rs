//! `/api/v1/domains`: say, list, read and forget where visits go that are to no link.
//!
//! Judges nothing itself: `click::domain` checks, `catalog::domains` keeps, and an edit is live when it is answered. What was
//! read may be changed and saved as it is, as with campaigns. A new one is given to its organisation with the token, and taken
//! away with it; a key changes those of its own. Bounds: [`LIMIT_MAX`](super::extract::LIMIT_MAX) domains a page.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::Parts;
use super::access::Caller;
use super::campaigns::without_answers_own;
use super::extract::{ByName, Fields, NoParameters, Query};
use super::links::to_the_end;
use super::problem::{Code, Problem, Wrong};
use super::releases::released;
use crate::catalog::{DomainError, domain_document};
use crate::click::domain::check_name;

type Name = Result<Path<String>, PathRejection>;

/// What is no UTF-8 is no domain.
fn text(name: Name) -> Result<String, Problem> {
    name.map(|Path(name)| name).map_err(|_| DomainError::Unknown.into())
}

pub(super) async fn put(
    State(parts): State<Parts>,
    caller: Caller,
    name: Name,
    Query(NoParameters {}): Query<NoParameters>,
    body: Fields<Map<String, Value>>,
) -> Result<Response, Problem> {
    let (name, mut document) = (text(name)?, body.value);
    let over = without_answers_own(&mut document).map_err(|detail| Problem::fields([Wrong::at("/version", detail)]))?;
    let by = caller.writer(&parts);
    let put = async move { parts.domains.put(&by, &name, over, Value::Object(document)).await };
    let (domain, is_new, release) = to_the_end(put).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    // A host name, or `*`: both may stand in a path.
    let place = format!("/api/v1/domains/{}", domain.name);
    Ok((status, released(release), [(LOCATION, place)], Json(domain_document(&domain))).into_response())
}

pub(super) async fn list(
    State(parts): State<Parts>,
    caller: Caller,
    Query(page): Query<ByName>,
) -> Result<Json<Value>, Problem> {
    page.page(
        "domains",
        |after, limit| parts.domains.list(caller.org(), after, limit),
        |domain| (&domain.name, domain_document(domain)),
    )
}

pub(super) async fn read(
    State(parts): State<Parts>,
    caller: Caller,
    name: Name,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let name = check_name(&text(name)?).map_err(|_| DomainError::Unknown)?;
    let domain = parts.domains.get_of(caller.org(), &name).ok_or(DomainError::Unknown)?;
    Ok(Json(domain_document(&domain)).into_response())
}

pub(super) async fn remove(
    State(parts): State<Parts>,
    caller: Caller,
    name: Name,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let (by, name) = (caller.writer(&parts), text(name)?);
    let release = to_the_end(async move { parts.domains.remove(&by, &name).await }).await?;
    Ok((StatusCode::NO_CONTENT, released(release)).into_response())
}

impl From<DomainError> for Problem {
    fn from(error: DomainError) -> Self {
        match error {
            DomainError::Document(misfits) => {
                Self::fields(misfits.into_iter().map(|misfit| Wrong::at(&misfit.pointer, misfit.detail)))
            }
            DomainError::HasLinks(_) => Self::new(Code::DomainInUse, error.to_string()),
            DomainError::Unknown => Self::new(Code::UnknownDomain, error.to_string()),
            DomainError::Changed { .. } => Self::new(Code::Changed, error.to_string()),
            DomainError::Full(_) => Self::new(Code::CatalogFull, error.to_string()),
            DomainError::Catalog(error) => error.into(),
        }
    }
}
