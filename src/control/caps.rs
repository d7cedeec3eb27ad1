//! `GET /api/v1/caps?campaign=` or `?link=&domain=`: how far the caps of a campaign or a link are used.
//!
//! As this node knows it: of other nodes, what it was told within the last second or two. Behind the token. Bounds: the caps
//! of one campaign or link.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::access::Caller;
use super::extract::{Query, domain};
use super::problem::{Code, Problem};
use crate::catalog::caps::Shown;
use crate::catalog::{CampaignError, LinkError};
use crate::click::domain::ANY;
use crate::clock::rfc_3339;

/// What it takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    campaign: Option<String>,
    link: Option<String>,
    /// Of the link; any when it is not given.
    domain: Option<String>,
}

pub(super) async fn list(
    State(parts): State<Parts>,
    caller: Caller,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Problem> {
    let shown = match (asked.campaign, asked.link) {
        (Some(campaign), None) if asked.domain.is_none() => {
            parts.campaigns.get_of(caller.org(), &campaign).ok_or(CampaignError::Unknown)?;
            parts.caps.show(&[("campaign", &campaign)])
        }
        (None, Some(slug)) => {
            let domain = domain(asked.domain.as_deref())?.unwrap_or_else(|| ANY.into());
            let entry = parts.links.get_of(caller.org(), &domain, &slug).ok_or(LinkError::Unknown)?;
            parts.caps.show(&[("domain", entry.link.domain()), ("link", &slug)])
        }
        _ => {
            let detail = "give `campaign`, or `link` with or without its `domain`";
            return Err(Problem::new(Code::InvalidParameter, detail));
        }
    };
    Ok(Json(json!({ "caps": shown.iter().map(of).collect::<Vec<_>>() })))
}

fn of(cap: &Shown) -> Value {
    let mut shown = json!({
        "limit": cap.limit, "used": cap.used, "per": cap.per.name(), "of": cap.of.name(),
        "resets_at": cap.resets_ms.map(rfc_3339),
    });
    for (field, name) in &cap.names {
        shown[*field] = json!(name);
    }
    shown
}
