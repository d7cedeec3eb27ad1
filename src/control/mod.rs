//! L4: the operator side, on a listener of its own: health, metrics, and the API for links, campaigns and clicks.
//!
//! It never meets a visitor, never touches the journal, and a click passes through here only as an answer of the store.
//! Nothing that the edge does waits for it. `app` makes the [`router`] and [serves](serve()) it; the command line calls
//! the same router in-process when no node is running.
//!
//! ```text
//! /  /health  /health/ready  /metrics  /slo   open; the first is the status page
//! /api/v1/links  …/{slug}  …/bulk             token, or a key for its organisation
//! /api/v1/campaigns  /api/v1/campaigns/{id}   token, or a key
//! /api/v1/domains  /api/v1/domains/{domain}   token, or a key; to give and to take away: token
//! /api/v1/explain  /api/v1/caps               token, or a key
//! /api/v1/clicks  /api/v1/clicks/count        token, or a key
//! /api/v1/keys  …/{id}  …/{id}/rotate          token, or a key
//! /api/v1/releases  …/{version}  …/rollback    token
//! /api/v1/releases/diff  /api/v1/propagation  token
//! /api/v1/dead-letters  …/{batch}  …/replay    token
//! /api/v1/ledger                              token
//! /api/v1/store/report  /api/v1/store/optimize token
//! /api/v1/verify                              token
//! /api/v1/privacy/export  …/erase             token
//! /api/v1/audit  …/export                     token, or a key
//! /api/v1/openapi.json                        open: the document of all this
//! ```
//! `access` says who needs what, one table of all endpoints which; `write` what stands around them: figures, `If-Match`,
//! `Idempotency-Key` and the [audit log](AuditLog).
//! Errors are `application/problem+json` (RFC 9457) with a stable `code`, also for unknown paths and methods. What is
//! planned and not built is not there. Answers are compressed for those who accept gzip.
//!
//! Bounds: `control.body_bytes_max`; [`CONNECTIONS_MAX`] connections; [`DEADLINE`] for a request; 1000 items a page.

mod access;
mod audit;
mod audit_log;
mod auth;
mod bulk;
mod campaigns;
mod caps;
mod clicks;
mod dead_letters;
mod domains;
mod etag;
mod explain;
mod extract;
mod idempotency;
mod keys;
mod ledger;
mod links;
mod openapi;
mod privacy;
mod problem;
mod releases;
mod request_id;
mod serve;
mod slo;
mod status;
mod status_page;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod write;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State as With};
use axum::http::Method;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tower_http::compression::CompressionLayer;

pub use audit_log::AuditLog;
pub use bulk::ImportLimits;
pub use explain::Explainer;
pub use problem::{Code, Problem};
pub use serve::{CONNECTIONS_MAX, serve};
pub use status::{State, Status};
pub use status_page::Running;

use self::access::{Endpoint, Needs};
use self::auth::{Guard, Token};
use self::status_page::StatusPage;
use crate::catalog::{Campaigns, Caps, Domains, Keys, Links, Releases, Warden};
use crate::click::Scope;
use crate::clock::Clock;
use crate::config::Secret;
use crate::pipeline::Store;
use crate::pipeline::dead_letter::{Actor, DeadLetters};
use crate::pipeline::ledger::Ledger;
use crate::pipeline::persons::Desk;
use crate::telemetry::api::ApiShard;
use crate::telemetry::auth::AuthShard;
use crate::telemetry::metrics::DeadLetterShard;
use crate::telemetry::slo::Report;

/// From a request's head to its answer; above every time-out of the parts behind it at their defaults.
pub const DEADLINE: Duration = Duration::from_secs(35);

/// Tells how the objectives stand; over a time up to now, where one is given with its name.
pub type Objectives = Arc<dyn Fn(Option<(&str, Duration)>) -> Report + Send + Sync>;

/// What the operator side works with.
#[derive(Clone)]
pub struct Parts {
    /// Links of this node.
    pub links: Arc<Links>,
    /// Campaigns of this node.
    pub campaigns: Arc<Campaigns>,
    /// Domains of this node.
    pub domains: Arc<Domains>,
    /// What they count.
    pub caps: Arc<Caps>,
    /// What was written to all of them.
    pub releases: Arc<Releases>,
    /// The name of this node.
    pub node: Box<str>,
    /// API keys of this node.
    pub keys: Arc<Keys>,
    /// Where keys are kept, when that is not here: then none is shown or changed.
    pub warden_at: Option<String>,
    /// Who checks the keys of requests.
    pub warden: Arc<dyn Warden>,
    /// Checks are counted here.
    pub auth: Arc<AuthShard>,
    /// Who wrote what.
    pub audit: Arc<AuditLog>,
    /// Requests are counted here.
    pub api: Arc<ApiShard>,
    /// Time, by which keys expire.
    pub clock: Arc<dyn Clock>,
    /// Gives what `explain` goes by; asked for each question, so that nothing is read where there is none.
    pub explainer: Arc<dyn Fn() -> Result<Explainer, String> + Send + Sync>,
    /// Where clicks are kept.
    pub store: Arc<dyn Store>,
    /// What became of every visit.
    pub ledger: Arc<Ledger>,
    /// What the store refused.
    pub dead_letters: Arc<DeadLetters>,
    /// What is kept of one person.
    pub persons: Arc<Desk>,
    /// Clicks that wait behind the live ones; `None` where no node runs, so that nobody knows.
    pub backlog: Option<Arc<dyn Fn() -> DeadLetterShard + Send + Sync>>,
    /// Who asks, for audit lines.
    pub actor: Actor,
    /// Bearer token of the API. Empty: nobody is let in.
    pub token: Secret,
    /// State of the node and of what it depends on.
    pub status: Arc<Status>,
    /// Tells how the objectives stand.
    pub slo: Objectives,
    /// Renders the metrics as Prometheus text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// What only a running node has; `None` where none runs.
    pub running: Option<Running>,
    /// Length of a request body.
    pub body_bytes_max: usize,
    /// How much one import may bring.
    pub import: ImportLimits,
}

/// Every endpoint under `/api/v1`, and what it needs of its caller. A path with two methods stands here twice.
fn endpoints() -> Vec<Endpoint> {
    use Needs::Token;
    const READ: Needs = Needs::Scope(Scope::LinksRead);
    const WRITE: Needs = Needs::Scope(Scope::LinksWrite);
    const STATS: Needs = Needs::Scope(Scope::StatsRead);
    const ADMIN: Needs = Needs::Scope(Scope::Admin);
    let (get, post, put, patch, delete) = (Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE);
    vec![
        Endpoint::new(&get, "/links", READ, links::list),
        Endpoint::new(&post, "/links", WRITE, links::create),
        Endpoint::new(&post, bulk::PATH, WRITE, bulk::import),
        Endpoint::new(&get, "/links/{slug}", READ, links::read),
        Endpoint::new(&patch, "/links/{slug}", WRITE, links::change),
        Endpoint::new(&delete, "/links/{slug}", WRITE, links::remove),
        Endpoint::new(&get, "/campaigns", READ, campaigns::list),
        Endpoint::new(&get, "/campaigns/{id}", READ, campaigns::read),
        Endpoint::new(&put, "/campaigns/{id}", WRITE, campaigns::put),
        Endpoint::new(&delete, "/campaigns/{id}", WRITE, campaigns::remove),
        Endpoint::new(&get, "/domains", READ, domains::list),
        Endpoint::new(&get, "/domains/{domain}", READ, domains::read),
        Endpoint::new(&put, "/domains/{domain}", WRITE, domains::put),
        Endpoint::new(&delete, "/domains/{domain}", Token, domains::remove),
        Endpoint::new(&get, "/caps", READ, caps::list),
        Endpoint::new(&post, "/explain", READ, explain::explain),
        Endpoint::new(&get, "/clicks", STATS, clicks::list),
        Endpoint::new(&get, "/clicks/count", STATS, clicks::count),
        Endpoint::new(&get, "/keys", ADMIN, keys::list),
        Endpoint::new(&post, "/keys", ADMIN, keys::create),
        Endpoint::new(&get, "/keys/{id}", ADMIN, keys::read),
        Endpoint::new(&patch, "/keys/{id}", ADMIN, keys::change),
        Endpoint::new(&delete, "/keys/{id}", ADMIN, keys::revoke),
        Endpoint::new(&post, "/keys/{id}/rotate", ADMIN, keys::rotate),
        Endpoint::new(&get, "/releases", Token, releases::list),
        Endpoint::new(&get, "/releases/diff", Token, releases::diff),
        Endpoint::new(&get, "/releases/{version}", Token, releases::read),
        Endpoint::new(&post, "/releases/{version}/rollback", Token, releases::roll_back),
        Endpoint::new(&get, "/propagation", Token, releases::propagation),
        Endpoint::new(&get, "/ledger", Token, ledger::list),
        Endpoint::new(&get, "/store/report", Token, store::report),
        Endpoint::new(&post, "/store/optimize", Token, store::optimize),
        Endpoint::new(&post, "/verify", Token, verify::run),
        Endpoint::new(&post, "/privacy/export", Token, privacy::export),
        Endpoint::new(&post, "/privacy/erase", Token, privacy::erase),
        Endpoint::new(&get, "/audit", ADMIN, audit::list),
        Endpoint::new(&get, "/audit/export", ADMIN, audit::export),
        Endpoint::new(&get, "/dead-letters", Token, dead_letters::list),
        Endpoint::new(&post, "/dead-letters/replay", Token, dead_letters::replay_all),
        Endpoint::new(&get, "/dead-letters/{batch}", Token, dead_letters::read),
        Endpoint::new(&delete, "/dead-letters/{batch}", Token, dead_letters::give_up),
        Endpoint::new(&post, "/dead-letters/{batch}/replay", Token, dead_letters::replay),
    ]
}

/// The operator side as a service, with everything but the sockets.
pub fn router(parts: Parts) -> Router {
    router_within(parts, DEADLINE)
}

fn router_within(parts: Parts, deadline: Duration) -> Router {
    let around = access::around(&endpoints(), &parts);
    let api = endpoints().into_iter().zip(around);
    let api = api.fold(Router::new(), |api, (endpoint, around)| {
        let (path, route) = (endpoint.path, endpoint.guarded(around));
        let elsewhere = parts.warden_at.clone().filter(|_| path.starts_with("/keys"));
        let route = elsewhere.map_or(route.clone(), |at| route.layer(from_fn_with_state(at, keys::elsewhere)));
        // `bulk` is a good slug.
        let of_bulk = (path == "/links/{slug}").then_some(bulk::PATH);
        [Some(path), of_bulk].into_iter().flatten().fold(api, |api, path| api.route(path, route.clone()))
    });
    let guard = Guard {
        token: Token::new(&parts.token),
        warden: Arc::clone(&parts.warden),
        clock: Arc::clone(&parts.clock),
        counted: Arc::clone(&parts.auth),
    };
    let auth = from_fn_with_state(Arc::new(guard), auth::check);
    let api = api
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(parts.body_bytes_max))
        // The outermost of the API: who may not come in learns nothing about what is inside.
        .layer(auth.clone());
    let page = Arc::new(StatusPage::counted_at(endpoints().len()));
    Router::new()
        .route("/", get(async move |With(parts): With<Parts>| page.show(&parts).await))
        .route("/health", get(status::alive))
        .route("/health/ready", get(status::ready))
        .route("/metrics", get(metrics))
        .route("/slo", get(slo::show))
        .route("/api/v1/openapi.json", get(openapi::show))
        .nest("/api/v1", api)
        // The one path under it that `nest` leaves out.
        .route("/api/v1/", any(unknown_path).layer(auth))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(deadline, finish))
        .layer(from_fn(request_id::give))
        .layer(CompressionLayer::new())
        .with_state(parts)
}

/// Around every request: the deadline, and the headers that every answer has.
async fn finish(With(deadline): With<Duration>, request: Request, next: Next) -> Response {
    let mut answer = match tokio::time::timeout(deadline, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => Problem::new(Code::Timeout, format!("there was no answer within {deadline:?}")).into_response(),
    };
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

async fn metrics(With(parts): With<Parts>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (parts.metrics)()).into_response()
}

async fn unknown_path() -> Problem {
    Problem::new(Code::NotFound, "there is nothing at this path")
}

/// axum adds the `Allow` header.
async fn wrong_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path does not take this method; see the Allow header")
}
