//! `Idempotency-Key`: a POST that comes again gets the answer of the first one, and changes nothing.
//!
//! Scoped by who asks; kept beside the catalog, so that a restart forgets none. Only answers in the 200s are kept: what was
//! refused has changed nothing, and may be mended and sent again under its key. An answer with a secret, or about a person, is not kept.
//! Bounds: [`KEY_CHARS_MAX`], [`ANSWER_BYTES_MAX`], [`KEEP_MS`], `control.idempotency_max`.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, ETAG, HeaderMap, LOCATION};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::audit_log::AuditLog;
use super::problem::{Code, Problem};
use crate::catalog::audit::{Begun, KeptAnswer, Keyed, RequestKey};

const NAME: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const RELEASE: HeaderName = HeaderName::from_static("x-catalog-version");
const KEY_CHARS_MAX: usize = 255;
/// Of an answer that is kept; those of all endpoints are shorter.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// 24 h.
const KEEP_MS: u64 = 86_400_000;

/// The key of a request, if it has one.
fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut sent = headers.get_all(NAME).iter();
    let Some(value) = sent.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()));
    match key.filter(|key| (1..=KEY_CHARS_MAX).contains(&key.len()) && sent.next().is_none()) {
        Some(key) => Ok(Some(key.to_owned())),
        None => {
            let detail = format!("send one Idempotency-Key of 1 to {KEY_CHARS_MAX} visible ASCII characters");
            Err(Problem::new(Code::InvalidIdempotencyKey, detail))
        }
    }
}

/// What to do with a request.
pub(super) enum Turn {
    /// Make it; the key is to be finished or released.
    Make(Request, Option<RequestKey>),
    /// It was made.
    Answered(Response<Body>),
}

/// Begins a request that may have a key. Reads its body, then, of so many bytes at most, which this setting says.
pub(super) async fn begin(
    log: &AuditLog,
    actor: &str,
    request: Request,
    (body_bytes_max, setting): (usize, &str),
) -> Result<Turn, Problem> {
    let Some(key) = key_of(request.headers())? else { return Ok(Turn::Make(request, None)) };
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, body_bytes_max).await.map_err(|_| {
        let detail = format!("the body did not arrive whole, or is longer than {setting} allows");
        Problem::new(Code::BodyTooLarge, detail)
    })?;
    let of = RequestKey { actor: actor.to_owned(), key };
    let mut digest = Sha256::new();
    for part in [head.method.as_str().as_bytes(), head.uri.to_string().as_bytes()] {
        digest.update(part);
        digest.update([0]);
    }
    digest.update(&body);
    let now_ms = log.now_ms();
    let keyed = Keyed {
        of: of.clone(),
        digest: digest.finalize().into(),
        now_ms,
        from_ms: now_ms.saturating_sub(KEEP_MS),
        run: log.run(),
        max: log.idempotency_max(),
    };
    match log.store().begin(keyed).await? {
        Begun::New => Ok(Turn::Make(Request::from_parts(head, body.into()), Some(of))),
        Begun::Answered(answer) => replay(answer).map(Turn::Answered),
        Begun::InFlight => Err(Problem::new(
            Code::IdempotencyInFlight,
            "the first request with this Idempotency-Key is under way; send it again in a moment",
        )),
        Begun::Interrupted => Err(Problem::new(
            Code::IdempotencyInterrupted,
            "the node stopped while it was at the first request with this Idempotency-Key; read whether it was done, and take \
             another key",
        )),
        Begun::Mismatch => Err(Problem::new(
            Code::IdempotencyMismatch,
            "this Idempotency-Key came with another request; take another one. Nothing was changed",
        )),
        Begun::Full => Err(Problem::new(Code::Timeout, "too many requests with an Idempotency-Key are under way")),
    }
}

fn replay(answer: KeptAnswer) -> Result<Response<Body>, Problem> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let Some(body) = answer.body else {
        let detail = format!(
            "the first request with this Idempotency-Key was answered {status}, with what is in that answer alone (a secret, or \
             what is known of a person); if it was lost, give an API key a new secret (rotate), or ask under another \
             Idempotency-Key"
        );
        return Err(Problem::new(Code::IdempotencyAnswerNotKept, detail));
    };
    let mut again = Response::new(Body::from(body));
    *again.status_mut() = status;
    let headers: Vec<(String, String)> = serde_json::from_str(&answer.headers).unwrap_or_default();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            again.headers_mut().insert(name, value);
        }
    }
    again.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(again)
}

/// What is kept of an answer.
pub(super) fn kept(status: StatusCode, headers: &HeaderMap, body: &[u8], is_secret: bool) -> KeptAnswer {
    let text = |name: HeaderName| Some((name.to_string(), headers.get(&name)?.to_str().ok()?.to_owned()));
    let headers: Vec<_> = [CONTENT_TYPE, LOCATION, ETAG, RELEASE].into_iter().filter_map(text).collect();
    let is_kept = !is_secret && body.len() <= ANSWER_BYTES_MAX;
    KeptAnswer {
        status: status.as_u16(),
        headers: serde_json::to_string(&headers).unwrap_or_default(),
        body: is_kept.then(|| body.to_vec()),
    }
}

/// Lets a key that has changed nothing be used again.
pub(super) async fn release(log: &AuditLog, of: RequestKey) {
    if let Err(error) = log.store().release(of).await {
        tracing::warn!(%error, "an Idempotency-Key stays in flight for 24 h: it cannot be released now");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_header_of_visible_characters() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(NAME, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            key_of(&headers)
        };
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&["\"a-1\""]).unwrap().as_deref(), Some("\"a-1\""));
        assert!(of(&[&"x".repeat(255)]).is_ok());
        for bad in [&[""][..], &["a b"], &["é"], &["a", "a"], &[&"x".repeat(256)]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
