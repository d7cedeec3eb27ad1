//! Who asks, and what an endpoint asks of them.
//!
//! Every endpoint under `/api/v1` is an [`Endpoint`] of the one table in [`super::endpoints`], so that none is there without
//! its [`Needs`]. The holder of the control token may do everything, in all organisations; a key may do what its scopes
//! say, in its own. What is of the whole node is for the token alone.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::handler::Handler;
use axum::http::Method;
use axum::http::request::Parts as Head;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::Parts;
use super::etag;
use super::problem::{Code, Problem};
use super::write::{self, Around};
use crate::catalog::Writer;
use crate::click::{Grant, Scope};

/// Who asks.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// The holder of the control token.
    Operator,
    /// The holder of a key.
    Key(Arc<Grant>),
}

impl Caller {
    /// The organisation whose things the caller may see; `None` for all.
    pub(super) fn org(&self) -> Option<&str> {
        match self {
            Self::Operator => None,
            Self::Key(grant) => Some(&grant.org),
        }
    }

    /// The same, to be taken along.
    pub(super) fn owned_org(&self) -> Option<String> {
        self.org().map(str::to_owned)
    }

    /// The organisation of a new key, where the caller may name it: of a key it is its own.
    pub(super) fn place(&self, sent: Option<String>) -> Result<Option<String>, Problem> {
        match (self.org(), sent) {
            (Some(own), Some(sent)) if own != sent => {
                let error = super::problem::Wrong::new("org", "is not the organisation of the key; leave it out");
                Err(Problem::fields([error]))
            }
            (Some(own), _) => Ok(Some(own.to_owned())),
            (None, sent) => Ok(sent),
        }
    }

    /// Who writes, as releases name it: a key by its id.
    pub(super) fn writer(&self, parts: &Parts) -> Writer {
        match self {
            Self::Operator => Writer::of_all(parts.actor.name()),
            Self::Key(grant) => Writer { actor: format!("key {}", grant.key_id), org: Some(grant.org.clone()) },
        }
    }
}

/// `auth::check` has put it there for every request that came this far.
impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Head, _state: &S) -> Result<Self, Problem> {
        head.extensions.get().cloned().ok_or_else(super::auth::unauthorized)
    }
}

/// What a caller needs for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// This scope, or the control token; the answer is cut to the caller's organisation.
    Scope(Scope),
    /// The control token: it is about the whole node.
    Token,
}

/// One method of one path.
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) needs: Needs,
    handler: MethodRouter<Parts, Infallible>,
}

impl Endpoint {
    pub(super) fn new<H, T>(method: &Method, path: &'static str, needs: Needs, handler: H) -> Self
    where
        H: Handler<T, Parts>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that routers know: a test makes them all");
        Self { method: method.clone(), path, needs, handler: on(filter, handler) }
    }

    /// The handler behind what stands around it, and that behind what it needs.
    pub(super) fn guarded(self, around: Arc<Around>) -> MethodRouter<Parts, Infallible> {
        let handler = match self.method {
            _ if write::writes(&self.method, self.path) => {
                self.handler.route_layer(from_fn_with_state(Arc::clone(&around), write::guard))
            }
            Method::GET if etag::has_tags(self.path) && write::thing(self.path).is_some() => {
                self.handler.route_layer(from_fn(etag::read))
            }
            _ => self.handler,
        };
        let judged = handler.route_layer(from_fn_with_state(self.needs, judge));
        judged.route_layer(from_fn_with_state(around, write::count))
    }
}

/// What stands around each endpoint of the table.
pub(super) fn around(endpoints: &[Endpoint], parts: &Parts) -> Vec<Arc<Around>> {
    let ops = endpoints.iter().map(|endpoint| format!("{} {}", endpoint.method, endpoint.path));
    // Behind those of the table: the status page.
    parts.api.name(ops.chain(["GET /".to_owned()]));
    let turn = Arc::default();
    let read_of = |path| {
        let thing = write::thing(path)?;
        let read = endpoints.iter().find(|one| one.method == Method::GET && one.path == thing)?;
        Some(read.handler.clone())
    };
    let around = endpoints.iter().enumerate().map(|(place, endpoint)| Around {
        parts: parts.clone(),
        place,
        method: endpoint.method.clone(),
        path: endpoint.path,
        read: read_of(endpoint.path),
        turn: Arc::clone(&turn),
    });
    around.map(Arc::new).collect()
}

async fn judge(State(needs): State<Needs>, caller: Caller, request: Request, next: Next) -> Response {
    let lacking = match (&caller, needs) {
        (Caller::Operator, _) => None,
        (Caller::Key(grant), Needs::Scope(scope)) if grant.scopes.allow(scope) => None,
        (Caller::Key(_), Needs::Scope(scope)) => Some(format!("the key lacks the scope {}", scope.name())),
        (Caller::Key(_), Needs::Token) => Some("this is about the whole node: it takes the control token".into()),
    };
    match lacking {
        None => next.run(request).await,
        Some(detail) => Problem::new(Code::Forbidden, detail).into_response(),
    }
}
