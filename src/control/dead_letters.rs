//! `/api/v1/dead-letters`: what the store has not taken. The shelf "refused" can be read, replayed and dropped; of the
//! backlog there is only to say how much it is, because it empties itself.
//!
//! Decides nothing: `pipeline::dead_letter` does, and writes the audit line. An action that was begun is brought to its
//! end when the client goes away. Behind the token. Bounds: [`LIMIT_MAX`] batches a page.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Parts;
use super::extract::{NoParameters, Query, limit};
use super::problem::{Code, Problem};
use crate::click::Click;
use crate::clock::rfc_3339;
use crate::pipeline::dead_letter::{
    self, DeadLetterError, DeadLetters, Listed, Refusal, RefusedRow, ReplayedAll, RowState, Summary,
};
use crate::telemetry::metrics::DeadLetterShard;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// The form of a cursor, so that a later form can be told from this one.
const CURSOR: &str = "d1.";

/// What `GET /dead-letters` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    order: Option<String>,
    settled: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn list(State(parts): State<Parts>, Query(page): Query<Page>) -> Result<Json<Value>, Problem> {
    let limit = limit(page.limit.as_deref(), LIMIT_DEFAULT, LIMIT_MAX)?;
    let page = dead_letter::Page {
        behind: page.cursor.as_deref().map(read_cursor).transpose()?,
        newest_first: choice("order", page.order.as_deref(), ["oldest", "newest"], true)?,
        settled: choice("settled", page.settled.as_deref(), ["false", "true"], false)?,
        // One more than asked for: it tells whether there is another page.
        limit: limit + 1,
    };
    let (summary, mut listed) = parts.dead_letters.list(page).await?;
    let more = listed.len() > limit;
    listed.truncate(limit);
    let next = listed.last().filter(|_| more).map(|last| cursor(last.batch));
    let backlog = parts.backlog.as_ref().map(|backlog| backlog_of(&backlog()));
    Ok(Json(json!({
        "backlog": backlog,
        "refused": refused_of(&summary),
        "dead_letters": listed.iter().map(line).collect::<Vec<_>>(),
        "next_cursor": next,
    })))
}

/// A parameter with two words; whether it is the second.
fn choice(name: &str, text: Option<&str>, words: [&str; 2], default: bool) -> Result<bool, Problem> {
    match text {
        None => Ok(default),
        Some(text) if text == words[0] => Ok(false),
        Some(text) if text == words[1] => Ok(true),
        Some(_) => Err(Problem::parameter(name, format!("must be `{}` or `{}`", words[0], words[1]))),
    }
}

fn backlog_of(backlog: &DeadLetterShard) -> Value {
    let oldest_ms = Some(backlog.oldest_ms.get()).filter(|ms| *ms > 0);
    json!({ "rows_about": backlog.rows.get(), "bytes": backlog.bytes.get(), "oldest_at": oldest_ms.map(rfc_3339) })
}

fn refused_of(summary: &Summary) -> Value {
    json!({
        "rows": summary.rows,
        "batches": summary.batches,
        "bytes": summary.bytes,
        "oldest_at": summary.oldest_ms.map(rfc_3339),
        "damaged": summary.damaged,
    })
}

/// A batch on one line: how many rows, and why the first of those that wait does.
fn line(listed: &Listed) -> Value {
    match &listed.refusal {
        Ok(refusal) => {
            let mut line = head(refusal);
            let first = refusal.rows.iter().find(|row| row.state == RowState::Waiting).or(refusal.rows.first());
            if let Some(row) = first {
                line["code"] = json!(row.code);
                line["reason"] = json!(row.reason);
                line["refused_at"] = json!(rfc_3339(row.refused_at_ms));
            }
            line
        }
        Err(error) => json!({ "batch": listed.batch.to_string(), "unreadable": error.to_string() }),
    }
}

fn head(refusal: &Refusal) -> Value {
    let rows = |state| refusal.rows.iter().filter(|row| row.state == state).count();
    json!({
        "batch": refusal.batch.to_string(),
        "node": refusal.node,
        "waiting": rows(RowState::Waiting),
        "stored": rows(RowState::Stored),
        "dropped": rows(RowState::Dropped),
        "erased": rows(RowState::Erased),
    })
}

pub(super) async fn read(
    State(parts): State<Parts>,
    batch: Batch,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let refusal = parts.dead_letters.read(known(batch)?).await?;
    let mut shown = head(&refusal);
    shown["rows"] = refusal.rows.iter().map(row).collect();
    Ok(Json(shown))
}

/// A row, and what its frame says while it has one.
pub(super) fn row(row: &RefusedRow) -> Value {
    let mut shown = json!({
        "click_id": row.click_id.to_string(),
        "ts": rfc_3339(row.click_id.unix_ms()),
        "state": row.state,
        "dedup": row.label.name(),
        "code": row.code,
        "reason": row.reason,
        "refused_at": rfc_3339(row.refused_at_ms),
    });
    match Click::decode(&row.frame) {
        Ok(click) => {
            let text = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes).into_owned());
            shown["org"] = json!(click.org);
            shown["campaign"] = json!(click.campaign);
            shown["link"] = json!(click.link);
            shown["status"] = json!(click.status);
            shown["destination"] = text(click.destination);
            shown["referrer"] = text(click.referrer);
            shown["ua"] = text(click.ua);
            shown["language"] = text(click.language);
            shown["query"] = json!(click.query);
            shown["privacy"] = json!(click.privacy.level.name());
            shown["ip"] = json!(click.address.map(|address| address.to_string()));
        }
        Err(error) if row.state == RowState::Waiting => shown["unreadable"] = json!(error.to_string()),
        Err(_) => {}
    }
    shown
}

pub(super) async fn replay(
    State(parts): State<Parts>,
    batch: Batch,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let batch = known(batch)?;
    let done = to_the_end(&parts, move |letters| async move { letters.replay(batch).await }).await?;
    let (stored, found, waiting) = (done.stored, done.found, done.waiting);
    Ok(Json(json!({ "batch": batch.to_string(), "stored": stored, "found": found, "waiting": waiting })))
}

/// What `POST /dead-letters/replay` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Behind {
    cursor: Option<String>,
}

pub(super) async fn replay_all(State(parts): State<Parts>, Query(from): Query<Behind>) -> Result<Json<Value>, Problem> {
    let behind = from.cursor.as_deref().map(read_cursor).transpose()?;
    let all = to_the_end(&parts, move |letters| async move { letters.replay_all(behind).await }).await?;
    let ReplayedAll { batches, rows, next, stopped } = all;
    Ok(Json(json!({
        "batches": batches,
        "stored": rows.stored,
        "found": rows.found,
        "waiting": rows.waiting,
        "stopped": stopped.map(|error| error.to_string()),
        "next_cursor": next.map(cursor),
    })))
}

pub(super) async fn give_up(
    State(parts): State<Parts>,
    batch: Batch,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let batch = known(batch)?;
    let done = to_the_end(&parts, move |letters| async move { letters.give_up(batch).await }).await?;
    Ok(Json(json!({ "batch": batch.to_string(), "dropped": done.dropped })))
}

type Batch = Result<Path<String>, PathRejection>;

/// What is no id names no batch.
fn known(batch: Batch) -> Result<Uuid, Problem> {
    let batch = batch.ok().and_then(|Path(text)| text.parse().ok());
    batch.ok_or_else(|| Problem::new(Code::UnknownDeadLetter, "this is no batch id, such as `batch` in the list"))
}

async fn to_the_end<T, F>(parts: &Parts, action: impl FnOnce(Arc<DeadLetters>) -> F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: Future<Output = Result<T, DeadLetterError>> + Send + 'static,
{
    match tokio::spawn(action(Arc::clone(&parts.dead_letters))).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Problem::new(Code::DeadLettersUnavailable, "the action broke off; repeat it, that does no harm")),
    }
}

fn cursor(batch: Uuid) -> String {
    format!("{CURSOR}{batch}")
}

fn read_cursor(text: &str) -> Result<Uuid, Problem> {
    let batch = text.strip_prefix(CURSOR).and_then(|id| id.parse().ok()).filter(|id| cursor(*id) == text);
    batch.ok_or_else(|| Problem::new(Code::InvalidCursor, "the cursor is none of ours; send `next_cursor` as it came"))
}
