//! `trellis link`: add, list and remove links, each as requests to the control API.
//!
//! Judges no field: the API does, and says what is wrong. Bounds: pages of [`PAGE`] links, one at a time in memory.

use clap::builder::NonEmptyStringValueParser;
use clap::{Subcommand, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};

use super::client::Api;
use super::link_import::{self, ImportLinks};
use super::output::{Out, Stop, cell, complain};
use crate::app::http::dialled;
use crate::click::domain::ANY;
use crate::click::query::encode_value;
use crate::config::Config;

const PAGE: u64 = 1000;

/// `trellis link`
#[derive(Debug, Subcommand)]
pub(super) enum LinkCommand {
    /// Add a link
    #[command(after_help = "\
Examples:
  trellis link add https://example.com/
  trellis link add 'https://example.com/?id={click_id}' --slug spring --tag mail --tag may
  trellis link add https://example.com/sale --expires-at 2026-12-01T00:00:00+01:00 --expired-url https://example.com/")]
    Add(AddLink),
    /// List links in the order of their domains and slugs
    #[command(
        after_help = "Each line: slug (behind its domain and a /, where it has one), status, campaign, url; `paused` at the end."
    )]
    Ls(ListLinks),
    /// Import links from a file of JSON lines
    #[command(after_help = "\
A line has the fields of POST /api/v1/links. Each is judged alone: what is refused is told with its line, and the exit code is 1.

Examples:
  trellis link import links.ndjson
  trellis link ls --json | trellis --data-dir other link import --change -")]
    Import(ImportLinks),
    /// Remove links; their clicks stay
    Rm {
        /// What to remove
        #[arg(value_name = "SLUG", required = true, value_parser = NonEmptyStringValueParser::new())]
        slugs: Vec<String>,
        /// Host name that they answer to; any when absent
        #[arg(long, value_name = "HOST")]
        domain: Option<String>,
    },
}

/// `trellis link add`
#[derive(Debug, clap::Args)]
pub(super) struct AddLink {
    /// Destination, with macros such as {click_id} and {q:name} behind the host
    pub(super) url: String,
    /// Name in the path; one is made up when absent
    #[arg(long)]
    pub(super) slug: Option<String>,
    /// Host name that it answers to; any when absent
    #[arg(long, value_name = "HOST")]
    pub(super) domain: Option<String>,
    /// The organisation that it belongs to [default: default]
    #[arg(long)]
    pub(super) org: Option<String>,
    /// Redirect status: 301, 302, 303, 307 or 308 [default: 302]
    #[arg(long)]
    pub(super) status: Option<u16>,
    /// What happens to the visitor's query string [default: ignore]
    #[arg(long)]
    pub(super) query: Option<QueryWord>,
    /// A name to count by
    #[arg(long)]
    pub(super) campaign: Option<String>,
    /// A word of your own; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(super) tags: Vec<String>,
    /// Your own id for the link
    #[arg(long, value_name = "ID")]
    pub(super) external_id: Option<String>,
    #[command(flatten)]
    pub(super) life: LifeOfLink,
}

/// `trellis link ls`
#[derive(Debug, clap::Args)]
pub(super) struct ListLinks {
    /// Only of this host name; * for those of any
    #[arg(long, value_name = "HOST")]
    pub(super) domain: Option<String>,
    /// This many at most; all when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    pub(super) json: bool,
}

/// `--query`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum QueryWord {
    /// It is recorded, and goes no further
    Ignore,
    /// It is appended to the destination's own
    Forward,
}

impl QueryWord {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ignore => "ignore",
            Self::Forward => "forward",
        }
    }
}

/// When a link is followed, of `trellis link add`.
#[derive(Debug, clap::Args)]
pub(super) struct LifeOfLink {
    /// Until then, RFC 3339, it answers like an unknown link
    #[arg(long, value_name = "TIME")]
    starts_at: Option<String>,
    /// From then on, RFC 3339, it has expired: 410, or on to --expired-url
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Where visitors go when it has expired, with macros as in URL
    #[arg(long, value_name = "URL")]
    expired_url: Option<String>,
}

pub(super) async fn run(config: &Config, command: LinkCommand) -> Result<(), Stop> {
    let api = Api::open(config).await?;
    match command {
        LinkCommand::Add(link) => add(config, &api, link).await,
        LinkCommand::Ls(list) => ls(&api, &list).await,
        LinkCommand::Import(import) => link_import::run(config, &api, import).await,
        LinkCommand::Rm { slugs, domain } => rm(&api, &slugs, domain.as_deref()).await,
    }
}

async fn add(config: &Config, api: &Api, link: AddLink) -> Result<(), Stop> {
    let mut body = json!({ "url": link.url });
    let given = [
        ("slug", link.slug.map(Value::from)),
        ("domain", link.domain.map(Value::from)),
        ("org", link.org.map(Value::from)),
        ("status", link.status.map(Value::from)),
        ("query", link.query.map(|query| query.name().into())),
        ("campaign", link.campaign.map(Value::from)),
        ("tags", (!link.tags.is_empty()).then(|| link.tags.into())),
        ("external_id", link.external_id.map(Value::from)),
        ("starts_at", link.life.starts_at.map(Value::from)),
        ("expires_at", link.life.expires_at.map(Value::from)),
        ("expired_url", link.life.expired_url.map(Value::from)),
    ];
    for (field, value) in given {
        if let Some(value) = value {
            body[field] = value;
        }
    }
    let made = api.call(Method::POST, "/links", Some(&body)).await?;
    let (slug, url) = (text(&made, "slug"), text(&made, "url"));
    let mut out = Out::new();
    out.line(format_args!("{} -> {}", public(config, api, text(&made, "domain"), slug), cell(url)))?;
    out.flush()
}

/// Where visitors find the link; the slug alone where the port is not known.
fn public(config: &Config, api: &Api, domain: &str, slug: &str) -> String {
    if domain != ANY {
        return format!("https://{domain}/{slug}");
    }
    let edge = match (config.edge.public_hosts.first(), api.node()) {
        (Some(host), _) => return format!("https://{host}/{slug}"),
        (None, Some(node)) => node.edge.strip_prefix("http://").and_then(|address| address.parse().ok()),
        (None, None) => Some(config.edge.listen),
    };
    match edge.map(dialled) {
        Some(address) if address.port() != 0 => format!("http://{address}/{slug}"),
        _ => slug.to_owned(),
    }
}

async fn ls(api: &Api, list: &ListLinks) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut left = list.limit.unwrap_or(u64::MAX);
    let mut cursor = String::new();
    let of = list.domain.as_ref().map(|domain| format!("&domain={}", encoded(domain))).unwrap_or_default();
    loop {
        let page = api.call(Method::GET, &format!("/links?limit={}{of}{cursor}", left.min(PAGE)), None).await?;
        let links = page["links"].as_array().map(Vec::as_slice).unwrap_or_default();
        for link in links {
            if list.json { out.line(link)? } else { out.line(row(link))? }
        }
        left = left.saturating_sub(links.len() as u64);
        match page["next_cursor"].as_str() {
            Some(next) if left > 0 => cursor = format!("&cursor={}", encoded(next)),
            _ => return out.flush(),
        }
    }
}

fn row(link: &Value) -> String {
    let status = link["status"].as_u64().unwrap_or_default();
    let slug = match text(link, "domain") {
        ANY => text(link, "slug").to_owned(),
        domain => format!("{domain}/{}", text(link, "slug")),
    };
    let cells = [slug.as_str(), &status.to_string(), text(link, "campaign"), text(link, "url")].map(cell);
    let paused = if link["paused"] == true { "\tpaused" } else { "" };
    format!("{}{paused}", cells.join("\t"))
}

/// Removes what it can; a slug that is not there keeps no other from being removed.
async fn rm(api: &Api, slugs: &[String], domain: Option<&str>) -> Result<(), Stop> {
    let mut out = Out::new();
    let mut failed = false;
    let under = domain.map(|domain| format!("?domain={}", encoded(domain))).unwrap_or_default();
    for slug in slugs {
        match api.call(Method::DELETE, &format!("/links/{}{under}", encoded(slug)), None).await {
            Ok(_) => out.line(format_args!("removed {}", cell(slug)))?,
            Err(error) => {
                failed = true;
                complain(&format!("{}: {error:#}", cell(slug)));
            }
        }
        out.flush()?;
    }
    if failed { Err(Stop::Told) } else { Ok(()) }
}

/// As one segment of a path, or one value of a query string.
pub(super) fn encoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    encode_value(text.as_bytes(), &mut bytes);
    // Percent-encoding is ASCII.
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A text of an answer; empty when it is not there.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_one_line() {
        let mut link = json!({ "domain": "*", "slug": "a", "url": "https://a.example/", "status": 302, "campaign": "", "paused": false });
        assert_eq!(row(&link), "a\t302\t-\thttps://a.example/");
        link["domain"] = json!("go.example");
        assert_eq!(row(&link), "go.example/a\t302\t-\thttps://a.example/");
        link["paused"] = json!(true);
        link["campaign"] = json!("mail");
        assert_eq!(row(&link), "go.example/a\t302\tmail\thttps://a.example/\tpaused");
    }
}
