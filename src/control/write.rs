//! What stands around every endpoint: it is counted; around those that write: `If-Match`, `Idempotency-Key` and the audit log.
//!
//! A write is brought to its end in a task of its own, with its entry, when the client goes away. What was refused has changed
//! nothing and has no entry, or anybody with a key could drive the entries of others out; it is counted by endpoint. Bounds:
//! those of `audit_log` and `idempotency`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::response::Parts as Head;
use axum::http::{Extensions, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use serde_json::Value;
use tokio::sync::RwLock;
use tower_service::Service as _;

use super::Parts;
use super::access::Caller;
use super::idempotency::{self, Turn};
use super::problem::{Code, Problem};
use super::request_id::RequestId;
use super::{audit_log, bulk, etag};
use crate::catalog::audit::{AuditEntry, AuditWrite, DOCUMENT_BYTES_MAX};
use crate::click::key::without_keys;

const TARGET_CHARS_MAX: usize = 512;

/// In the extensions of an answer to a write that was asked to change nothing.
#[derive(Clone, Copy)]
pub(super) struct OnlyRead;

/// In the extensions of a long answer: what is kept of it, in the audit log and for an `Idempotency-Key` that comes again.
#[derive(Clone)]
pub(super) struct Brief(pub(super) Bytes);

/// An endpoint, as what stands around it knows it.
#[derive(Clone)]
pub(super) struct Around {
    pub(super) parts: Parts,
    /// Its place in the table.
    pub(super) place: usize,
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// The GET of the thing that it writes to, where there is one.
    pub(super) read: Option<MethodRouter<Parts, Infallible>>,
    /// Held by writes to the catalog; alone, by those with `If-Match`.
    pub(super) turn: Arc<RwLock<()>>,
}

/// The path of the one thing that is written at this path of the table.
pub(super) fn thing(path: &str) -> Option<&str> {
    let is_thing = etag::has_tags(path) || path.starts_with("/keys/");
    path.find('}').filter(|_| is_thing).map(|end| &path[..=end])
}

/// Whether an endpoint writes.
pub(super) fn writes(method: &Method, path: &str) -> bool {
    *method != Method::GET && path != "/explain"
}

/// Counts the answer.
pub(super) async fn count(State(around): State<Arc<Around>>, request: Request, next: Next) -> Response {
    let clock = &around.parts.clock;
    let began = clock.now();
    let answer = next.run(request).await;
    around.parts.api.observe(around.place, answer.status().as_u16(), clock.now().saturating_sub(began));
    answer
}

/// Around an endpoint that writes.
pub(super) async fn guard(
    State(around): State<Arc<Around>>,
    caller: Caller,
    id: RequestId,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let place = around.parts.audit.admit().await?;
    let write = async move {
        let answer = around.make(caller, id, request, next).await;
        drop(place);
        answer
    };
    let broken = "the write broke off; read again to see whether it was made";
    tokio::spawn(write).await.unwrap_or_else(|_| Err(Problem::new(Code::CatalogUnavailable, broken)))
}

impl Around {
    async fn make(&self, caller: Caller, id: RequestId, request: Request, next: Next) -> Result<Response, Problem> {
        let (log, actor) = (&self.parts.audit, caller.writer(&self.parts).actor);
        let turn = match self.method {
            Method::POST => idempotency::begin(log, &actor, request, self.body_bytes_max()).await?,
            _ => Turn::Make(request, None),
        };
        let (request, key) = match turn {
            Turn::Answered(answer) => return Ok(answer),
            Turn::Make(request, key) => (request, key),
        };
        let target = request.uri().to_string();
        let (answer, before) = self.run(request, next).await;
        let (mut head, body) = answer.into_parts();
        let body = etag::whole(body).await;
        let done = head.status.is_success();
        if done && etag::has_tags(self.path) && !body.is_empty() {
            head.headers.insert(ETAG, etag::tag(&body));
        }
        let nothing = !done && !head.status.is_server_error() || head.extensions.get::<OnlyRead>().is_some();
        if !nothing {
            let brief = head.extensions.get::<Brief>().map_or(&body, |Brief(brief)| brief);
            let document = Document::of(&head, brief, self.path);
            let kept = key.clone().filter(|_| done).map(|key| {
                let kept = idempotency::kept(head.status, &head.headers, brief, document.is_secret);
                (key, kept)
            });
            let entry = AuditEntry {
                at_ms: log.now_ms(),
                request_id: id.0,
                actor,
                target: self.target(&target, &document),
                ..self.entry(&caller, &head, before, document)
            };
            let written = log.write(AuditWrite { entry, answer: kept }).await;
            // What was not done is answered as it is.
            if done {
                written?;
            }
        }
        if let Some(key) = key.filter(|_| nothing || !done) {
            idempotency::release(log, key).await;
        }
        Ok(Response::from_parts(head, body.into()))
    }

    /// Of a body, and the setting that says so.
    fn body_bytes_max(&self) -> (usize, &'static str) {
        match self.path {
            bulk::PATH => (self.parts.import.bytes_max, "control.import_bytes_max"),
            _ => (self.parts.body_bytes_max, "control.body_bytes_max"),
        }
    }

    /// The answer of the endpoint, and the key that was there before.
    async fn run(&self, request: Request, next: Next) -> (Response, Option<Bytes>) {
        let conditional = etag::is_conditional(request.headers());
        let is_import = self.path == bulk::PATH;
        let catalog = is_import || etag::has_tags(self.path) || self.path.starts_with("/releases");
        let (mut alone, mut shared) = (None, None);
        if conditional {
            alone = Some(self.turn.write().await);
        } else if catalog {
            shared = Some(self.turn.read().await);
        }
        let mut before = None;
        if conditional || self.path.starts_with("/keys/") {
            let there = self.there(request.uri().clone(), request.extensions().clone()).await;
            if conditional {
                let now = there.as_ref().ok().filter(|_| etag::has_tags(self.path));
                if !etag::matches(request.headers(), now.map(|now| &**now)) {
                    let unknown = there.err().filter(|_| self.method != Method::PUT);
                    return (unknown.unwrap_or_else(|| etag::mismatch().into_response()), None);
                }
            }
            before = there.ok().filter(|_| !catalog);
        }
        let answer = next.run(request).await;
        drop((alone.take(), shared.take()));
        (answer, before)
    }

    /// What a GET of the thing answers now.
    async fn there(&self, uri: Uri, extensions: Extensions) -> Result<Bytes, Response> {
        let Some(read) = &self.read else { return Err(etag::mismatch().into_response()) };
        let mut question = Request::new(Body::empty());
        // Who asks, and what stands at the places of the path.
        (*question.uri_mut(), *question.extensions_mut()) = (uri, extensions);
        let mut read = read.clone().with_state::<()>(self.parts.clone());
        let Ok(answer) = read.call(question).await;
        match answer.status() {
            StatusCode::OK => Ok(etag::whole(answer.into_body()).await),
            _ => Err(answer),
        }
    }

    /// What was written to; of the catalog the store knows a better name.
    fn target(&self, uri: &str, document: &Document) -> String {
        let id = document.value.as_ref().and_then(|value| value["id"].as_str());
        match id.filter(|_| self.path.starts_with("/keys")) {
            Some(id) => format!("key {id}"),
            None if self.path == "/keys/{id}" => format!("key {}", uri.rsplit('/').next().unwrap_or_default()),
            None => without_keys(uri).chars().take(TARGET_CHARS_MAX).collect(),
        }
    }

    fn entry(&self, caller: &Caller, head: &Head, before: Option<Bytes>, document: Document) -> AuditEntry {
        let before = before.and_then(|body| String::from_utf8(body.to_vec()).ok());
        let org_of = |value: &Value| value["org"].as_str().map(str::to_owned);
        let earlier = before.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let org = caller.owned_org().or_else(|| document.value.as_ref().or(earlier.as_ref()).and_then(org_of));
        // Of several the document names them all.
        let of_one = head.headers.get("x-catalog-version").filter(|_| head.extensions.get::<Brief>().is_none());
        let release = of_one.and_then(|value| value.to_str().ok()?.parse().ok());
        let after = document.value.map(|value| without_keys(&value.to_string()).into_owned());
        // The store leaves out what is too long; this keeps it from waiting in memory.
        let omitted = after.as_ref().is_some_and(|text| text.len() > DOCUMENT_BYTES_MAX);
        AuditEntry {
            org,
            action: format!("{} {}", self.method, self.path),
            status: head.status.as_u16(),
            release,
            before,
            after: after.filter(|_| !omitted),
            omitted,
            ..AuditEntry::default()
        }
    }
}

/// The JSON of an answer, without its secret.
struct Document {
    value: Option<Value>,
    /// The answer is for who asked alone.
    is_secret: bool,
}

impl Document {
    fn of(head: &Head, body: &[u8], path: &str) -> Self {
        if path.starts_with("/privacy/") {
            // About a person: that it was asked for is known, and nothing else of it.
            return Self { value: None, is_secret: true };
        }
        let kind = head.headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes());
        let mut value = kind.and_then(|_| serde_json::from_slice::<Value>(body).ok());
        let secret = value.as_mut().and_then(Value::as_object_mut).and_then(|object| object.remove("secret"));
        Self { value, is_secret: secret.is_some() }
    }
}

/// 503 for what the log says when it cannot be written.
pub(super) fn unreadable() -> Problem {
    audit_log::unavailable("nor read; see the node's log")
}
