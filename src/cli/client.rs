//! The control API as commands see it: over the network when a node runs on the data folder, in this process when none
//! does. One code path for both: every command is a request.
//!
//! Never opens a folder that a node holds, never prints a token. Called by the commands. Bounds: [`TIMEOUT`] a request, unless the command takes longer;
//! [`TRIES_MAX`] looks at a folder that another command has open, or whose node is just starting.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde_json::Value;
use url::Url;

use crate::app::http::{self, Trust};
use crate::app::{self, OpenFolder, RunningNode};
use crate::config::{Config, Secret};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Together with [`PAUSE`]: 10 s.
const TRIES_MAX: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// Times that a folder which nobody holds may fail to open: another command may be quicker, but not often.
const OPENS_MAX: u32 = 5;

/// The control API.
pub(super) enum Api {
    /// Of a running node.
    Remote {
        /// What it says of itself.
        node: RunningNode,
        /// Where it listens.
        url: Url,
        token: Secret,
    },
    /// Of the data folder, locked while this lives.
    Local(OpenFolder),
}

impl Api {
    /// Finds the node of the configured data folder, or opens the folder.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let (mut tries, mut opens) = (0, 0);
        loop {
            tries += 1;
            let (error, may_pass) = match app::running_node(&config.data_dir) {
                Ok(None) => match app::open_folder(config).await {
                    Ok(folder) => return Ok(Self::Local(folder)),
                    Err(error) => {
                        opens += 1;
                        (error, opens < OPENS_MAX)
                    }
                },
                Ok(Some(node)) => {
                    let url = Url::parse(&node.control).with_context(|| format!("node.json: `{}`", node.control))?;
                    match http::reach(&url, TIMEOUT).await {
                        Ok(()) => return Ok(Self::Remote { token: token(config)?, node, url }),
                        // Announced and not yet, or no longer, listening; a time-out is no such thing.
                        Err(error) => {
                            let refused = is_of_system(&error);
                            (error.context(format!("the node (pid {})", node.pid)), refused)
                        }
                    }
                }
                // Locked by somebody who says nothing, unless the system has an error of its own.
                Err(error) => {
                    let may_pass = !is_of_system(&error);
                    (error, may_pass)
                }
            };
            if !may_pass || tries >= TRIES_MAX {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The node that answers, if it is one.
    pub(super) fn node(&self) -> Option<&RunningNode> {
        match self {
            Self::Remote { node, .. } => Some(node),
            Self::Local(_) => None,
        }
    }

    /// Sends a request; `path` follows `/api/v1`. The body of an answer in the 200s; empty is `Null`.
    ///
    /// # Errors
    /// [`Refused`] for any other answer; what kept the node from answering.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        self.call_within(TIMEOUT, method, path, body).await
    }

    /// The same for what may take longer.
    pub(super) async fn call_within(
        &self,
        timeout: Duration,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let answer = self.ask(timeout, method, &format!("/api/v1{path}"), body).await?;
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).context("the answer is no JSON")
    }

    /// Posts lines of JSON; the body of the answer.
    ///
    /// # Errors
    /// As those of [`Api::call`].
    pub(super) async fn post_lines(&self, timeout: Duration, path: &str, lines: String) -> anyhow::Result<Value> {
        let answer =
            self.send(timeout, Method::POST, &format!("/api/v1{path}"), Some(("application/x-ndjson", lines))).await?;
        serde_json::from_slice(&answer).context("the answer is no JSON")
    }

    /// Posts a body; the answer's lines, each of them JSON.
    ///
    /// # Errors
    /// As those of [`Api::call`].
    pub(super) async fn lines(&self, timeout: Duration, path: &str, body: &Value) -> anyhow::Result<Vec<Value>> {
        let answer = self.ask(timeout, Method::POST, &format!("/api/v1{path}"), Some(body)).await?;
        let lines: Result<_, _> = serde_json::Deserializer::from_slice(&answer).into_iter().collect();
        lines.context("the answer is no NDJSON")
    }

    /// What stands at a path of the control side that is not under `/api/v1`.
    ///
    /// # Errors
    /// As those of [`Api::call`].
    pub(super) async fn page(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.ask(TIMEOUT, Method::GET, path, None).await?;
        serde_json::from_slice(&answer).context("the answer is no JSON")
    }

    async fn ask(
        &self,
        timeout: Duration,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Bytes> {
        self.send(timeout, method, target, body.map(|body| ("application/json", body.to_string()))).await
    }

    /// `body`: of what kind, and the text.
    async fn send(
        &self,
        timeout: Duration,
        method: Method,
        target: &str,
        body: Option<(&'static str, String)>,
    ) -> anyhow::Result<Bytes> {
        let token = match self {
            Self::Remote { token, .. } => token,
            Self::Local(folder) => &folder.token,
        };
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .ok()
            .context("the control token holds a character that no header can carry")?;
        bearer.set_sensitive(true);
        let mut request = Request::builder().method(method).uri(target).header(AUTHORIZATION, bearer);
        if let Some((kind, _)) = &body {
            request = request.header(CONTENT_TYPE, *kind);
        }
        let body = body.map(|(_, text)| text).unwrap_or_default();
        let (status, answer) = match self {
            Self::Remote { url, .. } => {
                http::exchange(url, &Trust::default(), request.body(Full::from(body))?, timeout)
                    .await
                    .context("the node")?
            }
            Self::Local(folder) => in_process(folder, request.body(Body::from(body))?).await?,
        };
        if !status.is_success() {
            return Err(Refused::read(status, &answer).into());
        }
        Ok(answer)
    }
}

async fn in_process(folder: &OpenFolder, request: Request<Body>) -> anyhow::Result<(StatusCode, Bytes)> {
    let mut router = folder.router.clone();
    // A router is always ready and never fails: errors are answers.
    let Ok(answer) = tower_service::Service::call(&mut router, request).await;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), http::BODY_BYTES_MAX).collect().await;
    Ok((status, body.map_err(|error| anyhow::anyhow!("the answer was cut: {error}"))?.to_bytes()))
}

fn is_of_system(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<std::io::Error>())
}

/// The token of a running node: configured, or in its folder.
fn token(config: &Config) -> anyhow::Result<Secret> {
    if !config.control.token.is_empty() {
        return Ok(config.control.token.clone());
    }
    let path: &Path = &config.data_dir.join("control.token");
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("`{}` cannot be read; be the node's user, or set control.token", path.display()))?;
    Ok(Secret::new(text.trim()))
}

/// An answer that says no.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its status.
    pub(super) status: StatusCode,
    sentence: String,
    fields: Vec<(String, String)>,
}

impl Refused {
    fn read(status: StatusCode, body: &[u8]) -> Self {
        let problem: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |value: &Value, key: &str| value[key].as_str().map(str::to_owned);
        let sentence = text(&problem, "detail").or_else(|| text(&problem, "title"));
        let sentence = sentence.unwrap_or_else(|| format!("the answer was {status}"));
        let fields = problem["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let place = |wrong: &Value| text(wrong, "field").or_else(|| text(wrong, "pointer"));
        let fields = fields.iter().filter_map(|wrong| place(wrong).zip(text(wrong, "detail"))).collect();
        Self { status, sentence, fields }
    }
}

/// The sentence, and each wrong field on a line of its own.
impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        self.fields.iter().try_for_each(|(field, detail)| write!(f, "\n  {field}: {detail}"))
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_as_a_sentence_and_its_fields() {
        let body = br#"{"detail":"fields are wrong","errors":[{"field":"url","detail":"has no host"}]}"#;
        assert_eq!(
            Refused::read(StatusCode::UNPROCESSABLE_ENTITY, body).to_string(),
            "fields are wrong\n  url: has no host"
        );
        let body = br#"{"detail":"no","errors":[{"pointer":"/rules/0","detail":"is null"}]}"#;
        assert_eq!(Refused::read(StatusCode::UNPROCESSABLE_ENTITY, body).to_string(), "no\n  /rules/0: is null");
        assert_eq!(Refused::read(StatusCode::BAD_GATEWAY, b"<html>").to_string(), "the answer was 502 Bad Gateway");
    }
}
