//! `trellis audit`: who wrote what to the control API, as requests to it.
//!
//! Judges nothing: the API does, and says what is wrong. Bounds: pages of [`PAGE`] entries, one at a time in memory.

use clap::Subcommand;
use hyper::Method;
use serde_json::Value;

use super::client::Api;
use super::links::{encoded, text};
use super::output::{Out, Stop, cell};
use crate::config::Config;

const PAGE: u64 = 1000;

/// `trellis audit`
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List entries, newest first
    #[command(after_help = "\
Each line: number, time, who, endpoint, what was written to, status, request id. With --json also what
was there before and after.

Example:
  trellis audit ls --limit 20 --target 'link */spring'")]
    Ls {
        #[command(flatten)]
        which: Which,
        /// This many at most; all when absent
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// All entries, oldest first, one JSON object a line
    #[command(after_help = "\
Example:
  trellis audit export --to 2026-11-01T00:00:00Z > audit-2026-10.ndjson")]
    Export {
        #[command(flatten)]
        which: Which,
    },
}

/// Which entries.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// First moment, RFC 3339 or Unix milliseconds
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// The moment behind the last one
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// By whom: `control token`, `command line` or `key ID`
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
    /// Written to what: `link DOMAIN/SLUG`, `campaign NAME`, `key ID`
    #[arg(long, value_name = "WHAT")]
    target: Option<String>,
}

impl Which {
    fn query(&self) -> String {
        let given = [("from", &self.from), ("to", &self.to), ("actor", &self.actor), ("target", &self.target)];
        let given = given.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        given.map(|(name, value)| format!("&{name}={}", encoded(value))).collect()
    }
}

pub(super) async fn run(config: &Config, command: AuditCommand) -> Result<(), Stop> {
    let api = Api::open(config).await?;
    match command {
        AuditCommand::Ls { which, limit, json } => {
            let line = |entry: &Value| if json { entry.to_string() } else { row(entry) };
            pages(&api, &format!("order=newest{}", which.query()), limit, line).await
        }
        AuditCommand::Export { which } => {
            pages(&api, &format!("order=oldest{}", which.query()), None, Value::to_string).await
        }
    }
}

async fn pages(api: &Api, query: &str, limit: Option<u64>, line: impl Fn(&Value) -> String) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut left = limit.unwrap_or(u64::MAX);
    let mut cursor = String::new();
    loop {
        let path = format!("/audit?{query}&limit={}{cursor}", left.min(PAGE));
        let page = api.call(Method::GET, &path, None).await?;
        let entries = page["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
        for entry in entries {
            out.line(line(entry))?;
        }
        left = left.saturating_sub(entries.len() as u64);
        match page["next_cursor"].as_str() {
            Some(next) if left > 0 => cursor = format!("&cursor={}", encoded(next)),
            _ => return out.flush(),
        }
    }
}

fn row(entry: &Value) -> String {
    let number = |key: &str| entry[key].as_u64().unwrap_or_default().to_string();
    let (sequence, status) = (number("sequence"), number("status"));
    let told = |key| text(entry, key);
    [&sequence, told("at"), told("actor"), told("action"), told("target"), &status, told("request_id")]
        .map(cell)
        .join("\t")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_is_one_line() {
        let entry = json!({ "sequence": 3, "at": "2023-11-14T22:13:20.000Z", "actor": "key a", "action": "POST /links",
            "target": "link */a\tb", "status": 201, "request_id": "r" });
        assert_eq!(row(&entry), "3\t2023-11-14T22:13:20.000Z\tkey a\tPOST /links\tlink */a\\u{9}b\t201\tr");
    }
}
