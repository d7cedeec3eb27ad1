//! `trellis store`: how much the store keeps, and merging months that are over.
//!
//! Requests to the control API, which decides. Bounds: one month at a time; [`TIMEOUT`] a request, and as many requests as
//! a merge takes.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::client::Api;
use super::links::text;
use super::output::{Out, Stop, cell};
use crate::config::Config;
use crate::telemetry::log;

/// Above the control side's own.
const TIMEOUT: Duration = Duration::from_secs(40);

/// `trellis store`
#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Merge each month that is over into one piece, one after the other
    #[command(after_help = "\
Rows that were sent twice, and those that have expired, are gone from a month that is merged, and
questions about it are faster. Safe to repeat and to stop: what is merged already is left alone. The
month of now is the store's own matter. ClickHouse only.

Example:
  trellis store optimize")]
    Optimize,
    /// Rows, bytes and compression, by table, month and column
    #[command(after_help = "\
Each line: what it is about, table, month or column, pieces, rows, bytes on the disk, bytes before
compression, their ratio. Of small pieces the store does not know the columns. ClickHouse only.

Examples:
  trellis store report
  trellis store report --json")]
    Report {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: &Config, command: StoreCommand) -> Result<(), Stop> {
    // Without a node the audit lines go to standard error.
    log::init(config.log);
    let api = Api::open(config).await?;
    let report = api.call_within(TIMEOUT, Method::GET, "/store/report", None).await?;
    match command {
        StoreCommand::Optimize => optimize(&api, &report).await,
        StoreCommand::Report { json } => show(&report, json),
    }
}

async fn optimize(api: &Api, report: &Value) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut merged = 0;
    for table in list(report, "tables") {
        let is_due = |month: &&Value| month["over"] == true && number(month, "parts") > 1;
        for month in list(table, "months").iter().filter(is_due) {
            let body = json!({ "table": table["table"], "month": month["month"] });
            let done = loop {
                let answer = api.call_within(TIMEOUT, Method::POST, "/store/optimize", Some(&body)).await?;
                if answer["state"] != "running" {
                    break answer;
                }
            };
            merged += 1;
            let of = |when: &str, key: &str| number(&done[when], key);
            out.line(format_args!(
                "{} {}: {} pieces, {} rows, {} bytes -> {}, {}, {}",
                cell(text(table, "table")),
                cell(text(month, "month")),
                of("before", "parts"),
                of("before", "rows"),
                of("before", "compressed"),
                of("after", "parts"),
                of("after", "rows"),
                of("after", "compressed"),
            ))?;
            out.flush()?;
        }
    }
    if merged == 0 {
        out.line("nothing to do: every month that is over is merged")?;
    }
    out.flush()
}

fn show(report: &Value, json: bool) -> Result<(), Stop> {
    let mut out = Out::new();
    if json {
        out.line(report)?;
        return out.flush();
    }
    for table in list(report, "tables") {
        let name = cell(text(table, "table"));
        out.line(line("table", &name, "-", table))?;
        for month in list(table, "months") {
            out.line(line("month", &name, text(month, "month"), month))?;
        }
        for column in list(table, "columns") {
            out.line(line("column", &name, text(column, "column"), column))?;
        }
    }
    out.flush()
}

fn line(what: &str, table: &str, which: &str, of: &Value) -> String {
    let number = |key: &str| if of[key].is_null() { "-".to_owned() } else { of[key].to_string() };
    let numbers = ["parts", "rows", "compressed", "uncompressed", "ratio"].map(number).join("\t");
    format!("{what}\t{table}\t{}\t{numbers}", cell(which))
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

fn number(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let column = json!({ "column": "ts", "compressed": 10, "uncompressed": 95, "ratio": 9.5 });
        assert_eq!(line("column", "clicks", "ts", &column), "column\tclicks\tts\t-\t-\t10\t95\t9.5");
    }
}
