//! `/api/v1/campaigns`: save, list, read and remove campaigns.
//!
//! Judges nothing itself: `click::campaign` checks, `catalog::campaigns` keeps, and an edit is live when it is answered. What
//! was read may be changed and saved as it is: `version` then says which one was read, and a campaign that has changed
//! meanwhile is not written over. Behind the token. Bounds: [`LIMIT_MAX`](super::extract::LIMIT_MAX) campaigns a page.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use super::Parts;
use super::access::Caller;
use super::extract::{ByName, Fields, NoParameters, Query};
use super::links::to_the_end;
use super::problem::{Code, Problem, Wrong};
use super::releases::released;
use crate::catalog::{CampaignError, campaign_document};

type Id = Result<Path<String>, PathRejection>;

/// A name that is no UTF-8 names no campaign.
fn known(id: Id) -> Result<String, Problem> {
    id.map(|Path(id)| id).map_err(|_| CampaignError::Unknown.into())
}

pub(super) async fn put(
    State(parts): State<Parts>,
    caller: Caller,
    id: Id,
    Query(NoParameters {}): Query<NoParameters>,
    body: Fields<Map<String, Value>>,
) -> Result<Response, Problem> {
    let (id, mut document) = (known(id)?, body.value);
    let over = without_answers_own(&mut document).map_err(|detail| Problem::fields([Wrong::at("/version", detail)]))?;
    let by = caller.writer(&parts);
    let put = async move { parts.campaigns.put(&by, &id, over, Value::Object(document)).await };
    let (campaign, is_new, release) = to_the_end(put).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let place = format!("/api/v1/campaigns/{}", percent_encoded(&campaign.id));
    Ok((status, released(release), [(LOCATION, place)], Json(campaign_document(&campaign))).into_response())
}

/// Takes out what an answer has beside the document; the version, where there is one, or what is wrong with it.
pub(super) fn without_answers_own(document: &mut Map<String, Value>) -> Result<Option<u64>, &'static str> {
    for field in ["created_at", "updated_at"] {
        document.remove(field);
    }
    let Some(version) = document.remove("version") else { return Ok(None) };
    version.as_u64().map(Some).ok_or("is not the version of an answer; leave it out")
}

/// A name as a part of a path.
fn percent_encoded(name: &str) -> String {
    let mut out = Vec::new();
    crate::click::query::encode_value(name.as_bytes(), &mut out);
    out.into_iter().map(char::from).collect()
}

pub(super) async fn list(
    State(parts): State<Parts>,
    caller: Caller,
    Query(page): Query<ByName>,
) -> Result<Json<Value>, Problem> {
    page.page(
        "campaigns",
        |after, limit| parts.campaigns.list(caller.org(), after, limit),
        |campaign| (&campaign.id, campaign_document(campaign)),
    )
}

pub(super) async fn read(
    State(parts): State<Parts>,
    caller: Caller,
    id: Id,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let campaign = parts.campaigns.get_of(caller.org(), &known(id)?).ok_or(CampaignError::Unknown)?;
    Ok(Json(campaign_document(&campaign)).into_response())
}

pub(super) async fn remove(
    State(parts): State<Parts>,
    caller: Caller,
    id: Id,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Response, Problem> {
    let (by, id) = (caller.writer(&parts), known(id)?);
    let release = to_the_end(async move { parts.campaigns.remove(&by, &id).await }).await?;
    Ok((StatusCode::NO_CONTENT, released(release)).into_response())
}

impl From<CampaignError> for Problem {
    fn from(error: CampaignError) -> Self {
        match error {
            CampaignError::Document(misfits) => {
                Self::fields(misfits.into_iter().map(|misfit| Wrong::at(&misfit.pointer, misfit.detail)))
            }
            CampaignError::Unknown => Self::new(Code::UnknownCampaign, error.to_string()),
            CampaignError::Taken => Self::new(Code::CampaignTaken, error.to_string()),
            CampaignError::Changed { .. } => Self::new(Code::Changed, error.to_string()),
            CampaignError::Full(_) | CampaignError::Caps(_) => Self::new(Code::CatalogFull, error.to_string()),
            CampaignError::Catalog(error) => error.into(),
        }
    }
}
