//! `trellis releases`: what was written to the catalog, compared and gone back to, each as requests to the control API.
//!
//! Judges nothing: the API does, and says what is wrong. Bounds: pages of [`PAGE`] releases or [`ENTRIES`] entries, one at a
//! time in memory.

use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use serde_json::Value;

use super::client::Api;
use super::links::{encoded, text};
use super::output::{Out, Stop, cell};
use crate::config::Config;
use crate::telemetry::log;

const PAGE: u64 = 1000;
const ENTRIES: u64 = 100;
/// For a roll-back; above the control side's own.
const TIMEOUT: Duration = Duration::from_secs(40);

/// `trellis releases`
#[derive(Debug, Subcommand)]
pub(super) enum ReleasesCommand {
    /// List releases, newest first
    #[command(after_help = "Each line: release, time, kind of write, entries changed, who, and a note.")]
    Ls {
        /// This many at most; all when absent
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// What a release changed
    #[command(
        after_help = "Each line: added, changed or removed; link, campaign or domain; its name, which is DOMAIN/SLUG for a
link (* for any domain). With --json also what it was and is."
    )]
    Show {
        /// Number of the release
        version: u64,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// What is different between two releases
    #[command(after_help = "\
Each line: added, changed or removed; link, campaign or domain; its name, which is DOMAIN/SLUG for a
link (* for any domain). With --json also what it was and is.
What was changed and changed back is left out. The second release may be the older one: then this is
what a roll-back would do.

Example:
  trellis releases diff 41 45")]
    Diff {
        /// Seen from this release
        from: u64,
        /// What is different at this one; the newest when absent
        to: Option<u64>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Make the catalog what it was at a release; a release of its own
    #[command(after_help = "\
All or nothing, and live when this ends. Entries that would be refused today keep everything
as it is. Safe to repeat.

Example:
  trellis releases rollback 41")]
    Rollback {
        /// Number of the release
        version: u64,
    },
}

pub(super) async fn run(config: &Config, command: ReleasesCommand) -> Result<(), Stop> {
    // Without a node the audit line goes to standard error.
    log::init(config.log);
    let api = Api::open(config).await?;
    match command {
        ReleasesCommand::Ls { limit, json } => ls(&api, limit, json).await,
        ReleasesCommand::Show { version, json } => entries(&api, &format!("/releases/{version}?"), json).await,
        ReleasesCommand::Diff { from, to, json } => {
            let to = match to {
                Some(to) => to,
                // Named, so that all pages are of one.
                None => api.call(Method::GET, "/releases?limit=1", None).await?["served"].as_u64().unwrap_or_default(),
            };
            entries(&api, &format!("/releases/diff?from={from}&to={to}&"), json).await
        }
        ReleasesCommand::Rollback { version } => rollback(&api, version).await,
    }
}

async fn ls(api: &Api, limit: Option<u64>, json: bool) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut left = limit.unwrap_or(u64::MAX);
    let mut cursor = String::new();
    loop {
        let page = api.call(Method::GET, &format!("/releases?limit={}{cursor}", left.min(PAGE)), None).await?;
        let releases = list(&page, "releases");
        for release in releases {
            if json { out.line(release)? } else { out.line(row(release))? }
        }
        left = left.saturating_sub(releases.len() as u64);
        match page["next_cursor"].as_str() {
            Some(next) if left > 0 => cursor = format!("&cursor={}", encoded(next)),
            _ => return out.flush(),
        }
    }
}

fn row(release: &Value) -> String {
    let number = |key: &str| release[key].as_u64().unwrap_or_default().to_string();
    let (version, changes) = (number("version"), number("changes"));
    [&version, text(release, "at"), text(release, "kind"), &changes, text(release, "actor"), text(release, "note")]
        .map(cell)
        .join("\t")
}

async fn entries(api: &Api, path: &str, json: bool) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut cursor = String::new();
    loop {
        let page = api.call(Method::GET, &format!("{path}limit={ENTRIES}{cursor}"), None).await?;
        for entry in list(&page, "entries") {
            if json {
                out.line(entry)?;
            } else {
                out.line([text(entry, "change"), text(entry, "kind"), text(entry, "name")].map(cell).join("\t"))?;
            }
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => return out.flush(),
        }
    }
}

async fn rollback(api: &Api, version: u64) -> Result<(), Stop> {
    let done = api.call_within(TIMEOUT, Method::POST, &format!("/releases/{version}/rollback"), None).await?;
    let number = |key: &str| done[key].as_u64().unwrap_or_default();
    let mut out = Out::new();
    if done["nothing_to_do"] == true {
        out.line(format_args!("nothing to do: the catalog is what it was at release {version}"))?;
    } else {
        out.line(format_args!(
            "release {}: as at release {version}; {} added, {} changed, {} removed",
            number("version"),
            number("added"),
            number("changed"),
            number("removed"),
        ))?;
    }
    out.flush()
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object[key].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_release_is_one_line() {
        let release = json!({ "version": 7, "at": "2023-11-14T22:13:20.000Z", "kind": "rollback", "actor": "control token",
            "note": "to\t3", "changes": 2 });
        assert_eq!(row(&release), "7\t2023-11-14T22:13:20.000Z\trollback\t2\tcontrol token\tto\\u{9}3");
    }
}
