//! `/api/v1/audit`: who wrote what. `/api/v1/audit/export`: all of it as NDJSON.
//!
//! With the control token everything, with a key of scope `admin` what is of its organisation, whoever wrote it. Bounds:
//! [`LIMIT_MAX`] entries a page, [`LOOKED_MAX`](crate::catalog::audit::LOOKED_MAX) looked at for it; an export has two pages of
//! [`EXPORT_PAGE`] in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::Parts;
use super::access::Caller;
use super::audit_log::AuditLog;
use super::extract::{Query, limit, time};
use super::problem::{Code, Problem};
use crate::catalog::audit::{AuditEntry, AuditFilter};
use crate::clock::rfc_3339;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
const EXPORT_PAGE: usize = 200;
/// The form of a cursor, so that a later form can be told from this one: numbers in either order.
const NEWEST: &str = "a1.n.";
const OLDEST: &str = "a1.o.";

/// What `GET /audit` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    from: Option<String>,
    to: Option<String>,
    actor: Option<String>,
    target: Option<String>,
    order: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// What `GET /audit/export` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct All {
    from: Option<String>,
    to: Option<String>,
    actor: Option<String>,
    target: Option<String>,
}

fn moment(name: &str, text: Option<&str>) -> Result<Option<u64>, Problem> {
    text.map(time).transpose().map_err(|detail| Problem::parameter(name, detail))
}

/// A question of this caller.
fn filter(parts: &Parts, caller: &Caller, all: All) -> Result<AuditFilter, Problem> {
    let (from, to) = (moment("from", all.from.as_deref())?, moment("to", all.to.as_deref())?);
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        return Err(Problem::parameter("from", "must lie before `to`"));
    }
    // What has expired is not shown, removed or not.
    let from_ms = Some(from.unwrap_or_default().max(parts.audit.oldest_ms()));
    let (actor, target, org) = (all.actor, all.target, caller.owned_org());
    Ok(AuditFilter { from_ms, to_ms: to, actor, target, org, ..AuditFilter::default() })
}

fn cursor(oldest_first: bool, behind: u64) -> String {
    format!("{}{behind}", if oldest_first { OLDEST } else { NEWEST })
}

fn read_cursor(text: &str, oldest_first: bool) -> Result<u64, Problem> {
    let number = text.strip_prefix(if oldest_first { OLDEST } else { NEWEST }).and_then(|number| number.parse().ok());
    number
        .filter(|number| cursor(oldest_first, *number) == text)
        .ok_or_else(|| Problem::new(Code::InvalidCursor, "the cursor is none of ours; send `next_cursor` as it came"))
}

pub(super) async fn list(
    State(parts): State<Parts>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<Value>, Problem> {
    let limit = limit(page.limit.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?;
    let oldest_first = match page.order.as_deref() {
        None | Some("newest") => false,
        Some("oldest") => true,
        Some(_) => return Err(Problem::parameter("order", "must be `newest` or `oldest`")),
    };
    let behind = page.cursor.as_deref().map(|text| read_cursor(text, oldest_first)).transpose()?;
    let all = All { from: page.from, to: page.to, actor: page.actor, target: page.target };
    let asked = AuditFilter { oldest_first, behind, limit, ..filter(&parts, &caller, all)? };
    let page = parts.audit.store().page(asked).await.map_err(|_| super::write::unreadable())?;
    let next = page.next.map(|behind| cursor(oldest_first, behind));
    Ok(Json(json!({ "entries": page.entries.iter().map(shown).collect::<Vec<_>>(), "next_cursor": next })))
}

fn shown(entry: &AuditEntry) -> Value {
    let document = |text: &Option<String>| {
        text.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok()).unwrap_or_default()
    };
    json!({
        "sequence": entry.sequence,
        "at": rfc_3339(entry.at_ms),
        "request_id": entry.request_id,
        "actor": entry.actor,
        "org": entry.org,
        "action": entry.action,
        "target": entry.target,
        "status": entry.status,
        "release": entry.release,
        "before": document(&entry.before),
        "after": document(&entry.after),
        "omitted": entry.omitted,
    })
}

pub(super) async fn export(
    State(parts): State<Parts>,
    caller: Caller,
    Query(all): Query<All>,
) -> Result<Response, Problem> {
    let asked = AuditFilter { oldest_first: true, limit: EXPORT_PAGE, ..filter(&parts, &caller, all)? };
    let (lines, rows) = mpsc::channel(1);
    tokio::spawn(send(Arc::clone(&parts.audit), asked, lines));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::new(Rows(rows))).into_response())
}

/// Page by page, as fast as they are read; ends when nobody reads.
async fn send(log: Arc<AuditLog>, mut asked: AuditFilter, lines: mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let page = match log.store().page(asked.clone()).await {
            Ok(page) => page,
            Err(error) => {
                // The answer breaks off, so that nobody takes it for the whole.
                let _ = lines.send(Err(io::Error::other(error.to_string()))).await;
                return;
            }
        };
        let text: String = page.entries.iter().map(|entry| format!("{}\n", shown(entry))).collect();
        if !text.is_empty() && lines.send(Ok(text.into())).await.is_err() {
            return;
        }
        match page.next {
            Some(behind) => asked.behind = Some(behind),
            None => return,
        }
    }
}

/// The body of an export.
struct Rows(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Rows {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|row| row.map(|row| row.map(Frame::data)))
    }
}
