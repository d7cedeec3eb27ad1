//! Who may use the API: whoever holds the control token.
//!
//! Never logs or echoes a token, and answers a missing one and a wrong one alike, in a time that depends on neither. Stands
//! before everything under `/api/v1`, also before paths that do not exist. Bound: one `Authorization` header.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use super::problem::{Code, Problem};
use crate::config::Secret;

/// The token to compare with; as a digest, so that not even its length shows in the time of an answer.
pub(super) struct Token(Option<[u8; 32]>);

impl Token {
    /// An empty secret fits nothing.
    pub(super) fn new(secret: &Secret) -> Self {
        Self((!secret.is_empty()).then(|| digest(secret.expose().as_bytes())))
    }

    fn fits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None, Some(expected)) = (values.next(), values.next(), &self.0) else {
            return false;
        };
        let Some((scheme, token)) = value.as_bytes().split_at_checked("Bearer ".len()) else {
            return false;
        };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(digest(token.trim_ascii()).ct_eq(expected))
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Lets a request pass, or answers 401.
pub(super) async fn check(State(token): State<Arc<Token>>, request: Request, next: Next) -> Response {
    if token.fits(request.headers()) {
        next.run(request).await
    } else {
        Problem::new(Code::Unauthorized, "send the control token: Authorization: Bearer <token>").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(secret: &str, values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        Token::new(&Secret::new(secret)).fits(&headers)
    }

    #[test]
    fn only_the_token_itself_fits_and_only_once() {
        assert!(fits("s3cret", &["Bearer s3cret"]));
        assert!(fits("s3cret", &["bearer  s3cret"]));
        for wrong in
            ["", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Bearers3cret"]
        {
            assert!(!fits("s3cret", &[wrong]), "{wrong}");
        }
        assert!(!fits("s3cret", &[]));
        assert!(!fits("s3cret", &["Bearer s3cret", "Bearer s3cret"]));
        assert!(!fits("", &["Bearer "]) && !fits("", &["Bearer"]), "no token set up lets nobody in");
    }
}
