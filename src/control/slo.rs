//! `GET /slo`: how the objectives stand.
//!
//! [`crate::telemetry::slo`] measures and judges; this only asks. Open to everyone who reaches the listener, as the metrics
//! are. Bound: as many objectives as the configuration takes.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;

use super::Parts;
use super::extract::Query;
use super::problem::Problem;
use crate::config::slo;
use crate::telemetry::slo::Report;

/// What it takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    since: Option<String>,
}

pub(super) async fn show(State(parts): State<Parts>, Query(asked): Query<Asked>) -> Result<Json<Report>, Problem> {
    let since = asked.since.as_deref();
    let time = since.map(slo::since).transpose().map_err(|detail| Problem::parameter("since", detail))?;
    Ok(Json((parts.slo)(since.zip(time))))
}
