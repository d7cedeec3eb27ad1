//! L4: the operator side, on a listener of its own: health, metrics, and the API for links, campaigns and clicks.
//!
//! It never meets a visitor, never touches the journal, and a click passes through here only as an answer of the store.
//! Nothing that the edge does waits for it. `app` makes the [`router`] and [serves](serve()) it; the command line calls
//! the same router in-process when no node is running.
//!
//! ```text
//! /health  /health/ready  /metrics            open
//! /api/v1/links  /api/v1/links/{slug}         bearer token
//! /api/v1/campaigns  /api/v1/campaigns/{id}   bearer token
//! /api/v1/domains  /api/v1/domains/{domain}   bearer token
//! /api/v1/releases  …/{version}  …/rollback    bearer token
//! /api/v1/releases/diff  /api/v1/propagation  bearer token
//! /api/v1/explain  /api/v1/caps               bearer token
//! /api/v1/clicks  /api/v1/clicks/count        bearer token
//! /api/v1/dead-letters  …/{batch}  …/replay    bearer token
//! /api/v1/ledger                              bearer token
//! /api/v1/store/report  /api/v1/store/optimize bearer token
//! /api/v1/verify                              bearer token
//! ```
//! Errors are `application/problem+json` (RFC 9457) with a stable `code`, also for unknown paths and methods. What is
//! planned and not built answers 501 and says so. Answers are compressed for those who accept gzip.
//!
//! Bounds: `control.body_bytes_max`; [`CONNECTIONS_MAX`] connections; [`DEADLINE`] for a request; 1000 items a page.

mod auth;
mod campaigns;
mod caps;
mod clicks;
mod dead_letters;
mod domains;
mod explain;
mod extract;
mod ledger;
mod links;
mod problem;
mod releases;
mod serve;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State as With};
use axum::http::Method;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tower_http::compression::CompressionLayer;

pub use explain::Explainer;
pub use problem::{Code, Problem};
pub use serve::{CONNECTIONS_MAX, serve};
pub use status::{State, Status};

use crate::catalog::{Campaigns, Caps, Domains, Links, Releases};
use crate::config::Secret;
use crate::pipeline::Store;
use crate::pipeline::dead_letter::{Actor, DeadLetters};
use crate::pipeline::ledger::Ledger;
use crate::telemetry::metrics::DeadLetterShard;

/// From a request's head to its answer; above every time-out of the parts behind it at their defaults.
pub const DEADLINE: Duration = Duration::from_secs(35);

/// Planned under `/api/v1`, so that nobody takes their absence for a wrong path.
const NOT_BUILT: [&str; 3] = ["/keys", "/keys/{*rest}", "/openapi.json"];

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
    /// Gives what `explain` goes by; asked for each question, so that nothing is read where there is none.
    pub explainer: Arc<dyn Fn() -> Result<Explainer, String> + Send + Sync>,
    /// Where clicks are kept.
    pub store: Arc<dyn Store>,
    /// What became of every visit.
    pub ledger: Arc<Ledger>,
    /// What the store refused.
    pub dead_letters: Arc<DeadLetters>,
    /// Clicks that wait behind the live ones; `None` where no node runs, so that nobody knows.
    pub backlog: Option<Arc<dyn Fn() -> DeadLetterShard + Send + Sync>>,
    /// Who asks, for audit lines.
    pub actor: Actor,
    /// Bearer token of the API. Empty: nobody is let in.
    pub token: Secret,
    /// State of the node and of what it depends on.
    pub status: Arc<Status>,
    /// Renders the metrics as Prometheus text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Length of a request body.
    pub body_bytes_max: usize,
}

/// The operator side as a service, with everything but the sockets.
pub fn router(parts: Parts) -> Router {
    router_within(parts, DEADLINE)
}

fn router_within(parts: Parts, deadline: Duration) -> Router {
    let api = Router::new()
        .route("/links", get(links::list).post(links::create))
        .route("/links/{slug}", get(links::read).patch(links::change).delete(links::remove))
        .route("/campaigns", get(campaigns::list))
        .route("/campaigns/{id}", get(campaigns::read).put(campaigns::put).delete(campaigns::remove))
        .route("/domains", get(domains::list))
        .route("/domains/{domain}", get(domains::read).put(domains::put).delete(domains::remove))
        .route("/caps", get(caps::list))
        .route("/explain", post(explain::explain))
        .route("/clicks", get(clicks::list))
        .route("/clicks/count", get(clicks::count))
        .route("/ledger", get(ledger::list))
        .route("/store/report", get(store::report))
        .route("/store/optimize", post(store::optimize))
        .route("/verify", post(verify::run));
    let api = api
        .route("/dead-letters", get(dead_letters::list))
        .route("/dead-letters/replay", post(dead_letters::replay_all))
        .route("/dead-letters/{batch}", get(dead_letters::read).delete(dead_letters::give_up))
        .route("/dead-letters/{batch}/replay", post(dead_letters::replay));
    let api = api
        .route("/releases", get(releases::list))
        .route("/releases/diff", get(releases::diff))
        .route("/releases/{version}", get(releases::read))
        .route("/releases/{version}/rollback", post(releases::roll_back))
        .route("/propagation", get(releases::propagation));
    let api = NOT_BUILT.iter().fold(api, |api, path| api.route(path, any(not_built)));
    let auth = from_fn_with_state(Arc::new(auth::Token::new(&parts.token)), auth::check);
    let api = api
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(parts.body_bytes_max))
        // The outermost of the API: who may not come in learns nothing about what is inside.
        .layer(auth.clone());
    Router::new()
        .route("/health", get(status::alive))
        .route("/health/ready", get(status::ready))
        .route("/metrics", get(metrics))
        .route("/slo", any(not_built))
        .nest("/api/v1", api)
        // The one path under it that `nest` leaves out.
        .route("/api/v1/", any(unknown_path).layer(auth))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(deadline, finish))
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

async fn not_built(request: Request) -> Problem {
    Problem::new(Code::NotBuilt, format!("{} is planned and not built yet", request.uri().path()))
}

async fn unknown_path() -> Problem {
    Problem::new(Code::NotFound, "there is nothing at this path")
}

/// axum adds the `Allow` header. `bulk` is a good slug, so the path of the planned `POST /links/bulk` is that of a link.
async fn wrong_method(request: Request) -> Problem {
    if request.method() == Method::POST && request.uri().path() == "/links/bulk" {
        return not_built(request).await;
    }
    Problem::new(Code::MethodNotAllowed, "this path does not take this method; see the Allow header")
}
