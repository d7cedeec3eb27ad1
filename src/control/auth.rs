//! Who may use the API: whoever holds the control token, or a key.
//!
//! Never logs or echoes either, and answers a missing one and every wrong one alike, after the same work. Stands before
//! everything under `/api/v1`, also before paths that do not exist; what a key may do there is judged by `access`. Bound:
//! one `Authorization` header.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use super::access::Caller;
use super::problem::{Code, Problem};
use crate::catalog::{Checked, Peek, Unavailable, Warden};
use crate::click::key::bearer;
use crate::clock::Clock;
use crate::config::Secret;
use crate::telemetry::auth::{AuthOutcome, AuthShard};

/// What requests are checked by.
pub(super) struct Guard {
    pub(super) token: Token,
    pub(super) warden: Arc<dyn Warden>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counted: Arc<AuthShard>,
}

/// The token to compare with; as a digest, so that not even its length shows in the time of an answer.
pub(super) struct Token(Option<[u8; 32]>);

impl Token {
    /// An empty secret fits nothing.
    pub(super) fn new(secret: &Secret) -> Self {
        Self((!secret.is_empty()).then(|| digest(secret.expose().as_bytes())))
    }

    fn fits(&self, presented: &[u8]) -> bool {
        let expected = self.0.unwrap_or_default();
        bool::from(digest(presented).ct_eq(&expected)) && self.0.is_some()
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// What stands behind `Bearer ` in the one `Authorization` header; empty when it is not there.
fn presented(headers: &HeaderMap) -> &[u8] {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => bearer(value.as_bytes()).unwrap_or_default(),
        _ => &[],
    }
}

impl Guard {
    /// Who it is, and how long it took to check a key.
    async fn caller(&self, presented: &[u8]) -> Result<(Caller, Duration), Problem> {
        let began = self.clock.now();
        let told = match self.warden.peek(presented, self.clock.wall_ms()) {
            Peek::Granted(grant) => Ok(Checked::Granted(grant)),
            Peek::Denied(why) => Ok(Checked::Denied(why)),
            // The token is no key, and needs nobody.
            Peek::Ask if self.token.fits(presented) => return Ok((Caller::Operator, Duration::ZERO)),
            Peek::Ask => self.warden.load(presented).await,
        };
        let took = self.clock.now().saturating_sub(began);
        match told {
            Ok(Checked::Granted(grant)) => Ok((Caller::Key(grant), took)),
            Ok(Checked::Denied(_)) if self.token.fits(presented) => Ok((Caller::Operator, took)),
            Ok(Checked::Denied(_)) => {
                self.counted.observe_shared(AuthOutcome::Denied, took);
                Err(unauthorized())
            }
            Err(error) => {
                let outcome = if error == Unavailable::Timeout { AuthOutcome::Timeout } else { AuthOutcome::Error };
                self.counted.observe_shared(outcome, took);
                Err(Problem::new(Code::WardenUnavailable, "the Warden, which checks keys, does not answer; try again"))
            }
        }
    }
}

/// The one answer to a bad token and to every bad key.
pub(super) fn unauthorized() -> Problem {
    Problem::new(Code::Unauthorized, "send the control token or an API key: Authorization: Bearer <token or key>")
}

/// Lets a request pass, or answers 401.
pub(super) async fn check(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    match guard.caller(presented(request.headers())).await {
        Ok((caller, took)) => {
            let is_key = matches!(caller, Caller::Key(_));
            request.extensions_mut().insert(caller);
            let answer = next.run(request).await;
            if is_key {
                // Nothing else answers 403.
                let lacks = answer.status() == StatusCode::FORBIDDEN;
                guard.counted.observe_shared(if lacks { AuthOutcome::Forbidden } else { AuthOutcome::Granted }, took);
            }
            answer
        }
        Err(problem) => problem.into_response(),
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
        Token::new(&Secret::new(secret)).fits(presented(&headers))
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
