//! `GET /api/v1/openapi.json`: what the control API takes and answers (OpenAPI 3.1).
//!
//! The document is written by hand, as `schema/openapi.json`. The tests compare it with the table of endpoints, with the
//! codes of problems, with the fields and parameters that are taken, and with every answer that they get. Open to
//! everyone who reaches the listener: it says nothing of this node.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

/// The document.
pub(super) const DOCUMENT: &str = include_str!("../../schema/openapi.json");

pub(super) async fn show() -> Response {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}
