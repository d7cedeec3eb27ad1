//! `X-Request-Id` of every answer: what the request brought, if it is well-formed, else a new one.

use axum::extract::{FromRequestParts, Request};
use axum::http::HeaderName;
use axum::http::header::HeaderValue;
use axum::http::request::Parts as Head;
use axum::middleware::Next;
use axum::response::Response;
use std::convert::Infallible;

use crate::click::key::without_keys;

const NAME: HeaderName = HeaderName::from_static("x-request-id");
const CHARS_MAX: usize = 128;

/// The id of a request.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

impl RequestId {
    fn of(request: &Request) -> Self {
        let mut sent = request.headers().get_all(NAME).iter();
        let one = sent.next().filter(|_| sent.next().is_none()).and_then(|value| value.to_str().ok());
        // Nobody's key gets into the log that way.
        let good = one.filter(|text| is_good(text) && without_keys(text) == *text);
        Self(good.map_or_else(|| uuid::Uuid::from_u128(fastrand::u128(..)).simple().to_string(), str::to_owned))
    }
}

fn is_good(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/' | b'+' | b'=');
    (1..=CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

impl<S: Send + Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(head: &mut Head, _state: &S) -> Result<Self, Infallible> {
        // `give` has put it there for every request.
        Ok(head.extensions.get().cloned().unwrap_or_else(|| Self(String::new())))
    }
}

/// Around every request.
pub(super) async fn give(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
    let shown = HeaderValue::try_from(&id.0).expect("well-formed");
    request.extensions_mut().insert(id);
    let mut answer = next.run(request).await;
    answer.headers_mut().insert(NAME, shown);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_only_when_it_is_well_formed() {
        assert!(is_good("req-1.a_b:c/d+e=") && is_good(&"x".repeat(128)));
        for bad in ["", "a b", "a\"b", "a,b", "é", &"x".repeat(129)] {
            assert!(!is_good(bad), "{bad}");
        }
    }
}
