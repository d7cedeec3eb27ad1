//! Synthetic checks: the requests that an operator and a visitor would make, and what is right as an answer.
//!
//! ```text
//! health, ready, metrics    GET on the control listener: 200, and metrics that are ours
//! redirect                  GET of a link on the edge: a redirect with an X-Click-Id; of the canary, to where it leads
//! store                     the click of that id is in the store, as a monitor's
//! ```
//! The node asks itself (`app::prober`); `trellis probe` asks from elsewhere, all but the store. Each check is one request on a
//! connection of its own, so that it goes the whole way. Bounds: those of [`http`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Request, StatusCode};
use url::Url;

use super::http::{self, Answer, Times, Trust};
use crate::click::{ClickId, canary};
use crate::clock::Clock;
use crate::config::Secret;

pub use crate::telemetry::probe::Check;

/// A line of every scrape of ours.
const METRIC: &[u8] = b"\ntrellis_build_info";

/// Makes checks.
#[derive(Debug)]
pub struct Asker {
    /// By which times are taken.
    pub clock: Arc<dyn Clock>,
    /// For one answer.
    pub timeout: Duration,
    /// See [`canary::agent`].
    pub agent: String,
    /// Of the node's own prober; empty for others.
    pub secret: Secret,
    /// Whom to believe over https.
    pub trust: Trust,
}

/// What one check saw.
#[derive(Debug)]
pub struct Seen {
    /// Of the answer; `None` when there was none.
    pub status: Option<StatusCode>,
    /// When what of the answer was there; likewise.
    pub times: Option<Times>,
    /// Of the click that it made.
    pub click_id: Option<ClickId>,
    /// How long it took, answered or not.
    pub took: Duration,
    /// What is not as it should be.
    pub problem: Option<String>,
}

impl Asker {
    /// Asks the operator side, whose root is `control`, for `/health`, `/health/ready` or `/metrics`.
    pub async fn look(&self, check: Check, control: &Url) -> Seen {
        let path = match check {
            Check::Ready => "/health/ready",
            Check::Metrics => "/metrics",
            Check::Health | Check::Redirect | Check::Store => "/health",
        };
        self.ask(control, path, |answer| {
            if answer.status != StatusCode::OK {
                return Err(refusal(answer));
            }
            let is_ours = check != Check::Metrics || answer.body.windows(METRIC.len()).any(|part| part == METRIC);
            if is_ours { Ok(None) } else { Err("200, but these are no metrics of a node".into()) }
        })
        .await
    }

    /// Follows a link, which is that of the URL, or the canary where the URL has no path.
    pub async fn follow(&self, url: &Url) -> Seen {
        if url.path().len() > 1 {
            let target = match url.query() {
                Some(query) => format!("{}?{query}", url.path()),
                None => url.path().to_owned(),
            };
            return self.ask(url, &target, |answer| redirected(answer).map(Some)).await;
        }
        self.ask(url, &format!("/{}", canary::SLUG), |answer| {
            let id = redirected(answer)?;
            match header(&answer.headers, LOCATION.as_str()) {
                canary::DESTINATION => Ok(Some(id)),
                other => Err(format!("it leads to `{other}` in place of `{}`", canary::DESTINATION)),
            }
        })
        .await
    }

    async fn ask(
        &self,
        url: &Url,
        target: &str,
        judge: impl FnOnce(&Answer) -> Result<Option<ClickId>, String>,
    ) -> Seen {
        let began = self.clock.now();
        let answer = async {
            let mut request = Request::get(target)
                .header(ACCEPT, HeaderValue::from_static("*/*"))
                .header(USER_AGENT, &self.agent)
                .body(Full::<Bytes>::default())?;
            if !self.secret.is_empty() {
                let mut secret = HeaderValue::try_from(self.secret.expose())?;
                secret.set_sensitive(true);
                request.headers_mut().insert(canary::SECRET_HEADER, secret);
            }
            http::fetch(url, &self.trust, request, self.timeout, &*self.clock).await
        };
        let answer = answer.await;
        let took = self.clock.now().saturating_sub(began);
        match answer {
            Ok(answer) => {
                let judged = judge(&answer);
                let (status, times) = (Some(answer.status), Some(answer.times));
                let (click_id, problem) = match judged {
                    Ok(click_id) => (click_id, None),
                    Err(problem) => (None, Some(problem)),
                };
                Seen { status, times, click_id, took, problem }
            }
            Err(error) => Seen { status: None, times: None, click_id: None, took, problem: Some(format!("{error:#}")) },
        }
    }
}

/// The id of the click of a redirect that was recorded.
fn redirected(answer: &Answer) -> Result<ClickId, String> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Err(refusal(answer));
    }
    let id = header(&answer.headers, "x-click-id");
    if id.is_empty() {
        return Err(format!("{}, but without an X-Click-Id: the journal takes no clicks", answer.status.as_u16()));
    }
    id.parse().map_err(|_| format!("its X-Click-Id is `{id}`, which is none"))
}

/// Status, and the code of a problem.
fn refusal(answer: &Answer) -> String {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let status = answer.status.as_u16();
    match problem["code"].as_str().or_else(|| problem["state"].as_str()) {
        Some(word) => format!("{status} {word}"),
        None => status.to_string(),
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
