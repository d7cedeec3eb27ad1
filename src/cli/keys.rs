//! `trellis key`: add, list, rotate and revoke API keys, each as a request to the control API.
//!
//! Judges no field: the API does, and says what is wrong. A secret is printed once, alone on its line on standard output, so
//! that it can be piped to where it belongs; what is said about it goes to standard error. Bounds: pages of [`PAGE`] keys,
//! one at a time in memory.

use clap::Subcommand;
use clap::builder::NonEmptyStringValueParser;
use hyper::Method;
use serde_json::{Value, json};

use super::client::Api;
use super::links::{encoded, text};
use super::output::{Out, Stop, cell, complain};
use crate::config::Config;

const PAGE: u64 = 1000;

/// `trellis key`
#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key; its secret is shown this once
    #[command(after_help = "\
The key is the one line on standard output.

Examples:
  trellis key add --scope ingress --name gateway
  trellis key add --org acme --scope links:read --scope links:write --expires-at 2027-01-01T00:00:00Z
  trellis key add --scope ingress --rate 100 --burst 200 > gateway.key")]
    Add(AddKey),
    /// List keys in the order of their ids, revoked ones too
    #[command(
        after_help = "Each line: id, organisation, scopes, expiry, name; `revoked` at the end. No secret: none is kept."
    )]
    Ls {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Give a key a new secret, shown this once
    Rotate {
        /// Which
        #[arg(value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        id: String,
        /// For so many seconds the old secret is taken too, a week at most
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        grace: u64,
    },
    /// End keys, for good; they stay in the list
    Revoke {
        /// Which
        #[arg(value_name = "ID", required = true, value_parser = NonEmptyStringValueParser::new())]
        ids: Vec<String>,
    },
}

/// `trellis key add`
#[derive(Debug, clap::Args)]
pub(super) struct AddKey {
    /// What it may do: ingress, links:read, links:write, stats:read or admin; may be repeated
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    scopes: Vec<String>,
    /// The organisation whose things it may see [default: default]
    #[arg(long)]
    org: Option<String>,
    /// For people
    #[arg(long)]
    name: Option<String>,
    /// Requests a second
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Requests at once [default: as many as a second]
    #[arg(long, value_name = "N", requires = "rate")]
    burst: Option<u64>,
    /// From then on, RFC 3339, it is refused
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
}

pub(super) async fn run(config: &Config, command: KeyCommand) -> Result<(), Stop> {
    let api = Api::open(config).await?;
    match command {
        KeyCommand::Add(key) => add(&api, key).await,
        KeyCommand::Ls { json } => ls(&api, json).await,
        KeyCommand::Rotate { id, grace } => {
            let path = format!("/keys/{}/rotate", encoded(&id));
            let made = api.call(Method::POST, &path, Some(&json!({ "grace_s": grace }))).await?;
            show_once(&made)
        }
        KeyCommand::Revoke { ids } => revoke(&api, &ids).await,
    }
}

async fn add(api: &Api, key: AddKey) -> Result<(), Stop> {
    let mut body = json!({ "scopes": key.scopes });
    let rate = key.rate.map(|rate| json!({ "per_second": rate, "burst": key.burst.unwrap_or(rate) }));
    let given = [
        ("org", key.org.map(Value::from)),
        ("name", key.name.map(Value::from)),
        ("rate", rate),
        ("expires_at", key.expires_at.map(Value::from)),
    ];
    for (field, value) in given {
        if let Some(value) = value {
            body[field] = value;
        }
    }
    show_once(&api.call(Method::POST, "/keys", Some(&body)).await?)
}

fn show_once(made: &Value) -> Result<(), Stop> {
    let mut out = Out::new();
    out.line(text(made, "secret"))?;
    out.flush()?;
    complain(&format!("the key {} is shown this once; keep it where secrets are kept", cell(text(made, "id"))));
    Ok(())
}

async fn ls(api: &Api, json: bool) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut after = String::new();
    loop {
        let page = api.call(Method::GET, &format!("/keys?limit={PAGE}{after}"), None).await?;
        for key in page["keys"].as_array().map(Vec::as_slice).unwrap_or_default() {
            if json { out.line(key)? } else { out.line(row(key))? }
        }
        match page["next_after"].as_str() {
            Some(next) => after = format!("&after={}", encoded(next)),
            None => return out.flush(),
        }
    }
}

fn row(key: &Value) -> String {
    let scopes = key["scopes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let scopes = scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let cells = [text(key, "id"), text(key, "org"), &scopes, text(key, "expires_at"), text(key, "name")].map(cell);
    let revoked = if key["revoked_at"].is_null() { "" } else { "\trevoked" };
    format!("{}{revoked}", cells.join("\t"))
}

/// Revokes what it can; an id that is not there keeps no other from being revoked.
async fn revoke(api: &Api, ids: &[String]) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut failed = false;
    for id in ids {
        match api.call(Method::DELETE, &format!("/keys/{}", encoded(id)), None).await {
            Ok(_) => out.line(format_args!("revoked {}", cell(id)))?,
            Err(error) => {
                failed = true;
                complain(&format!("{}: {error:#}", cell(id)));
            }
        }
        out.flush()?;
    }
    if failed { Err(Stop::Told) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_line() {
        let mut key = json!({ "id": "a", "org": "acme", "scopes": ["ingress", "admin"], "expires_at": null, "name": "",
            "revoked_at": null });
        assert_eq!(row(&key), "a\tacme\tingress,admin\t-\t-");
        key["revoked_at"] = json!("2026-11-21T12:00:00.000Z");
        key["name"] = json!("gateway");
        assert_eq!(row(&key), "a\tacme\tingress,admin\t-\tgateway\trevoked");
    }
}
