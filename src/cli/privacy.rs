//! `trellis privacy`: what is kept of one person, shown and erased, and what is kept of an address.
//!
//! Requests to the control API, again and again until there is nothing more. `hash` asks nobody: it needs the node's secret,
//! and so the rights of the node's user. Bounds: a page at a time in memory, [`TIMEOUT`] a request.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::client::Api;
use super::output::{Out, Stop, cell, complain};
use crate::app;
use crate::config::Config;
use crate::telemetry::log;

/// Above the control side's own.
const TIMEOUT: Duration = Duration::from_secs(40);

/// `trellis privacy`
#[derive(Debug, Subcommand)]
pub(super) enum PrivacyCommand {
    /// Show every click of a person, one JSON object a line
    #[command(after_help = "\
Examples:
  trellis privacy export --external-click-id a1b2c3
  trellis privacy export --address 203.0.113.9 > person.ndjson")]
    Export(Who),
    /// Erase every click of a person that this node recorded: what is erased cannot be got back
    #[command(after_help = "\
Prints what was erased where, and what was found in a second look. Exit code 1 when something is left.
With privacy.ip = \"truncate\" an address stands for its whole network, and so for others too.

Examples:
  trellis privacy erase --click-id 018bcfe5-687b-7909-8909-090909090909 --yes
  trellis privacy erase --address 203.0.113.9 --yes")]
    Erase {
        #[command(flatten)]
        who: Who,
        /// Clicks of a node of this name that is gone, not those of this one
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// Yes, erase them
        #[arg(long, required = true)]
        yes: bool,
    },
    /// Print what clicks keep of an address: the column `ip`
    Hash {
        /// IPv4 or IPv6
        address: IpAddr,
    },
}

/// Whose clicks.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Who {
    /// The click with this id, as in X-Click-Id
    #[arg(long, value_name = "ID")]
    click_id: Option<uuid::Uuid>,
    /// Clicks with this id of the advertiser's
    #[arg(long, value_name = "ID")]
    external_click_id: Option<String>,
    /// Clicks of this address, as far as they keep it
    #[arg(long)]
    address: Option<IpAddr>,
    /// Clicks with this in the column `ip`
    #[arg(long, value_name = "TEXT")]
    ip: Option<String>,
}

impl Who {
    fn body(&self) -> Value {
        let texts = [
            ("click_id", self.click_id.map(|id| id.to_string())),
            ("external_click_id", self.external_click_id.clone()),
            ("address", self.address.map(|address| address.to_string())),
            ("ip", self.ip.clone()),
        ];
        texts
            .into_iter()
            .filter_map(|(name, text)| Some((name.to_owned(), json!(text?))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

pub(super) async fn run(config: &Config, command: PrivacyCommand) -> Result<(), Stop> {
    log::init(config.log);
    match command {
        PrivacyCommand::Export(who) => export(config, &who).await,
        PrivacyCommand::Erase { who, node, .. } => erase(config, &who, node).await,
        PrivacyCommand::Hash { address } => hash(config, address),
    }
}

fn hash(config: &Config, address: IpAddr) -> Result<(), Stop> {
    let Some(kept) = app::kept_of(config, address)? else {
        return Err(anyhow::anyhow!("privacy.ip is \"none\": no click keeps anything of an address").into());
    };
    let mut out = Out::new();
    out.line(kept)?;
    out.flush()
}

async fn export(config: &Config, who: &Who) -> Result<(), Stop> {
    let api = Api::open(config).await?;
    let mut out = Out::new();
    let mut body = who.body();
    loop {
        let lines = api.lines(TIMEOUT, "/privacy/export", &body).await?;
        let Some((last, clicks)) = lines.split_last() else {
            return Err(anyhow::anyhow!("the answer was cut").into());
        };
        for click in clicks {
            out.line(click)?;
        }
        out.flush()?;
        match last["next_cursor"].as_str() {
            Some(next) => body["cursor"] = json!(next),
            None => return Ok(()),
        }
    }
}

async fn erase(config: &Config, who: &Who, node: Option<String>) -> Result<(), Stop> {
    let api = Api::open(config).await?;
    let mut body = who.body();
    body["confirm"] = json!(true);
    if let Some(node) = node {
        body["node"] = json!(node);
    }
    let mut sums = [0; 3];
    let answer = loop {
        let answer = api.call_within(TIMEOUT, Method::POST, "/privacy/erase", Some(&body)).await?;
        let found = ["store", "dead_letters", "journal"].map(|key| answer[key].as_u64().unwrap_or_default());
        sums.iter_mut().zip(found).for_each(|(sum, n)| *sum += n);
        // One that finds nothing more and does not come to its end would not the next time either.
        if answer["more"] != true || found == [0; 3] {
            break answer;
        }
    };
    let mut out = Out::new();
    let [store, letters, journal] = sums;
    out.line(format_args!("erased\tstore {store}\tdead letters {letters}\tjournal {journal}"))?;
    let left = answer["left"].as_u64();
    let told = left
        .map_or_else(|| "not known: the store has too many clicks to look at them all again".into(), |n| n.to_string());
    out.line(format_args!("left\t{told}"))?;
    out.flush()?;
    for (node, clicks) in answer["other_nodes"].as_object().into_iter().flatten() {
        complain(&format!(
            "{clicks} clicks were recorded by the node {}: ask it too, or, if it is gone, use --node",
            cell(node)
        ));
    }
    if left == Some(0) { Ok(()) } else { Err(Stop::Told) }
}
