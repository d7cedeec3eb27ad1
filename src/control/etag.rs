//! `ETag`, `If-None-Match` and `If-Match` of links, campaigns and domains.
//!
//! A tag is a digest of the document as it is answered, which holds its version; so it is the same in the answer to a write
//! and to a read. `If-Match` is judged while nothing else writes to the catalog.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{ETAG, HeaderMap, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt as _;
use sha2::{Digest, Sha256};

use super::bulk;
use super::problem::{Code, Problem};

/// Whether things at this path of the table have tags.
pub(super) fn has_tags(path: &str) -> bool {
    path != bulk::PATH && ["/links", "/campaigns/", "/domains/"].iter().any(|start| path.starts_with(start))
}

/// The strong tag of a document.
pub(super) fn tag(document: &[u8]) -> HeaderValue {
    let digest = Sha256::digest(document);
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::try_from(format!("\"{hex}\"")).expect("hex digits in quotes are a header")
}

/// What stands in all headers of this name, cut at the commas.
fn tags(headers: &HeaderMap, name: HeaderName) -> Option<Vec<&str>> {
    let mut all = headers.get_all(name).iter().peekable();
    all.peek()?;
    let texts = all.map(|value| value.to_str().unwrap_or_default());
    Some(texts.flat_map(|text| text.split(',')).map(str::trim).collect())
}

/// Whether `If-Match` was sent.
pub(super) fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(IF_MATCH)
}

/// Whether `If-Match` names the document that is there now; weak tags never do.
pub(super) fn matches(headers: &HeaderMap, now: Option<&[u8]>) -> bool {
    let Some(now) = now else { return false };
    let now = tag(now);
    tags(headers, IF_MATCH).is_none_or(|tags| tags.iter().any(|sent| *sent == "*" || now == *sent))
}

/// 412.
pub(super) fn mismatch() -> Problem {
    Problem::new(Code::PreconditionFailed, "it is not what If-Match names; read it again. Nothing was changed")
}

/// The whole body of one of our own answers, which are in memory.
pub(super) async fn whole(body: Body) -> Bytes {
    body.collect().await.map(|body| body.to_bytes()).unwrap_or_default()
}

/// Around reads of one thing: the tag, and 304 for who has it already.
pub(super) async fn read(request: Request, next: Next) -> Response {
    let known =
        tags(request.headers(), IF_NONE_MATCH).map(|tags| tags.into_iter().map(str::to_owned).collect::<Vec<_>>());
    let answer = next.run(request).await;
    if answer.status() != StatusCode::OK {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let body = whole(body).await;
    let tag = tag(&body);
    let is_known = |sent: &String| sent == "*" || tag == *sent.strip_prefix("W/").unwrap_or(sent);
    if known.is_some_and(|known| known.iter().any(is_known)) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    head.headers.insert(ETAG, tag);
    Response::from_parts(head, body.into())
}
