//! Health: the state of this node, and of what it depends on as last probed.
//!
//! Never probes anything itself (`app` does, and tells [`Status`]), and a dependency that is down never makes the node
//! unready: redirects and the journal need none of them. Bounds: as many dependencies as are told of; [`DETAIL_CHARS_MAX`]
//! characters of detail each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use axum::Json;
use axum::extract::State as With;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::Parts;

/// Characters of what is said of a dependency that is down: health is open to everyone who reaches the listener.
const DETAIL_CHARS_MAX: usize = 300;

/// What the node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet answering visitors.
    Starting,
    /// Answering visitors.
    Serving,
    /// Told to stop: still answering, but to be left alone by load balancers.
    Draining,
    /// No longer answering visitors.
    Stopped,
}

impl State {
    const ALL: [Self; 4] = [Self::Starting, Self::Serving, Self::Draining, Self::Stopped];

    /// The word in the answer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug)]
struct Dependency {
    backend: &'static str,
    up: bool,
    detail: String,
}

/// The state of the node, shared by those who set it and those who ask.
#[derive(Debug)]
pub struct Status {
    state: AtomicU8,
    dependencies: Mutex<BTreeMap<&'static str, Dependency>>,
}

impl Status {
    /// Starting, with no dependency probed yet.
    #[must_use]
    pub fn new() -> Self {
        Self { state: AtomicU8::new(State::Starting as u8), dependencies: Mutex::default() }
    }

    /// The node is doing this from now on.
    pub fn enter(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// What the node is doing.
    #[must_use]
    pub fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Ordering::Acquire))]
    }

    /// Notes a probe: `name` is the role (`store`), `backend` what plays it (`clickhouse`), `detail` why it is down.
    pub fn set_dependency(&self, name: &'static str, backend: &'static str, up: bool, detail: &str) {
        let detail = if up { String::new() } else { detail.chars().take(DETAIL_CHARS_MAX).collect() };
        let mut dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner);
        dependencies.insert(name, Dependency { backend, up, detail });
    }

    /// What `of` makes of each, in the order of their names: name, backend, whether it is up, why not.
    pub(super) fn each_dependency<T>(&self, of: impl Fn(&'static str, &'static str, bool, &str) -> T) -> Vec<T> {
        let dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner);
        dependencies.iter().map(|(name, known)| of(name, known.backend, known.up, &known.detail)).collect()
    }

    /// The body of `/health/ready`.
    fn report(&self, state: State) -> Value {
        let dependencies = self.dependencies.lock().unwrap_or_else(PoisonError::into_inner);
        let dependencies: BTreeMap<_, _> = dependencies
            .iter()
            .map(|(name, dependency)| {
                let mut said = json!({ "up": dependency.up, "backend": dependency.backend });
                if !dependency.up {
                    said["detail"] = json!(dependency.detail);
                    said["needed_for"] = json!(needed_for(name));
                }
                (*name, said)
            })
            .collect();
        json!({ "ready": state == State::Serving, "state": state.name(), "dependencies": dependencies })
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

/// What goes on and what does not while it is down, for the person who reads the page at night.
pub(super) fn needed_for(dependency: &str) -> &'static str {
    match dependency {
        "catalog" => "edits of links; redirects go on from memory",
        "dedup" => "labels; clicks are stored as unknown, redirects go on",
        "warden" => "API keys that are not known here; known ones go on for a while, redirects of links always",
        "store" => "storing and counting; redirects and journal go on",
        _ => "nothing that a visitor waits for",
    }
}

/// `/health`: the process runs.
pub(super) async fn alive() -> Json<Value> {
    Json(json!({ "status": "ok", "version": crate::VERSION }))
}

/// `/health/ready`: the node wants visitors.
pub(super) async fn ready(With(parts): With<Parts>) -> (StatusCode, Json<Value>) {
    let state = parts.status.state();
    let code = if state == State::Serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(parts.status.report(state)))
}
