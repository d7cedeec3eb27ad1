//! `trellis dead-letter`: look at both shelves of the dead-letter queue, send refused rows again, give them up.
//!
//! Each is a request to the control API, which decides. Without a node the folder is opened in this process, and the audit
//! lines go to standard error, as the node's do. Bounds: pages of [`PAGE`] batches, one at a time in memory.

use hyper::Method;
use serde_json::Value;
use uuid::Uuid;

use super::arguments::{DeadLetterCommand, ListDeadLetters};
use super::client::Api;
use super::links::{encoded, text};
use super::output::{Out, Stop, cell, complain};
use crate::config::Config;
use crate::telemetry::log;

const PAGE: u64 = 100;

pub(super) async fn run(config: &Config, command: DeadLetterCommand) -> Result<(), Stop> {
    // Before the folder is opened: a damaged file is told of then.
    log::init(config.log);
    let api = Api::open(config).await?;
    match command {
        DeadLetterCommand::Ls(list) => ls(&api, &list).await,
        DeadLetterCommand::Show { batch, json } => show(&api, batch, json).await,
        DeadLetterCommand::Replay { all: true, .. } => replay_all(&api).await,
        DeadLetterCommand::Replay { batches, .. } => replay(&api, &batches).await,
        DeadLetterCommand::Drop { batches, .. } => give_up(&api, &batches).await,
    }
}

async fn ls(api: &Api, list: &ListDeadLetters) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut left = list.limit.unwrap_or(u64::MAX);
    let (mut cursor, mut first) = (String::new(), true);
    loop {
        let path = format!("/dead-letters?settled={}&limit={}{cursor}", list.settled, left.min(PAGE));
        let mut page = api.call(Method::GET, &path, None).await?;
        let batches = page["dead_letters"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let next = page["next_cursor"].as_str().map(|next| format!("&cursor={}", encoded(next)));
        if std::mem::take(&mut first) {
            if list.json {
                out.line(serde_json::json!({ "backlog": page["backlog"], "refused": page["refused"] }))?;
            } else {
                shelves(&mut out, &page)?;
            }
        }
        for batch in &batches {
            if list.json { out.line(batch)? } else { out.line(row(batch))? }
        }
        left = left.saturating_sub(batches.len() as u64);
        match next {
            Some(next) if left > 0 => cursor = next,
            _ => return out.flush(),
        }
    }
}

fn shelves(out: &mut Out, page: &Value) -> Result<(), Stop> {
    for name in ["backlog", "refused"] {
        let shelf = &page[name];
        if shelf.is_null() {
            out.line(format_args!("{name}\tknown to a running node only"))?;
            continue;
        }
        let rows = match shelf["rows_about"].as_u64() {
            Some(rows) if rows > 0 => format!("about {rows}"),
            Some(_) => "0".to_owned(),
            None => number(shelf, "rows").to_string(),
        };
        let (bytes, oldest) = (number(shelf, "bytes"), cell(text(shelf, "oldest_at")));
        out.line(format_args!("{name}\t{rows} rows\t{bytes} bytes\toldest {oldest}"))?;
    }
    for name in page["refused"]["damaged"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        complain(&format!("a damaged file is kept for inspection: dead-letters/{}", cell(name)));
    }
    Ok(())
}

fn number(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_default()
}

fn row(batch: &Value) -> String {
    let id = cell(text(batch, "batch"));
    if let Some(error) = batch["unreadable"].as_str() {
        return format!("{id}\tcannot be read: {}", cell(error));
    }
    let counts = ["waiting", "stored", "dropped"].map(|key| number(batch, key).to_string()).join("\t");
    let refused = cell(text(batch, "refused_at"));
    format!("{id}\t{counts}\t{refused}\t{}\t{}", number(batch, "code"), cell(text(batch, "reason")))
}

async fn show(api: &Api, batch: Uuid, json: bool) -> Result<(), Stop> {
    let shown = api.call(Method::GET, &format!("/dead-letters/{batch}"), None).await?;
    let mut out = Out::new();
    for row in shown["rows"].as_array().into_iter().flatten() {
        if json {
            out.line(row)?;
            continue;
        }
        let code = number(row, "code").to_string();
        let [ts, id, state, link] = ["ts", "click_id", "state", "link"].map(|key| text(row, key));
        let cells = [ts, id, state, &code, link, text(row, "destination"), text(row, "reason")];
        out.line(cells.map(cell).join("\t"))?;
    }
    out.flush()
}

/// Replays what it can; a batch that is not there keeps no other from being replayed.
async fn replay(api: &Api, batches: &[Uuid]) -> Result<(), Stop> {
    each(api, batches, Method::POST, "/replay", |done| {
        let [stored, found, waiting] = ["stored", "found", "waiting"].map(|key| number(done, key));
        format!("{stored} stored, {found} of them were there; {waiting} wait")
    })
    .await
}

async fn give_up(api: &Api, batches: &[Uuid]) -> Result<(), Stop> {
    each(api, batches, Method::DELETE, "", |done| format!("{} dropped", number(done, "dropped"))).await
}

async fn each(
    api: &Api,
    batches: &[Uuid],
    method: Method,
    action: &str,
    told: impl Fn(&Value) -> String,
) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut failed = false;
    for batch in batches {
        match api.call(method.clone(), &format!("/dead-letters/{batch}{action}"), None).await {
            Ok(done) => out.line(format_args!("{batch}: {}", told(&done)))?,
            Err(error) => {
                failed = true;
                complain(&format!("{batch}: {error:#}"));
            }
        }
        out.flush()?;
    }
    if failed { Err(Stop::Told) } else { Ok(()) }
}

async fn replay_all(api: &Api) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut cursor = String::new();
    let mut sums = [0; 4];
    loop {
        let done = api.call(Method::POST, &format!("/dead-letters/replay{cursor}"), None).await?;
        for (sum, key) in sums.iter_mut().zip(["batches", "stored", "found", "waiting"]) {
            *sum += number(&done, key);
        }
        let next = done["next_cursor"].as_str().filter(|_| done["stopped"].is_null());
        if let Some(next) = next {
            cursor = format!("?cursor={}", encoded(next));
            continue;
        }
        let [batches, stored, found, waiting] = sums;
        out.line(format_args!("{batches} batches: {stored} stored, {found} of them were there; {waiting} wait"))?;
        out.flush()?;
        return match done["stopped"].as_str() {
            Some(why) => Err(anyhow::anyhow!("stopped: {}; replay again to go on", cell(why)).into()),
            None => Ok(()),
        };
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_batch_is_one_line() {
        let mut batch =
            json!({ "batch": "b", "waiting": 2, "stored": 1, "dropped": 0, "code": 469, "reason": "no\ngood" });
        assert_eq!(row(&batch), "b\t2\t1\t0\t-\t469\tno\\u{a}good");
        batch["unreadable"] = json!("EIO");
        assert_eq!(row(&batch), "b\tcannot be read: EIO");
    }
}
