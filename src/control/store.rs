//! `GET /api/v1/store/report`: how much the store keeps. `POST /api/v1/store/optimize`: merge a month that is over.
//!
//! The store does it and judges what may be merged; this writes the audit line. Behind the token. Bounds: one month a
//! request, and an answer within the deadline, whether the merge is done or not.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::extract::{Fields, NoParameters, Query};
use super::problem::{Code, Problem, Wrong};
use crate::pipeline::months::{Merge, Month, Months};

/// What `POST /store/optimize` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    table: Option<String>,
    month: Option<String>,
}

pub(super) async fn report(
    State(parts): State<Parts>,
    Query(NoParameters {}): Query<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let report = months(&parts)?.report().await?;
    let mut tables: Vec<Value> = Vec::new();
    for of_table in report.months.chunk_by(|a, b| a.table == b.table) {
        let sum = |of: fn(&Month) -> u64| of_table.iter().map(of).sum::<u64>();
        let table = &of_table[0].table;
        let columns = report.columns.iter().filter(|column| column.table == *table).map(|column| {
            let sizes = sizes(column.compressed, column.uncompressed);
            merged(json!({ "column": column.column }), sizes)
        });
        let months = of_table.iter().map(|month| {
            let counts = json!({ "month": month.month, "over": month.over, "parts": month.parts, "rows": month.rows });
            merged(counts, sizes(month.compressed, month.uncompressed))
        });
        let counts = json!({
            "table": table,
            "parts": sum(|month| month.parts),
            "rows": sum(|month| month.rows),
            "months": months.collect::<Vec<_>>(),
            "columns": columns.collect::<Vec<_>>(),
        });
        tables.push(merged(counts, sizes(sum(|month| month.compressed), sum(|month| month.uncompressed))));
    }
    Ok(Json(json!({ "store": parts.store.name(), "tables": tables })))
}

pub(super) async fn optimize(
    State(parts): State<Parts>,
    Query(NoParameters {}): Query<NoParameters>,
    Fields { value: Body { table, month }, .. }: Fields<Body>,
) -> Result<Json<Value>, Problem> {
    let table = table.ok_or_else(|| Problem::fields([Wrong::new("table", "is missing")]))?;
    let month = month.ok_or_else(|| Problem::fields([Wrong::new("month", "is missing")]))?;
    let done = months(&parts)?.merge(&table, &month).await;
    let outcome = match &done {
        Ok(Merge::Done { .. }) => "done".to_owned(),
        Ok(Merge::Running { begun: true }) => "begun".to_owned(),
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    if !outcome.is_empty() {
        let who = parts.actor.name();
        tracing::info!(audit = true, who, action = "optimize", table, month, outcome, "store");
    }
    let wrong = |detail| Err(Problem::fields([Wrong::new("month", detail)]));
    let (state, before, after) = match done? {
        Merge::Unknown => return wrong("has no rows in this table"),
        Merge::NotOver => return wrong("is not over"),
        Merge::Running { .. } => return Ok(Json(json!({ "table": table, "month": month, "state": "running" }))),
        Merge::Nothing(month) => ("nothing", month.clone(), month),
        Merge::Done { before, after } => ("done", before, after),
    };
    let of = |month: &Month| json!({ "parts": month.parts, "rows": month.rows, "compressed": month.compressed });
    Ok(Json(json!({ "table": table, "month": month, "state": state, "before": of(&before), "after": of(&after) })))
}

fn months(parts: &Parts) -> Result<&dyn Months, Problem> {
    parts.store.months().ok_or_else(|| {
        let detail = format!(
            "the store `{}` keeps no months: it needs no optimizing, and its size is that of its file",
            parts.store.name()
        );
        Problem::new(Code::NotOfThisStore, detail)
    })
}

/// Bytes, and how many times smaller they became, to a tenth.
fn sizes(compressed: u64, uncompressed: u64) -> Value {
    let ratio = (compressed > 0).then(|| (uncompressed as f64 / compressed as f64 * 10.0).round() / 10.0);
    json!({ "compressed": compressed, "uncompressed": uncompressed, "ratio": ratio })
}

fn merged(mut object: Value, more: Value) -> Value {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
    object
}
